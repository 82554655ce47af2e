"""Put a small Llama-architecture model into a body of realistic size without changing what it says.

Speed claims need a model that costs what real ones cost and still writes real text. The residual stream
is padded with zeros, RMSNorm is scaled so that the padding does not count, heads, feed-forward rows and
layers are added whose contribution is multiplied by zero. The added weights that meet zeros are random.
From a tokenizer alone all weights are random: it costs the same and says nothing.

RMSNorm over a stream of d values padded to D sees a mean square smaller by d/D, so
``x / sqrt(mean(x^2) * d/D + eps * d/D) * (w * sqrt(d/D))`` is the source's ``x / sqrt(mean(x^2) + eps) * w``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from aded_bench.body.file import SPACE_RESERVE, BodyWriter, Progress, quantization
from aded_bench.body.placement import SHAPES, Shape, body_dimensions, place, random_dimensions
from aded_bench.body.source import Dimensions, Source, Tokenizer
from aded_bench.results import check_output
from aded_local.errors import OptionError, StoreError

__all__ = [
    "SAME_SHAPE",
    "SHAPES",
    "TEST_TYPES",
    "TYPES",
    "Shape",
    "body_dimensions",
    "build",
    "describe",
    "place",
]

SAME_SHAPE = "same"
"""No body at all: the source itself, written in the type asked for. For comparison in tests."""

TYPES = ("q4_0", "q8_0", "bf16", "q4_k_m")
TEST_TYPES = ("f32",)
"""Not offered on the command line: exact enough to check the construction itself."""

LAYOUT_TYPE = {"q4_k_m": "bf16"}
"""Types gguf-py cannot write: llama.cpp makes them from a temporary file of another type."""


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
) -> Dimensions:
    """Write ``out``: the model of ``source_path`` in a body.

    Args:
        shape: the body's size; None writes the source's own shape (see ``SAME_SHAPE``).
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
    _check_destination(source_path, out)
    if tokenizer_only:
        if shape is None:
            raise OptionError("a tokenizer alone has no shape of its own; give one")
        body = random_dimensions(shape)
        source: Source | Tokenizer = Tokenizer(source_path, body)
    else:
        source = Source(source_path)
        body = source.dimensions if shape is None else body_dimensions(source.dimensions, shape, name)
    layout = LAYOUT_TYPE.get(file_type, file_type)
    _check_blocks(source, body, layout)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    raw = partial if layout == file_type else partial.with_suffix(".raw")
    try:
        with _disk_errors(out):
            BodyWriter(source, body, layout, name if shape else "", seed).write(raw, progress)
            if raw is not partial:
                from aded_local.target.quantize import quantize

                quantize(raw, partial, file_type, n_threads)
            partial.replace(out)
    finally:
        for leftover in {partial, raw}:
            leftover.unlink(missing_ok=True)
    return body


def _check_destination(source: Path, out: Path) -> None:
    check_output(out)
    same = False
    with contextlib.suppress(OSError):  # a source that cannot be looked at is refused when it is opened
        same = source.exists() and out.exists() and source.samefile(out)
    if same:
        raise OptionError("the body would overwrite the model it is made from")


def _check_blocks(source: Source | Tokenizer, body: Dimensions, layout: str) -> None:
    """A block that mixed source values with others would quantize them otherwise than the source's own."""
    from gguf.constants import GGML_QUANT_SIZES

    kinds = (quantization(layout, name) for name in ("output.weight", "attn_q.weight"))
    block = max(GGML_QUANT_SIZES[kind][0] for kind in kinds)
    d = source.dimensions
    lengths = {"width": d.width, "feed-forward length": d.feed_forward, "head length": d.head_dim}
    for what, length in lengths.items():
        if length % block:
            reason = f"not a multiple of {block}, {layout}'s block"
            raise OptionError(f"the model's {what} {length} is {reason}; try bf16")
    if any(n % block for n in (body.width, body.feed_forward)):
        raise OptionError(f"the body's rows are not multiples of {block}, {layout}'s block")


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


def describe(body: Dimensions) -> str:
    """One line for people."""
    return (
        f"width {body.width}, {body.layers} layers, {body.heads} heads of {body.head_dim} "
        f"over {body.kv_heads} key-value heads, feed-forward {body.feed_forward}"
    )
