"""Which files in the data folder hold what a person wrote in chats or had counted."""

from __future__ import annotations

import os
from pathlib import Path

from aded_local.errors import StoreError
from aded_local.folders import data_folder


def stored() -> list[Path]:
    """Conversation memories, then static stores that were put into the data folder.

    Raises:
        StoreError: the folder cannot be read.
    """
    from aded_local.store import memories

    found = memories()
    return found + [path for path in statics_below(data_folder()) if path not in found]


def statics_below(folder: Path) -> list[Path]:
    """Static stores in a folder and below, by path."""
    from aded_local.store.static import is_static

    found = []
    for inside, _folders, files in os.walk(folder):
        found += [path for name in files if is_static(path := Path(inside, name))]
    return sorted(found)


def leftovers() -> list[Path]:
    """What else is in the folder of memories: set aside, or unfinished, of memories that are gone.

    Raises:
        StoreError: the folder cannot be read.
    """
    from aded_local.store.conversations import memory_folder
    from aded_local.store.identity import SUFFIX

    try:
        return sorted(path for path in memory_folder().iterdir() if SUFFIX in path.name)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(
            f"cannot list {memory_folder()}: {error.strerror or error}; check its permissions"
        ) from error
