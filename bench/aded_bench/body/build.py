"""Put a small Llama-architecture model into a body of realistic size without changing what it says.

Speed claims need a model that costs what real ones cost and still writes real text. The residual stream
is padded with zeros, RMSNorm is scaled so that the padding does not count, heads, feed-forward rows and
layers are added whose contribution is multiplied by zero. The added weights that meet zeros are random.
From a tokenizer alone all weights are random: it costs the same and says nothing.

RMSNorm over a stream of d values padded to D sees a mean square smaller by d/D, so
``x / sqrt(mean(x^2) * d/D + eps * d/D) * (w * sqrt(d/D))`` is the source's ``x / sqrt(mean(x^2) + eps) * w``.
That is so to the last bit where D/d is a power of four, else within rounding.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aded_bench.body.file import SPACE_RESERVE, BodyWriter, Progress
from aded_bench.body.placement import (
    Shape,
    body_dimensions,
    departures,
    keeps_blocks,
    random_dimensions,
)
from aded_bench.body.source import Dimensions, Source
from aded_bench.results import check_output
from aded_local.errors import OptionError, StoreError

TYPES = ("q4_0", "q8_0", "bf16", "q4_k_m")
TEST_TYPES = ("f32",)
"""Not offered on the command line: exact enough to check the construction itself."""

LAYOUT_TYPE = {"q4_k_m": "bf16"}
"""Types gguf-py cannot write: llama.cpp makes them from a temporary file of another type."""

BLOCKS = {"q4_0": 32, "q8_0": 32, "q4_k_m": 32}
"""Values of a row that share a scale, by ggml's block sizes; other types store each value alone.

A block that mixed source values with random ones would quantize them otherwise. One that mixed them with
zeros would, where it has a minimum too as in Q4_K, turn the zeros into something else.
"""

SUPER_BLOCK = 256
"""Values of a row whose scales share a scale in k-quants (QK_K in llama.cpp)."""


@dataclass(frozen=True)
class Body:
    """What was written.

    Attributes:
        dimensions: of the network in the file.
        departures: where it is not of the shape asked for, because the source needs more; phrases for people.
        own_text: whether its weights are those of the source in the same type, so that it says the same
            within rounding. K-quants put other values together in a wider row, and llama.cpp mixes their
            types by the number of layers.
    """

    dimensions: Dimensions
    departures: tuple[str, ...] = ()
    own_text: bool = True


def build(
    source_path: Path,
    out: Path,
    shape: Shape | None,
    name: str,
    file_type: str,
    *,
    seed: int = 0,
    tokenizer_only: bool = False,
    n_threads: int | None = None,
    progress: Progress = lambda done, total: None,
) -> Body:
    """Write ``out``: the model of ``source_path`` in a body.

    Args:
        shape: the body's size; None writes the source itself in the type asked for, to compare a body with.
        name: what to call the shape in metadata and messages.
        file_type: one of ``TYPES`` (or ``TEST_TYPES``).
        seed: of the added weights.
        tokenizer_only: take nothing but the tokenizer of ``source_path``; all weights are random.
        n_threads: for llama.cpp's quantization (q4_k_m only); None means all.
        progress: bytes written and their total, of the file gguf-py writes.

    Raises:
        ModelError: the source cannot be used.
        OptionError: the source does not fit, or ``out`` is the source.
        StoreError: the disk is full or refuses.
    """
    if file_type not in TYPES + TEST_TYPES:
        raise OptionError(f"unknown type {file_type!r}; choose from {', '.join(TYPES)}")
    check_output(out)
    with contextlib.suppress(OSError):  # a source that cannot be looked at is refused when it is opened
        if out.exists() and source_path.samefile(out):
            raise OptionError("the body would overwrite the model it is made from")
    if tokenizer_only:
        if shape is None:
            raise OptionError("a tokenizer alone has no shape of its own; give one")
        source = Source(source_path, random_dimensions(shape))
        _check_rows(source.dimensions, file_type, "body")
        made = Body(source.dimensions)
    else:
        source = Source(source_path)
        made = _body(source.dimensions, shape, name, file_type)
    layout = LAYOUT_TYPE.get(file_type, file_type)
    margin = SUPER_BLOCK if layout != file_type else 1
    label = ", ".join((f"{name} body", *made.departures)) if shape else ""
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    raw = partial if layout == file_type else partial.with_suffix(".raw")
    try:
        with _disk_errors(out):
            BodyWriter(source, made.dimensions, layout, label, seed, margin).write(raw, progress)
            if raw is not partial:
                from aded_local.llama.quantize import quantize

                quantize(raw, partial, file_type, n_threads)
            partial.replace(out)
    finally:
        for leftover in {partial, raw}:
            leftover.unlink(missing_ok=True)
    return made


def _body(source: Dimensions, shape: Shape | None, name: str, file_type: str) -> Body:
    """The body around ``source``, whose rows are checked for ``file_type``."""
    if shape is None and file_type in LAYOUT_TYPE:  # llama.cpp takes other types where rows are no multiples
        return Body(source)
    _check_rows(source, file_type, "model")
    if shape is None:
        return Body(source)
    body = body_dimensions(source, shape, name, BLOCKS.get(file_type, 1))
    _check_rows(body, file_type, "body")
    own_text = file_type not in LAYOUT_TYPE or (
        source.layers == body.layers
        and all(n % SUPER_BLOCK == 0 for d in (source, body) for n in (d.width, d.feed_forward))
        and keeps_blocks(source, body, SUPER_BLOCK)
    )
    return Body(body, departures(body, shape), own_text)


def _check_rows(d: Dimensions, file_type: str, whose: str) -> None:
    """Refuse rows that are not made of whole blocks."""
    block, rows = BLOCKS.get(file_type, 1), {"width": d.width, "feed-forward length": d.feed_forward}
    for what, length in (rows | {"length of all query heads together": d.heads * d.head_dim}).items():
        if length % block:
            reason = f"not a multiple of {block}, {file_type}'s block"
            raise OptionError(f"the {whose}'s {what} {length} is {reason}; try bf16")


@contextlib.contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # NumPy reports a short write without an error number.
        short_write = error.errno is None and shutil.disk_usage(out.parent).free < SPACE_RESERVE
        if short_write or error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(f"the disk is full: {out} was not written") from None
        raise StoreError(f"{out} was not written: {error.strerror or error}") from None


def describe(made: Body) -> str:
    """One line for people."""
    body = made.dimensions
    line = (
        f"width {body.width}, {body.layers} layers, {body.heads} heads of {body.head_dim} "
        f"over {body.kv_heads} key-value heads, feed-forward {body.feed_forward}"
    )
    if made.departures:
        line += f"; to fit the model: {', '.join(made.departures)}"
    if not made.own_text:
        line += "; its text need not be that of the model's own q4_k_m"
    return line
