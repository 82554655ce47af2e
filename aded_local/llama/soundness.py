"""Rules that a GGUF's header must satisfy before llama.cpp may load the file.

Each rule was written after a file made llama.cpp abort, crash, hang, or fail without a reason.
"""

from __future__ import annotations

import mmap
import re
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

from aded_local.errors import ModelFormatError, ModelKindError
from aded_local.llama.gguf import ARRAY, BOOL, STRING, UINT32, Array, GGUFHeader, opened, read_header

_INT32, _FLOAT32 = 5, 6

NO_TEXT = {
    "embedding": {
        "bert", "modern-bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "jina-bert-v2", "jina-bert-v3",
        "eurobert", "gemma-embedding", "llama-embed",
    },
    "encoder": {"t5", "t5encoder", "clip"},
    "diffusion": {"dream", "llada", "llada-moe", "rnd1"},
    "speech": {"wavtokenizer-dec", "pockettts", "qwen3tts"},
    "draft": {"eagle3", "dflash", "gemma4-assistant"},
    "adapter": {"lora"},
}  # fmt: skip
"""Architectures (``llama-arch.cpp``) that do not write text left to right on their own, by what they are."""

MAX_LAYERS = 512
"""``LLAMA_MAX_LAYERS``: llama.cpp asserts beyond it."""
MAX_HEADS = 65_536
MAX_EMBEDDING = 1 << 24
MAX_TRAINED_CONTEXT = 1 << 31
MAX_VOCABULARY = 1 << 24
"""Bounds far above any real model's; a product of two of them fits into 64 bits."""
MAX_EXPERTS = 4096
MAX_WINDOW = 1 << 24

WHOLE_ROTATION = {"qwen2", "qwen2moe", "qwen2vl", "qwen3", "qwen3moe", "qwen3vl", "qwen3vlmoe"}
"""Architectures whose graph asserts that RoPE covers a whole head."""
UNCHECKED_HEADS = {"jamba", "lfm2", "lfm2moe"}
"""Architectures whose loader accepts a query matrix of any height, and whose graph asserts the right height."""
STATE_HEADS = {"mamba2", "granitehybrid", "nemotron_h", "nemotron_h_moe", "falcon-h1", "plamo2"}
"""Architectures whose loader asserts that the state splits evenly into heads and groups."""

ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")
"""``LLAMA_ROPE_SCALING_TYPES``: llama.cpp asserts that it is one of them."""

NO_WEIGHTS = {9: "Q8_1", 15: "Q8_K", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64"}
"""Tensor types (``enum ggml_type``) for intermediate results or tables, which weights cannot have."""
EMBEDDINGS = ("token_embd.weight", "output.weight")
VECTORS = ("_norm.weight", ".bias")
"""Ends of the names of tensors that are added to each token's row or multiplied with it: F32 only."""

_SPLIT_NAME = re.compile(r"^(?P<prefix>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$")

_VOCABULARY_ARRAYS = {
    "tokenizer.ggml.tokens": STRING,
    "tokenizer.ggml.merges": STRING,
    "tokenizer.ggml.scores": _FLOAT32,
    "tokenizer.ggml.token_type": _INT32,
}


def check(path: Path) -> GGUFHeader:
    """Read a model's header; refuse a file that llama.cpp would refuse or crash on, or whose model writes no text.

    Raises:
        ModelNotFoundError: no such file, a folder.
        ModelFormatError: not a GGUF, truncated, or inconsistent.
        ModelKindError: sound, but it does not write text.
    """
    with opened(path) as (header, data):
        return replace(header, others=_check(header, data))


def check_vocabulary(path: Path) -> GGUFHeader:
    """Read a header; refuse a vocabulary that llama.cpp would crash on. The weights, if any, are not checked.

    Raises:
        ModelNotFoundError, ModelFormatError, ModelKindError: as ``check``.
    """
    with opened(path) as (header, data):
        _Rules(header).vocabulary(data)
        return header


def _check(header: GGUFHeader, data: mmap.mmap) -> tuple[GGUFHeader, ...]:
    """Apply all rules; returns the headers of a split model's other files."""
    rules = _Rules(header)
    rules.kind()
    others = rules.split()
    if not header.n_tensors:
        raise ModelKindError(
            f"{header.path} holds a vocabulary only and no weights; give the GGUF of the model itself"
        )
    rules.sizes()
    rules.tensors()
    rules.vocabulary(data)
    return others


class _Rules:
    """The rules for one header."""

    def __init__(self, header: GGUFHeader) -> None:
        self.header = header
        self.metadata = header.metadata
        self.architecture = header.architecture

    def _refuse(self, what: str) -> ModelFormatError:
        return ModelFormatError(f"{self.header.path} is inconsistent: {what}; download or convert it again")

    # --- what kind of model it is ----------------------------------------------------------------

    def kind(self) -> None:
        """The model writes text, left to right."""
        name = self.architecture
        if not name:
            raise self._refuse("general.architecture is missing")
        general = self.metadata.get("general.type", "model")
        if general in ("adapter", "mmproj", "imatrix", "vocab"):
            raise self._wrong_kind(f"a file of type {general!r}, not a model")
        for kind, names in NO_TEXT.items():
            if name in names:
                raise self._wrong_kind(f"{'an' if kind[0] in 'aeiou' else 'a'} {kind} model ({name})")
        if self.metadata.get(f"{name}.attention.causal") is False:
            raise self._wrong_kind(f"an encoder ({name} without causal attention)")
        pooling = self.metadata.get(f"{name}.pooling_type", 0)
        if isinstance(pooling, int) and pooling not in (0, -1, 2**32 - 1):
            raise self._wrong_kind(f"an embedding model ({name} with pooling)")

    def _wrong_kind(self, what: str) -> ModelKindError:
        return ModelKindError(f"{self.header.path} is {what}; give a GGUF of a model that writes text")

    # --- files in several parts ------------------------------------------------------------------

    def split(self) -> tuple[GGUFHeader, ...]:
        """A split model is given by its first file, and the others are in the same folder."""
        count, number = self.metadata.get("split.count", 0), self.metadata.get("split.no", 0)
        if not isinstance(count, int) or not isinstance(number, int):
            raise self._refuse("split.count or split.no is no number")
        if count <= 1:
            return ()
        path = self.header.path
        named = _SPLIT_NAME.match(path.name)
        if named is None or int(named["count"]) != count:
            raise ModelFormatError(
                f"{path} is part {number + 1} of {count} of a model, and its name does not say so; "
                f"give it back its name NAME-{number + 1:05d}-of-{count:05d}.gguf"
            )
        siblings = [
            path.with_name(f"{named['prefix']}-{part:05d}-of-{count:05d}.gguf")
            for part in range(1, count + 1)
        ]
        if number != 0:
            raise ModelFormatError(
                f"{path} is part {number + 1} of {count} of a model; give the first, {siblings[0]}"
            )
        return self._siblings(siblings)

    def _siblings(self, siblings: list[Path]) -> tuple[GGUFHeader, ...]:
        total = self.metadata.get("split.tensors.count")
        others = []
        for number, sibling in enumerate(siblings[1:], start=1):
            if not sibling.is_file():
                raise ModelFormatError(
                    f"{self.header.path} needs its other parts, and {sibling.name} is missing; "
                    "put it beside this one"
                )
            other = read_header(sibling)
            if other.metadata.get("split.no") != number:
                raise ModelFormatError(f"{sibling} is not part {number + 1} of the model; download it again")
            others.append(other)
        found = sum(each.n_tensors for each in (self.header, *others))
        if total is not None and total != found:
            raise self._refuse(f"its parts hold {found} tensors, and split.tensors.count is {total}")
        return tuple(others)

    # --- numbers ---------------------------------------------------------------------------------

    def sizes(self) -> None:
        """Numbers of layers and heads, and widths, are present and possible."""
        layers = self._number("block_count", 1, MAX_LAYERS)
        # Layers that predict further tokens are part of the number of layers.
        if f"{self.architecture}.nextn_predict_layers" in self.metadata:
            self._number("nextn_predict_layers", 0, layers - 1)
        width = self._number("embedding_length", 1, MAX_EMBEDDING)
        self._number("context_length", 1, MAX_TRAINED_CONTEXT)
        heads = self._per_layer("attention.head_count", MAX_HEADS)
        kv_heads = self._per_layer("attention.head_count_kv", MAX_HEADS) or heads
        self._attention(width, heads)
        for count, kv_count in zip(_spread(heads, kv_heads), _spread(kv_heads, heads), strict=False):
            if kv_count and (kv_count > count or count % kv_count):
                raise self._refuse(f"{count} attention heads share {kv_count} key-value heads")
        self._experts()
        self._state_space(width)
        self._small_numbers()

    def _number(self, name: str, low: int, high: int, default: int | None = None) -> int:
        key = f"{self.architecture}.{name}"
        value = self.metadata.get(key, default)
        if value is None:
            raise self._refuse(f"{key} is missing")
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self._refuse(f"{key} is {_shown(value)}, not a number from {low} to {high}")
        if self.header.kinds.get(key, UINT32) != UINT32:
            raise self._refuse(f"{key} is not stored as uint32")
        return value

    def _per_layer(self, name: str, high: int) -> list[int]:
        """A number, or one for each layer; zeros allowed in a list (layers without attention)."""
        key = f"{self.architecture}.{name}"
        value = self.metadata.get(key)
        if value is None:
            return []
        layers = self._number("block_count", 1, MAX_LAYERS)
        if isinstance(value, list):
            if len(value) < layers:
                raise self._refuse(f"{key} has {len(value)} values for {layers} layers")
            if any(isinstance(one, (bool, float)) or not 0 <= one <= high for one in value):
                raise self._refuse(f"{key} has a value outside 0 to {high}")
            return [int(one) for one in value]
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= high:
            raise self._refuse(f"{key} is {_shown(value)}, not a number from 0 to {high}")
        return [value]

    def _attention(self, width: int, heads: list[int]) -> None:
        needs_heads = any(
            ".attn_q.weight" in name or ".attn_qkv.weight" in name for name in self.header.tensors
        )
        if needs_heads and not any(heads):
            raise self._refuse(
                f"it has attention, and {self.architecture}.attention.head_count is 0 or missing"
            )
        fewest = min((count for count in heads if count), default=0)
        if fewest and fewest > width:
            raise self._refuse(f"it has {fewest} attention heads in a width of {width}")
        sizes = [width // fewest if fewest else 1]
        for name in ("attention.key_length", "attention.value_length"):
            if f"{self.architecture}.{name}" in self.metadata:
                sizes.append(self._number(name, 1, MAX_EMBEDDING))
        if needs_heads:
            self._rotation(max(sizes), sizes[1] if len(sizes) > 1 else sizes[0])
        if self.architecture in UNCHECKED_HEADS and len(heads) == 1 and heads[0]:
            self._query_rows(heads[0] * (sizes[1] if len(sizes) > 1 else sizes[0]))

    def _rotation(self, largest: int, key_length: int) -> None:
        if f"{self.architecture}.rope.dimension_count" not in self.metadata:
            return
        rotated = self._number("rope.dimension_count", 0, MAX_EMBEDDING)
        # Latent attention stores the rotated part apart from the rest, or has none.
        if f"{self.architecture}.attention.kv_lora_rank" in self.metadata:
            return
        if rotated == 0 or rotated % 2 or rotated > largest:
            raise self._refuse(f"{rotated} of {largest} values of a head are rotated")
        if self.architecture in WHOLE_ROTATION and rotated != key_length:
            raise self._refuse(f"{rotated} of {key_length} values of a head are rotated, not all")

    def _query_rows(self, rows: int) -> None:
        for name, tensor in self.header.tensors.items():
            if name.endswith(".attn_q.weight") and tensor.shape[-1] != rows:
                raise self._refuse(f"{name} has {tensor.shape[-1]} rows, and its heads need {rows}")

    def _experts(self) -> None:
        names = ("expert_count", "expert_used_count", "expert_group_count")
        keys = [f"{self.architecture}.{name}" for name in names]
        if not any(key in self.metadata for key in keys):
            return
        experts = self._number("expert_count", 0, MAX_EXPERTS, default=0)
        used = self._per_layer("expert_used_count", MAX_EXPERTS)
        if max(used, default=0) > experts or (experts and not any(used)):
            raise self._refuse(f"it uses {max(used, default=0)} of {experts} experts")
        groups = self._number("expert_group_count", 0, MAX_EXPERTS, default=0)
        if groups and groups >= experts:
            raise self._refuse(f"it has {experts} experts in {groups} groups")

    def _state_space(self, width: int) -> None:
        if f"{self.architecture}.ssm.inner_size" not in self.metadata:
            return
        inner = self._number("ssm.inner_size", 1, MAX_EMBEDDING)
        for name in ("ssm.conv_kernel", "ssm.state_size"):
            if f"{self.architecture}.{name}" in self.metadata:
                self._number(name, 1, MAX_HEADS)
        if self.architecture == "jamba" and inner != 2 * width:
            raise self._refuse(f"jamba.ssm.inner_size is {inner}, not twice the width of {width}")
        if self.architecture in STATE_HEADS:
            heads = self._number("ssm.time_step_rank", 1, MAX_EMBEDDING)
            groups = self._number("ssm.group_count", 0, MAX_EMBEDDING, default=0) or 1
            if inner % heads or inner % groups or heads % groups:
                raise self._refuse(
                    f"its state of {inner} does not split into {heads} heads and {groups} groups"
                )

    def _small_numbers(self) -> None:
        scaling = self.metadata.get(f"{self.architecture}.rope.scaling.type", ROPE_SCALINGS[0])
        if scaling not in ROPE_SCALINGS:
            raise self._refuse(
                f"{self.architecture}.rope.scaling.type is {_shown(scaling)}, none of {', '.join(ROPE_SCALINGS)}"
            )
        for name in ("layer_norm_rms_epsilon", "layer_norm_epsilon"):
            epsilon = self.metadata.get(f"{self.architecture}.attention.{name}", 0.0)
            # False for NaN too.
            if not (isinstance(epsilon, float) and 0.0 <= epsilon < 1.0):
                raise self._refuse(f"{self.architecture}.attention.{name} is {_shown(epsilon)}")
        if f"{self.architecture}.attention.sliding_window" in self.metadata:
            self._number("attention.sliding_window", 0, MAX_WINDOW)

    def tensors(self) -> None:
        """Each tensor has a type that weights can have."""
        for name, tensor in self.header.tensors.items():
            kind = NO_WEIGHTS.get(tensor.kind)
            # Tables of numbers lie beside the weights of some models.
            if kind is not None and (kind != "I32" or name in EMBEDDINGS):
                raise self._refuse(f"the tensor {name!r} is stored as {kind}, which no weights are")
            if tensor.kind != 0 and len(tensor.shape) == 1 and name.endswith(VECTORS):
                raise self._refuse(f"the tensor {name!r}, a single row, is not stored as F32")

    # --- vocabulary ------------------------------------------------------------------------------

    def vocabulary(self, data: mmap.mmap) -> None:
        """The vocabulary's arrays have the types and lengths that llama.cpp assumes."""
        model = self.metadata.get("tokenizer.ggml.model")
        if not isinstance(model, str):
            raise self._refuse("tokenizer.ggml.model is missing")
        for key, kind in _VOCABULARY_ARRAYS.items():
            found = self.header.kinds.get(key)
            if found is not None and found != (ARRAY, kind):
                raise self._refuse(f"{key} is not an array of the right type")
        if model in ("none", "no_vocab"):
            raise self._wrong_kind(f"a model without a vocabulary (tokenizer.ggml.model is {model!r})")
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        if not isinstance(tokens, Array) or not 1 <= tokens.length <= MAX_VOCABULARY:
            raise self._refuse("tokenizer.ggml.tokens, the vocabulary, is missing or empty")
        for key in ("tokenizer.ggml.scores", "tokenizer.ggml.token_type"):
            length = self.header.array_length(key)
            if length is not None and length != tokens.length:
                raise self._refuse(f"{key} has {length} values for {tokens.length} tokens")
        embedding = self.header.tensors.get("token_embd.weight")
        if embedding is not None and len(embedding.shape) == 2 and embedding.shape[1] != tokens.length:
            raise self._refuse(
                f"its vocabulary has {tokens.length} tokens, its embedding {embedding.shape[1]} rows"
            )
        self._template()
        self._spellings(model, tokens, data)

    def _template(self) -> None:
        for key, value in self.metadata.items():
            kind = self.header.kinds[key]
            if key.startswith("tokenizer.chat_template") and kind not in (STRING, (ARRAY, STRING)):
                raise self._refuse(f"{key} is no text")
            if key.endswith("_token_id") and kind != UINT32 and key.startswith("tokenizer.ggml."):
                raise self._refuse(f"{key} is {_shown(value)}, no token id")
            if key.startswith("tokenizer.ggml.add_") and kind != BOOL:
                raise self._refuse(f"{key} is {_shown(value)}, neither true nor false")

    def _spellings(self, model: str, tokens: Array, data: mmap.mmap) -> None:
        # llama.cpp reads them as C strings, names the empty ones, and asserts that all differ.
        texts = [text.split(b"\0", 1)[0] for text in _texts(data, tokens)]
        spelled = {text or b"[EMPTY_%d]" % token for token, text in enumerate(texts)}
        if len(spelled) != len(texts):
            raise self._refuse("its vocabulary has the same token twice")
        missing = None
        if model == "llama":
            # llama.cpp ends the process at a byte for which there is no token.
            missing = next(
                (b for b in range(256) if b"<0x%02X>" % b not in spelled and bytes([b]) not in spelled), None
            )
        elif model == "rwkv":
            # llama.cpp loops for ever at a byte with which tokens begin and which is no token itself.
            meant = {_unescaped(text) for text in spelled}
            missing = next((text[0] for text in meant if text and text[:1] not in meant), None)
        if missing is not None:
            raise self._refuse(f"its vocabulary cannot spell the byte 0x{missing:02X}")


_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_ESCAPES = {b"t": b"\t", b"n": b"\n", b"r": b"\r"}


def _unescaped(text: bytes) -> bytes:
    """The bytes of a text in RWKV's vocabulary (``llama_unescape_rwkv_token``)."""
    return _ESCAPE.sub(
        lambda found: bytes.fromhex(found[1].decode()) if found[1] else _ESCAPES.get(found[2], found[2]), text
    )


def _texts(data: mmap.mmap, array: Array) -> list[bytes]:
    """The strings of an array."""
    u64 = struct.Struct("<Q").unpack_from
    at = array.position
    found = []
    for _ in range(array.length):
        start = at + 8
        at = start + u64(data, at)[0]
        found.append(data[start:at])
    return found


def _spread(values: list[int], other: list[int]) -> list[int]:
    """One value per layer where the other list has that."""
    if len(values) == 1 and len(other) > 1:
        return values * len(other)
    return values[: len(other)] if len(other) > 1 else values


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
