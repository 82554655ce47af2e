"""Poorer versions of a model, which draft for it: fewer bits or layers. Made on demand, kept in the cache folder."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from aded_local.errors import OptionError
from aded_local.files import UNFINISHED, cache_folder, failure, make_private_folder

Make = Callable[[Path, Path], None]
"""Writes the second file, made of the first one."""

FOLDER: Final = "drafts"
"""Below the cache folder."""


def _fewer_bits(source: Path, out: Path) -> None:
    from aded_local.llama.quantize import quantize

    quantize(source, out, "q2_k", requantize=True)


def _fewer_layers(n: int, source: Path, out: Path) -> None:
    from aded_local.llama.quantize import keep_first_layers

    keep_first_layers(source, out, n)


KINDS: Final[Mapping[str, Make]] = {
    "q2_k": _fewer_bits,
    "first-20": partial(_fewer_layers, 20),
    "first-10": partial(_fewer_layers, 10),
}
"""By name, from middling to poor for a model of 30 layers such as SmolLM2-135M. Where rows are no multiples of 256,
llama.cpp takes IQ4_NL in place of Q2_K: in most tensors of SmolLM2."""


def poorer(source: Path, kind: str) -> Path:
    """The file of a poorer version of ``source``, which is made where it is not there yet.

    Args:
        kind: of ``KINDS``.

    Raises:
        OptionError: unknown kind, or the model has too few layers for it.
        ModelError: ``source`` is no GGUF.
        StoreError: it could not be written.
    """
    if kind not in KINDS:
        raise OptionError(f"no version is called {kind!r}; choose from {', '.join(KINDS)}")
    path = cache_folder() / FOLDER / f"{source.stem}-{_fingerprint(source)}-{kind}.gguf"
    if path.is_file():
        return path
    partial_path = path.with_name(f"{path.name}{UNFINISHED}")
    try:
        make_private_folder(path.parent)
        KINDS[kind](source, partial_path)
        partial_path.replace(path)
    except OSError as error:
        raise failure("write", path, error) from None
    finally:
        with contextlib.suppress(OSError):
            partial_path.unlink(missing_ok=True)
    return path


def _fingerprint(source: Path) -> str:
    """Twelve digits that tell files of one name apart: by metadata, size and time of change."""
    from aded_local.llama.gguf import read_header

    header, changed = read_header(source), source.stat().st_mtime_ns
    return hashlib.sha256(f"{header.digest} {changed}".encode()).hexdigest()[:12]
