"""Reads a GGUF's header in pure Python, before llama.cpp sees the file, and checks it against the container's rules.

llama.cpp reports an error for many bad files and crashes on others; ``soundness`` has the rules about their content.
No tensor data is read. The format is described in ggml's ``docs/gguf.md``; the limits are those of
``ggml/src/gguf.cpp``.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aded_local.errors import ModelError, ModelFormatError, ModelNotFoundError

VERSIONS = (2, 3)
"""Container versions llama.cpp reads."""

MAX_DIMS = 4
MAX_NAME = 63
"""Bytes of a tensor's name, ``GGML_MAX_NAME`` without its terminator."""
DEFAULT_ALIGNMENT, SMALLEST_ALIGNMENT = 32, 8
"""Bytes. llama.cpp ends the process where a number of eight bytes is not aligned to eight."""
MAX_KEYS = 65_536
MAX_TENSORS = 1_000_000
MAX_TEXTS = 1 << 22
"""Far above any real file (a few hundred keys, tens of thousands of tensors, 800,000 tokens and merges), and low enough
to be read in a second or two, so that a sparse file of any size costs little time."""
SHORT_ARRAY = 1024
"""Arrays of at most this many numbers are read. Of longer ones, and of all arrays of strings, only type, length and
place are kept."""
SHORT_TEXT = 1 << 20
"""Bytes of a string that is read; no longer one is needed."""

UINT32, BOOL, STRING, ARRAY = 4, 7, 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRUCTS = {kind: struct.Struct("<" + code) for kind, code in _SCALARS.items()}
_U32 = struct.Struct("<I").unpack_from
_U64 = struct.Struct("<Q").unpack_from

# ggml type: (values per block, bytes per block); asked of libggml itself (ggml_blck_size, ggml_type_size).
TENSOR_TYPES: dict[int, tuple[int, int]] = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82),
    23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2),
    34: (256, 54), 35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18), 42: (64, 18),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor's place in the file.

    Attributes:
        shape: as stored, fastest dimension first.
        kind: ``enum ggml_type``.
        offset: bytes from the start of the file.
        nbytes: bytes of data.
    """

    shape: tuple[int, ...]
    kind: int
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Array:
    """A metadata array too long to keep: its element type (GGUF's number), length and place in the file."""

    kind: int
    length: int
    position: int


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """The part of the file before the tensor data.

    Attributes:
        path: the file.
        version: of the container.
        architecture: ``general.architecture``, empty when absent.
        metadata: scalar, string and short array values by key; ``Array`` for the long ones.
        kinds: GGUF type of each key's value, (``ARRAY``, element type) for arrays.
        tensors: by name, in file order.
        file_size: bytes.
        digest: SHA-256 over the header's bytes and ``file_size``, in hexadecimal digits; weights are not part of it.
        state: inode and time of change when it was read.
        others: of a model in several files, the headers of all but the first.
    """

    path: Path
    version: int
    architecture: str
    metadata: dict[str, Any]
    kinds: dict[str, int | tuple[int, int]] = field(repr=False)
    tensors: dict[str, Tensor] = field(repr=False)
    file_size: int
    digest: str
    state: tuple[int, int] = field(repr=False)
    others: tuple[GGUFHeader, ...] = field(default=(), repr=False)

    @property
    def files(self) -> tuple[GGUFHeader, ...]:
        """The headers of all its files, this one first."""
        return (self, *self.others)

    @property
    def n_tensors(self) -> int:
        return len(self.tensors)

    @property
    def chat_template(self) -> str | None:
        """The default Jinja chat template, None without one."""
        found = self.metadata.get("tokenizer.chat_template")
        return found if isinstance(found, str) else None

    def array_length(self, key: str) -> int | None:
        """Elements of an array value, None when the key is absent or no array."""
        found = self.metadata.get(key)
        if isinstance(found, Array):
            return found.length
        return len(found) if isinstance(found, list) else None


@contextmanager
def opened(path: Path) -> Iterator[tuple[GGUFHeader, mmap.mmap]]:
    """The header, checked against the container's own rules, and the file's bytes, mapped while the block runs.

    Raises:
        ModelNotFoundError: no such file, a folder.
        ModelFormatError: not a GGUF, truncated, or inconsistent.
    """
    with _mapped(path) as (data, state):
        yield _read(Path(path), data, state), data


def read_header(path: Path) -> GGUFHeader:
    """The header; errors as ``opened``."""
    with opened(path) as (header, _data):
        return header


@contextmanager
def unchanged(header: GGUFHeader) -> Iterator[None]:
    """Load the file in the block; a file that another program writes meanwhile gets an error of its own.

    A file that is cut short while it is mapped cannot be helped: reading the missing part ends the process.

    Raises:
        ModelFormatError: the file has changed since its header was read, whether or not the block succeeded.
    """
    try:
        yield
    except ModelFormatError:
        _require_unchanged(header)
        raise
    _require_unchanged(header)


def _require_unchanged(header: GGUFHeader) -> None:
    for each in header.files:
        try:
            found = os.stat(each.path)
            same = (found.st_size, _state(found)) == (each.file_size, each.state)
        except OSError:
            same = False
        if not same:
            raise ModelFormatError(
                f"{each.path} changed while it was loaded; start again when it has been written whole"
            )


def _state(found: os.stat_result) -> tuple[int, int]:
    return found.st_ino, found.st_mtime_ns


@contextmanager
def _mapped(path: Path) -> Iterator[tuple[mmap.mmap, tuple[int, int]]]:
    """The file's bytes, mapped, and its state."""
    path = Path(path)
    try:
        # Asked before opening: opening a pipe would wait for its other end.
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise ModelNotFoundError(f"{path} is a folder; give the path of a .gguf file in it")
        if not stat.S_ISREG(mode):
            raise ModelNotFoundError(f"{path} is not a regular file; give the path of a .gguf file")
        with open(path, "rb") as file:
            found = os.fstat(file.fileno())
            if found.st_size < 4:
                raise ModelFormatError(
                    f"{path} is not a GGUF: it has {found.st_size} bytes; download it again"
                )
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ModelError:  # which is a ValueError too
        raise
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"there is no file {path}; check the path") from error
    except PermissionError as error:
        raise ModelNotFoundError(f"{path} may not be read; change its permissions") from error
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(f"{path} cannot be read: {error}; check the path and the disk") from error
    try:
        yield data, _state(found)
    finally:
        data.close()


class _Broken(Exception):
    """What is wrong with the file, in a few words; raised again as a ModelFormatError with the path."""


def _read(path: Path, data: mmap.mmap, state: tuple[int, int]) -> GGUFHeader:
    try:
        return _Walk(data).header(path, state)
    # A length beyond 2**63 leaves Python's index type before it leaves the file.
    except (struct.error, OverflowError) as error:
        raise ModelFormatError(
            f"{path} is truncated or damaged: its header goes on beyond its {len(data)} bytes; download it again"
        ) from error
    except _Broken as error:
        raise ModelFormatError(f"{path} {error}; download or convert it again") from error


class _Walk:
    """Reads the header in one pass. ``struct.error`` means that the file has ended."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.size = len(data)
        self.at = 0
        self.n_texts = 0

    def header(self, path: Path, state: tuple[int, int]) -> GGUFHeader:
        version, n_tensors, n_keys = self._preamble()
        metadata: dict[str, Any] = {}
        kinds: dict[str, int | tuple[int, int]] = {}
        for _ in range(n_keys):
            key = self._text("a key's name", 65_535)
            if not key or key in metadata:
                raise _Broken(f"is inconsistent: the key {key!r} is {'empty' if not key else 'there twice'}")
            kinds[key], metadata[key] = self._value(key)
        alignment = _alignment(metadata, kinds)
        places = self._tensor_places(n_tensors)
        digest = hashlib.sha256(memoryview(self.data)[: self.at])
        digest.update(b"%d" % self.size)
        # The data section begins at the next aligned place after the last tensor's description.
        base = -(-self.at // alignment) * alignment
        tensors = self._tensors(places, base, alignment)
        architecture = metadata.get("general.architecture")
        return GGUFHeader(
            path=path,
            version=version,
            architecture=architecture if isinstance(architecture, str) else "",
            metadata=metadata,
            kinds=kinds,
            tensors=tensors,
            file_size=self.size,
            digest=digest.hexdigest(),
            state=state,
        )

    def _preamble(self) -> tuple[int, int, int]:
        magic = self.data[:4]
        if magic != b"GGUF":
            raise _Broken(f"is not a GGUF: it begins with {magic!r}, not with b'GGUF'; name another file")
        version = _U32(self.data, 4)[0]
        if version not in VERSIONS:
            if version & 0xFFFF == 0:
                raise _Broken("is a big-endian GGUF, and this machine is little-endian")
            raise _Broken(f"is a GGUF of version {version}; versions 2 and 3 are supported")
        n_tensors, n_keys = _U64(self.data, 8)[0], _U64(self.data, 16)[0]
        self.at = 24
        # No real file has as many.
        if n_keys > MAX_KEYS or n_tensors > MAX_TENSORS:
            raise _Broken(f"is inconsistent: it claims {n_keys} keys and {n_tensors} tensors")
        return version, n_tensors, n_keys

    def _text(self, what: str, limit: int) -> str:
        length = _U64(self.data, self.at)[0]
        if length > limit:
            raise _Broken(f"is inconsistent: {what} claims {length} bytes")
        start = self.at + 8
        self.at = start + length
        if self.at > self.size:
            raise struct.error("end of file")
        return self.data[start : self.at].decode("utf-8", errors="replace")

    def _value(self, key: str) -> tuple[int | tuple[int, int], Any]:
        kind = _U32(self.data, self.at)[0]
        self.at += 4
        if kind in _STRUCTS:
            reader = _STRUCTS[kind]
            value = reader.unpack_from(self.data, self.at)[0]
            self.at += reader.size
            return kind, value
        if kind == STRING:
            return kind, self._long_text()
        if kind != ARRAY:
            raise _Broken(f"is inconsistent: the key {key!r} has the unknown type {kind}")
        return self._array(key)

    def _long_text(self) -> str | Array:
        start = self.at
        length = _U64(self.data, start)[0]
        if length <= SHORT_TEXT:
            return self._text("a value", SHORT_TEXT)
        self.at = start + 8 + length
        if self.at > self.size:
            raise struct.error("end of file")
        return Array(STRING, length, start)

    def _array(self, key: str) -> tuple[tuple[int, int], Any]:
        kind, length = _U32(self.data, self.at)[0], _U64(self.data, self.at + 4)[0]
        self.at += 12
        start = self.at
        if kind == STRING:
            if length * 8 > self.size - start:
                raise struct.error("end of file")
            self.n_texts += length
            if self.n_texts > MAX_TEXTS:
                raise _Broken(f"is inconsistent: it claims {length} texts for the key {key!r}")
            self.at = self._after_texts(length)
            return (ARRAY, kind), Array(kind, length, start)
        if kind not in _STRUCTS:
            raise _Broken(f"is inconsistent: the array {key!r} has elements of the unknown type {kind}")
        self.at = start + length * _STRUCTS[kind].size
        if self.at > self.size:
            raise struct.error("end of file")
        if length > SHORT_ARRAY:
            return (ARRAY, kind), Array(kind, length, start)
        return (ARRAY, kind), list(struct.unpack_from(f"<{length}{_SCALARS[kind]}", self.data, start))

    def _after_texts(self, count: int) -> int:
        # The hot loop: a vocabulary with its merges has some 400,000 texts.
        data, at, u64 = self.data, self.at, _U64
        for _ in range(count):
            at += 8 + u64(data, at)[0]
        if at > self.size:
            raise struct.error("end of file")
        return at

    def _tensor_places(self, count: int) -> list[tuple[str, tuple[int, ...], int, int]]:
        """Name, shape, type and offset of each tensor."""
        places = []
        for _ in range(count):
            name = self._text("a tensor's name", MAX_NAME)
            n_dims = _U32(self.data, self.at)[0]
            if not 1 <= n_dims <= MAX_DIMS:
                raise _Broken(f"is inconsistent: the tensor {name!r} has {n_dims} dimensions")
            shape = struct.unpack_from(f"<{n_dims}Q", self.data, self.at + 4)
            self.at += 4 + 8 * n_dims
            kind, offset = _U32(self.data, self.at)[0], _U64(self.data, self.at + 4)[0]
            self.at += 12
            places.append((name, shape, kind, offset))
        return places

    def _tensors(
        self, places: list[tuple[str, tuple[int, ...], int, int]], base: int, alignment: int
    ) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        expected = 0
        for name, shape, kind, offset in places:
            if name in tensors or not name:
                raise _Broken(
                    f"is inconsistent: the tensor name {name!r} is {'there twice' if name else 'empty'}"
                )
            nbytes = _tensor_bytes(name, shape, kind)
            # llama.cpp wants the tensors back to back, in order.
            if offset != expected:
                raise _Broken(
                    f"is inconsistent: the tensor {name!r} lies at {offset}, where {expected} is due"
                )
            expected = offset + -(-nbytes // alignment) * alignment
            if base + offset + nbytes > self.size:
                raise _Broken(
                    f"is truncated: the tensor {name!r} ends at byte {base + offset + nbytes}, "
                    f"and the file has {self.size}"
                )
            tensors[name] = Tensor(shape, kind, base + offset, nbytes)
        return tensors


def _alignment(metadata: dict[str, Any], kinds: dict[str, int | tuple[int, int]]) -> int:
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if (
        kinds.get("general.alignment", UINT32) != UINT32
        or alignment < SMALLEST_ALIGNMENT
        or alignment & (alignment - 1)
    ):
        raise _Broken(
            f"is inconsistent: general.alignment is {alignment}, no power of two from {SMALLEST_ALIGNMENT} as uint32"
        )
    return int(alignment)


def _tensor_bytes(name: str, shape: tuple[int, ...], kind: int) -> int:
    if kind not in TENSOR_TYPES:
        raise _Broken(f"stores the tensor {name!r} in the unknown type {kind}, perhaps of a newer llama.cpp")
    block, size = TENSOR_TYPES[kind]
    count = 1
    for dimension in shape:
        if not 1 <= dimension < 2**62:
            raise _Broken(f"is inconsistent: the tensor {name!r} has a dimension of {dimension}")
        count *= dimension
    if count >= 2**62 or shape[0] % block:
        raise _Broken(f"is inconsistent: the tensor {name!r} has the impossible shape {shape} for its type")
    return count // block * size
