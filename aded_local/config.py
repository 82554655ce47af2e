"""What a person has decided for good: a file in their configuration folder, and the variable that stands above it.

    # ~/.config/aded-local/config.toml
    no_memory = true          # nothing that is said or typed is kept or read
    model = "smollm2"         # what aded-chat loads where no MODEL is given
    plain = true              # aded-chat writes answers as they come, without rendering them

A file that cannot be understood is an error and not passed over: it may be the one that says that nothing is kept.
"""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import platformdirs

from aded_local.errors import OptionError
from aded_local.files import NOWHERE, SMALL, meant_folder

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONFIG_VARIABLE: Final = "ADED_CONFIG_DIR"
CONFIG_NAME: Final = "config.toml"

NO_MEMORY_VARIABLE: Final = "ADED_NO_MEMORY"
"""Set to anything but 0, nothing that was said or typed is kept or read, whatever a program asks for. Set to 0, it
stands above a file that says so."""


@dataclass(frozen=True, slots=True)
class Config:
    """What the file says.

    Attributes:
        no_memory: nothing that is said or typed is kept or read.
        model: the path or name of the model to load where none is given; None leaves it to the engine.
        plain: answers are written as they come.
    """

    no_memory: bool = False
    model: str | None = None
    plain: bool = False


_KINDS: Final[dict[str, tuple[type, str]]] = {
    "no_memory": (bool, "true or false"),
    "model": (str, "the path or name of a model, in quotes"),
    "plain": (bool, "true or false"),
}


def config_path() -> Path:
    """Where the file is looked for: in the folder that ``ADED_CONFIG_DIR`` names, else in that of the home folder.

    Where no home folder is known, it is the path of a file that cannot be.

    Raises:
        OptionError: it names none.
    """
    folder, problem = meant_folder(CONFIG_VARIABLE, platformdirs.user_config_dir)
    if folder is None and os.environ.get(CONFIG_VARIABLE):
        raise OptionError(
            f"there is no configuration folder ({problem}); let {CONFIG_VARIABLE} name one, or unset it"
        )
    return (folder or NOWHERE) / CONFIG_NAME


def read_config() -> Config:
    """What the file says; all as usual where there is none.

    Raises:
        OptionError: it cannot be read, is no TOML, or says something that is not known; or its folder cannot be told.
    """
    path = config_path()
    try:
        # A link is followed: many people keep such files in one place and link to them.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except (FileNotFoundError, NotADirectoryError):
        return Config()
    except OSError as error:
        raise OptionError(
            f"cannot read {path}: {error.strerror or error}; check its permissions, or name another folder with"
            f" {CONFIG_VARIABLE}"
        ) from error
    with open(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OptionError(f"{path} is not a regular file; remove it")
        data = file.read(SMALL + 1)
    if len(data) > SMALL:
        raise OptionError(f"{path} has more than {SMALL:,} bytes; it is no configuration")
    try:
        found = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{path} cannot be understood: {error}; mend or remove it") from error
    return _checked(path, found)


def _checked(path: Path, found: dict[str, Any]) -> Config:
    for name, value in found.items():
        if name not in _KINDS:
            raise OptionError(f"{path} has {name!r}, which is not known; it may have {', '.join(_KINDS)}")
        kind, meant = _KINDS[name]
        if not isinstance(value, kind) or value == "":
            raise OptionError(f"{path} has {name} = {value!r}; it must be {meant}")
    return Config(**found)


def memory_is_off() -> str | None:
    """Who has switched off for good that anything they said or typed is kept or read; None where nobody has.

    Returns:
        The variable's name, or the path of the file that says so.

    Raises:
        OptionError: the file cannot be understood.
    """
    said = os.environ.get(NO_MEMORY_VARIABLE, "")
    if said:
        return None if said == "0" else NO_MEMORY_VARIABLE
    return str(config_path()) if read_config().no_memory else None
