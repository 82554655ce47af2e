"""What holds for a loaded model on this machine: told to a person, and asked by whoever measures."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from aded_local.access import Access, reads
from aded_local.engine import Engine
from aded_local.errors import ContextOverflowError, StoreError
from aded_local.llama import Model
from aded_local.llama.devices import layers_on_gpus
from aded_local.llama.loading import waiting
from aded_local.request import token_ids
from aded_local.speed import device
from aded_local.speed.tuning import setting_of

AGAIN = (
    "; other programs ran meanwhile, so what was measured is not kept, and measured again at the next start"
)


class Described:
    """What a ``LocalADED`` tells of its model."""

    _engine: Engine
    _model: Model
    _access: Access

    @property
    def n_ctx(self) -> int:
        """Tokens of context."""
        return self._engine.n_ctx

    @reads
    def description(self) -> dict[str, Any]:
        """What holds for the loaded model on this machine, as plain data."""
        return _describe(self._engine)

    def measure_exactness(self) -> None:
        """Find which batch sizes are exact, for ``description``; takes seconds on a large model, once.

        It uses a context of its own, so that the conversation stays.

        Raises:
            BusyError: a generation is running.
            DeviceError: there is no memory for a second context.
        """
        with self._access.alone():
            if self._engine.curve is not None:
                self._engine.tuner.find_exactness(setting_of(self._engine.target.settings))

    def logits_after(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits after ``tokens``, the last one decoded alone: float32 ``(n_vocab,)``. For measuring.

        Raises:
            PromptError, ContextOverflowError, BusyError
        """
        with self._access.alone():
            ids = token_ids(tokens, self._model.n_vocab)
            if not ids or len(ids) > self.n_ctx:
                raise ContextOverflowError(f"{len(ids)} tokens do not fit a context of {self.n_ctx}")
            return self._engine.target.logits_after(np.array(ids, np.int32))

    @reads
    def foreseen(self, n_prompt: int, max_tokens: int) -> tuple[bool, str, bool, tuple[int, ...] | None]:
        """What a new conversation's first turn would be answered in now. For measuring.

        Args:
            n_prompt: tokens of the prompt.
            max_tokens: of the answer.

        Returns:
            Flash attention on or off, the cache type, whether drafts are multiplied row by row, and the only numbers of
            tokens a pass may have; None for any.
        """
        setting, sizes = self._engine.foreseen(n_prompt, max_tokens)
        return *setting, sizes

    @reads
    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for in running text; none for control tokens.

        Raises:
            PromptError: there is no such token.
        """
        return self._model.piece(token)

    @reads
    def longest_token(self) -> int:
        """The most bytes that one token spells; to look at them all takes a tenth of a second or more, once."""
        return self._model.longest_token

    @reads
    def end_tokens(self) -> frozenset[int]:
        """Ids of all tokens that end an answer. For measuring: another program must stop where this one does."""
        return self._model.end_tokens


def _describe(engine: Engine) -> dict[str, Any]:
    """What holds for the loaded model on this machine, as plain data."""
    target, model, options = engine.target, engine.model, engine.options
    settings = target.settings
    found: dict[str, Any] = {
        "model": str(model.path),
        "architecture": model.header.architecture,
        "quantization": model.quantization,
        "size_bytes": model.size_bytes,
        "context": target.context.n_ctx,
        "trained_context": model.n_ctx_train,
        "threads": settings.n_threads,
        "threads_now": _threads_now(engine),
        "threads_of_batches": settings.n_threads_batch or settings.n_threads,
        "device": device.device_name(),
        "gpu_layers": layers_on_gpus(options.n_gpu_layers),
        "flash_attention": settings.flash_attention,
        "cache_type": settings.cache_type,
        "row_by_row": settings.row_by_row,
        "memory": _memory_kind(model),
        "threads_wait": waiting(),
        "draft": options.draft,
        **_describe_draft_model(engine),
        "preparation": engine.preparation.describe() + (AGAIN if engine.tuner.busy else ""),
        "same": options.same,
        "words": _words(engine),
        "drafts": _draft_shape(engine),
        "largest_draft": engine.largest_draft,
    }
    if engine.curve is not None:
        at = target.context.n_past
        cost = engine.curve.seconds(at)
        found["pass_milliseconds"] = {n: round(1e3 * float(cost[n]), 3) for n in engine.curve.measured}
        found["pass_after_cells"] = at
        exactness = engine.tuner.exactness(setting_of(settings))
        found["exact_batch_sizes"] = None if exactness is None else exactness.sizes
        found["exact_probed_at_cells"] = [] if exactness is None else exactness.fills
    if engine.memory is not None:
        with contextlib.suppress(StoreError):
            facts = engine.memory.inspect()
            found["remembered"] = {"exchanges": facts.exchanges, "tokens": facts.tokens}
    return found


def _describe_draft_model(engine: Engine) -> dict[str, Any]:
    if engine.draft is None:
        return {}
    now = "" if engine.asking is None else engine.asking.way.mode
    return {
        "draft_model": str(engine.draft.path),
        "draft_mode": engine.options.draft_mode,
        "draft_mode_now": now,
        "draft_threads": engine.draft.n_threads,
    }


def _threads_now(engine: Engine) -> str:
    threads = engine.threads
    return f"{threads.count}" + (", since other programs run" if threads.contended else "")


def _words(engine: Engine) -> str:
    """One line on what holds for the words."""
    if engine.options.draft == "off" or engine.plain or not engine.target.largest_draft:
        return "plain decoding"
    if engine.curve is None:
        return "same words as plain decoding: nothing is drafted before this machine is measured"
    if not engine.is_exact:
        why = "the same words were not asked for"
        if engine.options.same == "cheap":
            why = f"the same words would cost {engine.loss:.0%} of the speed here (--same exact)"
            if engine.options.draft == "paper":
                why = "paper verifies its trees whole (--same exact)"
        return f"may part from plain decoding where two candidates are nearly equal: {why}"
    if engine.largest_draft == 0:
        return "same words as plain decoding: no larger batch equals it here, so nothing is drafted"
    return "same words as plain decoding: every batch has a size that equals it to the last bit"


def _draft_shape(engine: Engine) -> str:
    if engine.options.draft == "off":
        return "off"
    if not engine.is_exact:
        return engine.target.drafting_shape
    return "chain" if engine.largest_draft else "none"


def _memory_kind(model: Model) -> str:
    if model.is_hybrid:
        return "hybrid: part cache, part running state"
    if model.is_recurrent:
        return "recurrent: a running state"
    if model.sliding_window:
        return f"KV cache, full size in spite of a sliding window of {model.sliding_window}"
    return "KV cache"
