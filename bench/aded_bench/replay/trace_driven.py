"""Recorded answers meet real cost: every planned tree is decoded on a model, the recorded token decides.

The steps are the engine's (`aded_local.decode.step`). Only where the engine would sample a token the recorded one is
taken, so sampling is part of neither side. The model's weights may be random: a pass costs what it costs whatever it
says, and its logits are not read.

Plain decoding is measured in between. Every so often, before a step and at the same cells, the root is decoded alone,
and rolled back. It is done twice: llama.cpp reuses the graph of a pass of the same shape, as it does all the time in
plain decoding, so the second counts.

What a run has learnt is not in its result. A continued run therefore feeds the answers measured before to the
planner again, without decoding, their passes priced by the cost curve: what the drafter learns from is the same,
only the guard has seen modelled times.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from aded_bench.replay.body_sums import answer_sums, summed
from aded_bench.replay.drafter_settings import DrafterSettings, open_drafter
from aded_bench.replay.drafts import exchanges
from aded_bench.replay.sweep import replay_answer
from aded_bench.replay.traces import Recorded, Trace
from aded_local.decode import step as decode_step
from aded_local.drafters import PRESETS, Drafter
from aded_local.engine import Engine
from aded_local.engine_options import EngineOptions
from aded_local.errors import OptionError, StoreError
from aded_local.llama import ALL_LAYERS
from aded_local.opening import open_engine
from aded_local.speed.cost_curve import LARGEST_BATCH, CostCurve, SecondsArray
from aded_local.speed.planner import PlainPlanner, Planner, make_planner
from aded_local.speed.probe import Probe
from aded_local.step import NO_TOKENS, Beginning, StepResult

CONTEXT_STEP: Final = 256
"""The default context is the longest answer rounded up to this many cells, as llama.cpp pads it anyway."""

THROWN_AWAY: Final = 48
"""Tokens of the first answer decoded before anything is timed: memory touched, kernels and caches warm."""

Body = dict[str, Any]
"""``schema.Body``."""


def measure(
    model: Path,
    trace: Trace,
    preset: str,
    *,
    warm: Sequence[Trace] = (),
    make: Callable[[], Drafter] | None = None,
    n_threads: int | None = None,
    n_ctx: int | None = None,
    flash_attention: bool | None = None,
    cache_type: str | None = None,
    seed: int = 0,
    plain_every: int = 8,
    earlier: Body | None = None,
    save: Callable[[Body], None] = lambda found: None,
    step: Callable[[], None] = lambda: None,
) -> Body:
    """Decode every answer of ``trace`` the way the engine would, and time it.

    Args:
        model: a GGUF whose vocabulary holds the trace's token ids.
        preset: ``auto`` or ``paper``.
        warm: fed first, as answered conversations.
        make: a new drafter of the preset; by default what the product drafts with.
        n_ctx: None takes room for the trace's longest answer.
        flash_attention, cache_type: None takes what the engine measures to be fastest.
        seed: of the bootstrap.
        plain_every: steps from one timed plain pass to the next, at least 1; each answer begins with one.
        earlier: what an interrupted run of the same settings returned or saved.
        save: given the result so far after each answer, and on Ctrl-C, which is raised again.
        step: told after each answer.

    Returns:
        ``curve`` was measured before the first answer; ``answers`` are sums by id; ``clipped`` and ``left_out`` count
        answers that the context did not hold in full, or not at all.

    Raises:
        OptionError: the vocabularies do not fit, the model cannot draft, no answer fits into the context, or
            ``earlier`` is of another setting.
        StoreError: the curve in ``earlier`` is damaged.
        ModelError, DeviceError: see ``LocalADED``.
    """
    if preset not in PRESETS:
        raise OptionError(f"only {' and '.join(PRESETS)} are decoded on a body, not {preset!r}")
    if plain_every < 1:
        raise OptionError("plain passes are timed every 1 or more steps")
    longest = max(len(found.prompt) + len(found.answer) for found in trace.answers)
    options = EngineOptions(
        draft=preset,
        same="off",
        n_ctx=n_ctx or math.ceil(longest / CONTEXT_STEP) * CONTEXT_STEP,
        n_threads=n_threads,
        n_gpu_layers=ALL_LAYERS,
        flash_attention=flash_attention,
        cache_type=cache_type,
        verbose=False,
        top_k=False,
    )
    engine = open_engine(model, options, lambda note: None, lambda note: None)
    engine.preparation.wait()
    engine.threads.allow(False)
    try:
        _check_vocabulary(engine, (trace, *warm))
        if engine.curve is None:
            raise OptionError(f"{model.name} cannot verify drafts: its memory does not roll back")
        settings = _settings(engine, plain_every)
        if earlier is not None and any(earlier.get(key) != value for key, value in settings.items()):
            raise OptionError(
                "the result file holds a run on another body or with other settings; name another"
            )
        # The engine's own curve may be of another day, and is refined as it runs.
        curve = _curve_of(earlier) if earlier else Probe(engine.target.context).curve()
        make = make or (lambda: open_drafter(preset, trace, DrafterSettings()))
        run = _Run(engine, curve, settings, make, warm, _fitting(trace, engine.n_ctx), seed)
        return run.over(dict(earlier["answers"]) if earlier else {}, save, step)
    finally:
        engine.close()


def _check_vocabulary(engine: Engine, traces: Sequence[Trace]) -> None:
    n_vocab = engine.model.n_vocab
    for trace in traces:
        highest = max(int(ids.max()) for one in trace.answers for ids in (one.prompt, one.answer) if len(ids))
        if highest >= n_vocab:
            raise OptionError(
                f"{trace.name} holds token {highest} and {engine.model.path.name} knows {n_vocab}: make a body "
                "with the trace's tokenizer (aded-bench body --tokenizer VOCAB.gguf OUT.gguf --shape 1b "
                "--type q4_0)"
            )


def _settings(engine: Engine, plain_every: int) -> dict[str, Any]:
    settings = engine.target.settings
    return {
        "model": engine.model.path.name,
        "quantization": engine.model.quantization,
        "flash_attention": settings.flash_attention,
        "cache_type": settings.cache_type,
        "threads": settings.n_threads,
        "context": engine.n_ctx,
        "gpu_layers": "all",
        "plain_every": plain_every,
    }


def _curve_of(earlier: Body) -> CostCurve:
    try:
        return CostCurve.from_dict(earlier["curve"]["cost"])
    except (LookupError, TypeError, ValueError) as error:
        raise StoreError(f"the result file holds a body's run that is damaged: {error!r}") from None


@dataclass(frozen=True)
class _Answers:
    """What of a trace the context holds, by id; ids that occur again are numbered."""

    by_id: dict[str, Recorded]
    clipped: int
    left_out: int


def _fitting(trace: Trace, n_ctx: int) -> _Answers:
    seen: dict[str, int] = {}
    found, clipped = {}, 0
    for one in trace.answers:
        seen[one.id] = seen.get(one.id, 0) + 1
        room = n_ctx - len(one.prompt)
        if room > 0:
            key = one.id if seen[one.id] == 1 else f"{one.id}#{seen[one.id]}"
            found[key] = replace(one, answer=one.answer[:room])
            clipped += room < len(one.answer)
    if not found:
        raise OptionError(f"no answer of {trace.name} fits into a context of {n_ctx} tokens")
    return _Answers(found, clipped, len(trace.answers) - len(found))


@dataclass
class _Run:
    """Answers one after the other, on one engine."""

    engine: Engine
    curve: CostCurve
    settings: dict[str, Any]
    make: Callable[[], Drafter]
    warm: Sequence[Trace]
    trace: _Answers
    seed: int

    def over(
        self, answers: dict[str, dict[str, Any]], save: Callable[[Body], None], step: Callable[[], None]
    ) -> Body:
        """All answers; ``answers`` are those measured before, and grows."""
        if self.trace.by_id.keys() - answers.keys():
            first = next(iter(self.trace.by_id.values()))
            self._answer(self._planner(), replace(first, answer=first.answer[:THROWN_AWAY]))
            planner = self._planner()
        try:
            for key, found in self.trace.by_id.items():
                if key not in answers:
                    answers[key] = self._answer(planner, found)
                    save(self._result(answers))
                elif len(answers) < len(self.trace.by_id):
                    for _ in replay_answer(planner, found, self._priced, self.engine.target.largest_draft):
                        pass
                step()
        except KeyboardInterrupt:
            if answers:
                save(self._result(answers))
            raise
        return self._result(answers)

    def _planner(self) -> Planner:
        """A planner like the engine's, over a drafter that knows the warm answers."""
        engine, drafter = self.engine, self.make()
        drafter.recall(exchanges(found for trace in self.warm for found in trace.answers))
        assert engine.curve is not None
        engine.threads.use(engine.curve)
        return make_planner(engine.options.draft, drafter, engine.threads.costs, engine.limits(), top_k=False)

    def _priced(self, n_tokens: int, n_cells: int) -> float:
        """Seconds of a pass as the engine's curve has it."""
        return 0.0 if self.engine.curve is None else price(self.engine.curve.seconds(n_cells), n_tokens)

    def _result(self, answers: dict[str, dict[str, Any]]) -> Body:
        cost, measured = self.curve.base, self.curve.measured
        return {
            **self.settings,
            **summed(answers, self.seed),
            "curve": {
                "milliseconds": {str(n): round(1e3 * float(cost[n]), 4) for n in measured},
                "ratio": {str(n): round(float(cost[n] / cost[1]), 4) for n in measured},
                "cost": self.curve.to_dict(),
            },
            "answers": answers,
            "clipped": self.trace.clipped,
            "left_out": self.trace.left_out,
        }

    def _answer(self, planner: Planner, found: Recorded) -> dict[str, Any]:
        """Decode one answer; the prompt is read before the clock starts."""
        target, curve, every = self.engine.target, self.curve, self.settings["plain_every"]
        prompt, rest = found.prompt.tolist(), found.answer.tolist()
        target.forget()
        if len(prompt) > 1:
            target.prefill(prompt[:-1])
        planner.begin(Beginning(0, NO_TOKENS, found.prompt))
        root, steps, plain = prompt[-1], list[dict[str, float]](), list[dict[str, float]]()
        while rest:
            n_cells = target.n_cells
            seconds = curve.seconds(n_cells)
            if len(steps) % every == 0:
                for _ in range(2):
                    timed = self._plain_pass(root, rest)
                plain.append({"timed": timed.total_seconds, "predicted": float(seconds[1])})
            result = self._step(planner, root, rest)
            before = time.perf_counter()
            planner.observe(result)
            self.engine.threads.observe(len(result.tree) + 1, n_cells, result.verify_seconds)
            learnt = time.perf_counter() - before
            n = len(result.tokens)
            steps.append(
                {
                    "nodes": len(result.tree),
                    "tokens": n,
                    "draft": result.search_seconds + learnt,
                    "verify": result.verify_seconds,
                    "seconds": result.total_seconds + learnt,
                    "modelled": price(seconds, len(result.tree) + 1),
                    "modelled_plain": sum(float(curve.seconds(n_cells + i)[1]) for i in range(n)),
                }
            )
            root, rest = result.tokens[-1], rest[n:]
        return answer_sums(found.category, steps, plain)

    def _step(self, planner: Planner, root: int, rest: list[int]) -> StepResult:
        """A step of the engine in which the target says ``rest``; how long that is the planner does not know."""
        recorded, left = iter(rest), itertools.count(len(rest) - 1, -1)
        target = self.engine.target
        return decode_step(
            target, planner, root, target.room, lambda row: next(recorded), lambda token: next(left) == 0
        )

    def _plain_pass(self, root: int, rest: list[int]) -> StepResult:
        """What preset ``off`` would do now, undone again."""
        target = self.engine.target
        before = list(target.cached)
        taken = self._step(PlainPlanner(), root, rest)
        if target.model.is_recurrent or target.model.is_hybrid:
            # Its snapshots reach back to the last batch's first token, and that is the one to be undone.
            target.forget()
            if before:
                target.prefill(before)
        else:
            target.trim(len(before))
        return taken


def price(seconds: SecondsArray, n_tokens: int) -> float:
    """Of a pass; the largest tree and its root are one token more than curves cover, priced in proportion."""
    covered = min(n_tokens, LARGEST_BATCH)
    return float(seconds[covered]) * n_tokens / covered
