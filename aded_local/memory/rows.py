"""The tables of a memory's file: exchanges a row each, and what can be read of them where a file is damaged.

SQLite has no checksums, so each row has one (``exchange.to_row``).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from aded_local.files import open_private
from aded_local.memory.exchange import COLUMNS, Exchange, from_row, to_row

SCHEMA = (
    "CREATE TABLE labels (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID",
    f"CREATE TABLE exchanges (id INTEGER PRIMARY KEY, {COLUMNS})",
)

PAGE_BYTES = 4096
"""Of a database page, SQLite's default."""

LARGEST_BYTES = 16 << 20
"""Of tokens: four times what the largest memory holds. No more is read, whatever a file says that it has."""

MOST_DAMAGED = 2000
"""Rows in a row that cannot be read, after which the rest is looked for from the other end."""


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
        found = {number: each for number, each in in_order(self._database, self._key) if each is not None}
        kept = list(choose(list(found.values())))
        ids = {id(exchange) for exchange in kept}
        numbers = self._database.execute("SELECT id FROM exchanges").fetchall()
        dropped = [(number,) for (number,) in numbers if id(found.get(number)) not in ids]
        self._database.executemany("DELETE FROM exchanges WHERE id = ?", dropped)
        return len(found) - len(kept), kept


def labels_of(database: sqlite3.Connection) -> dict[str, str]:
    """What an open file belongs to."""
    return {
        str(name): str(value) for name, value in database.execute("SELECT name, value FROM labels LIMIT 9")
    }


def in_order(database: sqlite3.Connection, key: str) -> Iterator[tuple[int, Exchange | None]]:
    """Number and exchange of each row, None for a damaged one; no more than ``LARGEST_BYTES`` of them."""
    room = LARGEST_BYTES
    query = f"SELECT id, length(prompt) + length(answer), {COLUMNS} FROM exchanges ORDER BY id"
    for number, size, *row in database.execute(query):
        room -= size if isinstance(size, int) else 0
        if room < 0:
            return
        yield number, from_row(row, key)


def around_damage(database: sqlite3.Connection, key: str) -> tuple[list[Exchange], int]:
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
def with_new_first_page(path: Path) -> Iterator[sqlite3.Connection]:
    """A copy of a file with the first page of a new one, which is the same in all but for counts; to be read only."""
    handle, name = tempfile.mkstemp(prefix=f"{path.name}.damaged-", dir=path.parent)
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
        with contextlib.closing(
            sqlite3.connect(f"{Path(name).as_uri()}?mode=ro&immutable=1", uri=True)
        ) as database:
            yield database
    finally:
        os.unlink(name)
