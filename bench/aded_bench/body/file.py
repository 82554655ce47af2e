"""Writing a body's GGUF: metadata, then tensor after tensor, the source's values in their places."""

from __future__ import annotations

import contextlib
import errno
import math
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import quant_shape_to_byte_shape, quantize

from aded_bench.body.placement import place
from aded_bench.body.source import LAYER_TENSORS, Dimensions, FloatArray, Source, tensor_shape

ByteArray = npt.NDArray[np.uint8]
Progress = Callable[[int, int], None]
"""Called with the bytes written so far and in total."""

FILL_STD = 0.02  # initial standard deviation of GPT-2's and Llama's matrices: activations stay of order one
FILL_VALUES = 1 << 20  # random values that are quantized once and laid out over all added weights
CHUNK_ROWS = 4096  # rows dequantized, padded and quantized at a time; bounds memory
SPACE_RESERVE = 64 << 20  # bytes left free on the disk
RANDOM_CONTEXT = 8192  # tokens that random weights claim: longer than the answers they are measured with


def quantization(layout: str, tensor: str) -> GGMLQuantizationType:
    """The ggml type of a tensor in a file of type ``layout``.

    Norms are F32 as everywhere. In a q4_0 file the embedding and output matrix are Q8_0: llama.cpp's own
    Q4_0 files take Q6_K there, for quality, and gguf-py writes no Q6_K.
    """
    if "norm" in tensor or tensor.startswith("rope_freqs"):
        return GGMLQuantizationType.F32
    if layout == "q4_0" and tensor in ("token_embd.weight", "output.weight"):
        return GGMLQuantizationType.Q8_0
    return GGMLQuantizationType[layout.upper()]


class BodyWriter:
    """One file: metadata, then tensor after tensor.

    Args:
        label: says in the file's name what the source is in; empty for the source itself.
        margin: columns up to the next multiple of it hold zeros beside the source's, not random values,
            so that what quantizes such stretches together finds the same whatever the seed.
    """

    def __init__(
        self, source: Source, body: Dimensions, layout: str, label: str, seed: int, margin: int
    ) -> None:
        self.source, self.body, self.layout, self.label, self.seed = source, body, layout, label, seed
        self.margin = margin
        self.placement = place(source.dimensions, body)
        self.pools: dict[int, ByteArray] = {}
        self.shrink = source.dimensions.width / body.width  # d/D of the package's description in build.py
        layers = [f"blk.{i}.{name}" for i in range(body.layers) for name in LAYER_TENSORS]
        self.shapes = {name: self._shape(name) for name in source.global_tensors + layers}

    def write(self, path: Path, progress: Progress) -> None:
        """Write the file. Raises OSError where the disk is full or refuses."""
        writer = GGUFWriter(path, "llama")
        try:
            self._metadata(writer)
            kinds = {name: quantization(self.layout, name) for name in self.shapes}
            stored = {
                name: quant_shape_to_byte_shape(self.shapes[name], kind) for name, kind in kinds.items()
            }
            total, done = sum(map(math.prod, stored.values())), 0
            free = shutil.disk_usage(path.parent).free
            if total + SPACE_RESERVE > free:
                raise OSError(errno.ENOSPC, f"{total / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free")
            for name, shape in stored.items():
                size = math.prod(shape)
                writer.add_tensor_info(name, shape, np.dtype(np.uint8), size, raw_dtype=kinds[name])
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            progress(done, total)
            for name, shape in stored.items():
                writer.write_tensor_data(self._tensor(name, shape, kinds[name]))
                done += math.prod(shape)
                progress(done, total)
            writer.flush()
        finally:
            # Closing flushes, and a full disk complains again; the first complaint is the one to report.
            with contextlib.suppress(OSError):
                writer.close()

    def _shape(self, name: str) -> tuple[int, ...]:
        shape = tensor_shape(name, self.body, self.source.vocabulary)
        return shape or tuple(int(n) for n in self.source.tensors[name].shape)

    def _metadata(self, writer: GGUFWriter) -> None:
        body, parameters = self.body, sum(map(math.prod, self.shapes.values()))
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
        if self.source.random:
            numbers["llama.context_length"] = RANDOM_CONTEXT
            numbers["llama.rope.dimension_count"] = body.head_dim
            numbers["llama.vocab_size"] = self.source.vocabulary
        strings = {
            "general.name": self.source.name + (f" in a {self.label}" if self.label else ""),
            "general.size_label": f"{parameters / 1e9:.1f}B"
            if parameters >= 1e9
            else f"{parameters / 1e6:.0f}M",
        }
        epsilon = "llama.attention.layer_norm_rms_epsilon"
        self.source.copy_metadata(writer, {*numbers, *strings, epsilon, "general.alignment"})
        for key, number in numbers.items():
            writer.add_uint32(key, number)
        for key, text in strings.items():
            writer.add_string(key, text)
        writer.add_float32(epsilon, self.source.epsilon * self.shrink)

    def _tensor(self, name: str, shape: tuple[int, ...], kind: GGMLQuantizationType) -> ByteArray:
        """Tensor ``name`` of the body as the bytes of its file, ``shape`` of them."""
        part = name.split(".")[-2]
        matrix = self.source.matrix(name) if name in self.source.tensors else None
        if part == "rope_freqs" and matrix is not None:
            return matrix.view(np.uint8)
        if len(shape) == 1:
            weights = np.ones(self.body.width, np.float32)
            if matrix is not None:
                weights[: matrix.size] = matrix
            return (weights * math.sqrt(self.shrink)).astype(np.float32).view(np.uint8)
        # Where the stream is written (embedding, the two output projections) added values must be zero;
        # where it is read they meet zeros, and may be anything. Without a source there is nothing to keep.
        if not self.source.random and part in ("token_embd", "attn_output", "ffn_down"):
            zeros = encoded(np.zeros((1, GGML_QUANT_SIZES[kind][0]), np.float32), kind)
            data = np.tile(zeros, math.prod(shape) // zeros.size).reshape(shape)
        else:
            data = self._fill(shape, kind, name)
        if matrix is not None:
            self._clear_margin(data, kind)
            self._seat(data, matrix, part, kind)
        return data

    def _clear_margin(self, data: ByteArray, kind: GGMLQuantizationType) -> None:
        """Zeros where the source's width ends within a stretch of ``margin`` columns.

        For types that store each value alone; the matrices that have the feed-forward's or the heads'
        values as columns hold zeros there already.
        """
        width, size = self.source.dimensions.width, GGML_QUANT_SIZES[kind][1]
        end = min(-(-width // self.margin) * self.margin, self.body.width)
        if end > width:
            data[:, width * size : end * size] = 0

    def _seat(self, data: ByteArray, matrix: FloatArray, part: str, kind: GGMLQuantizationType) -> None:
        """Quantize the source's matrix, block by block as by itself, into its place in ``data``."""
        block, block_bytes = GGML_QUANT_SIZES[kind]
        blocks = data.reshape(data.shape[0], -1, block_bytes)
        rows, columns = np.arange(matrix.shape[0]), np.arange(matrix.shape[1] // block)
        if part == "attn_q":
            rows = self.placement.queries
        elif part in ("attn_k", "attn_v"):
            rows, matrix = self.placement.keys, matrix[self.placement.key_origin]
        elif part == "attn_output":
            columns = self.placement.queries[::block] // block
        for start in range(0, matrix.shape[0], CHUNK_ROWS):
            chunk = matrix[start : start + CHUNK_ROWS]
            found = encoded(chunk, kind).reshape(chunk.shape[0], -1, block_bytes)
            blocks[rows[start : start + CHUNK_ROWS, None], columns] = found

    def _fill(self, shape: tuple[int, ...], kind: GGMLQuantizationType, name: str) -> ByteArray:
        """Random weights: one quantized pool, repeated from a place that differs by tensor."""
        if int(kind) not in self.pools:
            values = np.random.default_rng(self.seed).normal(0.0, FILL_STD, FILL_VALUES).astype(np.float32)
            self.pools[int(kind)] = encoded(values.reshape(-1, 256), kind)
        pool, block_bytes = self.pools[int(kind)], GGML_QUANT_SIZES[kind][1]
        offset = zlib.crc32(name.encode()) % (pool.size // block_bytes) * block_bytes
        return np.resize(np.roll(pool, -offset), shape)  # repeats it as often as need be


def encoded(rows: FloatArray, kind: GGMLQuantizationType) -> ByteArray:
    """Values as a file stores them, in one row of bytes."""
    return np.ascontiguousarray(quantize(rows, kind)).view(np.uint8).reshape(-1)
