"""One SQLite file of exchanges: private, written by several programs at once, readable after a kill or damage.

SQLite's write-ahead log (``-wal``, with its index ``-shm``) lies beside the file while programs use it; the last one
to close it writes it back and removes both. They have the file's mode, 0600, from their first byte.

SQLite has no checksums, so each row has one (``exchange.to_row``). A file that SQLite cannot read is set aside, and
what can be read of it goes into a new one.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from aded_local.errors import StoreError
from aded_local.files import failure, look_at_private, make_private_folder, open_private
from aded_local.memory.exchange import COLUMNS, Exchange, from_row, to_row

FORMAT = 1
"""``user_version`` of a file with the tables below; a file of another one is left alone."""

APPLICATION = 0x41444544
"""``application_id``: "ADED"."""

PAGE_BYTES = 4096
"""Of a database page, SQLite's default; named here since ``_with_new_first_page`` relies on it."""

SCHEMA = (
    "CREATE TABLE labels (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID",
    f"CREATE TABLE exchanges (id INTEGER PRIMARY KEY, {COLUMNS})",
)

SETTINGS = (
    "synchronous = NORMAL",  # no wait for the disk after each answer: a power failure may lose the last, never more
    "secure_delete = ON",  # what is dropped is overwritten with zeros
    "temp_store = MEMORY",  # VACUUM copies everything; not into a folder that others use
    "trusted_schema = OFF",  # a file put together by hand calls no function
    "cell_size_check = ON",  # damage is found before it is followed
    "journal_size_limit = 0",  # nor does the log keep what was dropped
)

LOCK_SECONDS = 3.0
"""How long to wait for another program that writes: the longest work under the lock, pruning, takes half a second."""

LARGEST_BYTES = 16 << 20
"""Of a file: four times what the tokens of the largest take. Of a larger one no more than this is read."""

MOST_DAMAGED = 2000
"""Rows in a row that cannot be read, after which the rest is looked for from the other end."""

ASIDE = ".damaged-"
"""What follows the file's name in those set aside, before a number."""

COMPANIONS = ("-wal", "-shm", "-journal")
"""What follows the file's name in those that SQLite keeps beside it."""


class Kind(Enum):
    """What a file turned out to be."""

    ABSENT = "absent"
    SOUND = "sound"
    DAMAGED = "damaged"  # no database, or one that SQLite cannot read in full
    FOREIGN = "foreign"  # of another model
    TOO_LARGE = "too large"  # to be a memory; not all of it was read
    OTHER_VERSION = "other version"


UNUSABLE = (Kind.DAMAGED, Kind.FOREIGN, Kind.TOO_LARGE)
"""What is set aside, so that a new file can be begun."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What was found in a file.

    Attributes:
        kind: whether it is as expected.
        exchanges: all sound ones, in the order they were written.
        size: bytes of the file and its log.
        damaged: exchanges that cannot be read, as far as they can be counted; at least 1 in a file with damage.
    """

    kind: Kind
    exchanges: list[Exchange]
    size: int
    damaged: int


class _Replaced(Exception):
    """The file that was opened is not the one under this name any more."""


class Rows:
    """The exchanges of an open file, within a transaction."""

    def __init__(self, database: sqlite3.Connection, key: str) -> None:
        self._database = database
        self._key = key

    def holds(self, conversation: int, turn: int) -> bool:
        """Whether there is an exchange of this conversation with this number."""
        query = "SELECT 1 FROM exchanges WHERE conversation = ? AND turn = ? ORDER BY id DESC LIMIT 1"
        return self._database.execute(query, (conversation, turn)).fetchone() is not None

    def any(self) -> bool:
        """Whether there is any exchange."""
        return self._database.execute("SELECT 1 FROM exchanges LIMIT 1").fetchone() is not None

    def add(self, exchanges: Iterable[Exchange]) -> None:
        """Append exchanges.

        Raises:
            ValueError: a token is in no vocabulary.
        """
        places = ", ".join("?" for _ in COLUMNS.split(","))
        rows = [to_row(exchange, self._key) for exchange in exchanges]
        self._database.executemany(f"INSERT INTO exchanges ({COLUMNS}) VALUES ({places})", rows)

    def keep(self, choose: Callable[[list[Exchange]], Sequence[Exchange]]) -> tuple[int, list[Exchange]]:
        """Drop all that ``choose`` does not return, and all that is damaged.

        Returns:
            How many sound ones were dropped, and those that are kept.
        """
        numbered = list(_in_order(self._database, self._key))
        sound = [exchange for _, exchange in numbered if exchange is not None]
        kept = list(choose(sound))
        ids = {id(exchange) for exchange in kept}
        dropped = [(number,) for number, exchange in numbered if id(exchange) not in ids]
        self._database.executemany("DELETE FROM exchanges WHERE id = ?", dropped)
        return len(sound) - len(kept), kept


class Database:
    """A file of exchanges with one model. Its methods may be called from any thread.

    Args:
        path: the file; it and its folder are made by the first ``writing``.
        labels: what it belongs to; ``key`` must be among them.
    """

    def __init__(self, path: Path, labels: dict[str, str]) -> None:
        self.path = path
        self.labels = labels
        self.key = labels["key"]
        self._opened: sqlite3.Connection | None = None
        self._place: tuple[int, int] | None = None  # device and inode of the file that is open
        self._process = 0  # that opened it
        self._writes = False
        self._lock = threading.RLock()

    # --- reading -----------------------------------------------------------------------------------

    def read(self) -> Contents:
        """All that can be read.

        Raises:
            StoreError: there is something that cannot be opened or is no file, or another program keeps it locked.
        """
        with self._lock, self._telling("read"):
            if not self._size():
                return Contents(Kind.ABSENT, [], 0, 0)
            try:
                database = self._open(make=False)
                if database is None:
                    return Contents(Kind.ABSENT, [], 0, 0)
                kind = self._kind(database)
                if kind in (Kind.SOUND, Kind.TOO_LARGE):
                    found = [exchange for _, exchange in _in_order(database, self.key)]
                    sound = [exchange for exchange in found if exchange is not None]
                    return Contents(kind, sound, self._size(), len(found) - len(sound))
                if kind is not Kind.DAMAGED:
                    return Contents(kind, [], self._size(), 0)
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise
            saved, damaged = self._saved()
            return Contents(Kind.DAMAGED, saved, self._size(), max(1, damaged))

    def _kind(self, database: sqlite3.Connection) -> Kind:
        [[application]], [[version]] = (
            database.execute(f"PRAGMA {name}").fetchall() for name in ("application_id", "user_version")
        )
        tables = [sql for (sql,) in database.execute("SELECT sql FROM sqlite_master")]
        if (application, version, tables) == (0, 0, []):
            return Kind.ABSENT  # its maker was killed before it wrote anything
        if application == APPLICATION and version != FORMAT:
            return Kind.OTHER_VERSION
        if application != APPLICATION or sorted(tables) != sorted(SCHEMA):
            return Kind.DAMAGED
        if _labels(database).get("key") != self.key:
            return Kind.FOREIGN
        return Kind.SOUND if self.path.stat().st_size <= LARGEST_BYTES else Kind.TOO_LARGE

    def _size(self) -> int:
        """Bytes of the file and its log; 0 where there is none.

        Raises:
            OSError: it is none that may be read.
        """
        found = [look_at_private(path, writes=False) for path in self._with_companions()[:2]]
        return sum(each.st_size for each in found if each is not None) if found[0] is not None else 0

    def _saved(self) -> tuple[list[Exchange], int]:
        """What can be read of a damaged file, and how many rows of it cannot be."""
        with contextlib.suppress(sqlite3.DatabaseError):
            database = self._open(make=False)
            if database is not None:
                database.execute("SELECT 1 FROM exchanges LIMIT 0")
                return _around_damage(database, self.key)
        self.close()
        with contextlib.suppress(sqlite3.DatabaseError, OSError), _with_new_first_page(self.path) as database:
            return _around_damage(database, self.key)
        return [], 0

    # --- writing -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def writing(self, doing: str = "write") -> Iterator[Rows]:
        """A transaction: all that is done within the block is kept, or nothing.

        Raises:
            StoreError: it could not be written; the file is as before. Or it cannot be used.
        """
        with self._lock, self._telling(doing):
            database = self._begun()
            try:
                yield Rows(database, self.key)
                database.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    database.execute("ROLLBACK")
                raise

    def _begun(self) -> sqlite3.Connection:
        """The file, opened or made, with a transaction begun."""
        while True:
            database = self._open(make=True)
            assert database is not None
            try:
                self._begin(database)
                return database
            except _Replaced:  # erased while this waited for the lock
                self.close()

    def _begin(self, database: sqlite3.Connection) -> None:
        kind = self._kind(database)
        if kind is Kind.OTHER_VERSION:
            raise StoreError(
                f"{self.path} was written by another version of aded-local; use that one, or erase the file"
            )
        if kind not in (Kind.SOUND, Kind.TOO_LARGE, Kind.ABSENT):
            raise StoreError(f"{self.path} is damaged or of another model; erase it, or move it away")
        database.execute("BEGIN IMMEDIATE")
        try:
            if self._place != _place(self.path):
                raise _Replaced
            if self._kind(database) is Kind.ABSENT:
                for line in SCHEMA:
                    database.execute(line)
                database.executemany("INSERT INTO labels VALUES (?, ?)", self.labels.items())
                database.execute(f"PRAGMA application_id = {APPLICATION}")
                database.execute(f"PRAGMA user_version = {FORMAT}")
        except BaseException:
            database.execute("ROLLBACK")
            raise

    def shrink(self) -> None:
        """Give the room of what was dropped back to the system, and empty the log; as far as others let it."""
        with self._lock, self._telling("shrink"):
            database = self._open(make=False)
            if database is not None:
                with contextlib.suppress(sqlite3.OperationalError):  # in use, or no room for a copy
                    database.execute("VACUUM")
                    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def set_aside(self) -> tuple[Path, int] | None:
        """Rename a file that is damaged, too large, or another model's, and save what can be saved.

        Returns:
            Its new path, and how many exchanges a new file begins with; None when the file is sound by now.

        Raises:
            StoreError: it cannot be renamed.
        """
        with self._lock, self._telling("set aside"):
            before = _place(self.path)
            found = self.read()
            if found.kind not in UNUSABLE or before != _place(self.path):
                return None
            self.close()
            aside = self._free_name()
            moved = []
            try:
                for path in self._with_companions():
                    if os.path.lexists(path):
                        to = aside.with_name(f"{aside.name}{path.name[len(self.path.name) :]}")
                        os.rename(path, to)
                        moved.append((path, to))
                if found.exchanges:
                    with self.writing() as rows:
                        rows.add(found.exchanges)
            except BaseException:
                self.close()
                for path in self._with_companions():
                    path.unlink(missing_ok=True)
                for path, to in moved:
                    os.rename(to, path)  # there, the next start finds them again
                raise
            return aside, len(found.exchanges)

    def erase(self) -> list[Path]:
        """Remove the file and all that was set aside from it. Of a file that others use, the contents go.

        Returns:
            What was removed or emptied.

        Raises:
            StoreError: something could not be removed.
        """
        with self._lock, self._telling("erase"):
            beside = self.beside()
            gone = [path for path in (self.path, *beside) if os.path.lexists(path)]
            if not self._emptied():
                for path in self._with_companions():
                    path.unlink(missing_ok=True)
            for path in beside:
                path.unlink(missing_ok=True)
            return gone

    def _emptied(self) -> bool:
        """Drop all exchanges of a sound file, and remove the file if no other program has it open.

        Returns:
            False where there is no such file: what lies there is not for SQLite to remove.
        """
        try:
            if not self._size() or self._open(make=False) is None:
                return False
            with self.writing("erase") as rows:
                rows.keep(lambda _: [])
        except (StoreError, sqlite3.DatabaseError) as error:
            self.close()
            cause = error.__cause__ if isinstance(error, StoreError) else error
            if "locked" in str(cause):
                raise
            return False  # damaged, or on a disk too full to drop anything within the file
        self.shrink()
        database = self._open(make=False)
        assert database is not None
        database.execute("PRAGMA busy_timeout = 0")
        with contextlib.suppress(sqlite3.OperationalError):  # in use: an empty file stays
            database.execute("PRAGMA journal_mode = DELETE")  # which only the last user may do
            database.execute(
                "BEGIN EXCLUSIVE"
            )  # whoever opens it now finds, once it may write, that it has gone
            self.path.unlink()
        self.close()
        return True

    def beside(self) -> list[Path]:
        """Files set aside.

        Raises:
            StoreError: the folder cannot be read.
        """
        # Not by a pattern: the name may hold characters that mean something in one.
        try:
            return sorted(
                path
                for path in self.path.parent.iterdir()
                if path.name.startswith(f"{self.path.name}{ASIDE}")
            )
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _failure("list", self.path.parent, error) from error

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

    def __del__(self) -> None:
        self.close()  # Python's connections refer to themselves, so one that is dropped is not closed at once

    # --- opening -----------------------------------------------------------------------------------

    def _open(self, *, make: bool) -> sqlite3.Connection | None:
        """The file under this name, opened; None where there is none, unless ``make``.

        Raises:
            OSError: it is no file of this user's, or (``make``) cannot be written.
            sqlite3.Error: SQLite cannot open it.
        """
        if self._opened is not None and (self._place != _place(self.path) or self._process != os.getpid()):
            self.close()
        if self._opened is not None and (not make or self._writes):
            return self._opened
        self.close()
        if make:
            self._make()
        if look_at_private(self.path, writes=make) is None:
            return None
        for path in self._with_companions()[1:]:
            look_at_private(path, writes=make)
        folder = self.path.parent
        self._writes = os.access(self.path, os.R_OK | os.W_OK) and os.access(folder, os.W_OK | os.X_OK)
        if make and not self._writes:
            raise PermissionError(13, os.strerror(13), str(self.path))
        # Without its index a log cannot be read where nothing can be written, and without a log no index is needed.
        has_log = os.path.exists(self._with_companions()[1])
        mode = "mode=rw" if self._writes else "mode=ro" if has_log else "mode=ro&immutable=1"
        place = _place(self.path)
        database = _connect(self.path, mode)
        try:
            for setting in SETTINGS:
                database.execute(f"PRAGMA {setting}")
            if make:
                _use_log(database)
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
        left = [path for path in self._with_companions()[1:] if os.path.lexists(path)]
        with contextlib.suppress(FileExistsError):  # another program was quicker
            os.close(open_private(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL))
            for path in left:  # of a file that somebody removed by hand
                path.unlink(missing_ok=True)

    def _with_companions(self) -> list[Path]:
        return [self.path, *(self.path.with_name(f"{self.path.name}{end}") for end in COMPANIONS)]

    def _free_name(self) -> Path:
        number = 1
        while os.path.lexists(path := self.path.with_name(f"{self.path.name}{ASIDE}{number}")):
            number += 1
        return path

    @contextlib.contextmanager
    def _telling(self, doing: str) -> Iterator[None]:
        """Turn what goes wrong into one line; a connection with which something went wrong is closed."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            self.close()
            raise _failure(doing, self.path, error) from error


_INHERITED: list[sqlite3.Connection] = []
"""Connections of a parent process, kept so that they are not closed here."""


def labels_in(path: Path) -> dict[str, str]:
    """What a file belongs to; empty where it does not say.

    Raises:
        OSError: there is none, or it is not this user's.
    """
    if look_at_private(path, writes=False) is None:
        raise FileNotFoundError(2, os.strerror(2), str(path))
    file = Database(path, {"key": ""})
    try:
        database = file._open(make=False)
        return {} if database is None else _labels(database)
    except sqlite3.Error:
        return {}
    finally:
        file.close()


def _labels(database: sqlite3.Connection) -> dict[str, str]:
    return {
        str(name): str(value) for name, value in database.execute("SELECT name, value FROM labels LIMIT 20")
    }


def _in_order(database: sqlite3.Connection, key: str) -> Iterator[tuple[int, Exchange | None]]:
    """Number and exchange of each row, None for a damaged one; no more than ``LARGEST_BYTES`` of them."""
    room = LARGEST_BYTES
    query = f"SELECT id, length(prompt) + length(answer), {COLUMNS} FROM exchanges ORDER BY id"
    for number, size, *row in database.execute(query):
        room -= size if isinstance(size, int) else 0
        if room < 0:
            return
        yield number, from_row(row, key)


def _around_damage(database: sqlite3.Connection, key: str) -> tuple[list[Exchange], int]:
    """What can be read of the rows, and how many cannot be: from both ends, and over what is damaged between."""
    found: dict[int, Exchange | None] = {}
    damaged = 0
    for after, order, step in ((">", "ASC", 1), ("<", "DESC", -1)):
        query = f"SELECT id, {COLUMNS} FROM exchanges WHERE id {after} ? ORDER BY id {order} LIMIT 1"
        at, failed = (0 if step > 0 else 2**62), 0
        while failed < MOST_DAMAGED:
            try:
                row: Sequence[Any] | None = database.execute(query, (at,)).fetchone()
            except sqlite3.DatabaseError:
                at, failed = at + step, failed + 1
                continue
            if row is None or row[0] in found:
                break
            at, failed = row[0], 0
            found[at] = from_row(row[1:], key)
        damaged = max(damaged, failed)
    sound = [exchange for _, exchange in sorted(found.items()) if exchange is not None]
    return sound, damaged + len(found) - len(sound)


@contextlib.contextmanager
def _with_new_first_page(path: Path) -> Iterator[sqlite3.Connection]:
    """A copy of a file with the first page of a new one, which is the same in all but for counts; to be read only."""
    handle, name = tempfile.mkstemp(prefix=f"{path.name}{ASIDE}", dir=path.parent)
    try:
        with open(handle, "r+b") as copy, open(open_private(path, os.O_RDONLY), "rb") as damaged:
            with contextlib.closing(sqlite3.connect(name, isolation_level=None)) as new:
                new.execute(f"PRAGMA page_size = {PAGE_BYTES}")
                for line in SCHEMA:
                    new.execute(line)
            data = damaged.read(LARGEST_BYTES)
            pages = len(data) // PAGE_BYTES
            copy.seek(28)  # the file's size in pages, which SQLite goes by
            copy.write(pages.to_bytes(4, "big"))
            copy.seek(PAGE_BYTES)
            copy.write(data[PAGE_BYTES : pages * PAGE_BYTES])
        with contextlib.closing(_connect(Path(name), "mode=ro&immutable=1")) as database:
            yield database
    finally:
        os.unlink(name)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?{mode}",
        uri=True,
        timeout=LOCK_SECONDS,
        isolation_level=None,  # transactions begin where this module says so
        check_same_thread=False,  # ``Database`` has a lock
    )


def _use_log(database: sqlite3.Connection) -> None:
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


def _place(path: Path) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _is_damage(error: sqlite3.Error) -> bool:
    return any(word in str(error) for word in ("malformed", "not a database", "no such"))


def _failure(doing: str, path: Path, error: OSError | sqlite3.Error) -> StoreError:
    if isinstance(error, OSError):
        return failure(doing, path, error, otherwise="set ADED_DATA_DIR")
    what = str(error)
    remedy = "check the path and its permissions, or set ADED_DATA_DIR"
    if "full" in what:
        remedy = "free some space"
    elif "locked" in what:
        what, remedy = "another program does not stop writing to it", "try again, or end that program"
    return StoreError(f"cannot {doing} {path}: {what}; {remedy}")
