"""One private SQLite file that several programs share: who makes it, who writes, and what its errors tell of."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from aded_local.errors import StoreError
from aded_local.files import failure, look_at_private, make_private_folder, open_private
from aded_local.memory.rows import PAGE_BYTES

LOCK_SECONDS = 3.0
"""How long to wait for another program that writes: the longest work under the lock, pruning, takes half a second."""

SETTINGS = (
    f"page_size = {PAGE_BYTES}",
    "synchronous = NORMAL",  # no wait for the disk after each answer: a power failure may lose the last, never more
    "secure_delete = ON",  # what is dropped is overwritten with zeros
    "journal_size_limit = 0",  # nor does the log keep it
    "temp_store = MEMORY",  # VACUUM copies everything; not into a folder that others use
    "trusted_schema = OFF",  # a file put together by hand calls no function
    "cell_size_check = ON",  # damage is found before it is followed
)

COMPANIONS = ("-wal", "-shm", "-journal")
"""What follows the file's name in those that SQLite keeps beside it."""


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


class SharedFile:
    """One SQLite file, and the connection to it while there is one. Its methods may be called from any thread.

    SQLite's write-ahead log (``-wal``, with its index ``-shm``) lies beside the file while programs use it; the last
    one to close it writes it back and removes both. They have the file's mode, 0600, from their first byte.

    Attributes:
        path: the file; there may be none yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files = [path, *(path.with_name(f"{path.name}{end}") for end in COMPANIONS)]
        self._opened: sqlite3.Connection | None = None
        self._place: tuple[int, int] | None = None  # device and inode of the file that is open
        self._process = 0  # that opened it
        self._writes = False
        self._lock = threading.RLock()

    def __del__(self) -> None:
        self.close()  # Python's connections refer to themselves, so one that is dropped is not closed at once

    def _size(self) -> int:
        """Bytes of the file and its log; 0 where there is none.

        Raises:
            OSError: it is none that may be read.
        """
        file, log = (look_at_private(path, writes=False) for path in self._files[:2])
        return 0 if file is None else file.st_size + (log.st_size if log is not None else 0)

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            opened, self._opened, self._place = self._opened, None, None
            if opened is None:
                return
            if self._process != os.getpid():
                _INHERITED.append(opened)  # closing it here would end what the parent process does
                return
            with contextlib.suppress(
                sqlite3.Error
            ):  # a full disk: the log stays, and is read at the next start
                opened.close()

    def _open(self, *, writes: bool = False) -> sqlite3.Connection | None:
        """The file under this name, opened; None where there is none.

        Raises:
            OSError: it is no file of this user's, or (``writes``) cannot be written.
            sqlite3.Error: SQLite cannot open it.
        """
        place = place_of(self.path)
        same = (self._place, self._process) == (place, os.getpid()) and (self._writes or not writes)
        if self._opened is not None and same:
            return self._opened
        self.close()
        found, *_ = (look_at_private(path, writes=writes) for path in self._files)
        if found is None:
            return None
        self._writes = os.access(self.path, os.W_OK) and os.access(self.path.parent, os.W_OK | os.X_OK)
        if writes and not self._writes:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self.path))
        # A log cannot be read without its index, which cannot be made where nothing can be written.
        log = os.path.exists(self._files[1])
        mode = "mode=rw" if self._writes else "mode=ro" if log else "mode=ro&immutable=1"
        database = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?{mode}",
            uri=True,
            timeout=LOCK_SECONDS,
            isolation_level=None,  # transactions begin where this module says so
            check_same_thread=False,  # there is a lock
        )
        database.text_factory = lambda raw: raw.decode("utf-8", "replace")
        try:
            for setting in SETTINGS:
                database.execute(f"PRAGMA {setting}")
            if writes:
                use_log(database)
        except UnicodeDecodeError as error:  # of what SQLite says of a damaged table
            database.close()
            raise sqlite3.DatabaseError("malformed") from error
        except BaseException:
            database.close()
            raise
        self._opened, self._place, self._process = database, place, os.getpid()
        return database

    def _make(self) -> None:
        """Make an empty file where there is none."""
        if os.path.lexists(self.path):
            return
        make_private_folder(self.path.parent)
        with one_maker(self.path.parent):
            if os.path.lexists(self.path):
                return  # another program was quicker
            for path in self._files[1:]:  # of a file that somebody removed by hand
                path.unlink(missing_ok=True)
            with contextlib.suppress(FileExistsError):
                os.close(open_private(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL))

    @contextlib.contextmanager
    def _telling(self, doing: str) -> Iterator[None]:
        """Turn what goes wrong into one line; a connection with which something went wrong is closed."""
        try:
            yield
        except OSError as error:
            self.close()
            raise failure(doing, self.path, error, otherwise="set ADED_DATA_DIR") from error
        except sqlite3.Error as error:
            self.close()
            what, remedy = str(error), "check the path and its permissions, or set ADED_DATA_DIR"
            if "full" in what:
                remedy = "free some space"
            elif "locked" in what:
                what, remedy = "another program does not stop writing to it", "try again, or end that program"
            raise StoreError(f"cannot {doing} {self.path}: {what}; {remedy}") from error


_INHERITED: list[sqlite3.Connection] = []
"""Connections of a parent process, kept so that they are not closed here."""
