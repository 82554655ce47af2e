"""The lines a person typed, kept in their data folder for the next time, readable by nobody else."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prompt_toolkit.history import History

HISTORY_NAME = "history"
PROMPT = "> "


def private_file(folder: Path) -> Path:
    """The history file, made if need be: mode 0600, in a folder made with mode 0700.

    A folder that exists already keeps its mode: $ADED_DATA_DIR may name one that serves other purposes too.

    Raises:
        OSError: the folder or file cannot be made or written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / HISTORY_NAME
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.close(handle)
    path.chmod(0o600)  # one made by an earlier version, or copied here, may be wider
    return path


def open_history(*, remember: bool, warn: Callable[[str], None]) -> History:
    """The history for line editing: on disk, or in memory where that is wanted or the disk refuses."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    from aded_local.folders import data_folder

    class PrivateHistory(FileHistory):
        """A history that never ends the chat: a full disk costs the line, not the conversation."""

        def store_string(self, string: str) -> None:
            with suppress(OSError):
                super().store_string(string.encode("utf-8", "replace").decode("utf-8"))

    if not remember:
        return InMemoryHistory()
    try:
        return PrivateHistory(str(private_file(data_folder())))
    except OSError as failure:
        warn(f"line history is not kept: {failure.strerror or failure} ({data_folder()})")
        return InMemoryHistory()


def line_reader(*, remember: bool, warn: Callable[[str], None]) -> Callable[[], str]:
    """A function that reads one line from the terminal with editing and history.

    It raises EOFError on Ctrl-D and KeyboardInterrupt on Ctrl-C at an empty prompt; Ctrl-C over typed text
    clears that text and gives "".
    """
    from prompt_toolkit import PromptSession

    session: PromptSession[str] = PromptSession(PROMPT, history=open_history(remember=remember, warn=warn))

    def read_line() -> str:
        try:
            return session.prompt()
        except KeyboardInterrupt:
            if session.default_buffer.text:
                return ""
            raise

    return read_line
