"""A trained network and its tokenizer in, one GGUF file out.

Matrices are stored as Q8_0 (blocks of 32 values with one half-precision scale), norms as F32; the tied output
matrix is left out, and llama.cpp uses the embedding in its place.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import torch

from .network import CONTEXT_LENGTH, NORM_EPS, ROPE_BASE, Network, Shape
from .tokenizer import Tokenizer

# Roles are joined with `+`: llama.cpp's built-in template guesser would take the plain words for another
# model's format, which has line breaks that this model never saw. Written so, it refuses, and the template
# itself is used.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|' + message['role'] + '|>' + message['content'] -}}"
    "{%- if message['role'] == 'assistant' -%}{{- '<|' + 'end' + '|>' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|' + 'assistant' + '|>' -}}{%- endif -%}"
)

Q8 = gguf.GGMLQuantizationType.Q8_0
F32 = gguf.GGMLQuantizationType.F32

_BLOCK_NAMES = {
    "attn_norm": "attn_norm",
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "ffn_norm": "ffn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}


def tensor_name(name: str) -> str:
    """llama.cpp's name for a parameter of Network: `blocks.0.q` is `blk.0.attn_q.weight`."""
    if name == "embedding":
        return "token_embd.weight"
    if name == "out_norm":
        return "output_norm.weight"
    _, index, part = name.split(".")
    return f"blk.{index}.{_BLOCK_NAMES[part]}.weight"


def _write_vocabulary(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    processor = tokenizer.processor
    tokens, scores, kinds = [], [], []
    for i in range(processor.GetPieceSize()):
        if processor.IsUnknown(i):
            kind = gguf.TokenType.UNKNOWN
        elif processor.IsControl(i):
            kind = gguf.TokenType.CONTROL
        elif processor.IsByte(i):
            kind = gguf.TokenType.BYTE
        else:
            kind = gguf.TokenType.NORMAL
        tokens.append(processor.IdToPiece(i).encode())
        scores.append(processor.GetScore(i))
        kinds.append(kind)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_unk_token_id(processor.unk_id())
    writer.add_bos_token_id(processor.bos_id())
    writer.add_eos_token_id(tokenizer.end)
    writer.add_eot_token_id(tokenizer.end)
    writer.add_add_bos_token(False)  # training samples begin with a role
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _write_shape(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_context_length(CONTEXT_LENGTH)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_layer_norm_rms_eps(NORM_EPS)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(ROPE_BASE)
    writer.add_vocab_size(shape.vocab)


def export(
    network: Network, tokenizer: Tokenizer, path: Path, name: str, kind: gguf.GGMLQuantizationType = Q8
) -> None:
    """Write `path` with matrices as `kind`; the same network gives the same bytes."""
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name(name)
    writer.add_author("ADED Local; trained on tldr-pages by the tldr-pages contributors")
    writer.add_license("CC-BY-4.0")
    writer.add_url("https://github.com/tldr-pages/tldr")
    writer.add_description(
        "Answers how to do things in the shell. Trained from scratch on the English tldr pages."
    )
    # A command is right or wrong: programs that honour the maker's sampling settings take the likeliest token.
    writer.add_float32("general.sampling.temp", 0.0)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0 if kind == Q8 else gguf.LlamaFileType.ALL_F32)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _write_shape(writer, network.shape)
    _write_vocabulary(writer, tokenizer)
    for parameter, values in network.state_dict().items():
        array: np.ndarray = values.to(torch.float32).numpy()
        stored = kind if array.ndim == 2 else F32
        writer.add_tensor(tensor_name(parameter), gguf.quants.quantize(array, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
