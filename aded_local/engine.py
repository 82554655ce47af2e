"""A model made ready: weights, context, cost curve and planner, opened together with defaults that fit."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aded_local import device
from aded_local.cost import CostCurve, Probe
from aded_local.drafting import Drafter, kernels_are_kept, make_drafter
from aded_local.drafting.statistics import Table
from aded_local.errors import DeviceError, OptionError, StoreError
from aded_local.planning import PlainPlanner, Planner, make_planner
from aded_local.store import ConversationMemory, identity_of
from aded_local.store.phrases import kept_phrase_table
from aded_local.store.static import open_static
from aded_local.target import ALL_LAYERS, CACHE_TYPES, ContextSettings, Model, Target
from aded_local.target.context import SMALLEST_CONTEXT
from aded_local.target.interrupts import not_dropped
from aded_local.tuning import Tuner

PRESETS = ("auto", "paper", "off")
"""What ``draft`` may be."""

SEQUENCES = {"auto": 8, "paper": 32, "off": 2}
"""Branches a tree may have, by preset. The paper's search keeps 24 prefixes, so no more than that; a budget
rarely affords more than a few; 2 is what the cost probe needs."""

ROLLBACK_SNAPSHOTS = 8
"""State snapshots asked for where memory is a running state: each multiplies the state's size, and on such
models a longer chain than this hardly ever pays."""


Say = Callable[[str], None]
"""Takes a line for the person who waits."""


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
        curve: cost of a pass; None where nothing is drafted.
        tuner: keeps the measurements.
        options: as opened.
        notice: told what went wrong without stopping anything.
        memory: earlier conversations on disk; None where none are kept.
        forgetful: the memory refused an exchange, and that was told.
    """

    target: Target
    planner: Planner
    curve: CostCurve | None
    tuner: Tuner
    options: EngineOptions
    notice: Say
    memory: ConversationMemory | None = None
    forgetful: bool = False

    @property
    def model(self) -> Model:
        return self.target.model

    def close(self) -> None:
        """Write refined measurements back and free everything."""
        try:
            if self.curve is not None:
                self.tuner.save_refined(self.curve)
        finally:
            self.target.close()

    def remember(self, prompt: Sequence[int], answer: Sequence[int]) -> None:
        """Keep an exchange, as token ids, where a memory is. What goes wrong is told once and stops nothing."""
        if self.memory is None:
            return
        try:
            self.memory.remember(prompt, answer)
        except StoreError as error:
            if not self.forgetful:
                self.forgetful = True
                self.notice(f"this exchange is not remembered: {error}")

    def measure_exactness(self) -> None:
        """Find which batch sizes are exact with the opened settings, if not known yet.

        Takes seconds on a large model; uses a context of its own, so that the conversation stays.

        Raises:
            DeviceError: there is no memory for a second context.
        """
        if self.curve is None or self.curve.exact is not None:
            return
        room = min(self.target.context.n_ctx, Probe.LARGEST_ROOM)
        trial = Target(self.model, replace(self.target.settings, n_ctx=room))
        try:
            self.curve.exact, self.curve.exact_fills = Probe(trial.context).exactness()
        finally:
            trial.context.close()
        self.tuner.save()

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
            "draft": options.draft,
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


def open_engine(path: Path, options: EngineOptions, progress: Say, notice: Say) -> Engine:
    """Load a GGUF and make it ready.

    Args:
        path: the GGUF.
        options: what was asked for.
        progress: told before measurements and checks that take seconds.
        notice: told what went wrong without stopping anything.

    Raises:
        ModelError, OptionError, DeviceError: see ``LocalADED``.
    """
    kind = options.cache_type
    if kind is not None and kind not in CACHE_TYPES:
        raise OptionError(f"cache_type is {kind!r}; it must be one of {', '.join(CACHE_TYPES)}")
    model = Model(path, n_gpu_layers=options.n_gpu_layers, verbose=options.verbose, progress=progress)
    try:
        n_ctx = options.n_ctx or device.default_context(model)
        if "position_embd.weight" in model.header.tensors:
            # Learnt positions end where training did, and llama.cpp ends the process beyond.
            n_ctx = min(n_ctx, model.n_ctx_train)
        memory = _open_memory(model, notice) if options.memory else None
        while True:
            try:
                return _open_context(model, n_ctx, options, memory, progress, notice)
            except DeviceError:
                # Free memory is an estimate, the GPU's is not known at all: a default gives way, a wish does not.
                if options.n_ctx is not None or n_ctx // 2 < SMALLEST_CONTEXT:
                    raise
                n_ctx //= 2
                notice(f"not enough memory for the default context; trying {n_ctx} tokens")
    except BaseException:
        model.close()
        raise


def _open_memory(model: Model, notice: Say) -> ConversationMemory | None:
    try:
        identity = identity_of(model.header)
    except StoreError as error:
        notice(f"conversations are not remembered: {error}")
        return None
    return ConversationMemory.open(identity, notice)


def _static_table(path: Path, model: Model) -> Table:
    """The counts of a static store made for the model's tokenizer; StoreError says why not."""
    return open_static(path, identity_of(model.header).tokenizer).table


def _phrases(model: Model, notice: Say) -> Table | None:
    """The shipped phrases in the model's tokens; drafts only start worse without."""
    from aded_models.phrases import PhrasesError

    try:
        tokenizer = identity_of(model.header).tokenizer
    except StoreError:
        tokenizer = ""
    try:
        return kept_phrase_table(
            lambda text: model.tokenize(text, add_special=False, parse_special=False), tokenizer
        )
    except (OSError, PhrasesError) as error:
        notice(f"drafting starts without the shipped phrases: {error}; install aded-local again")
        return None


def _recall(memory: ConversationMemory, drafter: Drafter, n_vocab: int, notice: Say) -> None:
    """Teach a new drafter what was said earlier."""
    try:
        exchanges = memory.exchanges()
    except StoreError as error:
        notice(f"earlier conversations are not recalled: {error}")
        return
    # Kernels look ids up without asking whether they are in the vocabulary, and a file can be put together by hand.
    known = (
        each for each in exchanges if max(each.prompt.max(initial=0), each.answer.max(initial=0)) < n_vocab
    )
    drafter.recall([(each.prompt, each.answer, each.continues) for each in known])


def _open_context(
    model: Model,
    n_ctx: int,
    options: EngineOptions,
    memory: ConversationMemory | None,
    progress: Say,
    notice: Say,
) -> Engine:
    wanted = ContextSettings(
        n_ctx=n_ctx,
        n_threads=options.n_threads or device.physical_threads(),
        flash_attention=False,
        cache_type="f16",
        n_sequences=SEQUENCES[options.draft],
        n_rollback=0 if options.draft == "off" else ROLLBACK_SNAPSHOTS,
    )
    tuner = Tuner(
        model,
        wanted,
        exact=options.exact,
        flash_attention=options.flash_attention,
        cache_type=options.cache_type,
        n_gpu_layers=options.n_gpu_layers,
        progress=progress,
        notice=notice,
    )
    target = tuner.open()
    try:
        if options.draft == "off" or target.drafting_shape == "none":
            return Engine(target, PlainPlanner(), None, tuner, options, notice, memory)
        curve = tuner.curve(target)
        if not kernels_are_kept():
            progress("compiling the drafter (once per installation)")
        with not_dropped():
            drafter = make_drafter(
                options.draft,
                n_vocab=model.n_vocab,
                static=None if options.store is None else _static_table(options.store, model),
                phrases=_phrases(model, notice) if options.draft == "auto" else None,
            )
            if memory is not None:
                _recall(memory, drafter, model.n_vocab, notice)
            planner = make_planner(
                options.draft,
                drafter,
                curve,
                chain_only=options.exact or target.drafting_shape == "chain",
                largest=target.largest_draft,
                exact=options.exact,
                top_k=options.top_k,
            )
        engine = Engine(target, planner, curve, tuner, options, notice, memory)
        if options.exact and target.largest_draft and engine.largest_draft == 0:
            notice(
                "with these settings no larger batch equals one-token decoding here: exact, so decoding plainly"
            )
        return engine
    except BaseException:
        target.context.close()
        raise


def _memory_kind(model: Model) -> str:
    if model.is_hybrid:
        return "hybrid: part cache, part running state"
    if model.is_recurrent:
        return "recurrent: a running state"
    if model.sliding_window:
        return f"KV cache, full size in spite of a sliding window of {model.sliding_window}"
    return "KV cache"
