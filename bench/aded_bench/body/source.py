"""What a body is made from: a small Llama-architecture GGUF, or a tokenizer alone.

The model's tensors are read, checked and dequantized on demand.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aded_local.errors import ModelFormatError, ModelKindError, ModelNotFoundError

if TYPE_CHECKING:
    from gguf import GGUFReader, GGUFWriter, ReaderField

FloatArray = npt.NDArray[np.float32]

GLOBAL_TENSORS = ("token_embd.weight", "output_norm.weight", "output.weight", "rope_freqs.weight")
LAYER_TENSORS = (
    "attn_norm.weight",
    "attn_q.weight",
    "attn_k.weight",
    "attn_v.weight",
    "attn_output.weight",
    "ffn_norm.weight",
    "ffn_gate.weight",
    "ffn_up.weight",
    "ffn_down.weight",
)
OPTIONAL_TENSORS = ("output.weight", "rope_freqs.weight")

RANDOM_CONTEXT = 8192
"""Context length a network of random weights claims: longer than the recorded answers it is measured with."""
RANDOM_EPSILON = 1e-5
"""RMSNorm's epsilon of such a network, as in Llama-2."""


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


class _File:
    """A GGUF's metadata."""

    random = False
    """Whether the network is made up: all weights random."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            if path.is_dir():
                raise ModelNotFoundError(f"{path} is a folder; give the GGUF file inside it")
            if not path.is_file():
                raise ModelNotFoundError(f"no such file: {path}")
            self.reader = _read(path)
        except OSError as error:  # its permissions, or those of a folder above; a broken disk
            raise ModelNotFoundError(f"{path} cannot be read: {error.strerror or error}") from None

    def value(self, key: str) -> Any:
        """The metadata value under ``key``, or None."""
        field = self.reader.get_field(key)
        return None if field is None else field.contents()

    def copies(self, key: str) -> bool:
        """Whether a body takes the metadata under ``key`` over."""
        return not key.startswith("GGUF.") and key != "general.architecture"

    def copy_metadata(self, writer: GGUFWriter, changed: set[str]) -> None:
        """Copy every key but those in ``changed``, bytes as they are, so that odd tokens survive."""
        for key, field in self.reader.fields.items():
            if key in changed or not self.copies(key):
                continue
            value = _raw_value(field)
            if not isinstance(value, list) or value:  # GGUFWriter refuses empty arrays; absent means the same
                sub_type = field.types[-1] if len(field.types) > 1 else None
                writer.add_key_value(key, value, field.types[0], sub_type=sub_type)


class Source(_File):
    """A small model's file. Tensors are read one at a time, so the largest bounds memory."""

    def __init__(self, path: Path) -> None:
        """Open and check ``path``.

        Raises:
            ModelNotFoundError: no such file, a folder, or it cannot be read.
            ModelFormatError: not a GGUF, truncated, or inconsistent.
            ModelKindError: a GGUF whose network is not the plain Llama one.
        """
        super().__init__(path)
        self.tensors = {tensor.name: tensor for tensor in self.reader.tensors}
        self._check_kind()
        self.dimensions = self._dimensions()
        self._check_tensors()

    @property
    def name(self) -> str:
        """What the file calls itself, else its file name."""
        value = self.value("general.name")
        return value if isinstance(value, str) and value else self.path.stem

    @property
    def global_tensors(self) -> list[str]:
        """Tensors outside the layers that the network has."""
        return [name for name in GLOBAL_TENSORS if name in self.tensors]

    @property
    def tied(self) -> bool:
        """Whether the embedding serves as the output matrix too."""
        return "output.weight" not in self.tensors

    @property
    def vocabulary(self) -> int:
        """Number of tokens, which is the number of rows of the embedding."""
        return int(self.tensors["token_embd.weight"].shape[1])

    @property
    def epsilon(self) -> float:
        """What RMSNorm adds to the mean square."""
        return float(self.value("llama.attention.layer_norm_rms_epsilon") or 0.0)

    def matrix(self, name: str) -> FloatArray:
        """Tensor ``name`` dequantized, float32; rows are outputs, columns inputs."""
        from gguf.quants import dequantize

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
        if architecture != "llama":
            raise ModelKindError(
                f"{self.path.name}: architecture is {architecture!r}; only a Llama network fits into a body"
            )
        if int(self.value("llama.expert_count") or 0):
            raise ModelKindError(f"{self.path.name}: a mixture of experts does not fit into a body")
        if int(self.value("split.count") or 1) > 1:
            raise ModelKindError(f"{self.path.name}: one of several split files; merge them first")
        if not self.tensors:
            raise ModelKindError(f"{self.path.name}: vocabulary only, there is no network in it")

    def _whole(self, key: str, default: int | None = None) -> int:
        value = self.value(f"llama.{key}")
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or value <= 0:
            raise ModelKindError(f"{self.path.name}: llama.{key} is {value!r}, one positive number is needed")
        return value

    def _dimensions(self) -> Dimensions:
        width = self._whole("embedding_length")
        heads = self._whole("attention.head_count")
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
        expected = set(GLOBAL_TENSORS)
        expected |= {f"blk.{i}.{name}" for i in range(d.layers) for name in LAYER_TENSORS}
        for name in expected:
            if name not in self.tensors and name not in OPTIONAL_TENSORS:
                raise ModelFormatError(f"{self.path.name}: tensor {name} is missing")
        for name, tensor in self.tensors.items():
            if name not in expected:
                raise ModelKindError(f"{self.path.name}: {name} is not part of a plain Llama network")
            wanted = tensor_shape(name, d, self.vocabulary)
            found = tuple(int(n) for n in reversed(tensor.shape.tolist()))
            if wanted is not None and found != wanted:
                raise ModelFormatError(f"{self.path.name}: {name} is {found}, {wanted} was expected")


class Tokenizer(_File):
    """Any GGUF's tokenizer with a network of random weights: costs what a model costs and says nothing.

    For measuring recorded answers, whose token ids must exist in the model that verifies them.

    Args:
        path: a GGUF with a tokenizer; one that holds a vocabulary only will do.
        dimensions: of the network.

    Raises:
        ModelNotFoundError, ModelFormatError: as for ``Source``.
        ModelKindError: there is no tokenizer in it.
    """

    random = True

    def __init__(self, path: Path, dimensions: Dimensions) -> None:
        super().__init__(path)
        self.dimensions = dimensions
        self.tensors: dict[str, Any] = {}
        self.epsilon = RANDOM_EPSILON
        tokens = self.reader.get_field("tokenizer.ggml.tokens")
        if tokens is None or not len(tokens.data):
            raise ModelKindError(f"{path.name} has no tokenizer; give a GGUF with a vocabulary")
        self.vocabulary = len(tokens.data)
        self.name = f"random weights, tokenizer of {path.stem}"
        self.global_tensors = ["token_embd.weight", "output_norm.weight", "output.weight"]

    def copies(self, key: str) -> bool:
        return key.startswith("tokenizer.")

    def matrix(self, name: str) -> FloatArray:
        """Never asked for: no tensor has a source."""
        raise KeyError(name)


def tensor_shape(name: str, d: Dimensions, vocabulary: int) -> tuple[int, ...] | None:
    """Rows and columns of tensor ``name`` in a network of dimensions ``d``; None where any shape will do."""
    kind = re.sub(r"^blk\.\d+\.", "", name).removesuffix(".weight")
    queries, keys = d.heads * d.head_dim, d.kv_heads * d.head_dim
    shapes = {
        "token_embd": (vocabulary, d.width),
        "output": (vocabulary, d.width),
        "output_norm": (d.width,),
        "attn_norm": (d.width,),
        "ffn_norm": (d.width,),
        "attn_q": (queries, d.width),
        "attn_k": (keys, d.width),
        "attn_v": (keys, d.width),
        "attn_output": (d.width, queries),
        "ffn_gate": (d.feed_forward, d.width),
        "ffn_up": (d.feed_forward, d.width),
        "ffn_down": (d.width, d.feed_forward),
    }
    return shapes.get(kind)


def _read(path: Path) -> GGUFReader:
    """gguf-py's reader, whose complaints about a damaged file are of many types."""
    from gguf import GGUFReader

    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ModelFormatError(f"{path.name} is not a GGUF file")
    try:
        return GGUFReader(path)
    except (ValueError, KeyError, IndexError, TypeError, OverflowError, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelFormatError(f"{path.name} is truncated or damaged ({reason})") from None


def _raw_value(field: ReaderField) -> Any:
    """A field's value with strings as bytes: pieces of a vocabulary need not be UTF-8 by themselves."""
    from gguf import GGUFValueType

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
