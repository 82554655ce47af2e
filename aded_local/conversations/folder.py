"""Where kept conversations lie: ``conversations/`` in the data folder, a JSON file each and a state beside it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from aded_local.conversations.record import FORMAT, LARGEST, KeptConversation, read
from aded_local.errors import StoreError
from aded_local.files import UNFINISHED, data_folder, failure, given_path, read_ends, read_private
from aded_local.shown import brief

FOLDER: Final = "conversations"
SUFFIX: Final = ".json"
STATE_SUFFIX: Final = ".state"

KEY_NAME: Final = "key"
"""The person's key, by which their own states are known; see ``state``."""

LAST: Final = "last"
"""Means the conversation that was changed last."""

LARGEST_STATES: Final = 4 << 30
"""Bytes of all states in the folder: what four contexts of 8,192 tokens take with an 8B model. Chosen."""

DISK_SHARE: Final = 0.5
"""Of the free disk, what a state may take. Chosen."""

ABANDONED_AFTER: Final = 3600.0
"""Seconds after which a file that is still being written is nobody's any more: its program was killed."""

LONGEST_NAME: Final = 100
"""Characters of a name that a person gives; systems allow 255 bytes, of which some are ours."""

LOOKED_AT: Final = 1 << 12
"""Bytes at the beginning that tell whether a JSON file is a conversation."""

_GIVEN: Final = re.compile(r"\w[\w .-]*")
"""A name that a person may give."""

_MADE: Final = re.compile(r"\d{4}-\d\d-\d\d-\d{6}-[0-9a-f]{4}")
"""A name as ``new_path`` makes them."""

_NEW: Final = re.escape(UNFINISHED)
_UNFINISHED: Final = re.compile(rf"(?:{KEY_NAME}|.*\.json(?:\.state)?){_NEW}.*")
_BESIDE: Final = re.compile(rf"{KEY_NAME}|.*\.json\.state|{_UNFINISHED.pattern}")
"""Names of what is ours in the folder besides conversations."""


def conversations_folder() -> Path:
    """Where kept conversations lie.

    Raises:
        StoreError: there is no such place.
    """
    return data_folder() / FOLDER


def new_path() -> Path:
    """A name for a conversation that begins now, which no other has: ``2026-01-02-030405-1f2e.json``.

    Raises:
        StoreError: there is no place for it.
    """
    return conversations_folder() / f"{time.strftime('%Y-%m-%d-%H%M%S')}-{secrets.token_hex(2)}{SUFFIX}"


def is_made_name(path: Path) -> bool:
    """Whether a conversation has a name that ``new_path`` made, and none that a person gave."""
    return _MADE.fullmatch(path.stem) is not None


def state_path(path: Path) -> Path:
    """The file beside a conversation's for what the cells held."""
    return path.with_name(path.name + STATE_SUFFIX)


def kept() -> list[Path]:
    """The conversations in the folder, those changed last first, damaged ones too.

    What is neither clearly a conversation nor clearly something else is among them: its text may be all that is left
    of one, and whoever reads it is told what is wrong with it.

    Raises:
        StoreError: the folder cannot be read.
    """
    return _newest_first(lambda path: _is_ours(path) or not _is_other(path))


def newest_readable() -> tuple[Path, KeptConversation, list[StoreError]]:
    """The conversation that was changed last of those that can be read.

    Returns:
        Its file, what it holds, and what is wrong with each that was changed after it, newest first.

    Raises:
        StoreError: none can be read; it says what is wrong with the newest, where there is any.
    """
    damaged: list[StoreError] = []
    for path in kept():
        try:
            return path, read(path), damaged
        except StoreError as error:
            damaged.append(error)
    raise damaged[0] if damaged else StoreError(f"no conversation is kept in {conversations_folder()}")


def _newest_first(is_wanted: Callable[[Path], bool]) -> list[Path]:
    found = [entry for entry in _entries() if entry.name.endswith(SUFFIX) and is_wanted(Path(entry.path))]
    return [Path(entry.path) for entry in sorted(found, key=_when, reverse=True)]


def _is_ours(path: Path) -> bool:
    """Whether a JSON file is a conversation for sure, by its name, what lies beside it, or how it begins:
    $ADED_DATA_DIR may name a folder that serves other purposes too."""
    if _MADE.fullmatch(path.stem) or os.path.lexists(state_path(path)):
        return True
    try:
        return FORMAT.encode() in read_ends(path, LOOKED_AT, 0)[0]
    except OSError:
        return False


def _is_other(path: Path) -> bool:
    """Whether a file is sound JSON, which says nothing of a conversation."""
    try:
        data = json.loads(read_private(path, LARGEST))
    except (OSError, ValueError, RecursionError):
        return False
    return not (isinstance(data, dict) and data.get("format") == FORMAT)


def find(name: str) -> Path:
    """The conversation that a person means.

    Args:
        name: a path (with a separator, or ending in ``.json``), ``last``, or the name of one in the folder, as far as
            it is needed to tell it from the others.

    Raises:
        StoreError: there is none, or several.
        OptionError: it is a path that no file can have.
    """
    if _is_path(name):
        return given_path("the conversation", name, "one")
    paths = kept()
    found = paths[:1] if name == LAST else [path for path in paths if path.stem == name]
    found = found or [path for path in paths if name and path.stem.startswith(name)]
    if len(found) == 1:
        return found[0]
    if not paths:
        raise StoreError(f"no conversation is kept in {conversations_folder()}")
    which = f"{len(found)} conversations begin with" if found else "no kept conversation is called"
    raise StoreError(f"{which} {brief(name)}; `aded-store conversations list` names them")


def named(name: str) -> Path:
    """Where a conversation is to be kept that a person names: in the folder, or at a path as ``find`` knows it.

    Raises:
        StoreError: a file cannot be called so, or there is no data folder.
        OptionError: it is a path that no file can have.
    """
    if _is_path(name):
        return given_path("the conversation", name, "one")
    if name == LAST or not _GIVEN.fullmatch(name) or len(name) > LONGEST_NAME:
        why = (
            f"{LAST} is the one that was changed last"
            if name == LAST
            else f"a name begins with a letter or digit and has letters, digits, spaces, dots, dashes,"
            f" {LONGEST_NAME} at most"
        )
        raise StoreError(
            f"a conversation cannot be called {brief(name)!r}: {why}; or give a path that ends in .json"
        )
    return conversations_folder() / f"{name}{SUFFIX}"


def _is_path(name: str) -> bool:
    return os.sep in name or (os.altsep or os.sep) in name or name.endswith(SUFFIX)


def erase(path: Path) -> list[Path]:
    """Remove a conversation and its state.

    Returns:
        The files that were removed.

    Raises:
        StoreError: one cannot be removed.
    """
    return [each for each in (state_path(path), path) if _unlink(each)]


def everything() -> list[Path]:
    """All files in the folder that are ours for sure: conversations, states, what was never finished, the key.

    Raises:
        StoreError: the folder cannot be read.
    """
    others = [Path(entry.path) for entry in _entries() if _BESIDE.fullmatch(entry.name)]
    return [*_newest_first(_is_ours), *sorted(others)]


def make_room(conversation: Path, size: int) -> str | None:
    """See whether a state fits beside a conversation; in the folder, the oldest states are dropped for it.

    Conversations themselves are never dropped.

    Args:
        conversation: its file.
        size: bytes of the state to come.

    Returns:
        Why it does not fit; None where it does.

    Raises:
        StoreError: the folder cannot be read, or a state not be dropped.
    """
    if conversation.parent == conversations_folder():
        if size > LARGEST_STATES:
            return f"it takes {size >> 20:,} MiB, and all that are kept may take {LARGEST_STATES >> 20:,} MiB"
        _drop_states(LARGEST_STATES - size, state_path(conversation))
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(conversation.parent).free
        if size > DISK_SHARE * free:
            return f"it takes {size >> 20:,} MiB, and {free >> 20:,} MiB are free on the disk"
    return None


def _drop_states(most: int, replaced: Path) -> None:
    """Drop files that were never finished, and states but ``replaced`` until they have ``most`` bytes at most."""
    states = []
    for entry in _entries():
        path = Path(entry.path)
        with contextlib.suppress(FileNotFoundError):
            found = entry.stat(follow_symlinks=False)
            if _UNFINISHED.fullmatch(entry.name) and time.time() - found.st_mtime > ABANDONED_AFTER:
                _unlink(path)
            elif entry.name.endswith(STATE_SUFFIX) and path != replaced:
                states.append((found.st_mtime, found.st_size, path))
    taken = sum(size for _, size, _ in states)
    for _, size, path in sorted(states):
        if taken <= most:
            break
        _unlink(path)
        taken -= size


def _entries() -> Iterator[os.DirEntry[str]]:
    folder = conversations_folder()
    try:
        with os.scandir(folder) as entries:
            yield from [entry for entry in entries if not entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return
    except OSError as error:
        raise failure("list", folder, error, otherwise="set ADED_DATA_DIR") from error


def _when(entry: os.DirEntry[str]) -> tuple[float, str]:
    try:
        return entry.stat(follow_symlinks=False).st_mtime, entry.name
    except OSError:  # it was erased meanwhile
        return 0.0, entry.name


def _unlink(path: Path) -> bool:
    try:
        path.unlink()
        return True
    except FileNotFoundError:
        return False
    except OSError as error:
        raise failure("erase", path, error) from error
