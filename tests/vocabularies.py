"""Vocabularies of well-known models in ../shared, and copies of them with other tokens in some places."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from aded_local.llama.gguf import Array, read_header

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "vocab"
NAMES = ("llama-bpe", "llama-spm", "qwen2", "deepseek-coder")

CONTROL, USER_DEFINED = 3, 4
"""GGUF's kinds of tokens."""

GPT_OSS = {
    "<|start|>": USER_DEFINED,
    "<|end|>": USER_DEFINED,
    "<|message|>": USER_DEFINED,
    "<|channel|>": USER_DEFINED,
    "<|constrain|>": USER_DEFINED,
    "<|return|>": CONTROL,
    "<|call|>": CONTROL,
    "<think>": USER_DEFINED,
    "</think>": USER_DEFINED,
    "<tool_call>": USER_DEFINED,
    "<tool_response>": USER_DEFINED,
    "</tool_response>": USER_DEFINED,
    "<table>": USER_DEFINED,
}
"""Tokens of gpt-oss and of Qwen3, and an HTML tag as in Gemma's vocabulary."""


def path_of(name: str) -> Path:
    """The GGUF of a vocabulary; the test is skipped where it is not here."""
    path = FOLDER / f"ggml-vocab-{name}.gguf"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return path


def with_tokens(path: Path, out: Path, texts: dict[str, int], first: int) -> Path:
    """A copy of a GGUF without tensors whose tokens from ``first`` on have these texts and kinds."""
    header = read_header(path)
    tokens, kinds = (header.metadata[f"tokenizer.ggml.{name}"] for name in ("tokens", "token_type"))
    assert isinstance(tokens, Array) and isinstance(kinds, Array)
    raw = bytearray(path.read_bytes())
    for number, kind in enumerate(texts.values(), first):
        struct.pack_into("<i", raw, kinds.position + 4 * number, kind)
    start = tokens.position
    for _ in range(first):
        start += 8 + struct.unpack_from("<Q", raw, start)[0]
    end = start
    for _ in texts:
        end += 8 + struct.unpack_from("<Q", raw, end)[0]
    raw[start:end] = b"".join(struct.pack("<Q", len(text.encode())) + text.encode() for text in texts)
    out.write_bytes(raw)
    return out
