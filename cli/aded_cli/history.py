"""The lines a person typed, kept in their data folder for the next time, readable by nobody else.

The file is that of prompt_toolkit's ``FileHistory``, which opens whatever lies there: a link, a pipe, another user's.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from prompt_toolkit.history import History

HISTORY_NAME: Final = "history"
PROMPT: Final = "> "

MOST_LOADED: Final = 1 << 20
"""Bytes of the newest lines that are loaded: more than anybody goes back with the arrow keys."""

LOOKED_AT: Final = 1 << 12
"""Bytes at the beginning that tell whether a file is a history."""


def history_file() -> Path:
    """Where typed lines are kept.

    Raises:
        StoreError: there is no such place.
    """
    from aded_local.files import data_folder

    return data_folder() / HISTORY_NAME


def private_file(folder: Path) -> Path:
    """The history file, made if need be: mode 0600, in a folder made with mode 0700.

    A folder that exists already keeps its mode: $ADED_DATA_DIR may name one that serves other purposes too.

    Raises:
        OSError: the folder or file cannot be made or written, or something else goes by this name.
    """
    from aded_local.files import make_private_folder, open_private

    make_private_folder(folder)
    path = folder / HISTORY_NAME
    os.close(open_private(path, os.O_RDWR | os.O_APPEND | os.O_CREAT))
    if not is_history(path):
        raise OSError("it is something else than a history of typed lines")
    return path


def is_history(path: Path) -> bool:
    """Whether a file of this user begins like a history: every line is empty, a date, or what was typed.

    Raises:
        OSError: it cannot be read, or is a link or no regular file.
    """
    from aded_local.files import read_ends

    beginning, _, _ = read_ends(path, LOOKED_AT, 0)
    return all(line[:1] in (b"", b"#", b"+") for line in beginning.split(b"\n"))


def lines_in(data: bytes) -> list[str]:
    """What was typed, oldest first: of each entry all lines, each behind a plus sign."""
    found: list[str] = []
    entry: list[str] = []
    for line in [*data.split(b"\n"), b""]:
        if line.startswith(b"+"):
            entry.append(line[1:].decode("utf-8", "replace"))
        elif entry:
            found.append("\n".join(entry))
            entry = []
    return found


def open_history(*, remember: bool, warn: Callable[[str], None]) -> History:
    """The history for line editing: on disk, or in memory where that is wanted or the disk refuses.

    Where no data folder can be written, that is not told here: the engine tells it, which keeps more there.
    """
    from prompt_toolkit.history import History, InMemoryHistory

    from aded_local.files import data_problem, open_private, read_ends

    class PrivateHistory(History):
        """A history that never ends the chat: a full disk costs the line, not the conversation."""

        def __init__(self, path: Path) -> None:
            self._path = path
            super().__init__()

        def load_history_strings(self) -> Iterable[str]:
            data, end = b"", b""
            with suppress(OSError):
                data, end, _ = read_ends(self._path, 0, MOST_LOADED)
            # The first entry of what is only an end may have lost its beginning.
            return reversed(lines_in(data or end[max(0, end.find(b"\n#")) :]))

        def store_string(self, string: str) -> None:
            typed = "".join(f"+{line}\n" for line in string.split("\n"))
            entry = f"\n# {datetime.datetime.now()}\n{typed}".encode("utf-8", "replace")
            with suppress(OSError):
                handle = open_private(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
                with open(handle, "ab", buffering=0) as file:  # in one call: other chats append too
                    file.write(entry)

    if not remember or data_problem() is not None:
        return InMemoryHistory()
    path = history_file()
    try:
        return PrivateHistory(private_file(path.parent))
    except OSError as failure:
        warn(f"the lines you type are not kept in {path}: {failure.strerror or failure}")
        return InMemoryHistory()
