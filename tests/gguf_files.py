"""GGUFs taken apart, edited and put together again, also into what no writer would write."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from aded_local.llama.gguf import ARRAY, STRING, TENSOR_TYPES, UINT32

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
FLOAT32, BOOL = 6, 7


@dataclass
class Tensor:
    """Its data is cut or repeated to the size that shape and type make."""

    name: str
    shape: tuple[int, ...]
    kind: int
    data: bytes

    @property
    def nbytes(self) -> int:
        count = 1
        for dimension in self.shape:
            count *= dimension
        block, size = TENSOR_TYPES.get(self.kind, (1, 4))
        return count // block * size


@dataclass
class File:
    """Keys with (type, value), where an array's value is (element type, values); tensors in order."""

    keys: dict[str, tuple[int, Any]]
    tensors: list[Tensor]

    def put(self, key: str, value: Any, kind: int | None = None) -> File:
        """With another value of a key, of the type it had, or of ``kind``."""
        self.keys[key] = (self.keys[key][0] if kind is None else kind, value)
        return self

    def drop(self, *keys: str) -> File:
        """Without some keys."""
        for key in keys:
            self.keys.pop(key, None)
        return self

    def recast(self, name: str, kind: int) -> File:
        """With a tensor of another type."""
        for tensor in self.tensors:
            if tensor.name == name:
                tensor.kind = kind
        return self

    def renamed(self, architecture: str) -> File:
        """As if it were of another architecture."""
        before = self.keys["general.architecture"][1].decode()
        self.keys = {
            architecture + key.removeprefix(before) if key.startswith(before + ".") else key: value
            for key, value in self.keys.items()
        }
        return self.put("general.architecture", architecture.encode())

    def dump(self) -> bytes:
        """The file."""
        parts = [b"GGUF", struct.pack("<IQQ", 3, len(self.tensors), len(self.keys))]
        for key, (kind, value) in self.keys.items():
            parts += [_text(key.encode()), struct.pack("<I", kind), _value(kind, value)]
        found = self.keys.get("general.alignment", (UINT32, 32))[1]
        alignment = found if isinstance(found, int) and 0 < found <= 65_536 else 32
        at = 0
        for tensor in self.tensors:
            shape = struct.pack(f"<{len(tensor.shape)}Q", *tensor.shape)
            parts += [_text(tensor.name.encode()), struct.pack("<I", len(tensor.shape)), shape]
            parts.append(struct.pack("<IQ", tensor.kind, at))
            at += -(-tensor.nbytes // alignment) * alignment
        header = b"".join(parts)
        out = [header, b"\0" * (-len(header) % alignment)]
        for tensor in self.tensors:
            data = tensor.data[: tensor.nbytes] if tensor.data else b"\0"
            data = data * (tensor.nbytes // max(1, len(data)) + 1)
            out.append(data[: tensor.nbytes] + b"\0" * (-tensor.nbytes % alignment))
        return b"".join(out)


def _text(raw: bytes) -> bytes:
    return struct.pack("<Q", len(raw)) + raw


def _value(kind: int, value: Any) -> bytes:
    if kind == STRING:
        return _text(value)
    if kind != ARRAY:
        return struct.pack("<" + SCALARS[kind], value)
    element, values = value
    head = struct.pack("<IQ", element, len(values))
    if element == STRING:
        return head + b"".join(map(_text, values))
    return head + struct.pack(f"<{len(values)}{SCALARS[element]}", *values)


def parse(data: bytes) -> File:
    """A sound file, taken apart."""
    walk = _Walk(data)
    n_tensors, n_keys = walk.take("<4xIQQ")[1:]
    keys: dict[str, tuple[int, Any]] = {}
    for _ in range(n_keys):
        key = walk.text().decode()
        kind = walk.take("<I")[0]
        keys[key] = (kind, walk.value(kind))
    places = []
    for _ in range(n_tensors):
        name, n_dims = walk.text().decode(), walk.take("<I")[0]
        places.append((name, walk.take(f"<{n_dims}Q"), *walk.take("<IQ")))
    alignment = keys.get("general.alignment", (UINT32, 32))[1]
    base = -(-walk.at // alignment) * alignment
    tensors = [Tensor(name, shape, kind, b"") for name, shape, kind, _ in places]
    for tensor, (*_, offset) in zip(tensors, places, strict=True):
        tensor.data = data[base + offset : base + offset + tensor.nbytes]
    return File(keys, tensors)


class _Walk:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, form: str) -> tuple[Any, ...]:
        found = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return found

    def text(self) -> bytes:
        length = self.take("<Q")[0]
        self.at += length
        return self.data[self.at - length : self.at]

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind != ARRAY:
            return self.take("<" + SCALARS[kind])[0]
        element, length = self.take("<IQ")
        if element == STRING:
            return element, [self.text() for _ in range(length)]
        return element, list(self.take(f"<{length}{SCALARS[element]}"))
