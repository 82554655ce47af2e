"""A context with the tokens its cells hold: what verifies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from aded_local.continuation import common_prefix
from aded_local.llama.context import Context
from aded_local.llama.context_settings import LARGEST_PASS, ContextSettings
from aded_local.llama.interrupts import held_back
from aded_local.llama.layout import Layout
from aded_local.llama.model import Model
from aded_local.llama.sampler import Sampler
from aded_local.llama.sampling import Sampling
from aded_local.llama.steering import SteeredSampler, Steering
from aded_local.tree import DraftTree, FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class SavedCells:
    """What cells held, to go on from later in a context of the same model and settings.

    Attributes:
        settings: of the context they come from.
        tokens: ids of the tokens, oldest first.
        state: llama.cpp's own copy of keys and values, uint8 ``(n_bytes,)``.
    """

    settings: ContextSettings
    tokens: list[int]
    state: npt.NDArray[np.uint8]


class Target:
    """See this module's first line.

    Args:
        model: weights and vocabulary; not closed with it.
        settings: of the context, as far as the model's memory allows them.

    Attributes:
        model: weights and vocabulary.
        settings: of the context.
        context: cache, batch and logits.
        cached: token ids in the KV cache, oldest first; ``len(cached) == context.n_past``.
        is_sure: the cells hold just these. False while they change, so that an interrupt anywhere leaves no doubt: the
            next prefill empties them then.
        seconds_per_prompt_token: what decoding a prompt took last; 0.0 before the first.
    """

    def __init__(self, model: Model, settings: ContextSettings) -> None:
        self.model = model
        self.settings = fit_memory_kind(model, settings)
        self.context = Context(model, self.settings)
        self.cached: list[int] = []
        self.is_sure = True
        self.seconds_per_prompt_token = 0.0

    def close(self) -> None:
        """Free the context; the weights stay."""
        self.context.close()

    def reopen(self, settings: ContextSettings) -> None:
        """Make the context anew with other settings; the cache is empty afterwards. Ctrl-C takes effect after that.

        Raises:
            DeviceError: there is no memory for it. Nothing can be decoded then before the next ``reopen``.
        """
        with held_back():
            self.is_sure = False
            self.context.close()  # before the other one is made: there may be no room for both
            self.cached = []
            fitting = fit_memory_kind(self.model, settings)
            reads_hidden = self.context.reads_hidden
            self.context = Context(self.model, fitting)
            self.context.reads_hidden = reads_hidden
            self.settings = fitting
            self.is_sure = True

    def change(self, settings: ContextSettings) -> None:
        """Take other settings; the cache is empty afterwards, unless the settings leave the cells as they are."""
        fitting = fit_memory_kind(self.model, settings)
        if _cells(fitting) == _cells(self.settings):
            self.settings = self.context.settings = fitting
        else:
            self.reopen(settings)

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
    def reads_hidden(self) -> bool:
        """Whether verifications keep hidden states."""
        return self.context.reads_hidden

    def read_hidden(self, wanted: bool) -> None:
        """Let later verifications keep hidden states, or not; see ``hidden_at``."""
        self.context.reads_hidden = wanted

    def hidden_at(self, row: int) -> FloatArray:
        """The last layer's state at a row of the pass just verified; see ``Context.hidden``."""
        return self.context.hidden(row)

    def set_threads(self, n: int) -> None:
        """Let later passes use ``n`` threads; a context that is opened anew begins with those of its settings."""
        self.context.set_threads(n)

    @property
    def n_cells(self) -> int:
        """Cells in use."""
        return self.context.n_past

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
        if not self.is_sure:
            self.forget()
        self.is_sure = False
        shared = common_prefix(np.array(self.cached, np.int32), np.array(prompt[:-1], np.int32))
        reused = self.context.roll_back(shared)
        del self.cached[reused:]
        seconds = self.context.prefill(np.array(prompt[reused:], np.int32), cancelled=cancelled)
        self.cached = prompt[: self.context.n_past]
        self.is_sure = True
        if len(self.cached) > reused:
            self.seconds_per_prompt_token = seconds / (len(self.cached) - reused)
        return reused, seconds

    def read(self, tokens: list[int]) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """Decode ``tokens`` anew, and tell what the model expects behind each.

        Args:
            tokens: at most ``context.n_ctx`` ids.

        Yields:
            How many of the tokens come before, and the logits there: a view, float32 ``(n_vocab,)``, valid until the
            next.
        """
        self.forget()
        self.is_sure = False
        size = min(LARGEST_PASS, self.context.batch_capacity)
        for start in range(0, len(tokens), size):
            chunk = np.array(tokens[start : start + size], np.int32)
            self.context.probe_batch(chunk)
            for row in range(len(chunk)):
                yield start + row + 1, self.context.logits(row)
        self.cached = list(tokens)
        self.is_sure = True

    def verify(self, root: int, tree: DraftTree) -> tuple[Layout, float]:
        """Decode root and tree in one pass, of which nothing is kept before ``accept``; see ``Context.verify``."""
        self.is_sure = False
        return self.context.verify(root, tree)

    def verified_logits(self) -> npt.NDArray[np.float32]:
        """Raw logits after the root and every node just verified; see ``Context.verified_logits``."""
        return self.context.verified_logits()

    def accept(self, root: int, tree: DraftTree, layout: Layout, path: list[int]) -> None:
        """Keep the root and the accepted path in the cache, roll the rest of the tree back."""
        self.context.accept(tree, layout, path)
        self.cached.append(root)
        if path:
            self.cached += tree.tokens[path].tolist()
        self.is_sure = True

    def trim(self, n: int) -> None:
        """Keep at most the first ``n`` tokens; memory that cannot roll back so far keeps what it has."""
        if n < len(self.cached) and self.context.can_roll_back_to(n):
            self.is_sure = False
            kept = self.context.roll_back(n)
            del self.cached[kept:]
            self.is_sure = True

    def forget(self) -> None:
        """Empty the cache."""
        self.is_sure = False
        self.context.clear()
        self.cached = []
        self.is_sure = True

    def saved_size(self) -> int:
        """Bytes that ``save`` would take now."""
        return self.context.state_size()

    def save(self) -> SavedCells:
        """A copy of what the cells hold."""
        return SavedCells(self.settings, list(self.cached), self.context.state())

    def restore(self, saved: SavedCells) -> None:
        """Hold again what was saved; nothing where the settings have changed since, or llama.cpp does not take it back,
        which is never wrong."""
        self.forget()
        self.is_sure = False
        if _cells(saved.settings) == _cells(self.settings) and self.context.restore(
            saved.state, len(saved.tokens)
        ):
            self.cached = list(saved.tokens)
        self.is_sure = True

    def sampler(self, sampling: Sampling, prompt: list[int]) -> Sampler:
        """A fresh sampler chain for one answer."""
        return Sampler(self.context, sampling, prompt)

    def steered_sampler(self, sampling: Sampling, prompt: list[int], steering: Steering) -> SteeredSampler:
        """The same, steered."""
        return SteeredSampler(self.context, sampling, prompt, steering)

    def logits_after(self, tokens: IntArray) -> npt.NDArray[np.float32]:
        """Logits after ``tokens``, the last of them decoded alone as plain decoding does: float32 ``(n_vocab,)``.

        Replaces what is cached.
        """
        self.forget()
        self.is_sure = False
        prompt = [int(token) for token in tokens]
        if len(prompt) > 1:
            self.context.prefill(np.array(prompt[:-1], np.int32), want_logits=False)
        self.context.prefill(np.array(prompt[-1:], np.int32))
        self.cached = prompt
        self.is_sure = True
        return np.array(self.context.logits(-1))


def _cells(settings: ContextSettings) -> ContextSettings:
    """The part of settings that decides what the cells hold and where."""
    return replace(settings, row_by_row=False)


def fit_memory_kind(model: Model, settings: ContextSettings) -> ContextSettings:
    """The settings the model's memory allows: running states cannot branch, caches need no snapshots."""
    if model.is_recurrent or model.is_hybrid:
        return replace(settings, n_sequences=1)
    return replace(settings, n_rollback=0)
