"""What belongs to one loaded model: weights, context, cost curve and planner; ``opening`` makes it."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aded_local.errors import StoreError
from aded_local.llama import ALL_LAYERS, Model, Target
from aded_local.llama.loading import is_forked, waiting
from aded_local.memory import ConversationMemory
from aded_local.scheduler import Turns
from aded_local.speed import device
from aded_local.speed.cost_curve import CostCurve
from aded_local.speed.planner import Planner
from aded_local.speed.preparation import Preparation
from aded_local.speed.tuning import Tuner

PRESETS = ("auto", "paper", "off")
"""What ``draft`` may be."""

Say = Callable[[str], None]
"""Takes a line for the person who waits."""


AGAIN = (
    "; other programs ran meanwhile, so what was measured is not kept, and measured again at the next start"
)


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How to open a model; see ``LocalADED`` for each."""

    draft: str
    exact: bool
    n_ctx: int | None
    n_threads: int | None
    n_gpu_layers: int
    flash_attention: bool | None
    cache_type: str | None
    verbose: bool
    memory: bool = False
    store: Path | None = None
    top_k: bool = True


@dataclass(slots=True)
class Engine:
    """What belongs to one loaded model.

    Attributes:
        target: verifies; owns weights and context.
        planner: decides what to verify.
        curve: cost of a pass; None where nothing is drafted, and until it was measured.
        tuner: keeps the measurements.
        options: as opened.
        notice: told what went wrong without stopping anything.
        memory: earlier conversations on disk; None where none are kept.
        forgetful: the memory refused an exchange, and that was told.
        turns: whose turn it is, an answer's or a measurement's.
        preparation: what is still made ready beside and between answers.
    """

    target: Target
    planner: Planner
    curve: CostCurve | None
    tuner: Tuner
    options: EngineOptions
    notice: Say
    turns: Turns
    preparation: Preparation
    memory: ConversationMemory | None = None
    forgetful: bool = False
    said: list[int] = field(default_factory=list)
    conversation: int = 0
    turn: int = 0

    @property
    def model(self) -> Model:
        return self.target.model

    def close(self) -> None:
        """Stop what is made ready, write refined measurements back and free everything."""
        stopped = False
        try:
            stopped = self.preparation.close()
        except KeyboardInterrupt:
            stopped = not self.preparation.running
            raise
        finally:
            self._free(stopped)

    def _free(self, stopped: bool) -> None:
        try:
            if self.curve is not None:
                self.tuner.save_refined(self.curve)
        finally:
            if stopped:  # else a pass still reads the weights, and they stay until the program ends
                self.target.close()
            if self.memory is not None:
                self.memory.close()

    def remember(self, prompt: Sequence[int], answer: Sequence[int]) -> None:
        """Keep an exchange, as token ids, where a memory is. What goes wrong is told once and stops nothing."""
        if self.memory is None or is_forked():  # a child that inherits an answer is not the one to keep it
            return
        same = next(
            (i for i, (one, other) in enumerate(zip(prompt, self.said, strict=False)) if one != other), None
        )
        known = min(len(prompt), len(self.said)) if same is None else same
        if not 2 < known < len(prompt) or known + 2 < len(self.said):
            self.new_conversation()
        try:
            self.memory.remember(prompt, answer, known=known, conversation=self.conversation, turn=self.turn)
            self.turn += 1
            self.said = [*prompt, *answer]
        except StoreError as error:
            self.new_conversation()
            if not self.forgetful:
                self.forgetful = True
                self.notice(f"this exchange is not remembered: {error}")

    def new_conversation(self) -> None:
        """What is remembered next continues nothing."""
        self.said, self.conversation, self.turn = [], secrets.randbits(32), 0

    def measure_exactness(self) -> None:
        """Find which batch sizes are exact with the opened settings, if not known yet.

        Takes seconds on a large model; uses a context of its own, so that the conversation stays.

        Raises:
            DeviceError: there is no memory for a second context.
        """
        if self.curve is not None:
            self.tuner.measure_exactness(self.target.settings, self.curve)

    def describe(self) -> dict[str, Any]:
        """What holds for the loaded model on this machine, as plain data."""
        target, model, settings, options = self.target, self.model, self.target.settings, self.options
        found: dict[str, Any] = {
            "model": str(model.path),
            "architecture": model.header.architecture,
            "quantization": model.quantization,
            "size_bytes": model.size_bytes,
            "context": target.context.n_ctx,
            "trained_context": model.n_ctx_train,
            "threads": settings.n_threads,
            "device": device.device_name(),
            "gpu_layers": "all" if options.n_gpu_layers == ALL_LAYERS else options.n_gpu_layers,
            "flash_attention": settings.flash_attention,
            "cache_type": settings.cache_type,
            "memory": _memory_kind(model),
            "threads_wait": waiting(),
            "draft": options.draft,
            "preparation": self.preparation.describe() + (AGAIN if self.tuner.busy else ""),
            "exact": options.exact,
            "drafts": self._draft_shape(),
            "largest_draft": self.largest_draft,
        }
        if self.curve is not None:
            at = target.context.n_past
            cost = self.curve.seconds(at)
            found["pass_milliseconds"] = {n: round(1e3 * float(cost[n]), 3) for n in self.curve.measured}
            found["pass_after_cells"] = at
            found["exact_batch_sizes"] = self.curve.exact
            found["exact_probed_at_cells"] = self.curve.exact_fills
        if self.memory is not None:
            with contextlib.suppress(StoreError):
                facts = self.memory.inspect()
                found["remembered"] = {"exchanges": facts.exchanges, "tokens": facts.tokens}
        return found

    def _draft_shape(self) -> str:
        if self.options.draft == "off":
            return "off"
        if not self.options.exact:
            return self.target.drafting_shape
        return "chain" if self.largest_draft else "none"

    @property
    def largest_draft(self) -> int:
        """Nodes that a pass may verify with these options."""
        if self.options.draft == "off":
            return 0
        if not self.options.exact:
            return self.target.largest_draft
        sizes = (self.curve.exact if self.curve is not None else None) or [1]
        return min(max(sizes) - 1, self.target.largest_draft)


def _memory_kind(model: Model) -> str:
    if model.is_hybrid:
        return "hybrid: part cache, part running state"
    if model.is_recurrent:
        return "recurrent: a running state"
    if model.sliding_window:
        return f"KV cache, full size in spite of a sliding window of {model.sliding_window}"
    return "KV cache"
