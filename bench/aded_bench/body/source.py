"""What a body is made from: a small Llama-architecture GGUF, or a tokenizer alone.

The model's tensors are read, checked and dequantized on demand.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGUFReader, GGUFValueType, GGUFWriter, ReaderField
from gguf.quants import dequantize

from aded_local.errors import ModelFormatError, ModelKindError
from aded_local.llama.gguf import read_header

FloatArray = npt.NDArray[np.float32]

GLOBAL_TENSORS = ("token_embd.weight", "output_norm.weight", "output.weight", "rope_freqs.weight")
OPTIONAL_TENSORS = ("output.weight", "rope_freqs.weight")
LAYER_TENSORS = tuple(
    f"{part}.weight"
    for part in (
        "attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down"
    )
)  # fmt: skip

RANDOM_EPSILON = 1e-5
"""RMSNorm's epsilon of a network of random weights, as in Llama-2."""


@dataclass(frozen=True)
class Dimensions:
    """Sizes of a Llama-architecture network. ``width`` is the residual stream's."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int

    @property
    def group(self) -> int:
        """How many query heads read one key-value head: query head h reads h // group."""
        return self.heads // self.kv_heads


class Source:
    """A small model's file. Tensors are read one at a time, so the largest bounds memory.

    Args:
        path: the model. With ``random``, any GGUF with a tokenizer; one that holds a vocabulary only will do.
        random: a network of these dimensions with random weights takes the model's place: it costs what a
            model costs and says nothing. For measuring recorded answers, whose token ids must exist in the
            model that verifies them.

    Attributes:
        dimensions: of the network.
        tensors: gguf-py's, by name; none of a random network.
        vocabulary: number of tokens.

    Raises:
        ModelNotFoundError: no such file, a folder, or it cannot be read.
        ModelFormatError: not a GGUF, truncated, or inconsistent.
        ModelKindError: a GGUF whose network is not the plain Llama one, or without a tokenizer.
    """

    def __init__(self, path: Path, random: Dimensions | None = None) -> None:
        read_header(path)  # gguf-py's complaints about a damaged file are of many types
        self.path, self.random = path, random is not None
        try:
            self.reader = GGUFReader(path)
        except (ValueError, KeyError) as error:
            raise ModelFormatError(f"{path.name} cannot be read by gguf-py: {error}") from None
        self.tensors: dict[str, Any] = {}
        if random is not None:
            tokens = self.reader.get_field("tokenizer.ggml.tokens")
            if tokens is None or not len(tokens.data):
                raise ModelKindError(f"{path.name} has no tokenizer; give a GGUF with a vocabulary")
            self.dimensions, self.vocabulary = random, len(tokens.data)
            return
        self.tensors = {tensor.name: tensor for tensor in self.reader.tensors}
        self._check_kind()
        self.dimensions = self._dimensions()
        self._check_tensors()

    def value(self, key: str) -> Any:
        """The metadata value under ``key``, or None."""
        field = self.reader.get_field(key)
        return None if field is None else field.contents()

    @property
    def name(self) -> str:
        """What the file calls itself, else its file name."""
        if self.random:
            return f"random weights, tokenizer of {self.path.stem}"
        value = self.value("general.name")
        return value if isinstance(value, str) and value else self.path.stem

    @property
    def global_tensors(self) -> list[str]:
        """Tensors outside the layers that the network has; random weights have an output matrix of their own."""
        known = GLOBAL_TENSORS[:3] if self.random else self.tensors
        return [name for name in GLOBAL_TENSORS if name in known]

    @property
    def epsilon(self) -> float:
        """What RMSNorm adds to the mean square."""
        key = "llama.attention.layer_norm_rms_epsilon"
        return RANDOM_EPSILON if self.random else float(self.value(key) or 0.0)

    def copy_metadata(self, writer: GGUFWriter, changed: set[str]) -> None:
        """Copy every key but those in ``changed`` (of a random network, the tokenizer's only), bytes as they are."""
        for key, field in self.reader.fields.items():
            own = not key.startswith("GGUF.") and key != "general.architecture"
            if key in changed or not (key.startswith("tokenizer.") if self.random else own):
                continue
            value = _raw_value(field)
            if not isinstance(value, list) or value:  # GGUFWriter refuses empty arrays; absent means the same
                sub_type = field.types[-1] if len(field.types) > 1 else None
                writer.add_key_value(key, value, field.types[0], sub_type=sub_type)

    def matrix(self, name: str) -> FloatArray:
        """Tensor ``name`` dequantized, float32; rows are outputs, columns inputs."""
        tensor = self.tensors[name]
        try:
            values = dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError:
            raise ModelKindError(
                f"{self.path.name}: {name} is {tensor.tensor_type.name}, which gguf-py cannot read; "
                "use an F32, F16, BF16 or Q8_0 file"
            ) from None
        return np.ascontiguousarray(values, dtype=np.float32)

    def _check_kind(self) -> None:
        architecture = self.value("general.architecture")
        reason = None
        if architecture != "llama":
            reason = f"architecture is {architecture!r}; only a Llama network fits into a body"
        elif int(self.value("llama.expert_count") or 0):
            reason = "a mixture of experts does not fit into a body"
        elif int(self.value("split.count") or 1) > 1:
            reason = "one of several split files; merge them first"
        elif not self.tensors:
            reason = "vocabulary only, there is no network in it"
        if reason:
            raise ModelKindError(f"{self.path.name}: {reason}")

    def _whole(self, key: str, default: int | None = None) -> int:
        value = self.value(f"llama.{key}")
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or value <= 0:
            raise ModelKindError(f"{self.path.name}: llama.{key} is {value!r}, one positive number is needed")
        return value

    def _dimensions(self) -> Dimensions:
        width, heads = self._whole("embedding_length"), self._whole("attention.head_count")
        kv_heads = self._whole("attention.head_count_kv", heads)
        head_dim = self._whole("attention.key_length", width // heads)
        if self._whole("attention.value_length", head_dim) != head_dim:
            raise ModelKindError(f"{self.path.name}: keys and values differ in length")
        if heads % kv_heads:
            raise ModelFormatError(f"{self.path.name}: {heads} query heads over {kv_heads} key-value heads")
        layers, feed_forward = self._whole("block_count"), self._whole("feed_forward_length")
        return Dimensions(width, layers, heads, kv_heads, head_dim, feed_forward)

    def _check_tensors(self) -> None:
        d = self.dimensions
        expected = {*GLOBAL_TENSORS, *(f"blk.{i}.{name}" for i in range(d.layers) for name in LAYER_TENSORS)}
        for name in expected - self.tensors.keys() - {*OPTIONAL_TENSORS}:
            raise ModelFormatError(f"{self.path.name}: tensor {name} is missing")
        self.vocabulary = int(self.tensors["token_embd.weight"].shape[1])
        for name, tensor in self.tensors.items():
            if name not in expected:
                raise ModelKindError(f"{self.path.name}: {name} is not part of a plain Llama network")
            wanted = tensor_shape(name, d, self.vocabulary)
            found = tuple(int(n) for n in reversed(tensor.shape.tolist()))
            if wanted is not None and found != wanted:
                raise ModelFormatError(f"{self.path.name}: {name} is {found}, {wanted} was expected")


def tensor_shape(name: str, d: Dimensions, vocabulary: int) -> tuple[int, ...] | None:
    """Rows and columns of tensor ``name`` in a network of dimensions ``d``; None where any shape will do."""
    part = re.sub(r"^blk\.\d+\.", "", name).removesuffix(".weight")
    if part.endswith("norm"):
        return (d.width,)
    queries, keys = d.heads * d.head_dim, d.kv_heads * d.head_dim
    rows = {
        "token_embd": vocabulary,
        "output": vocabulary,
        "attn_q": queries,
        "attn_k": keys,
        "attn_v": keys,
        "attn_output": d.width,
        "ffn_gate": d.feed_forward,
        "ffn_up": d.feed_forward,
        "ffn_down": d.width,
    }
    columns = {"attn_output": queries, "ffn_down": d.feed_forward}
    return (rows[part], columns.get(part, d.width)) if part in rows else None


def _raw_value(field: ReaderField) -> Any:
    """A field's value with strings as bytes: pieces of a vocabulary need not be UTF-8 by themselves."""
    kind, element = field.types[0], field.types[-1]
    if kind is GGUFValueType.ARRAY:
        if len(field.types) == 1:  # an empty array
            return []
        if element is GGUFValueType.STRING:
            return [field.parts[i].tobytes() for i in field.data]
        return [value for i in field.data for value in field.parts[i].tolist()]
    if kind is GGUFValueType.STRING:
        return field.parts[-1].tobytes()
    return field.parts[-1].tolist()[0]
