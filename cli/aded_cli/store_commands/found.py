"""Which files in the data folder hold what a person wrote in chats, typed, or had counted."""

from __future__ import annotations

import os
from pathlib import Path

from aded_local.errors import StoreError
from aded_local.files import data_folder, failure


def stored() -> list[Path]:
    """Conversation memories, then static stores that were put into the data folder.

    Raises:
        StoreError: the folder cannot be read.
    """
    from aded_local.memory import memories

    found = memories()
    return found + [path for path in statics_below(data_folder()) if path not in found]


def statics_below(folder: Path) -> list[Path]:
    """Static stores in a folder and below, by path."""
    from aded_local.ngrams.static import is_static

    found = []
    for inside, _folders, files in os.walk(folder):
        found += [path for name in files if is_static(path := Path(inside, name))]
    return sorted(found)


def leftovers() -> list[Path]:
    """What else is in the folder of memories: set aside, or of an earlier version.

    Raises:
        StoreError: the folder cannot be read.
    """
    from aded_local.llama.identity import SUFFIX
    from aded_local.memory import EARLIER_SUFFIX, memory_folder

    folder = memory_folder()
    try:
        names = sorted(path.name for path in folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise failure("list", folder, error, otherwise="set ADED_DATA_DIR") from error
    # SQLite's files beside a memory go with it, and not while another program uses them.
    beside = tuple(f"{name}-" for name in names if name.endswith(SUFFIX))
    return [
        folder / name
        for name in names
        if (SUFFIX in name or EARLIER_SUFFIX in name) and not name.startswith(beside)
    ]


def typed_lines() -> list[Path]:
    """The history of lines typed in chats, where there is one.

    Raises:
        StoreError: there is no data folder.
    """
    from aded_cli.history import history_file

    path = history_file()
    return [path] if is_typed_lines(path) else []


def is_typed_lines(path: Path) -> bool:
    """Whether a file is the history in the data folder; another one of that name, in a folder that serves other
    purposes too, is not."""
    from aded_cli.history import history_file, is_history

    try:
        return os.path.abspath(path) == str(history_file()) and is_history(path)
    except (OSError, StoreError):
        return False
