"""Random Llama networks for bodies, and what they say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import llama_cpp
import numpy as np
import numpy.typing as npt
from gguf import GGUFWriter, TokenType

from aded_bench.body.placement import Shape
from aded_bench.body.source import Dimensions

BODY = Shape(width=256, layers=3, kv_width=64, feed_forward=384)
SMALL = Dimensions(width=64, layers=2, heads=4, kv_heads=2, head_dim=32, feed_forward=96)
PROMPT = [5, 17, 200, 33, 90, 41, 8, 120, 250, 77, 31, 9]


def write_llama(path: Path, d: Dimensions = SMALL, *, tied: bool = True, architecture: str = "llama") -> Path:
    """A random Llama network with a byte vocabulary, F32."""
    random = np.random.default_rng(3)
    writer = GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_vocab_size(259)
    writer.add_context_length(512)
    writer.add_embedding_length(d.width)
    writer.add_block_count(d.layers)
    writer.add_feed_forward_length(d.feed_forward)
    writer.add_head_count(d.heads)
    writer.add_head_count_kv(d.kv_heads)
    writer.add_key_length(d.head_dim)
    writer.add_value_length(d.head_dim)
    writer.add_rope_dimension_count(d.head_dim)
    writer.add_layer_norm_rms_eps(1e-2)  # large, so that a wrong epsilon shows
    writer.add_sampling_temp(0.25)
    writer.add_chat_template("{{ messages[0].content }}")
    writer.add_tokenizer_model("llama")
    writer.add_token_list([b"<unk>", b"<s>", b"</s>"] + [f"<0x{i:02X}>".encode() for i in range(256)])
    writer.add_token_scores([0.0] * 259)
    writer.add_token_types([TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL] + [TokenType.BYTE] * 256)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)

    def matrix(name: str, rows: int, columns: int) -> None:
        writer.add_tensor(name, random.normal(0, columns**-0.5, (rows, columns)).astype(np.float32))

    def norm(name: str) -> None:
        writer.add_tensor(name, random.uniform(0.5, 1.5, d.width).astype(np.float32))

    matrix("token_embd.weight", 259, d.width)
    norm("output_norm.weight")
    if not tied:
        matrix("output.weight", 259, d.width)
    for i in range(d.layers):
        norm(f"blk.{i}.attn_norm.weight")
        matrix(f"blk.{i}.attn_q.weight", d.heads * d.head_dim, d.width)
        matrix(f"blk.{i}.attn_k.weight", d.kv_heads * d.head_dim, d.width)
        matrix(f"blk.{i}.attn_v.weight", d.kv_heads * d.head_dim, d.width)
        matrix(f"blk.{i}.attn_output.weight", d.width, d.heads * d.head_dim)
        norm(f"blk.{i}.ffn_norm.weight")
        matrix(f"blk.{i}.ffn_gate.weight", d.feed_forward, d.width)
        matrix(f"blk.{i}.ffn_up.weight", d.feed_forward, d.width)
        matrix(f"blk.{i}.ffn_down.weight", d.width, d.feed_forward)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def logits(path: Path, tokens: Sequence[int] = PROMPT) -> npt.NDArray[np.float32]:
    """Logits after each of ``tokens``, (len(tokens), vocabulary), with keys and values kept as F32.

    Where they are rounded to F16, a difference in the last bit can become one of a thousandth.
    """
    f32 = llama_cpp.GGML_TYPE_F32
    llm = llama_cpp.Llama(
        str(path), n_ctx=64, n_threads=1, logits_all=True, verbose=False, type_k=f32, type_v=f32
    )
    llm.eval(tokens)
    return np.array(llm.scores[: len(tokens)], np.float32)


def greedy(path: Path, count: int, prompt: Sequence[int] = PROMPT) -> list[int]:
    llm = llama_cpp.Llama(str(path), n_ctx=128, n_threads=1, verbose=False)
    tokens: list[int] = []
    for token in llm.generate(prompt, temp=0.0, repeat_penalty=1.0):
        tokens.append(token)
        if len(tokens) == count:
            break
    return tokens
