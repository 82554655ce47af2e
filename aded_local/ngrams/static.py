"""The file of a static store: what was counted from a corpus for one tokenizer, ready to be mapped.

Opening it reads two pages, whatever its size; the table's pages come from the disk as look-ups touch them::

    0        page: MAGIC, version, CRC-32 of the page, places and lengths of what follows, their CRC-32
    4,096    texts: records of  length uint32  tokens uint32  CRC-32 uint32  payload (zlib of int32 token ids)
    …        facts: JSON
    …        table, page-aligned, to the end of the file: int64 entries (``ngrams.table``)

The texts come first because they are written while they are counted; only then is the table's size known. They are
kept so that stores can be merged, pruned and exported. All numbers are little-endian.
"""

from __future__ import annotations

import json
import mmap
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from aded_local.errors import StoreError
from aded_local.files import failure
from aded_local.ngrams import table as statistics
from aded_local.ngrams.table import Table
from aded_local.tree import IntArray

MAGIC: Final = b"ADEDstat"
FORMAT: Final = 1
"""Version of the file; to be raised when the file or the hash of contexts changes."""

LAYOUT: Final = (
    f"orders {statistics.ORDERS} wide {statistics.WIDE_ORDERS} bucket {statistics.BUCKET}"
    f" unit {statistics.UNIT} seed {int(statistics.SEED_KEY):x}"
    f" bits {statistics.COUNT_SHIFT} {statistics.STAMP_SHIFT} {statistics.CHECK_SHIFT}"
)
"""What the entries of a table mean; a table of another layout must be counted anew."""

PAGE: Final = 4096
LEAST_BITS, MOST_BITS = 12, 23
"""A table has ``2 ** bits`` entries: 32 KiB to 64 MiB."""

LONGEST_TEXT: Final = 1 << 22
"""Tokens in one record at most; a record that claims more is damaged."""

LONGEST_FACTS: Final = 1 << 20
"""Bytes of the facts at most."""

LARGEST_TOKEN: Final = 1 << 24
"""Ids are below this: an entry has 24 bits for one."""

HEADER: Final = struct.Struct("<8sIIQQQQQII")
"""Magic, version, CRC of the page; texts' end; facts' place and length; table's place and entries; CRC of facts and
table."""

RECORD: Final = struct.Struct("<III")
"""Bytes of the payload, tokens in it, CRC-32 of it."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where texts came from: a file's name without its folder, and the bytes of text read from it."""

    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class StaticFacts:
    """What a static store holds.

    Attributes:
        tokenizer_key: which vocabulary the ids belong to: ``Identity.tokenizer``.
        tokenizer_name: the same for people.
        n_vocab: ids are below this.
        tokens, texts: in the corpus.
        entries: of the table in use: successors of contexts.
        forgotten: entries left over at the end that found no place in the table, the least counted of their buckets.
            What working tables too small for the corpus forgot on the way is not among them.
        created: seconds since 1970.
        sources: files of the corpus, the first of them; ``more_sources`` others are not named.
        pruned_texts: texts once counted and dropped since.
        layout: ``LAYOUT`` of the program that counted.
    """

    tokenizer_key: str
    tokenizer_name: str
    n_vocab: int
    tokens: int
    texts: int
    entries: int
    forgotten: int
    created: int
    sources: tuple[Source, ...]
    more_sources: int = 0
    pruned_texts: int = 0
    layout: str = LAYOUT

    def to_json(self) -> bytes:
        """As in the file."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def from_json(cls, raw: bytes) -> StaticFacts:
        """As read from a file.

        Raises:
            ValueError: something is missing, of the wrong type, negative, or beyond 64 bits.
        """
        data = json.loads(raw)
        if not isinstance(data, dict):
            raise ValueError("no object")
        kinds: dict[str, type] = {"tokenizer_key": str, "tokenizer_name": str, "layout": str}
        values: dict[str, Any] = {}
        for name in cls.__slots__:
            kind = kinds.get(name, list if name == "sources" else int)
            value = data.get(name)
            if type(value) is not kind or (isinstance(value, int) and not 0 <= value < 2**63):
                raise ValueError(name)
            values[name] = value
        values["sources"] = tuple(_source(one) for one in values["sources"])
        if not 1 <= values["n_vocab"] <= LARGEST_TOKEN:
            raise ValueError("n_vocab")
        return cls(**values)


def _source(data: object) -> Source:
    name, size = (data.get("name"), data.get("bytes")) if isinstance(data, dict) else (None, None)
    if type(name) is not str or type(size) is not int or not 0 <= size < 2**63:
        raise ValueError("sources")
    return Source(name, size)


@dataclass(frozen=True, slots=True)
class Places:
    """Where things lie in the file, in bytes; ``entries`` of eight bytes from ``table_at`` to the end."""

    texts_end: int
    facts_at: int
    facts_bytes: int
    table_at: int
    entries: int
    facts_crc: int
    table_crc: int

    def to_page(self) -> bytes:
        """The first page of the file."""
        fields = (self.texts_end, self.facts_at, self.facts_bytes, self.table_at, self.entries)
        blank = HEADER.pack(MAGIC, FORMAT, 0, *fields, self.facts_crc, self.table_crc).ljust(PAGE, b"\0")
        crc = zlib.crc32(blank)
        return HEADER.pack(MAGIC, FORMAT, crc, *fields, self.facts_crc, self.table_crc).ljust(PAGE, b"\0")


class StaticStore:
    """An open static store; ``open_static`` makes one.

    Attributes:
        path: the file.
        facts: what it holds.
        table: its statistics, int64 ``(2 ** bits,)``, page-aligned, with stamps of 0. Mapped copy-on-write: whoever
            writes to it changes neither the file nor what others see, and kernels need no second compilation
            for arrays that cannot be written. Its tokens are what the file says: check them against the vocabulary.
        size: bytes of the file.
    """

    def __init__(self, path: Path, facts: StaticFacts, data: mmap.mmap, places: Places) -> None:
        self.path = path
        self.facts = facts
        self.size = len(data)
        self.table: Table = np.frombuffer(data, "<i8", places.entries, places.table_at)
        self._data = data
        self._places = places

    def texts(self, skip: int = 0) -> Iterator[IntArray]:
        """The corpus, text by text, int32 ``(n,)`` each, in the order it was counted.

        Args:
            skip: leave out so many from the beginning.

        Raises:
            StoreError: a text is damaged.
        """
        for number, (body, length, tokens, crc) in enumerate(self._records()):
            if number >= skip:
                yield self._text(body, length, tokens, crc)

    def lengths(self) -> list[int]:
        """Tokens of each text, in order.

        Raises:
            StoreError: the texts are damaged.
        """
        return [tokens for _body, _length, tokens, _crc in self._records()]

    def _records(self) -> Iterator[tuple[int, int, int, int]]:
        at, end, count = PAGE, self._places.texts_end, 0
        while at < end:
            if at + RECORD.size > end:
                raise self._damaged(at)
            length, tokens, crc = RECORD.unpack_from(self._data, at)
            body = at + RECORD.size
            if not 0 < tokens <= LONGEST_TEXT or body + length > end:
                raise self._damaged(at)
            yield body, length, tokens, crc
            at = body + length
            count += 1
        if count != self.facts.texts:
            raise self._damaged(at)

    def _text(self, body: int, length: int, tokens: int, crc: int) -> IntArray:
        payload = memoryview(self._data)[body : body + length]
        if zlib.crc32(payload) != crc:
            raise self._damaged(body)
        unpacker = zlib.decompressobj()
        try:
            raw = unpacker.decompress(payload, 4 * tokens + 1)
        except zlib.error as error:
            raise self._damaged(body) from error
        if len(raw) != 4 * tokens:
            raise self._damaged(body)
        found = np.frombuffer(raw, "<i4").astype(np.int32, copy=False)
        if not 0 <= int(found.min()) <= int(found.max()) < self.facts.n_vocab:
            raise self._damaged(body)
        return found

    def check(self) -> None:
        """Read all of the file and compare every checksum.

        Raises:
            StoreError: something is damaged.
        """
        self.check_table()
        if sum(len(text) for text in self.texts()) != self.facts.tokens:
            raise self._damaged(PAGE)

    def check_table(self) -> None:
        """Compare the table's checksum, and its tokens with the vocabulary.

        Raises:
            StoreError: the table is damaged.
        """
        start = self._places.table_at
        step = 1 << 24
        crc = 0
        for at in range(start, self.size, step):
            crc = zlib.crc32(memoryview(self._data)[at : min(at + step, self.size)], crc)
        largest = 0
        for at in range(0, len(self.table), step // 8):
            part = self.table[at : at + step // 8]
            largest = max(largest, int((part & statistics.TOKEN_MASK).max()))
        if crc != self._places.table_crc or largest >= self.facts.n_vocab:
            raise self._damaged(start)

    def _damaged(self, at: int) -> StoreError:
        return StoreError(
            f"{self.path} is damaged near byte {at:,}; copy it again from where it came, or build it anew"
        )


def open_static(path: Path, tokenizer_key: str | None = None) -> StaticStore:
    """Map a static store; takes a millisecond, whatever its size.

    Header and facts are checked against their checksums, all places against the file's size; the table's own
    checksum only by ``StaticStore.check``.

    Args:
        path: the file.
        tokenizer_key: of the model that is to use it; None where none will: then a table that another version
            counted opens too, to be counted anew from its texts.

    Raises:
        StoreError: it cannot be read, is no static store, is damaged, of another version, or of another tokenizer.
    """
    path = Path(path)
    data = _mapped(path)
    places = _places(path, data)
    facts = _facts(path, data, places)
    if tokenizer_key is not None:
        if facts.layout != LAYOUT:
            raise StoreError(
                f"{path} was counted by another version of aded-local;"
                " `aded-store merge` with this one file counts it anew"
            )
        if facts.tokenizer_key != tokenizer_key:
            raise StoreError(
                f"{path} is for another tokenizer ({facts.tokenizer_name}); build one with this model's GGUF"
            )
    return StaticStore(path, facts, data, places)


def is_static(path: Path) -> bool:
    """Whether a file begins like a static store; False for what cannot be read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def _mapped(path: Path) -> mmap.mmap:
    """The file's bytes; at least a page of them."""
    try:
        # Asked before opening: opening a pipe would wait for its other end.
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "no regular file"
            raise StoreError(f"{path} is {what}; give the file that `aded-store build` wrote")
        with open(path, "rb") as file:
            magic = file.read(len(MAGIC))
            size = os.fstat(file.fileno()).st_size
            if magic != MAGIC:
                raise StoreError(f"{path} is no static store; give a file that `aded-store build` wrote")
            if size < PAGE:
                raise _broken(path, f"it ends after {size} bytes")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except FileNotFoundError as error:
        raise StoreError(f"there is no file {path}; check the path") from error
    except ValueError as error:  # a NUL in the path, or a file that is empty by now
        raise StoreError(f"cannot open {str(path)!r}: {error}; check the path") from error
    except OSError as error:
        raise failure("open", path, error) from error


def _broken(path: Path, what: str) -> StoreError:
    return StoreError(f"{path} is damaged: {what}; copy it again from where it came, or build it anew")


def _places(path: Path, data: mmap.mmap) -> Places:
    """What the first page says, made sure of."""
    magic, version, crc, *fields = HEADER.unpack_from(data, 0)
    if version != FORMAT:
        raise StoreError(
            f"{path} has version {version} of the format, and this program reads {FORMAT}; build it anew"
        )
    blank = HEADER.pack(magic, version, 0, *fields) + data[HEADER.size : PAGE]
    if zlib.crc32(blank) != crc:
        raise _broken(path, "its first page does not match its checksum")
    places = Places(*fields)
    size = len(data)
    bits = places.entries.bit_length() - 1
    if places.entries != 1 << max(bits, 0) or not LEAST_BITS <= bits <= MOST_BITS:
        raise _broken(path, f"a table of {places.entries} entries is impossible")
    if places.table_at % PAGE or places.table_at + 8 * places.entries != size:
        raise _broken(path, f"it has {size:,} bytes, and its table ends elsewhere")
    if not PAGE <= places.texts_end <= places.facts_at or places.facts_bytes > LONGEST_FACTS:
        raise _broken(path, "its parts overlap")
    if places.facts_at + places.facts_bytes > places.table_at:
        raise _broken(path, "its parts overlap")
    return places


def _facts(path: Path, data: mmap.mmap, places: Places) -> StaticFacts:
    raw = data[places.facts_at : places.facts_at + places.facts_bytes]
    if zlib.crc32(raw) != places.facts_crc:
        raise _broken(path, "its facts do not match their checksum")
    try:
        return StaticFacts.from_json(raw)
    except (ValueError, RecursionError) as error:
        raise _broken(path, f"its facts make no sense ({error})") from error
