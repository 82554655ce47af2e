"""The target: one GGUF in llama.cpp that verifies draft trees. The only package that touches llama_cpp.

``gguf`` checks a file before llama.cpp sees it, ``model`` holds weights and vocabulary, ``context`` the
KV cache and the decoding, ``layout`` a tree's place in a batch, ``sampling`` the sampler chain, ``logs``
llama.cpp's messages. ``Target`` below is what the rest of the program sees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from aded_local.llama.context import CACHE_TYPES, LARGEST_PASS, Context, ContextSettings
from aded_local.llama.layout import Layout, limit_leaves
from aded_local.llama.model import ALL_LAYERS, Model
from aded_local.llama.sampling import Sampler, Sampling
from aded_local.tree import DraftTree, IntArray

__all__ = [
    "ALL_LAYERS",
    "CACHE_TYPES",
    "Context",
    "ContextSettings",
    "Layout",
    "Model",
    "Sampler",
    "Sampling",
    "Target",
]


class Target:
    """A model and the context it decodes in, with the tokens the cache holds.

    Attributes:
        model: weights and vocabulary.
        context: cache, batch and logits.
        cached: token ids in the KV cache, oldest first; ``len(cached) == context.n_past``.
        seconds_per_prompt_token: what decoding a prompt took last; 0.0 before the first.
    """

    def __init__(self, model: Model, settings: ContextSettings) -> None:
        self.model = model
        self.settings = fit_memory_kind(model, settings)
        self.context = Context(model, self.settings)
        self.cached: list[int] = []
        self.seconds_per_prompt_token = 0.0

    def close(self) -> None:
        """Free the context, then the weights."""
        self.context.close()
        self.model.close()

    def reopen(self, settings: ContextSettings) -> None:
        """Make the context anew with other settings; the cache is empty afterwards."""
        self.context.close()
        self.settings = fit_memory_kind(self.model, settings)
        self.context = Context(self.model, self.settings)
        self.cached = []

    @property
    def drafting_shape(self) -> str:
        """What its memory lets a draft be: ``"tree"``, ``"chain"`` or ``"none"``."""
        if self.model.is_recurrent or self.model.is_hybrid:
            return "chain" if self.context.n_rollback > 0 else "none"
        return "tree" if self.settings.n_sequences > 1 else "chain"

    @property
    def largest_draft(self) -> int:
        """Nodes one pass can verify, as batch and memory allow."""
        largest = min(LARGEST_PASS, self.context.batch_capacity) - 1
        if self.drafting_shape == "none":
            return 0
        if self.model.is_recurrent or self.model.is_hybrid:
            return min(largest, self.context.n_rollback)
        return largest

    @property
    def room(self) -> int:
        """Tokens that still fit into the context."""
        return self.context.n_ctx - self.context.n_past

    def prefill(self, prompt: list[int], cancelled: Callable[[], bool] | None = None) -> tuple[int, float]:
        """Bring the cache to hold exactly ``prompt``; the last token's logits are row ``-1`` afterwards.

        What the cache already shares with the prompt is not decoded again, save the last token.

        Args:
            prompt: at least one token id, at most ``context.n_ctx`` of them.
            cancelled: asked between chunks; where it says so the cache holds only the beginning.

        Returns:
            Tokens reused from the cache, and the seconds in llama.cpp.
        """
        shared = _common_prefix(self.cached, prompt[:-1])
        reused = self.context.roll_back(shared)
        del self.cached[reused:]
        seconds = self.context.prefill(np.array(prompt[reused:], np.int32), cancelled=cancelled)
        self.cached = prompt[: self.context.n_past]
        if len(self.cached) > reused:
            self.seconds_per_prompt_token = seconds / (len(self.cached) - reused)
        return reused, seconds

    def verify(self, root: int, tree: DraftTree) -> tuple[DraftTree, Layout, float]:
        """Decode root and tree in one pass; see ``Context.verify``.

        Returns:
            The tree as verified (branches beyond the context's sequences dropped), its layout, seconds.
        """
        tree = limit_leaves(tree, self.settings.n_sequences)
        layout, seconds = self.context.verify(root, tree)
        return tree, layout, seconds

    def verified_logits(self) -> npt.NDArray[np.float32]:
        """Raw logits after the root and every node just verified; see ``Context.verified_logits``."""
        return self.context.verified_logits()

    def accept(self, root: int, tree: DraftTree, layout: Layout, path: list[int]) -> None:
        """Keep the root and the accepted path in the cache, roll the rest of the tree back."""
        self.context.accept(tree, layout, path)
        self.cached.append(root)
        self.cached.extend(int(tree.tokens[node]) for node in path)

    def trim(self, n: int) -> None:
        """Keep at most the first ``n`` tokens; memory that cannot roll back so far keeps what it has."""
        if n < len(self.cached) and self.context.can_roll_back_to(n):
            kept = self.context.roll_back(n)
            del self.cached[kept:]

    def forget(self) -> None:
        """Empty the cache."""
        self.context.clear()
        self.cached = []

    def sampler(self, sampling: Sampling, prompt: list[int]) -> Sampler:
        """A fresh sampler chain for one answer."""
        return Sampler(self.context, sampling, prompt)

    def logits_after(self, tokens: IntArray) -> npt.NDArray[np.float32]:
        """Logits after ``tokens``, the last of them decoded alone as plain decoding does: float32 ``(n_vocab,)``.

        Replaces what is cached.
        """
        self.forget()
        prompt = [int(token) for token in tokens]
        if len(prompt) > 1:
            self.context.prefill(np.array(prompt[:-1], np.int32), want_logits=False)
        self.context.prefill(np.array(prompt[-1:], np.int32))
        self.cached = prompt
        return np.array(self.context.logits(-1))


def fit_memory_kind(model: Model, settings: ContextSettings) -> ContextSettings:
    """The settings the model's memory allows: running states cannot branch, caches need no snapshots."""
    if model.is_recurrent or model.is_hybrid:
        return replace(settings, n_sequences=1)
    return replace(settings, n_rollback=0)


def _common_prefix(a: list[int], b: list[int]) -> int:
    n = min(len(a), len(b))
    if a[:n] == b[:n]:
        return n
    first, second = np.array(a[:n]), np.array(b[:n])
    return int(np.argmax(first != second))
