"""The Llama-architecture network: token ids [B, T] in, hidden states [B, T, d] out.

Laid out so that llama.cpp's `llama` architecture computes the same function: RMSNorm before each half of a
block, grouped-query attention with *interleaved* rotary pairs (2i, 2i+1) (llama.cpp's rope type NORM; Hugging
Face's layout would have to be permuted at export), SwiGLU, and an output matrix tied to the embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROPE_BASE = 10_000.0  # Llama's own; contexts here are short
NORM_EPS = 1e-5  # Llama 2 and 3
CONTEXT_LENGTH = 2048  # positions written into the GGUF
INIT_STD = 0.02  # GPT-2's, and Llama's


@dataclass(frozen=True)
class Shape:
    """Dimensions of one network. Each is a multiple of 32, the block length of Q8_0."""

    vocab: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    feed_forward: int
    head_dim: int = 64


TARGET_SHAPE = Shape(vocab=4096, width=256, layers=4, heads=4, kv_heads=1, feed_forward=1024)
DRAFT_SHAPE = Shape(vocab=4096, width=128, layers=4, heads=2, kv_heads=1, feed_forward=384)


def rotary_table(shape: Shape, length: int) -> tuple[Tensor, Tensor]:
    """cos and sin, each [length, head_dim / 2], of position times frequency (radians)."""
    half = shape.head_dim // 2
    frequency = ROPE_BASE ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * frequency
    return angle.cos().float(), angle.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (2i, 2i+1) of x [N, heads, head_dim] by its angle; cos and sin are [N, head_dim / 2]."""
    even, odd = x[..., 0::2], x[..., 1::2]
    c, s = cos[:, None, :], sin[:, None, :]
    return torch.stack((even * c - odd * s, even * s + odd * c), dim=-1).flatten(-2)


class Block(nn.Module):
    """One transformer block over flat tokens [N, d]; the attention alone sees rows [B, T]."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        d, hd = shape.width, shape.head_dim
        self.shape = shape
        self.attn_norm = nn.Parameter(torch.ones(d))
        self.q = nn.Parameter(torch.empty(shape.heads * hd, d))
        self.k = nn.Parameter(torch.empty(shape.kv_heads * hd, d))
        self.v = nn.Parameter(torch.empty(shape.kv_heads * hd, d))
        self.o = nn.Parameter(torch.empty(d, shape.heads * hd))
        self.ffn_norm = nn.Parameter(torch.ones(d))
        self.gate = nn.Parameter(torch.empty(shape.feed_forward, d))
        self.up = nn.Parameter(torch.empty(shape.feed_forward, d))
        self.down = nn.Parameter(torch.empty(d, shape.feed_forward))

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [N, heads, head_dim] of flat states x [N, d]."""
        n, hd = x.shape[0], self.shape.head_dim
        h = F.rms_norm(x, (self.shape.width,), self.attn_norm, NORM_EPS)
        q = F.linear(h, self.q).view(n, self.shape.heads, hd)
        k = F.linear(h, self.k).view(n, self.shape.kv_heads, hd)
        v = F.linear(h, self.v).view(n, self.shape.kv_heads, hd)
        return rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype), v

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Add the attention's output [N, heads * head_dim], then the feed-forward half; returns [N, d]."""
        x = x + F.linear(attended, self.o)
        h = F.rms_norm(x, (self.shape.width,), self.ffn_norm, NORM_EPS)
        return x + F.linear(F.silu(F.linear(h, self.gate)) * F.linear(h, self.up), self.down)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        rows, length = mask.shape[0], mask.shape[-1]
        q, k, v = self.project(x, cos, sin)
        repeat = self.shape.heads // self.shape.kv_heads

        def as_rows(t: Tensor) -> Tensor:
            return t.view(rows, length, t.shape[1], t.shape[2]).transpose(1, 2)

        keys = as_rows(k).repeat_interleave(repeat, dim=1)
        values = as_rows(v).repeat_interleave(repeat, dim=1)
        out = F.scaled_dot_product_attention(as_rows(q), keys, values, attn_mask=mask)
        return self.finish(x, out.transpose(1, 2).reshape(x.shape[0], -1))


class Network(nn.Module):
    """The whole model; `forward` stops before the output matrix so that only wanted positions pay for it."""

    def __init__(self, shape: Shape, seed: int) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Parameter(torch.empty(shape.vocab, shape.width))
        self.blocks = nn.ModuleList([Block(shape) for _ in range(shape.layers)])
        self.out_norm = nn.Parameter(torch.ones(shape.width))
        cos, sin = rotary_table(shape, CONTEXT_LENGTH)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=INIT_STD, generator=generator)
            if name.endswith((".o", ".down")):
                nn.init.zeros_(parameter)  # every block starts as the identity (modded-nanogpt)

    def forward(self, ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Hidden states [B, T, d] of ids [B, T] at positions [B, T] under an additive mask [B, 1, T, T]."""
        flat = positions.reshape(-1)
        cos, sin = self.get_buffer("cos")[flat], self.get_buffer("sin")[flat]
        x = F.embedding(ids.reshape(-1), self.embedding)
        for block in self.blocks:
            x = block(x, cos, sin, mask)
        x = F.rms_norm(x, (self.shape.width,), self.out_norm, NORM_EPS)
        return x.view(*ids.shape, self.shape.width)

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., vocab] from hidden states [..., d], through the tied embedding."""
        return F.linear(hidden, self.embedding)

    def count(self) -> int:
        """Number of trained values."""
        return sum(p.numel() for p in self.parameters())
