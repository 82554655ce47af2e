"""Small models that follow instructions, by short names: where they are, their licence, the memory that they take.

The figures were looked up in November 2026 in public pages and files, since no hub could be asked from where this was
written; docs/models.md names the sources. ``unchecked`` says what rests on one source or none. What a repository holds
today is asked when it is pulled.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from .references import Reference

CONTEXT_TOKENS: Final = 8192
"""Tokens of context that the memory is counted for: what programs take unless another number is given."""

PROGRAM_BYTES: Final = 500_000_000
"""Memory beside weights and context: the program, its compiled kernels, llama.cpp's buffers. Of SmolLM2 with 8,192
tokens, while the machine is measured, 788 MB were resident, of which the file is 97 and the cache 189. A larger model's
buffers are larger; that was not measured."""

_BYTES_EACH: Final = 2
"""Of a number in the cache: F16 or BF16."""


@dataclass(frozen=True)
class Listed:
    """One model.

    Attributes:
        name: short, for the command line.
        model: repository and quantization.
        size: bytes of the file.
        licence: as its page names it.
        layers, key_value_heads, head: its shape, from which the memory of a token in the context follows.
        good_for: a few words.
        unchecked: what could not be checked with two sources; empty where all was.
    """

    name: str
    model: Reference
    size: int
    licence: str
    layers: int
    key_value_heads: int
    head: int
    good_for: str
    unchecked: str = ""

    @property
    def context_bytes(self) -> int:
        """Memory of ``CONTEXT_TOKENS`` in the key-value cache."""
        return (
            2 * self.layers * self.key_value_heads * self.head * _BYTES_EACH * CONTEXT_TOKENS
        )  # keys and values

    @property
    def memory(self) -> int:
        """Bytes that a chat with it takes, in about."""
        return self.size + self.context_bytes + PROGRAM_BYTES


def _listed(
    name: str,
    model: str,
    size: int,
    licence: str,
    shape: tuple[int, int, int],
    good_for: str,
    unchecked: str = "",
) -> Listed:
    repository, _, quantization = model.partition(":")
    return Listed(name, Reference(repository, quantization), size, licence, *shape, good_for, unchecked)


_ROWS: Final = (
    _listed("smollm2-360m", "HuggingFaceTB/SmolLM2-360M-Instruct-GGUF:Q8_0", 386_000_000, "Apache-2.0",
            (32, 5, 64), "trying things out", "size"),
    _listed("qwen2.5-0.5b", "Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M", 491_400_032, "Apache-2.0",
            (24, 2, 64), "29 languages"),
    _listed("qwen3-0.6b", "Qwen/Qwen3-0.6B-GGUF:Q8_0", 639_446_688, "Apache-2.0",
            (28, 8, 128), "thinks before it answers"),
    _listed("gemma-3-1b", "ggml-org/gemma-3-1b-it-GGUF:Q4_K_M", 806_000_000, "Gemma",
            (26, 1, 256), "chat"),
    _listed("llama-3.2-1b", "bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M", 807_694_464, "Llama 3.2",
            (16, 8, 64), "chat"),
    _listed("qwen2.5-1.5b", "Qwen/Qwen2.5-1.5B-Instruct-GGUF:Q4_K_M", 1_117_320_736, "Apache-2.0",
            (28, 2, 128), "29 languages, JSON"),
    _listed("qwen2.5-coder-1.5b", "Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF:Q4_K_M", 1_117_320_768, "Apache-2.0",
            (28, 2, 128), "code, edits", "size"),
    _listed("qwen3-1.7b", "Qwen/Qwen3-1.7B-GGUF:Q8_0", 1_834_426_016, "Apache-2.0",
            (28, 8, 128), "thinks before it answers"),
    _listed("smollm3-3b", "ggml-org/SmolLM3-3B-GGUF:Q4_K_M", 1_915_305_312, "Apache-2.0",
            (36, 4, 128), "thinks before it answers"),
    _listed("llama-3.2-3b", "bartowski/Llama-3.2-3B-Instruct-GGUF:Q4_K_M", 2_019_377_600, "Llama 3.2",
            (28, 8, 128), "chat"),
    _listed("phi-4-mini", "unsloth/Phi-4-mini-instruct-GGUF:Q4_K_M", 2_491_874_272, "MIT",
            (32, 8, 128), "reasoning, code"),
    _listed("qwen3-4b", "Qwen/Qwen3-4B-GGUF:Q4_K_M", 2_497_280_256, "Apache-2.0",
            (36, 8, 128), "thinks before it answers"),
    _listed("qwen2.5-coder-7b", "Qwen/Qwen2.5-Coder-7B-Instruct-GGUF:Q4_K_M", 4_680_000_000, "Apache-2.0",
            (28, 4, 128), "code, edits", "size, parts"),
)  # fmt: skip

CATALOGUE: Final = MappingProxyType({row.name: row for row in _ROWS})
"""By name, smallest first."""
