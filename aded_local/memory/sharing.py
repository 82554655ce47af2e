"""How programs share one SQLite file: who makes it, who writes, and what its errors tell of."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

LOCK_SECONDS = 3.0
"""How long to wait for another program that writes: the longest work under the lock, pruning, takes half a second."""


def use_log(database: sqlite3.Connection) -> None:
    """Turn the write-ahead log on, which SQLite refuses at once while another program does the same."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.005)


@contextlib.contextmanager
def one_maker(folder: Path) -> Iterator[None]:
    """One program at a time makes files in ``folder``: what it takes for left over may be another's that was just made.

    Where there are no locks, as on Windows, all of them do at once.
    """
    with contextlib.ExitStack() as last:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            handle = os.open(folder, os.O_RDONLY)
            last.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX)  # for microseconds; a program that is killed lets it go
        yield


def place_of(path: Path) -> tuple[int, int] | None:
    """What tells a file from one that took its name later; None where there is none."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def may_be_gone(error: sqlite3.Error) -> bool:
    """Whether an error may tell of a file that is erased at that moment."""
    return any(word in str(error) for word in ("I/O", "readonly", "unable to open"))


def is_damage(error: sqlite3.Error) -> bool:
    """Whether an error of reading tells of the file, and not of the system or another program."""
    return not any(word in str(error) for word in ("locked", "unable to open", "I/O", "full", "readonly"))
