"""A file of exchanges: each a record of its own, checksummed, appended in one write, never changed after.

The file is a header line and then records::

    aded-memory 1 <CRC-32 of the JSON, 8 hex digits> <JSON: what the file belongs to>\\n
    MAGIC  length uint32  CRC-32 uint32  payload
    payload: when int64, conversation uint32, turn uint32, prompt tokens uint32, answer tokens uint32,
             flags uint8 (1: continues), then the tokens, prompt first, int32; all little-endian

Tokens are stored raw. The largest file (``conversations.LARGEST_TOKENS``) has 4 MB so; zlib would halve that and
make every start some 20 ms slower. It also lets ``MAGIC`` mark a record beyond doubt: it has no zero byte and every
fourth byte of tokens is zero, so a reader that lost its way finds the next record by looking for it.

The checksum of a record begins with the file's key: records can be saved from a file whose header is damaged, and a
record that strayed from another model's file is not taken for one of this.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np

from aded_local.files import open_private, read_ends, write_whole
from aded_local.memory.writing import Lock, failure
from aded_local.tree import IntArray

FORMAT = 1
"""Version of the layout above; a file of another one is left alone."""

MAGIC = b"\xaaEX\xbb"
LARGEST_TOKEN = 2**24
"""Ids are below this, far above any vocabulary: ``MAGIC`` relies on the zero byte at their end."""

ASIDE, UNFINISHED = ".damaged-", ".new-"
"""What follows the file's name in those set aside and those being written, before a number."""

LARGEST_BYTES = 16 << 20
"""Of a file: four times what the tokens of the largest take. Of a larger one only the ends are read, half of this each:
what was written first, before whatever went wrong, and what was written last."""

FALSE_START = 1 << 10
"""Bytes of checksum that looking in vain for a record at one place costs as much time as."""

MOST_WASTE = 1 << 28
"""Bytes of checksum taken in vain, after which the rest counts as damaged: half a second, and no damage by accident
comes near. A file put together so that every byte looks like a record would take hours."""

LONGEST_HEADER = 1 << 13
"""Bytes that hold any header line."""

_FRAME = struct.Struct("<4sII")
_HEAD = struct.Struct("<qIIIIB")
_HEADER = re.compile(rb"aded-memory (\d{1,9}) ([0-9a-f]{8}) ([^\n]{1,4096})\n")
_CONTINUES = 1


@dataclass(frozen=True, slots=True, eq=False)
class Exchange:
    """A prompt and what the model answered.

    Attributes:
        prompt: token ids, int32 ``(n,)``; with ``continues`` only those that are new since the exchange before,
            else all, but for a long beginning that the exchange before had too.
        answer: token ids the model emitted, the end token included, int32 ``(m,)``.
        continues: follows the exchange ``turn - 1`` of the same conversation.
        when: seconds since 1970, whole.
        conversation: tells apart conversations that several programs wrote at the same time, uint32.
        turn: number within the conversation, from 0.
    """

    prompt: IntArray
    answer: IntArray
    continues: bool
    when: int
    conversation: int = 0
    turn: int = 0

    @property
    def tokens(self) -> int:
        """Tokens it holds."""
        return len(self.prompt) + len(self.answer)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Exchange) and _payload(self) == _payload(other)

    def __hash__(self) -> int:
        return hash(_payload(self))


class Kind(Enum):
    """What a file turned out to be."""

    ABSENT = "absent"
    SOUND = "sound"
    DAMAGED = "damaged"  # the header cannot be read
    FOREIGN = "foreign"  # of another model
    TOO_LARGE = "too large"  # to be a memory; only its ends were read
    OTHER_VERSION = "other version"


UNUSABLE = (Kind.DAMAGED, Kind.FOREIGN, Kind.TOO_LARGE)
"""What is set aside, so that a new file can be begun."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What was found in a file.

    Attributes:
        kind: whether the header is as expected.
        exchanges: all sound records of the expected key, in the order they were written.
        size: bytes of the file.
        damaged: bytes that belong to no sound record.
    """

    kind: Kind
    exchanges: list[Exchange]
    size: int
    damaged: int


def _payload(exchange: Exchange) -> bytes:
    prompt, answer = (np.ascontiguousarray(part, "<i4") for part in (exchange.prompt, exchange.answer))
    flags = _CONTINUES if exchange.continues else 0
    sizes = (exchange.conversation, exchange.turn, len(prompt), len(answer))
    return _HEAD.pack(exchange.when, *sizes, flags) + prompt.tobytes() + answer.tobytes()


def encode(exchange: Exchange, key: str) -> bytes:
    """The record of an exchange in the file of ``key``.

    Raises:
        ValueError: a token id is negative or ``LARGEST_TOKEN`` or more.
    """
    for part in (exchange.prompt, exchange.answer):
        if len(part) and not 0 <= int(part.min()) <= int(part.max()) < LARGEST_TOKEN:
            raise ValueError("a token id is outside any vocabulary")
    payload = _payload(exchange)
    return _FRAME.pack(MAGIC, len(payload), zlib.crc32(payload, zlib.crc32(key.encode()))) + payload


def decode(data: bytes, key: str, start: int = 0) -> tuple[list[Exchange], int]:
    """All sound records of ``key`` in ``data`` from ``start`` on, and how many bytes belong to none."""
    exchanges: list[Exchange] = []
    damaged = wasted = 0
    at = start
    seed = zlib.crc32(key.encode())
    while at < len(data):
        length = _claimed(data, at)
        if length and _is_sound(data, at, length, seed):
            exchanges.append(_exchange(data, at + _FRAME.size))
            at += _FRAME.size + length
            continue
        wasted += FALSE_START + length
        # Whatever the broken record claims to cover, the next one may begin anywhere behind its first byte.
        found = data.find(MAGIC, at + 1) if wasted < MOST_WASTE else -1
        end = len(data) if found < 0 else found
        damaged += end - at
        at = end
    return exchanges, damaged


def _claimed(data: bytes, at: int) -> int:
    """The length of the payload of a record at ``at``, as far as can be told without its checksum; 0 for none."""
    body = at + _FRAME.size
    if body + _HEAD.size > len(data):
        return 0
    magic, length, _ = _FRAME.unpack_from(data, at)
    _, _, _, n_prompt, n_answer, _ = _HEAD.unpack_from(data, body)
    if magic != MAGIC or length != _HEAD.size + 4 * (n_prompt + n_answer) or body + length > len(data):
        return 0
    return int(length)


def _is_sound(data: bytes, at: int, length: int, seed: int) -> bool:
    body = at + _FRAME.size
    _, _, checksum = _FRAME.unpack_from(data, at)
    if zlib.crc32(memoryview(data)[body : body + length], seed) != checksum:
        return False
    # Nobody but a forger writes such an id; kernels would look it up outside their tables.
    ids = np.frombuffer(data, "<u4", (length - _HEAD.size) // 4, body + _HEAD.size)
    return bool(ids.max(initial=0) < LARGEST_TOKEN)


def _exchange(data: bytes, body: int) -> Exchange:
    when, conversation, turn, n_prompt, n_answer, flags = _HEAD.unpack_from(data, body)
    # A copy: kernels are compiled for arrays that may be written to, and the file's bytes may not.
    tokens = np.frombuffer(data, "<i4", n_prompt + n_answer, body + _HEAD.size).astype(np.int32)
    return Exchange(tokens[:n_prompt], tokens[n_prompt:], bool(flags & _CONTINUES), when, conversation, turn)


def header_line(labels: dict[str, str]) -> bytes:
    """The first line of a file that belongs to ``labels``, of which ``key`` decides."""
    text = json.dumps(labels, sort_keys=True).encode()
    return b"aded-memory %d %08x %s\n" % (FORMAT, zlib.crc32(text), text)


def parse_header(data: bytes) -> tuple[int, dict[str, str], int] | None:
    """Version, labels and length of the header line; None where it is damaged."""
    found = _HEADER.match(data)
    if found is None or int(found[2], 16) != zlib.crc32(found[3]):
        return None
    try:
        labels = json.loads(found[3])
    except ValueError:
        return None
    if not isinstance(labels, dict):
        return None
    return int(found[1]), {str(name): str(value) for name, value in labels.items()}, found.end()


class RecordFile:
    """One file of records.

    Reading takes no lock: records are appended whole, and a rewritten file replaces the old one at once. Whoever
    writes holds the lock file beside it and opens the file anew, so that nobody writes to one that was replaced.

    Args:
        path: the file; it and its folder are made by the first ``append``.
        labels: what it belongs to; ``key`` must be among them.
    """

    def __init__(self, path: Path, labels: dict[str, str]) -> None:
        self.path = path
        self.labels = labels
        self.key = labels["key"]

    # --- reading -----------------------------------------------------------------------------------

    def read(self) -> Contents:
        """All that can be read.

        Raises:
            StoreError: there is something that cannot be opened or is no file.
        """
        try:
            data, end, size = read_ends(self.path, LARGEST_BYTES // 2, LARGEST_BYTES // 2)
        except FileNotFoundError:
            return Contents(Kind.ABSENT, [], 0, 0)
        except OSError as error:
            raise failure("read", self.path, error) from error
        if not data:
            return Contents(Kind.ABSENT, [], 0, 0)
        header = parse_header(data)
        version, labels, start = header or (FORMAT, self.labels, 0)
        if version != FORMAT:
            return Contents(Kind.OTHER_VERSION, [], size, 0)
        if labels.get("key") != self.key:
            return Contents(Kind.FOREIGN, [], size, 0)
        exchanges, damaged = decode(data, self.key, start)
        if end:
            later, also_damaged = decode(end, self.key)
            unread = size - len(data) - len(end)
            return Contents(Kind.TOO_LARGE, exchanges + later, size, damaged + unread + also_damaged)
        return Contents(Kind.SOUND if header else Kind.DAMAGED, exchanges, size, damaged)

    # --- writing -----------------------------------------------------------------------------------

    def append(self, exchange: Exchange) -> None:
        """Add a record at the end, in one write; the system brings it to the disk when it sees fit.

        A torn record that a killed program left at the end stays, and readers skip it.

        Raises:
            StoreError: it could not be written; the file is as before.
        """
        record = encode(exchange, self.key)
        try:
            with self._lock() as lock:
                if not self._append(record, may_cut=lock.held):
                    self._replace(header_line(self.labels) + record)
        except OSError as error:
            raise failure("write", self.path, error) from error

    def _append(self, record: bytes, *, may_cut: bool) -> bool:
        """Whether there was a file to append to."""
        try:
            handle = open_private(self.path, os.O_RDWR | os.O_APPEND)
        except FileNotFoundError:
            return False
        try:
            size = os.fstat(handle).st_size
            if size == 0:
                return False
            try:
                write_whole(handle, record)
            except BaseException:
                if may_cut:  # otherwise another program's record might go with it
                    with contextlib.suppress(OSError):
                        os.ftruncate(handle, size)
                raise
        finally:
            os.close(handle)
        return True

    def rewrite(self, choose: Callable[[list[Exchange]], Sequence[Exchange]]) -> Contents:
        """Replace a sound file by one with what ``choose`` keeps of its exchanges; damage goes with it.

        Returns:
            What was there before; if that is not ``Kind.SOUND``, nothing was done.

        Raises:
            StoreError: it could not be written; the file is as before.
        """
        try:
            with self._lock():
                before = self.read()
                if before.kind is Kind.SOUND:
                    self._replace(self._whole(choose(before.exchanges)))
                return before
        except OSError as error:
            raise failure("rewrite", self.path, error) from error

    def set_aside(self) -> tuple[Path, int] | None:
        """Rename a file that is damaged as a whole, too large, or another model's, and save what can be saved.

        Returns:
            Its new path, and how many exchanges a new file begins with; None when the file is sound by now.

        Raises:
            StoreError: it cannot be renamed.
        """
        try:
            with self._lock():
                found = self.read()
                if found.kind not in UNUSABLE:
                    return None
                aside = self._free_name()
                os.rename(self.path, aside)
                if found.exchanges:
                    try:
                        self._replace(self._whole(found.exchanges))
                    except BaseException:
                        os.rename(aside, self.path)  # there, the next start finds them again
                        raise
                return aside, len(found.exchanges)
        except OSError as error:
            raise failure("set aside", self.path, error) from error

    def erase(self) -> list[Path]:
        """Remove the file, those set aside, unfinished rewrites and the lock.

        Returns:
            What was removed, the lock file not counted.

        Raises:
            StoreError: something could not be removed.
        """
        if not self.path.parent.is_dir():
            return []
        try:
            with self._lock() as lock:
                removed = [path for path in (self.path, *self.beside()) if os.path.lexists(path)]
                for path in removed:
                    path.unlink()
                lock.remove()
                return removed
        except OSError as error:
            raise failure("erase", self.path, error) from error

    def beside(self) -> list[Path]:
        """Files set aside, and rewrites that were never finished.

        Raises:
            StoreError: the folder cannot be read.
        """
        # Not by a pattern: the name may hold characters that mean something in one.
        prefixes = (f"{self.path.name}{ASIDE}", f"{self.path.name}{UNFINISHED}")
        try:
            return sorted(path for path in self.path.parent.iterdir() if path.name.startswith(prefixes))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise failure("list", self.path.parent, error) from error

    def _lock(self) -> Lock:
        return Lock(self.path.with_name(f"{self.path.name}.lock"))

    def _whole(self, exchanges: Sequence[Exchange]) -> bytes:
        return header_line(self.labels) + b"".join(encode(exchange, self.key) for exchange in exchanges)

    def _replace(self, data: bytes) -> None:
        """Make ``data`` the file's whole contents, or leave all as it is."""
        for left in self.beside():  # the lock is held, so whoever wrote one of these was killed
            if left.name.startswith(f"{self.path.name}{UNFINISHED}"):
                left.unlink()
        made = self.path.with_name(f"{self.path.name}{UNFINISHED}{os.getpid()}")
        handle = open_private(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            try:
                write_whole(handle, data)
                os.fsync(handle)
            finally:
                os.close(handle)
            os.replace(made, self.path)
        except BaseException:
            with contextlib.suppress(OSError):
                made.unlink()
            raise

    def _free_name(self) -> Path:
        number = 1
        while os.path.lexists(path := self.path.with_name(f"{self.path.name}{ASIDE}{number}")):
            number += 1
        return path
