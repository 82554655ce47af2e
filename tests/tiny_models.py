"""Random GGUFs of a few hundred kilobytes, one for each kind of memory that llama.cpp has.

Nothing is learnt: the output matrix is made so that each token has a favourite successor, in short cycles,
and the layers disturb that a little. Greedy text is therefore varied and repeats itself, so that some
drafts are accepted and some are not.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np

WIDTH, HEADS, KV_HEADS, HEAD_SIZE, FEED_FORWARD = 64, 4, 2, 16, 96
CONTEXT = 2048
SLIDING_WINDOW = 16
CYCLE = 7  # tokens until a favourite successor comes round again
# What a layer adds, against the embedding: tried, so that greedy text leaves the cycles now and then.
DISTURBANCE = {
    "llama": 0.7,
    "qwen3": 0.7,
    "gemma3": 0.5,
    "qwen3moe": 0.8,
    "mamba": 5.0,
    "lfm2": 0.58,
    "jamba": 0.58,
}
STATE, KERNEL, TIME_STEPS = 8, 4, 4  # Mamba's
CONTROL = ("<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|end|>")
UNK, BOS, EOS, USER, ASSISTANT, END = range(6)
WORDS = [
    "the",
    "and",
    "that",
    "this",
    "with",
    "from",
    "have",
    "what",
    "when",
    "where",
    "how",
    "list",
    "file",
    "files",
    "copy",
    "move",
    "find",
    "show",
    "make",
    "open",
    "close",
    "read",
    "write",
    "text",
    "word",
    "line",
    "name",
    "code",
    "test",
    "run",
    "stop",
    "start",
    "tree",
    "draft",
    "token",
    "model",
    "answer",
    "question",
    "time",
    "day",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "red",
    "green",
    "blue",
    "small",
    "large",
    "fast",
    "slow",
    "good",
    "new",
    "old",
    "first",
    "last",
]
TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|' + message['role'] + '|>' + message['content'] -}}"
    "{%- if message['role'] == 'assistant' -%}{{- '<|' + 'end' + '|>' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|' + 'assistant' + '|>' -}}{%- endif -%}"
)

Tensors = dict[str, np.ndarray]


def vocabulary() -> tuple[list[bytes], list[float], list[int]]:
    """Pieces, scores and types: control tokens, all bytes, ASCII, words with and without a space before."""
    kind = gguf.TokenType
    rows: list[tuple[str, float, int]] = [(text, 0.0, kind.CONTROL) for text in CONTROL]
    rows[UNK] = (CONTROL[UNK], 0.0, kind.UNKNOWN)
    rows += [(f"<0x{byte:02X}>", 0.0, kind.BYTE) for byte in range(256)]
    pieces = ["\u2581"] + [chr(c) for c in range(33, 127)]
    for word in WORDS:
        # SentencePiece joins pairs, so every beginning of a word must be a piece too.
        for text in ("\u2581" + word, word):
            pieces += [text[:n] for n in range(2, len(text) + 1)]
    pieces = list(dict.fromkeys(pieces))
    rows += [(piece, -float(i), kind.NORMAL) for i, piece in enumerate(pieces)]
    return (
        [text.encode() for text, _, _ in rows],
        [score for _, score, _ in rows],
        [int(k) for _, _, k in rows],
    )


N_VOCAB = len(vocabulary()[0])


class _Weights:
    """Random matrices of one model, by llama.cpp's names."""

    def __init__(self, architecture: str, seed: int) -> None:
        self.disturbance = DISTURBANCE.get(architecture, 0.0)
        self.random = np.random.default_rng(seed)
        self.tensors: Tensors = {}

    def matrix(self, name: str, *shape: int, scale: float = 0.6) -> None:
        """Outputs first, inputs last, as gguf-py has it."""
        values = self.random.standard_normal(shape) * scale / np.sqrt(shape[-1])
        self.tensors[name] = values.astype(np.float32)

    def ones(self, name: str, n: int) -> None:
        self.tensors[name] = np.ones(n, np.float32)

    def zeros(self, name: str, n: int) -> None:
        self.tensors[name] = np.zeros(n, np.float32)

    def ends(self, norm: str = "output_norm") -> None:
        """Embedding, last norm, output: the favourite successors are made here."""
        embedding = self.random.standard_normal((N_VOCAB, WIDTH))
        embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
        ordinary = np.arange(len(CONTROL) + 256, N_VOCAB)
        shuffled = self.random.permutation(ordinary)
        output = self.random.standard_normal((N_VOCAB, WIDTH)) * 0.02
        for start in range(0, len(shuffled), CYCLE):
            cycle = shuffled[start : start + CYCLE]
            # Row ``b`` of the output answers to the embedding of its predecessor ``a``.
            output[cycle] += embedding[np.roll(cycle, 1)]
        self.tensors["token_embd.weight"] = embedding.astype(np.float32)
        self.tensors["output.weight"] = output.astype(np.float32)
        self.ones(f"{norm}.weight", WIDTH)

    def attention(self, block: str, *, head_norms: bool = False) -> None:
        self.matrix(f"{block}.attn_q.weight", HEADS * HEAD_SIZE, WIDTH)
        self.matrix(f"{block}.attn_k.weight", KV_HEADS * HEAD_SIZE, WIDTH)
        self.matrix(f"{block}.attn_v.weight", KV_HEADS * HEAD_SIZE, WIDTH)
        self.matrix(f"{block}.attn_output.weight", WIDTH, HEADS * HEAD_SIZE, scale=self.disturbance)
        if head_norms:
            self.ones(f"{block}.attn_q_norm.weight", HEAD_SIZE)
            self.ones(f"{block}.attn_k_norm.weight", HEAD_SIZE)

    def feed_forward(self, block: str) -> None:
        self.ones(f"{block}.ffn_norm.weight", WIDTH)
        self.matrix(f"{block}.ffn_gate.weight", FEED_FORWARD, WIDTH)
        self.matrix(f"{block}.ffn_up.weight", FEED_FORWARD, WIDTH)
        self.matrix(f"{block}.ffn_down.weight", WIDTH, FEED_FORWARD, scale=self.disturbance)

    def experts(self, block: str, n: int) -> None:
        self.ones(f"{block}.ffn_norm.weight", WIDTH)
        self.matrix(f"{block}.ffn_gate_inp.weight", n, WIDTH)
        self.matrix(f"{block}.ffn_gate_exps.weight", n, FEED_FORWARD, WIDTH)
        self.matrix(f"{block}.ffn_up_exps.weight", n, FEED_FORWARD, WIDTH)
        self.matrix(f"{block}.ffn_down_exps.weight", n, WIDTH, FEED_FORWARD, scale=self.disturbance)

    def mamba(self, block: str, *, norms: bool = False) -> None:
        inner = 2 * WIDTH
        self.matrix(f"{block}.ssm_in.weight", 2 * inner, WIDTH)
        self.matrix(f"{block}.ssm_conv1d.weight", inner, KERNEL)
        self.zeros(f"{block}.ssm_conv1d.bias", inner)
        self.matrix(f"{block}.ssm_x.weight", TIME_STEPS + 2 * STATE, inner)
        self.matrix(f"{block}.ssm_dt.weight", inner, TIME_STEPS)
        self.zeros(f"{block}.ssm_dt.bias", inner)
        steps = np.tile(np.arange(1, STATE + 1, dtype=np.float32), (inner, 1))
        self.tensors[f"{block}.ssm_a"] = -steps
        self.ones(f"{block}.ssm_d", inner)
        self.matrix(f"{block}.ssm_out.weight", WIDTH, inner, scale=self.disturbance)
        if norms:
            self.ones(f"{block}.ssm_dt_norm.weight", TIME_STEPS)
            self.ones(f"{block}.ssm_b_norm.weight", STATE)
            self.ones(f"{block}.ssm_c_norm.weight", STATE)

    def short_convolution(self, block: str) -> None:
        self.matrix(f"{block}.shortconv.conv.weight", WIDTH, 3)
        self.matrix(f"{block}.shortconv.in_proj.weight", 3 * WIDTH, WIDTH)
        self.matrix(f"{block}.shortconv.out_proj.weight", WIDTH, WIDTH, scale=self.disturbance)


def _writer(
    path: Path, architecture: str, layers: int, *, template: str | None = TEMPLATE
) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_name(f"tiny {architecture}")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(N_VOCAB)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    pieces, scores, kinds = vocabulary()
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(pieces)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_unk_token_id(UNK)
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_eot_token_id(END)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    if template is not None:
        writer.add_chat_template(template)
    return writer


def _heads(writer: gguf.GGUFWriter, kv_heads: int | list[int] = KV_HEADS) -> None:
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(HEAD_SIZE)
    writer.add_value_length(HEAD_SIZE)
    writer.add_rope_dimension_count(HEAD_SIZE)
    writer.add_rope_freq_base(10000.0)


def _finish(writer: gguf.GGUFWriter, tensors: Tensors) -> None:
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_llama(path: Path, seed: int = 1, **options: Any) -> Path:
    """A KV cache, trees allowed."""
    writer, weights = _writer(path, "llama", 2, **options), _Weights("llama", seed)
    _heads(writer)
    weights.ends()
    for block in ("blk.0", "blk.1"):
        weights.ones(f"{block}.attn_norm.weight", WIDTH)
        weights.attention(block)
        weights.feed_forward(block)
    _finish(writer, weights.tensors)
    return path


def write_qwen3(path: Path, seed: int = 2, *, pooling: int | None = None) -> Path:
    """Normalised heads; with ``pooling`` an embedding model."""
    writer, weights = _writer(path, "qwen3", 2), _Weights("qwen3", seed)
    _heads(writer)
    if pooling is not None:
        writer.add_uint32("qwen3.pooling_type", pooling)
    weights.ends()
    for block in ("blk.0", "blk.1"):
        weights.ones(f"{block}.attn_norm.weight", WIDTH)
        weights.attention(block, head_norms=True)
        weights.feed_forward(block)
    _finish(writer, weights.tensors)
    return path


def write_gemma3(path: Path, seed: int = 3) -> Path:
    """A sliding window in five layers of six."""
    layers = 6
    writer, weights = _writer(path, "gemma3", layers), _Weights("gemma3", seed)
    _heads(writer)
    writer.add_sliding_window(SLIDING_WINDOW)
    weights.ends()
    for layer in range(layers):
        block = f"blk.{layer}"
        weights.ones(f"{block}.attn_norm.weight", WIDTH)
        weights.attention(block, head_norms=True)
        weights.feed_forward(block)
        # These norms undo the small scale of the matrices, so they carry it.
        for name in ("post_attention_norm", "post_ffw_norm"):
            weights.tensors[f"{block}.{name}.weight"] = np.full(WIDTH, weights.disturbance, np.float32)
    _finish(writer, weights.tensors)
    return path


def write_experts(path: Path, seed: int = 4) -> Path:
    """Eight experts, two for each token."""
    writer, weights = _writer(path, "qwen3moe", 2), _Weights("qwen3moe", seed)
    _heads(writer)
    writer.add_expert_count(8)
    writer.add_expert_used_count(2)
    writer.add_expert_feed_forward_length(FEED_FORWARD)
    weights.ends()
    for block in ("blk.0", "blk.1"):
        weights.ones(f"{block}.attn_norm.weight", WIDTH)
        weights.attention(block, head_norms=True)
        weights.experts(block, 8)
    _finish(writer, weights.tensors)
    return path


def _mamba_shape(writer: gguf.GGUFWriter) -> None:
    writer.add_ssm_conv_kernel(KERNEL)
    writer.add_ssm_inner_size(2 * WIDTH)
    writer.add_ssm_state_size(STATE)
    writer.add_ssm_time_step_rank(TIME_STEPS)


def write_mamba(path: Path, seed: int = 5) -> Path:
    """All memory is a running state; llama.cpp cannot roll it back."""
    writer, weights = _writer(path, "mamba", 2), _Weights("mamba", seed)
    writer.add_head_count(0)
    _mamba_shape(writer)
    weights.ends()
    for block in ("blk.0", "blk.1"):
        weights.ones(f"{block}.attn_norm.weight", WIDTH)
        weights.mamba(block)
    _finish(writer, weights.tensors)
    return path


def write_lfm2(path: Path, seed: int = 6) -> Path:
    """Short convolutions beside attention; llama.cpp can roll the states back."""
    writer, weights = _writer(path, "lfm2", 3), _Weights("lfm2", seed)
    _heads(writer, [0, KV_HEADS, 0])
    writer.add_shortconv_l_cache(3)
    weights.ends("token_embd_norm")
    for layer, block in enumerate(("blk.0", "blk.1", "blk.2")):
        weights.ones(f"{block}.attn_norm.weight", WIDTH)
        if layer == 1:
            weights.attention(block, head_norms=True)
        else:
            weights.short_convolution(block)
        weights.feed_forward(block)
    _finish(writer, weights.tensors)
    return path


def write_jamba(path: Path, seed: int = 7) -> Path:
    """Mamba beside attention; llama.cpp cannot roll the states back."""
    writer, weights = _writer(path, "jamba", 2), _Weights("jamba", seed)
    _heads(writer, [0, KV_HEADS])
    _mamba_shape(writer)
    weights.ends()
    for layer, block in enumerate(("blk.0", "blk.1")):
        weights.ones(f"{block}.attn_norm.weight", WIDTH)
        if layer == 1:
            weights.attention(block)
        else:
            weights.mamba(block, norms=True)
        weights.feed_forward(block)
    _finish(writer, weights.tensors)
    return path


def write_bert(path: Path, seed: int = 8) -> Path:
    """Says it is BERT; never loaded, only to be refused."""
    writer, weights = _writer(path, "bert", 1), _Weights("bert", seed)
    _heads(writer)
    writer.add_causal_attention(False)
    weights.ends()
    _finish(writer, weights.tensors)
    return path


def write_vocabulary_only(path: Path) -> Path:
    """No weights."""
    writer = _writer(path, "llama", 2)
    _heads(writer)
    _finish(writer, {})
    return path


GENERATING: dict[str, Callable[[Path], Path]] = {
    "llama": write_llama,
    "qwen3": write_qwen3,
    "gemma3": write_gemma3,
    "qwen3moe": write_experts,
    "mamba": write_mamba,
    "lfm2": write_lfm2,
    "jamba": write_jamba,
}
"""Writers of the models that write text, by architecture."""
