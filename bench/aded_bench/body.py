"""Put a small Llama-architecture model into a body of realistic size without changing what it says.

Speed claims need a model that costs what real ones cost and still writes real text. The residual stream
is padded with zeros, RMSNorm is scaled so that the padding does not count, heads, feed-forward rows and
layers are added whose contribution is multiplied by zero. The added weights that meet zeros are random.

RMSNorm over a stream of d values padded to D sees a mean square smaller by d/D, so
``x / sqrt(mean(x^2) * d/D + eps * d/D) * (w * sqrt(d/D))`` is the source's ``x / sqrt(mean(x^2) + eps) * w``.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aded_bench.source import GLOBAL_TENSORS, LAYER_TENSORS, Dimensions, Source, tensor_shape
from aded_local.errors import OptionError, StoreError

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFWriter

ByteArray = npt.NDArray[np.uint8]
IndexArray = npt.NDArray[np.int64]
Progress = Callable[[int, int], None]
"""Called with the bytes written so far and in total."""

FILL_STD = 0.02  # initial standard deviation of GPT-2's and Llama's matrices: activations stay of order one
FILL_VALUES = 1 << 20  # random values that are quantized once and laid out over all added weights
CHUNK_ROWS = 4096  # rows dequantized, padded and quantized at a time; bounds memory
SPACE_RESERVE = 64 << 20  # bytes left free on the disk


@dataclass(frozen=True)
class Shape:
    """A body's size, in values; heads follow from the source's head length.

    Attributes:
        width: of the residual stream.
        kv_width: of all key heads of a token together, which decides the size of the KV cache.
    """

    width: int
    layers: int
    kv_width: int
    feed_forward: int


SHAPES = {
    "1b": Shape(width=2048, layers=22, kv_width=256, feed_forward=5632),  # TinyLlama-1.1B
    "3b": Shape(width=3072, layers=28, kv_width=1024, feed_forward=8192),  # Llama-3.2-3B
    "7b": Shape(width=4096, layers=32, kv_width=4096, feed_forward=11008),  # Llama-2-7B
}
SAME_SHAPE = "same"
"""No body at all: the source itself, written in the type asked for. For comparison in tests."""

TYPES = ("q4_0", "q8_0", "bf16", "q4_k_m")
TEST_TYPES = ("f32",)
"""Not offered on the command line: exact enough to check the construction itself."""

LAYOUT_TYPE = {"q4_k_m": "bf16"}
"""Types gguf-py cannot write: llama.cpp makes them from a temporary file of another type."""


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
    if shape.width % source.head_dim or shape.kv_width % source.head_dim:
        raise OptionError(f"heads of {source.head_dim} values do not divide a {name} body's {shape.width}")
    heads, kv_heads = shape.width // source.head_dim, shape.kv_width // source.head_dim
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


def build(
    source_path: Path,
    out: Path,
    shape: Shape | None,
    name: str,
    file_type: str,
    *,
    seed: int = 0,
    n_threads: int | None = None,
    progress: Progress = lambda done, total: None,
) -> Dimensions:
    """Write ``out``: the model of ``source_path`` in a body.

    Args:
        shape: the body's size; None writes the source's own shape (see ``SAME_SHAPE``).
        name: what to call the shape in metadata and messages.
        file_type: one of ``TYPES`` (or ``TEST_TYPES``).
        seed: of the added weights.
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
    source = Source(source_path)
    body = source.dimensions if shape is None else body_dimensions(source.dimensions, shape, name)
    layout = LAYOUT_TYPE.get(file_type, file_type)
    _check_blocks(source, body, layout)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    raw = partial if layout == file_type else partial.with_suffix(".raw")
    try:
        with _disk_errors(out):
            _BodyWriter(source, body, layout, name if shape else "", seed).write(raw, progress)
            if raw is not partial:
                from aded_local.target.quantize import quantize

                quantize(raw, partial, file_type, n_threads)
            partial.replace(out)
    finally:
        for leftover in {partial, raw}:
            leftover.unlink(missing_ok=True)
    return body


def _check_destination(source: Path, out: Path) -> None:
    if out.is_dir():
        raise OptionError(f"{out} is a folder; name the file to write")
    if out.exists() and not out.is_file():
        raise OptionError(f"{out} is a device or a pipe; name a file to write")
    if not out.parent.is_dir():
        raise OptionError(f"no such folder: {out.parent}")
    if source.exists() and out.exists() and source.samefile(out):
        raise OptionError("the body would overwrite the model it is made from")


def _check_blocks(source: Source, body: Dimensions, layout: str) -> None:
    """A block that mixed source values with others would quantize them otherwise than the source's own."""
    from gguf.constants import GGML_QUANT_SIZES

    kinds = (_quantization(layout, name) for name in ("output.weight", "attn_q.weight"))
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


def _quantization(layout: str, tensor: str) -> GGMLQuantizationType:
    """The ggml type of a tensor in a file of type ``layout``.

    Norms are F32 as everywhere. In a q4_0 file the embedding and output matrix are Q8_0: llama.cpp's own
    Q4_0 files take Q6_K there, for quality, and gguf-py writes no Q6_K.
    """
    from gguf import GGMLQuantizationType

    if "norm" in tensor or tensor.startswith("rope_freqs"):
        return GGMLQuantizationType.F32
    if layout == "q4_0" and tensor in ("token_embd.weight", "output.weight"):
        return GGMLQuantizationType.Q8_0
    return GGMLQuantizationType[layout.upper()]


class _BodyWriter:
    """One file: metadata, then tensor after tensor."""

    def __init__(self, source: Source, body: Dimensions, layout: str, name: str, seed: int) -> None:
        self.source, self.body, self.layout, self.name, self.seed = source, body, layout, name, seed
        self.placement = place(source.dimensions, body)
        self.pools: dict[int, ByteArray] = {}
        self.shrink = source.dimensions.width / body.width  # d/D of the module's docstring

    def write(self, path: Path, progress: Progress) -> None:
        from gguf import GGUFWriter

        writer = GGUFWriter(path, "llama")
        try:
            self._metadata(writer)
            names = self._names()
            sizes = [self._announce(writer, name) for name in names]
            total = sum(sizes)
            self._check_space(path, total)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            done = 0
            progress(done, total)
            for name, size in zip(names, sizes, strict=True):
                writer.write_tensor_data(self._tensor(name))
                done += size
                progress(done, total)
            writer.flush()
        finally:
            # Closing flushes, and a full disk complains again; the first complaint is the one to report.
            with contextlib.suppress(OSError):
                writer.close()

    def _names(self) -> list[str]:
        source = self.source.tensors
        return [name for name in GLOBAL_TENSORS if name in source] + [
            f"blk.{i}.{name}" for i in range(self.body.layers) for name in LAYER_TENSORS
        ]

    def _metadata(self, writer: GGUFWriter) -> None:
        from gguf import LlamaFileType

        body, parameters = self.body, self._parameters()
        label = f"{parameters / 1e9:.1f}B" if parameters >= 1e9 else f"{parameters / 1e6:.0f}M"
        name = self.source.name + (f" in a {self.name} body" if self.name else "")
        file_type = "ALL_F32" if self.layout == "f32" else f"MOSTLY_{self.layout.upper()}"
        numbers = {
            "general.file_type": int(LlamaFileType[file_type]),
            "general.quantization_version": 2,
            "llama.embedding_length": body.width,
            "llama.block_count": body.layers,
            "llama.feed_forward_length": body.feed_forward,
            "llama.attention.head_count": body.heads,
            "llama.attention.head_count_kv": body.kv_heads,
            "llama.attention.key_length": body.head_dim,
            "llama.attention.value_length": body.head_dim,
        }
        strings = {"general.name": name, "general.size_label": label}
        epsilon = "llama.attention.layer_norm_rms_epsilon"
        self.source.copy_metadata(writer, {*numbers, *strings, epsilon, "general.alignment"})
        for key, number in numbers.items():
            writer.add_uint32(key, number)
        for key, text in strings.items():
            writer.add_string(key, text)
        writer.add_float32(epsilon, self.source.epsilon * self.shrink)

    def _parameters(self) -> int:
        return sum(math.prod(self._shape(name)) for name in self._names())

    def _shape(self, name: str) -> tuple[int, ...]:
        shape = tensor_shape(name, self.body, self.source.vocabulary)
        return shape or tuple(int(n) for n in self.source.tensors[name].shape)

    def _row_bytes(self, name: str) -> tuple[tuple[int, ...], GGMLQuantizationType]:
        from gguf.quants import quant_shape_to_byte_shape

        kind = _quantization(self.layout, name)
        return quant_shape_to_byte_shape(self._shape(name), kind), kind

    def _announce(self, writer: GGUFWriter, name: str) -> int:
        shape, kind = self._row_bytes(name)
        size = math.prod(shape)
        writer.add_tensor_info(name, shape, np.dtype(np.uint8), size, raw_dtype=kind)
        return size

    def _check_space(self, path: Path, size: int) -> None:
        free = shutil.disk_usage(path.parent).free
        if size + SPACE_RESERVE > free:
            raise OSError(errno.ENOSPC, f"{size / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free")

    def _tensor(self, name: str) -> ByteArray:
        """Tensor ``name`` of the body as the bytes of its file."""
        shape, kind = self._row_bytes(name)
        part = name.split(".")[-2]
        in_source = name in self.source.tensors
        if part == "rope_freqs":
            return self.source.matrix(name).view(np.uint8)
        if len(shape) == 1:
            return self._norm(name).view(np.uint8)
        # Where the stream is written (embedding, the two output projections) added values must be zero;
        # where it is read they meet zeros, and may be anything.
        if part in ("token_embd", "attn_output", "ffn_down"):
            data = self._zeros(shape, kind)
        else:
            data = self._fill(shape, kind, name)
        if in_source:
            self._seat(data, self.source.matrix(name), part, kind)
        return data

    def _norm(self, name: str) -> npt.NDArray[np.float32]:
        weights = np.ones(self.body.width, np.float32)
        if name in self.source.tensors:
            weights[: self.source.dimensions.width] = self.source.matrix(name)
        return (weights * math.sqrt(self.shrink)).astype(np.float32)

    def _seat(self, data: ByteArray, matrix: npt.NDArray[np.float32], part: str, kind: Any) -> None:
        """Quantize the source's matrix, block by block as by itself, into its place in ``data``."""
        from gguf.constants import GGML_QUANT_SIZES
        from gguf.quants import quantize

        block, block_bytes = GGML_QUANT_SIZES[kind]
        blocks = data.reshape(data.shape[0], -1, block_bytes)
        rows = np.arange(matrix.shape[0])
        if part == "attn_q":
            rows = self.placement.queries
        elif part in ("attn_k", "attn_v"):
            rows, matrix = self.placement.keys, matrix[self.placement.key_origin]
        columns = np.arange(matrix.shape[1] // block)
        if part == "attn_output":
            columns = self.placement.queries[::block] // block
        for start in range(0, matrix.shape[0], CHUNK_ROWS):
            chunk = matrix[start : start + CHUNK_ROWS]
            encoded = np.ascontiguousarray(quantize(chunk, kind)).view(np.uint8)
            encoded = encoded.reshape(chunk.shape[0], -1, block_bytes)
            blocks[rows[start : start + CHUNK_ROWS, None], columns] = encoded

    def _zeros(self, shape: tuple[int, ...], kind: Any) -> ByteArray:
        from gguf.constants import GGML_QUANT_SIZES
        from gguf.quants import quantize

        block = np.zeros((1, GGML_QUANT_SIZES[kind][0]), np.float32)
        pattern = np.ascontiguousarray(quantize(block, kind)).view(np.uint8).reshape(-1)
        return np.tile(pattern, math.prod(shape) // pattern.size).reshape(shape)

    def _fill(self, shape: tuple[int, ...], kind: Any, name: str) -> ByteArray:
        """Random weights: one quantized pool, repeated from a place that differs by tensor."""
        from gguf.constants import GGML_QUANT_SIZES
        from gguf.quants import quantize

        if int(kind) not in self.pools:
            values = np.random.default_rng(self.seed).normal(0.0, FILL_STD, FILL_VALUES).astype(np.float32)
            encoded = quantize(values.reshape(-1, 256), kind)
            self.pools[int(kind)] = np.ascontiguousarray(encoded).view(np.uint8).reshape(-1)
        pool, block_bytes = self.pools[int(kind)], GGML_QUANT_SIZES[kind][1]
        offset = zlib.crc32(name.encode()) % (pool.size // block_bytes) * block_bytes
        size = math.prod(shape)
        repeated = np.tile(np.roll(pool, -offset), -(-size // pool.size))
        return repeated[:size].reshape(shape)


def describe(body: Dimensions) -> str:
    """One line for people."""
    return (
        f"width {body.width}, {body.layers} layers, {body.heads} heads of {body.head_dim} "
        f"over {body.kv_heads} key-value heads, feed-forward {body.feed_forward}"
    )
