"""A body's shape, and where a small model's heads sit in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aded_bench.body.source import Dimensions
from aded_local.errors import OptionError

IndexArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Shape:
    """A body's size, in values; heads follow from the source's head length.

    Attributes:
        width: of the residual stream.
        kv_width: of all key heads of a token together, which decides the size of the KV cache.
        head_dim: of the model it is named after; a source brings its own.
    """

    width: int
    layers: int
    kv_width: int
    feed_forward: int
    head_dim: int = 64


SHAPES = {
    "360m": Shape(width=960, layers=32, kv_width=320, feed_forward=2560, head_dim=64),  # SmolLM2-360M
    "1b": Shape(width=2048, layers=22, kv_width=256, feed_forward=5632, head_dim=64),  # TinyLlama-1.1B
    # No real model: TinyLlama's keys and, in 32 layers, its number of weights; four times as wide as
    # SmolLM2-135M, so that body and model round alike (docs/benchmarks.md).
    "1b-deep": Shape(width=2304, layers=32, kv_width=256, feed_forward=3072, head_dim=64),
    "3b": Shape(width=3072, layers=28, kv_width=1024, feed_forward=8192, head_dim=128),  # Llama-3.2-3B
    "3b-deep": Shape(width=2048, layers=36, kv_width=512, feed_forward=11008, head_dim=128),  # SmolLM3-3B
    "7b": Shape(width=4096, layers=32, kv_width=4096, feed_forward=11008, head_dim=128),  # Llama-2-7B
}


@dataclass(frozen=True)
class Placement:
    """Where the source's parts sit in the body, as row or column indices of the body's matrices.

    Attributes:
        queries: position in the body of each of the source's query values, int64 ``(heads * head_dim,)``.
        keys: the same for key and value matrices; a source head may occur several times.
        key_origin: which source key value stands at each position of ``keys``.
    """

    queries: IndexArray
    keys: IndexArray
    key_origin: IndexArray


def body_dimensions(source: Dimensions, shape: Shape, name: str, block: int = 1) -> Dimensions:
    """The body around ``source``: its head length, as many heads as fill the shape.

    Where the shape has too few layers, or its key-value heads have no seats for the source's, the body
    gets what the source needs instead; ``departures`` tells.

    Args:
        block: how many neighbouring values of a row are quantized together. A block of the attention's
            output matrix must not hold values of the source beside others.

    Raises:
        OptionError: the source is wider than the body, or its heads do not fill blocks.
    """
    for what, have, room in (
        ("width", source.width, shape.width),
        ("feed-forward length", source.feed_forward, shape.feed_forward),
    ):
        if have > room:
            raise OptionError(f"the model is too big for a {name} body: {what} {have}, room for {room}")
    layers = max(shape.layers, source.layers)
    for heads, kv_heads in _groupings(source, shape):
        body = Dimensions(shape.width, layers, heads, kv_heads, source.head_dim, shape.feed_forward)
        seated = source.kv_heads * _copies(source, body) <= kv_heads
        if seated and keeps_blocks(source, body, block):
            return body
    row = f"{source.heads} heads of {source.head_dim}"
    raise OptionError(f"the model's {row} do not fill blocks of {block} values; try bf16")


def departures(body: Dimensions, shape: Shape) -> tuple[str, ...]:
    """Where ``body`` is not of ``shape`` because the source would not have fitted; phrases for people."""
    heads, kv_heads = _shape_grouping(shape, body.head_dim)
    found = []
    if body.layers != shape.layers:
        found.append(f"layers {body.layers} instead of {shape.layers}")
    if kv_heads and body.heads != heads:
        found.append(f"query heads {body.heads} instead of {heads}")
    if body.kv_heads != kv_heads:
        found.append(f"keys {body.kv_heads * body.head_dim} wide instead of {shape.kv_width}")
    return tuple(found)


def random_dimensions(shape: Shape) -> Dimensions:
    """The network of random weights of a shape."""
    heads, kv_heads = shape.width // shape.head_dim, shape.kv_width // shape.head_dim
    return Dimensions(shape.width, shape.layers, heads, kv_heads, shape.head_dim, shape.feed_forward)


def place(source: Dimensions, body: Dimensions) -> Placement:
    """Seat the source's heads so that each query head still reads its own key-value head.

    A source group of more query heads than a body group holds is spread over several body groups, each
    with a copy of the key-value head. Source key-value head j, copy r, sits at j * copies + r.
    """
    n, copies = source.head_dim, _copies(source, body)
    inside = np.arange(n)
    queries = np.empty((source.heads, n), np.int64)
    for head in range(source.heads):
        kv, member = divmod(head, source.group)
        copy, seat = divmod(member, body.group)
        queries[head] = ((kv * copies + copy) * body.group + seat) * n + inside
    keys = np.arange(source.kv_heads * copies * n)
    origin = (np.arange(source.kv_heads).repeat(copies)[:, None] * n + inside).reshape(-1)
    return Placement(queries.reshape(-1), keys, origin)


def _copies(source: Dimensions, body: Dimensions) -> int:
    return -(-source.group // body.group)


def _shape_grouping(shape: Shape, head_dim: int) -> tuple[int, int]:
    """Query and key-value heads of ``head_dim`` values that ``shape`` has; none if one is wider than its keys.

    Every key-value head serves as many query heads; where heads do not fill the width, a few are missing.
    """
    kv_heads = shape.kv_width // head_dim
    return (shape.width // head_dim // kv_heads * kv_heads if kv_heads else 0), kv_heads


def _groupings(source: Dimensions, shape: Shape) -> Iterator[tuple[int, int]]:
    """Numbers of query and key-value heads a body may have, best first.

    First those that fill the width, beginning with the shape's own number of key-value heads, then the
    nearest ones. Last the source's own grouping, which every source fits: its heads stay side by side.
    """
    seats = shape.width // source.head_dim
    planned = shape.kv_width // source.head_dim
    for kv_heads in sorted(range(1, seats + 1), key=lambda n: abs(n - planned)):
        yield seats // kv_heads * kv_heads, kv_heads
    most = max(seats // source.group, source.kv_heads)
    for kv_heads in range(most, source.kv_heads - 1, -1):
        yield kv_heads * source.group, kv_heads


def keeps_blocks(source: Dimensions, body: Dimensions, block: int) -> bool:
    """Whether every block of a row of the source's query values is one block of the body's row."""
    queries = place(source, body).queries
    if queries.size % block or body.heads * body.head_dim % block:
        return False
    first = queries[::block, None]
    return bool(np.all(first % block == 0) and np.all(queries.reshape(-1, block) - first == np.arange(block)))
