"""What a model's cells held at the end of a conversation, in a file: with it the conversation goes on at once.

llama.cpp believes what such a file says, and a hostile one could make it write anywhere. So it only gets files that
this person's own programs wrote, every byte as it was written: each ends with a checksum, and with a mark that nobody
can make without the person's key, a file of random bytes in their data folder.

    magic, 8 bytes
    length of the header, uint32; the header, JSON: what the state depends on, and the sizes of what follows
    token ids in the cells, int32 each
    llama.cpp's own state
    checksum of all before, 32 bytes (BLAKE2b)
    mark: the checksum's keyed BLAKE2b, 32 bytes

Numbers are little-endian.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import json
import os
import secrets
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from aded_local.conversations.folder import KEY_NAME, conversations_folder, state_path
from aded_local.errors import StoreError
from aded_local.files import failure, make_private_folder, open_private, read_private, replacing

MAGIC: Final = b"ADEDkv\x00\x01"
"""The last byte is the version of the layout."""

LARGEST_HEADER: Final = 4096
"""Bytes; one has some 300."""

DIGEST: Final = 32
KEY: Final = 32
"""Bytes of a checksum or mark, and of a key."""

CHUNK: Final = 16 << 20
"""Bytes that are hashed and written at a time, between which Ctrl-C takes effect."""

_LENGTH = struct.Struct("<I")


class StateRefused(StoreError):
    """A state is of no use here; the message is a reason, without the file's name."""


@dataclass(frozen=True, slots=True)
class KeptCells:
    """What cells held.

    Attributes:
        weights: of the model that computed them; see ``weights_digest``.
        build: of llama.cpp; see ``trials.library.build``.
        flash_attention, cache_type: as ``ContextSettings`` has them.
        tokens: ids in the cells, int32 ``(n,)``.
        state: llama.cpp's own copy of keys and values, uint8 ``(n_bytes,)``.
    """

    weights: str
    build: str
    flash_attention: bool
    cache_type: str
    tokens: npt.NDArray[np.int32]
    state: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Header:
    weights: str
    build: str
    flash_attention: bool
    cache_type: str
    n_tokens: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a state must be to be of use here.

    Attributes:
        weights, build: as in ``KeptCells``.
        flash_attention, cache_type: the only ones allowed; None for any.
        most_tokens: that the cells may hold.
        most_bytes: that there is memory for.
    """

    weights: str
    build: str
    flash_attention: bool | None
    cache_type: str | None
    most_tokens: int
    most_bytes: int


def write_state(conversation: Path, cells: KeptCells) -> None:
    """Write the state beside a conversation, in one step, readable by its owner alone.

    Raises:
        StoreError: it cannot be written; what was there stays.
    """
    path = state_path(conversation)
    key = _key_to_write_with()
    tokens = np.ascontiguousarray(cells.tokens, "<i4")
    header = _Header(
        cells.weights,
        cells.build,
        cells.flash_attention,
        cells.cache_type,
        len(tokens),
        int(cells.state.nbytes),
    )
    said = json.dumps(asdict(header)).encode()
    try:
        with replacing(path) as file:
            digest = hashlib.blake2b(digest_size=DIGEST)
            for part in _chunks(MAGIC + _LENGTH.pack(len(said)) + said, tokens.data, cells.state.data):
                digest.update(part)
                file.write(part)
            file.write(digest.digest() + _mark(digest.digest(), key))
    except OSError as error:
        raise failure("write", path, error) from error


def read_state(conversation: Path, wanted: Wanted) -> KeptCells:
    """The state beside a conversation.

    Raises:
        StateRefused: there is none, it does not fit, or it is not, byte by byte, what a program of this person wrote.
    """
    path = state_path(conversation)
    try:
        with open(open_private(path, os.O_RDONLY), "rb") as file:
            return _read(file, wanted)
    except FileNotFoundError:
        raise StateRefused("no state is kept with it") from None
    except OSError as error:
        raise StateRefused(f"its state cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise StateRefused("there is no memory for its state") from error


def _read(file: io.BufferedReader, wanted: Wanted) -> KeptCells:
    size = os.fstat(file.fileno()).st_size
    head, header = _head(file)
    n_all = len(head) + 4 * header.n_tokens + header.n_bytes + 2 * DIGEST
    if size != n_all:
        what = "is cut short" if size < n_all else "is longer than it should be"
        raise StateRefused(f"its state {what}: it has {size:,} bytes, not {n_all:,}")
    _require_fitting(header, wanted)
    key = _key()
    if key is None:
        raise StateRefused("its state bears no mark of yours: your key was erased, or is kept elsewhere")
    file.seek(0)
    data = np.empty(n_all, np.uint8)
    n_read = file.readinto(data.data)
    body, checksum, mark = data[: -2 * DIGEST], data[-2 * DIGEST : -DIGEST], data[-DIGEST:]
    # The header was read before, and what is checked here must be what was read then.
    if n_read != n_all or data[: len(head)].tobytes() != head:
        raise StateRefused("its state was changed while it was read")
    digest = hashlib.blake2b(digest_size=DIGEST)
    for part in _chunks(body.data):
        digest.update(part)
    if digest.digest() != checksum.tobytes():
        raise StateRefused("its state is damaged: its checksum is another")
    if not hmac.compare_digest(_mark(digest.digest(), key), mark.tobytes()):
        raise StateRefused("its state was not written by a program of yours, so it is not used")
    end = len(head) + 4 * header.n_tokens
    tokens = np.frombuffer(body[len(head) : end].tobytes(), "<i4").astype(np.int32)
    return KeptCells(
        header.weights, header.build, header.flash_attention, header.cache_type, tokens, body[end:]
    )


def _head(file: io.BufferedReader) -> tuple[bytes, _Header]:
    """The file's bytes up to the token ids, and what they say."""
    before = file.read(len(MAGIC) + _LENGTH.size)
    if before[: len(MAGIC) - 1] != MAGIC[:-1]:
        raise StateRefused("what lies beside it is no state")
    if before[: len(MAGIC)] != MAGIC:
        raise StateRefused("its state was written by another version of this program")
    length = _LENGTH.unpack(before[len(MAGIC) :])[0] if len(before) == len(MAGIC) + _LENGTH.size else 0
    said = file.read(length) if length <= LARGEST_HEADER else b""
    try:
        header = _Header(**json.loads(said))
        sound = all(
            type(getattr(header, name)).__name__ == kind for name, kind in _Header.__annotations__.items()
        )
    except (ValueError, TypeError, RecursionError):
        sound = False
    if not sound or header.n_tokens <= 0 or header.n_bytes <= 0:
        raise StateRefused("its state is damaged: its header makes no sense")
    return before + said, header


def _require_fitting(header: _Header, wanted: Wanted) -> None:
    if header.weights != wanted.weights:
        raise StateRefused("its state was computed by another model, or another file of it")
    if header.build != wanted.build:
        raise StateRefused("its state was computed by another build of llama.cpp")
    for name, kept, asked in (
        ("flash attention", _switch(header.flash_attention), _switch(wanted.flash_attention)),
        ("the cache type", header.cache_type, wanted.cache_type),
    ):
        if asked is not None and asked != kept:
            raise StateRefused(f"its state was computed with {name} {kept}, and {asked} was asked for")
    if header.n_tokens > wanted.most_tokens:
        raise StateRefused(
            f"its state holds {header.n_tokens:,} tokens, and the context has room for {wanted.most_tokens:,}"
        )
    if header.n_bytes > wanted.most_bytes:
        raise StateRefused(
            f"its state takes {header.n_bytes >> 20:,} MiB, and {wanted.most_bytes >> 20:,} MiB of memory may be used"
        )


def _switch(is_on: bool | None) -> str | None:
    return None if is_on is None else "on" if is_on else "off"


def _chunks(*parts: Any) -> Iterator[memoryview]:
    for part in parts:
        view = memoryview(part).cast("B")
        for start in range(0, len(view), CHUNK):
            yield view[start : start + CHUNK]


def _mark(digest: bytes, key: bytes) -> bytes:
    return hashlib.blake2b(digest, digest_size=DIGEST, key=key).digest()


def _key() -> bytes | None:
    """The person's key; None where there is none that can be used."""
    try:
        key = read_private(conversations_folder() / KEY_NAME, KEY)
    except (OSError, StoreError):
        return None
    return key if len(key) == KEY else None


def _key_to_write_with() -> bytes:
    """The same, made anew where there is none: the states it would have marked are not used any more."""
    key = _key()
    if key is not None:
        return key
    path = conversations_folder() / KEY_NAME
    try:
        make_private_folder(path.parent)
        with replacing(path, lasting=True) as file:
            file.write(secrets.token_bytes(KEY))
        # Another program may have made one in the same moment: the one that lies there counts.
        return read_private(path, KEY)
    except OSError as error:
        raise failure("write", path, error, otherwise="set ADED_DATA_DIR") from error
