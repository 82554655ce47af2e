"""Writing a body's GGUF: metadata, then tensor after tensor, the source's values in their places."""

from __future__ import annotations

import contextlib
import errno
import math
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aded_bench.body.placement import place
from aded_bench.body.source import LAYER_TENSORS, RANDOM_CONTEXT, Dimensions, Source, Tokenizer, tensor_shape

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFWriter

ByteArray = npt.NDArray[np.uint8]
Progress = Callable[[int, int], None]
"""Called with the bytes written so far and in total."""

FILL_STD = 0.02  # initial standard deviation of GPT-2's and Llama's matrices: activations stay of order one
FILL_VALUES = 1 << 20  # random values that are quantized once and laid out over all added weights
CHUNK_ROWS = 4096  # rows dequantized, padded and quantized at a time; bounds memory
SPACE_RESERVE = 64 << 20  # bytes left free on the disk


def quantization(layout: str, tensor: str) -> GGMLQuantizationType:
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


class BodyWriter:
    """One file: metadata, then tensor after tensor.

    Args:
        label: says in the file's name what the source is in; empty for the source itself.
        margin: columns up to the next multiple of it hold zeros beside the source's, not random values,
            so that what quantizes such stretches together finds the same whatever the seed.
    """

    def __init__(
        self, source: Source | Tokenizer, body: Dimensions, layout: str, label: str, seed: int, margin: int
    ) -> None:
        self.source, self.body, self.layout, self.label, self.seed = source, body, layout, label, seed
        self.margin = margin
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
        layers = [f"blk.{i}.{name}" for i in range(self.body.layers) for name in LAYER_TENSORS]
        return self.source.global_tensors + layers

    def _metadata(self, writer: GGUFWriter) -> None:
        from gguf import LlamaFileType

        body, parameters = self.body, self._parameters()
        label = f"{parameters / 1e9:.1f}B" if parameters >= 1e9 else f"{parameters / 1e6:.0f}M"
        name = self.source.name + (f" in a {self.label}" if self.label else "")
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
            numbers |= {
                "llama.context_length": RANDOM_CONTEXT,
                "llama.rope.dimension_count": body.head_dim,
                "llama.vocab_size": self.source.vocabulary,
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

        kind = quantization(self.layout, name)
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
        # where it is read they meet zeros, and may be anything. Without a source there is nothing to keep.
        if not self.source.random and part in ("token_embd", "attn_output", "ffn_down"):
            data = self._zeros(shape, kind)
        else:
            data = self._fill(shape, kind, name)
        if in_source:
            self._clear_margin(data, kind)
            self._seat(data, self.source.matrix(name), part, kind)
        return data

    def _norm(self, name: str) -> npt.NDArray[np.float32]:
        weights = np.ones(self.body.width, np.float32)
        if name in self.source.tensors:
            weights[: self.source.dimensions.width] = self.source.matrix(name)
        return (weights * math.sqrt(self.shrink)).astype(np.float32)

    def _clear_margin(self, data: ByteArray, kind: Any) -> None:
        """Zeros where the source's width ends within a stretch of ``margin`` columns.

        For types that store each value alone; the matrices that have the feed-forward's or the heads'
        values as columns hold zeros there already.
        """
        from gguf.constants import GGML_QUANT_SIZES

        width = self.source.dimensions.width
        end = min(-(-width // self.margin) * self.margin, self.body.width)
        if end > width:
            size = GGML_QUANT_SIZES[kind][1]
            data[:, width * size : end * size] = 0

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
