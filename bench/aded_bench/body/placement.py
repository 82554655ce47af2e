"""A body's shape, and where a small model's heads sit in it."""

from __future__ import annotations

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
    "1b": Shape(width=2048, layers=22, kv_width=256, feed_forward=5632, head_dim=64),  # TinyLlama-1.1B
    "3b": Shape(width=3072, layers=28, kv_width=1024, feed_forward=8192, head_dim=128),  # Llama-3.2-3B
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


def body_dimensions(source: Dimensions, shape: Shape, name: str) -> Dimensions:
    """The body around ``source``: its head length, as many heads as fill the shape.

    Raises:
        OptionError: the source does not fit.
    """
    kv_heads = shape.kv_width // source.head_dim
    if kv_heads < 1:
        raise OptionError(f"a head of {source.head_dim} values is wider than a {name} body's keys")
    # Every key-value head serves as many query heads; where heads do not fill the width, a few are missing.
    heads = shape.width // source.head_dim // kv_heads * kv_heads
    body = Dimensions(shape.width, shape.layers, heads, kv_heads, source.head_dim, shape.feed_forward)
    for what, have, room in (
        ("width", source.width, body.width),
        ("layers", source.layers, body.layers),
        ("feed-forward length", source.feed_forward, body.feed_forward),
        ("key-value heads", source.kv_heads * _copies(source, body), body.kv_heads),
    ):
        if have > room:
            raise OptionError(f"the model is too big for a {name} body: {what} {have}, room for {room}")
    return body


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
