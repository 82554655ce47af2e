"""The exchanges in one SQLite file, readable after a kill or damage.

A file that SQLite cannot read is set aside, and what can be read of it goes into a new one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from aded_local.errors import StoreError
from aded_local.memory.exchange import Exchange
from aded_local.memory.rows import (
    SCHEMA,
    Rows,
    around_damage,
    in_order,
    labels_of,
    with_new_first_page,
)
from aded_local.memory.sharing import COMPANIONS, SharedFile, is_damage, may_be_gone, place_of

FORMAT = 1
"""``user_version`` of a file with the tables of ``rows``; a file of another one is left alone."""

APPLICATION = 0x41444544
"""``application_id``: "ADED"."""

ASIDE = ".damaged-"
"""What follows the file's name in those set aside, before a number."""

ATTEMPTS = 5
"""Times that a file is opened anew after an error which an erasure may have caused; each takes a millisecond."""


class Kind(Enum):
    """What a file turned out to be."""

    ABSENT = "is not there"
    SOUND = "is sound"
    DAMAGED = "is damaged"  # no database, or one that SQLite cannot read in full
    FOREIGN = "belongs to another model"
    OTHER_VERSION = "was written by another version of aded-local"


UNUSABLE = (Kind.DAMAGED, Kind.FOREIGN)
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


class Database(SharedFile):
    """A file of exchanges with one model. Its methods may be called from any thread.

    Args:
        path: the file; it and its folder are made by the first ``writing``.
        labels: what it belongs to; ``key`` must be among them.
    """

    def __init__(self, path: Path, labels: dict[str, str]) -> None:
        super().__init__(path)
        self.labels = labels
        self.key = labels["key"]

    # --- reading -----------------------------------------------------------------------------------

    def read(self) -> Contents:
        """All that can be read.

        Raises:
            StoreError: there is something that cannot be opened or is no file, or another program keeps it locked.
        """
        with self._lock, self._telling("read"):
            try:
                database = self._open() if self._size() else None
                kind = Kind.ABSENT if database is None else self._kind(database, thorough=True)
                if database is None or kind in (Kind.ABSENT, Kind.OTHER_VERSION):
                    return Contents(kind, [], self._size(), 0)
                if kind is not Kind.DAMAGED:
                    found = [exchange for _, exchange in in_order(database, self.key)]
                    sound = [exchange for exchange in found if exchange is not None]
                    if kind is Kind.SOUND:
                        return Contents(kind, sound, self._size(), len(found) - len(sound))
                    if not sound:
                        return Contents(kind, [], self._size(), 0)
                    # Its rows are this model's, whatever it says itself: that is damage.
            except sqlite3.DatabaseError as error:
                if not is_damage(error):
                    raise
            self.close()  # what SQLite keeps of damaged pages may look sound when it is asked again
            sound, damaged = self._saved()
            self.close()
            return Contents(Kind.DAMAGED, sound, self._size(), max(1, damaged))

    def _kind(self, database: sqlite3.Connection, *, thorough: bool = False) -> Kind:
        [application], [version] = (
            database.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version")
        )
        tables = sorted(str(sql) for (sql,) in database.execute("SELECT sql FROM sqlite_master"))
        if (application, version, tables) == (0, 0, []):
            return Kind.ABSENT  # its maker was killed before it wrote anything
        if application == APPLICATION and version != FORMAT:
            return Kind.OTHER_VERSION
        if application != APPLICATION or tables != sorted(SCHEMA):
            return Kind.DAMAGED
        if thorough and database.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            return Kind.DAMAGED  # there may be some that only writing would meet
        if labels_of(database).get("key") != self.key:
            return Kind.FOREIGN
        return Kind.SOUND

    def _saved(self) -> tuple[list[Exchange], int]:
        """What can be read of a damaged file, and how many rows of it cannot be."""
        with contextlib.suppress(sqlite3.DatabaseError):
            database = self._open()
            if database is not None:
                database.execute("SELECT 1 FROM exchanges LIMIT 0")  # else its first page is damaged
                return around_damage(database, self.key)
        self.close()
        with contextlib.suppress(sqlite3.DatabaseError, OSError), with_new_first_page(self.path) as database:
            return around_damage(database, self.key)
        return [], 0

    # --- writing -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def writing(self, doing: str = "write") -> Iterator[Rows]:
        """A transaction: all that is done within the block is kept, or nothing. Makes the file if need be.

        Raises:
            StoreError: it could not be written, and is as before; or it cannot be used.
        """
        with self._lock, self._telling(doing):
            database = self._begun()
            try:
                kind = self._kind(database)
                if kind is Kind.ABSENT:
                    for line in SCHEMA:
                        database.execute(line)
                    database.executemany("INSERT INTO labels VALUES (?, ?)", self.labels.items())
                    database.execute(f"PRAGMA application_id = {APPLICATION}")
                    database.execute(f"PRAGMA user_version = {FORMAT}")
                elif kind is not Kind.SOUND:
                    raise StoreError(f"{self.path} {kind.value}; move it away, or erase it")
                yield Rows(database, self.key)
                database.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    database.execute("ROLLBACK")
                raise

    def _begun(self) -> sqlite3.Connection:
        """The file, opened or made, with a transaction begun; a file that is erased meanwhile is made anew."""
        attempts = 0
        while True:
            self._make()
            place = place_of(self.path)
            try:
                database = self._open(writes=True)
                if database is not None:
                    database.execute("BEGIN IMMEDIATE")
                    if self._place == place_of(self.path):
                        return database
            except sqlite3.OperationalError as error:
                # SQLite says "I/O" or "readonly" of a file, or of its log, that is erased at that moment. A new file
                # may have the number of the old one.
                attempts += 1
                gone = place != place_of(self.path) or (attempts < ATTEMPTS and may_be_gone(error))
                if not gone:
                    raise
            except BaseException:  # Ctrl-C
                self.close()  # no transaction stays open
                raise
            self.close()

    def shrink(self) -> None:
        """Give the room of what was dropped back to the system, and empty the log; as far as others let it."""
        with self._lock, self._telling("shrink"):
            database = self._open()
            if database is not None:
                with contextlib.suppress(sqlite3.OperationalError):  # in use, or no room for a copy
                    database.execute("VACUUM")
                    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def set_aside(self) -> tuple[Path, int] | None:
        """Rename a file that is damaged or another model's, and save what can be saved.

        Returns:
            Its new path, and how many exchanges a new file begins with; None when the file is sound by now.

        Raises:
            StoreError: it cannot be renamed.
        """
        with self._lock, self._telling("set aside"):
            before = place_of(self.path)
            found = self.read()
            if found.kind not in UNUSABLE or before != place_of(self.path):
                return None
            self.close()
            aside = self._free_name()
            moved: list[tuple[Path, Path]] = []
            try:
                for path, end in zip(self._files, ("", *COMPANIONS), strict=True):
                    if os.path.lexists(path):
                        to = aside.with_name(f"{aside.name}{end}")
                        os.rename(path, to)
                        moved.append((path, to))
                if found.exchanges:
                    with self.writing() as rows:
                        rows.add(found.exchanges)
            except BaseException:
                self.close()
                for path in self._files if moved else ():
                    path.unlink(missing_ok=True)
                for path, to in moved:
                    os.replace(to, path)  # there, the next start finds them again
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
                beside = [*self._files, *beside]
            for path in beside:
                path.unlink(missing_ok=True)
            return gone

    def _emptied(self) -> bool:
        """Drop all exchanges of a sound file, and remove the file if no other program has it open.

        Returns:
            False where there is none: what lies there is not for SQLite to remove.
        """
        try:
            if not self._size():
                return False
            with self.writing("erase") as rows:
                rows.keep(lambda _: [])
        except StoreError as error:
            if "locked" in str(error.__cause__):
                raise
            return False  # damaged, or on a disk too full to drop anything within the file
        self.shrink()
        database = self._open(writes=True)
        if database is not None:
            database.execute("PRAGMA busy_timeout = 0")
            with contextlib.suppress(sqlite3.OperationalError):  # in use: an empty file stays
                database.execute("PRAGMA journal_mode = DELETE")  # which only the last user may do
                database.execute("BEGIN EXCLUSIVE")  # whoever waits for this finds that the file has gone
                self.path.unlink()
        self.close()
        return True

    def beside(self) -> list[Path]:
        """Files set aside.

        Raises:
            StoreError: the folder cannot be read.
        """
        name = f"{self.path.name}{ASIDE}"  # no pattern: it may hold characters that mean something in one
        with self._telling("list what lies beside"):
            if not self.path.parent.is_dir():
                return []
            return sorted(path for path in self.path.parent.iterdir() if path.name.startswith(name))

    def _free_name(self) -> Path:
        number = 1
        while os.path.lexists(path := self.path.with_name(f"{self.path.name}{ASIDE}{number}")):
            number += 1
        return path


def labels_in(path: Path) -> dict[str, str]:
    """What a file belongs to; empty where it does not say.

    Raises:
        OSError: there is none, or it is not this user's.
    """
    file = Database(path, {"key": ""})
    try:
        database = file._open()
        if database is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return labels_of(database)
    except sqlite3.Error:
        return {}
    finally:
        file.close()
