"""Recorded answers meet real cost: every planned tree is decoded on a model, the recorded token decides.

The loop is the engine's (`aded_local.decode`): the same planner, `Target.verify`, the same walk down the
tree, `Target.accept`, `planner.observe` with real seconds. Only where the engine would sample a token the
recorded one is taken, so sampling is part of neither side. The model's weights may be random: a pass costs
what it costs whatever it says.

Plain decoding is measured in between. Every so often, before a step and at the same cells, the root is decoded
alone by the very same loop with the planner of preset `off`, and rolled back. It is done twice: llama.cpp
reuses the graph of a pass of the same shape, as it does all the time in plain decoding, so the second counts
and the first is reported beside it.

What a run has learnt is not in its result. A continued run therefore feeds the answers measured before to the
planner again, without decoding, their passes priced by the cost curve: what the drafter learns from is the same,
only the guard has seen modelled times, and logits are not to be had again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aded_bench.replay.drafts import Own
from aded_bench.replay.makeup import Makeup, open_drafter
from aded_bench.replay.trace_sums import AnswerSums, summed
from aded_local.drafters import PRESETS, Drafter
from aded_local.engine import Engine, EngineOptions
from aded_local.errors import OptionError, StoreError
from aded_local.llama import ALL_LAYERS
from aded_local.llama.layout import limit_leaves
from aded_local.opening import open_engine
from aded_local.speed.cost_curve import LARGEST_BATCH, CostCurve, SecondsArray
from aded_local.speed.planner import PlainPlanner, Planner, make_planner
from aded_local.speed.probe import Probe
from aded_local.tree import DraftTree
from aded_local.tree_sampling import Match, sample_and_match

if TYPE_CHECKING:
    from aded_bench.replay.traces import Recorded, Trace

CONTEXT_STEP = 256
"""The default context is the longest answer rounded up to this many cells, as llama.cpp pads it anyway."""

Make = Callable[[], Drafter] | None
"""Makes a drafter in place of the engine's."""

THROWN_AWAY = 48
"""Tokens of the first answer decoded before anything is timed: memory touched, kernels and caches warm."""


def measure(
    model: Path,
    trace: Trace,
    preset: str,
    *,
    warm: Sequence[Trace] = (),
    make: Make = None,
    n_threads: int | None = None,
    n_ctx: int | None = None,
    flash_attention: bool | None = None,
    cache_type: str | None = None,
    seed: int = 0,
    plain_every: int = 8,
    own_answers: bool = False,
    earlier: dict[str, Any] | None = None,
    save: Callable[[dict[str, Any]], None] = lambda found: None,
    step: Callable[[str], None] = lambda note: None,
) -> dict[str, Any]:
    """Decode every answer of ``trace`` the way the engine would, and time it.

    Args:
        model: a GGUF whose vocabulary holds the trace's token ids.
        preset: ``auto`` or ``paper``.
        warm: fed first, as answered conversations.
        make: a new drafter of the preset to use; the engine's when None.
        n_ctx: None takes room for the trace's longest answer.
        flash_attention, cache_type: None takes what the engine measures to be fastest.
        seed: of the bootstrap.
        plain_every: steps from one timed plain pass to the next, at least 1; each answer begins with one.
        own_answers: the trace is this model's own, so the planner sees its logits; any other's would teach it noise.
        earlier: what an interrupted run of the same settings returned or saved.
        save: given the result so far after each answer, and on Ctrl-C, which is raised again.
        step: told after each answer.

    Returns:
        ``model, quantization, flash_attention, cache_type, threads, context, gpu_layers, plain_every, own_answers``;
        sums of ``trace_sums.summed`` and ratios; ``curve``, measured before the first answer; ``answers``: sums by id;
        ``clipped`` and ``left_out``: answers that the context did not hold in full, or not at all.

    Raises:
        OptionError: the vocabularies do not fit, the model cannot draft, or ``earlier`` is of another setting.
        StoreError: ``earlier`` is damaged.
        ModelError, DeviceError: see ``LocalADED``.
    """
    if preset not in PRESETS:
        raise OptionError(f"only {' and '.join(PRESETS)} are decoded on a body, not {preset!r}")
    if plain_every < 1:
        raise OptionError("plain passes are timed every 1 or more steps")
    options = EngineOptions(
        draft=preset,
        exact=False,
        n_ctx=n_ctx or _room_for(trace),
        n_threads=n_threads,
        n_gpu_layers=ALL_LAYERS,
        flash_attention=flash_attention,
        cache_type=cache_type,
        verbose=False,
    )
    engine = open_engine(model, options, lambda note: None, lambda note: None)
    engine.preparation.wait()
    try:
        _check_vocabulary(engine, (trace, *warm))
        if engine.curve is None:
            raise OptionError(f"{model.name} cannot verify drafts: its memory does not roll back")
        settings = {**_settings(engine, plain_every), "own_answers": own_answers}
        if earlier is not None and any(earlier.get(key) != value for key, value in settings.items()):
            raise OptionError(
                "the result file holds a run on another body or with other settings; name another"
            )
        curve, answers = _taken_over(earlier) if earlier else (_measured_curve(engine), {})
        make = make or ((lambda: open_drafter(preset, trace, Makeup())) if warm else None)
        return _Run(engine, trace, curve, settings, seed, make).over(answers, warm, save, step)
    finally:
        engine.close()


def _room_for(trace: Trace) -> int:
    longest = max((len(found.prompt) + len(found.answer) for found in trace.answers), default=1)
    return math.ceil(longest / CONTEXT_STEP) * CONTEXT_STEP


def _check_vocabulary(engine: Engine, traces: Sequence[Trace]) -> None:
    n_vocab = engine.model.n_vocab
    for trace in traces:
        for found in trace.answers:
            highest = max((int(ids.max()) for ids in (found.prompt, found.answer) if len(ids)), default=0)
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
        "context": engine.target.context.n_ctx,
        "gpu_layers": "all",
        "plain_every": plain_every,
    }


def _taken_over(earlier: dict[str, Any]) -> tuple[CostCurve, dict[str, dict[str, Any]]]:
    """The curve and the answers of an interrupted run."""
    try:
        curve = CostCurve.from_dict(earlier["curve"]["cost"])
        answers = {key: AnswerSums.from_dict(data).to_dict() for key, data in earlier["answers"].items()}
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"the result file holds a body's run that is damaged: {error!r}") from None
    return curve, answers


def _measured_curve(engine: Engine) -> CostCurve:
    """What passes cost now: the engine's own curve may be of another day, and is refined as it runs."""
    return Probe(engine.target.context).curve()


@dataclass(frozen=True, slots=True)
class _Step:
    """One step of the loop: what was verified, what came of it, and the clock (seconds)."""

    tree: DraftTree
    match: Match
    draft: float
    verify: float
    total: float


class _Run:
    """Answers one after the other, on one engine."""

    def __init__(
        self, engine: Engine, trace: Trace, curve: CostCurve, settings: dict[str, Any], seed: int, make: Make
    ) -> None:
        self._engine, self._target, self._planner = engine, engine.target, engine.planner
        self._trace, self._curve, self._settings, self._seed, self._make = trace, curve, settings, seed, make

    def over(
        self,
        answers: dict[str, dict[str, Any]],
        warm: Sequence[Trace],
        save: Callable[[dict[str, Any]], None],
        step: Callable[[str], None],
    ) -> dict[str, Any]:
        """All answers; ``answers`` are those measured before, and grows."""
        todo = [(key, self._clipped(found)) for key, found in _by_key(self._trace)]
        if all(key in answers for key, found in todo if len(found.answer)):
            for _, found in todo:
                step(found.id)
            return self._result(answers)
        self._throw_one_away([found for _, found in todo])
        if self._make is not None:
            drafter = self._make()
            Own.teach(drafter, [found for trace in warm for found in trace.answers])
            self._planner = self._engine.planner = self._planner_of(drafter)
        try:
            for key, found in todo:
                if len(found.answer) and key in answers:
                    self._feed(found)
                elif len(found.answer):
                    answers[key] = self._answer(found).to_dict()
                    save(self._result(answers))
                step(found.id)
        except KeyboardInterrupt:
            if answers:
                save(self._result(answers))
            raise
        return self._result(answers)

    def _clipped(self, found: Recorded) -> Recorded:
        """What of an answer the context holds: nothing where the prompt alone fills it, or there is none."""
        room = self._target.context.n_ctx - len(found.prompt)
        if not len(found.prompt) or room < 1:
            room = 0
        return type(found)(found.id, found.category, found.prompt, found.answer[:room])

    def _throw_one_away(self, answers: Sequence[Recorded]) -> None:
        """Warm everything up, then forget what was learnt from it."""
        for found in answers:
            if len(found.answer):
                self._answer(type(found)(found.id, found.category, found.prompt, found.answer[:THROWN_AWAY]))
                self._planner.reset()
                return

    def _result(self, answers: dict[str, dict[str, Any]]) -> dict[str, Any]:
        cost = self._curve.base
        measured = self._curve.measured
        held = {key: len(self._clipped(found).answer) for key, found in _by_key(self._trace)}
        full = {key: len(found.answer) for key, found in _by_key(self._trace)}
        return {
            **self._settings,
            **summed(answers, self._seed),
            "curve": {
                "milliseconds": {str(n): round(1e3 * float(cost[n]), 4) for n in measured},
                "ratio": {str(n): round(float(cost[n] / cost[1]), 4) for n in measured},
                "cost": self._curve.to_dict(),
            },
            "answers": answers,
            "clipped": sum(0 < held[key] < full[key] for key in held),
            "left_out": sum(held[key] == 0 for key in held),
        }

    # --- one answer ----------------------------------------------------------------------------------

    def _answer(self, found: Recorded) -> AnswerSums:
        """Decode one answer; the prompt is read before the clock starts."""
        target, planner, curve = self._target, self._planner, self._curve
        prompt, answer = found.prompt.tolist(), found.answer.tolist()
        target.forget()
        if len(prompt) > 1:
            target.prefill(prompt[:-1])
        planner.reset_context()
        planner.begin(found.prompt)
        sums = AnswerSums(category=found.category)
        root, done, count = prompt[-1], 0, 0
        while done < len(answer):
            n_cells = target.context.n_past
            seconds = curve.seconds(n_cells)
            rest = answer[done:]
            if count % self._settings["plain_every"] == 0:
                rebuilt, plain = self._plain_pass(root, rest), self._plain_pass(root, rest)
                sums.add_plain(rebuilt.total, plain.total, plain.verify, float(seconds[1]))
            taken = self._step(planner, root, rest)
            tokens = taken.match.tokens
            sums.add_step(
                nodes=len(taken.tree),
                tokens=len(tokens),
                draft=taken.draft,
                verify=taken.verify,
                total=taken.total,
                predicted=_price(seconds, len(taken.tree) + 1),
                predicted_near=_price(curve.base, len(taken.tree) + 1),
            )
            sums.modelled_plain += sum(float(curve.seconds(n_cells + i)[1]) for i in range(len(tokens)))
            sums.modelled_plain_near += len(tokens) * float(curve.base[1])
            root = tokens[-1]
            done += len(tokens)
            count += 1
        return sums

    def _step(self, planner: Planner, root: int, rest: list[int]) -> _Step:
        """One step of ``generation.generate``, the recorded tokens ``rest`` in place of the sampler."""
        clock = time.perf_counter
        target = self._target
        started = clock()
        n_cells = target.context.n_past
        tree = planner.plan(n_cells, min(target.room, len(rest)) - 1)
        draft = clock() - started
        tree, layout, seconds = target.verify(root, tree)
        match = _walk(tree, layout.row_of, rest)
        if self._settings["own_answers"]:
            matched_at = clock()
            planner.see(tree, layout.row_of, target.verified_logits)
            draft += clock() - matched_at
        target.accept(root, tree, layout, match.path)
        accepted_at = clock()
        planner.observe(
            match.tokens,
            n_nodes=len(tree),
            n_cells=n_cells,
            verify_seconds=seconds,
            step_seconds=accepted_at - started,
        )
        ended = clock()
        return _Step(tree, match, draft + ended - accepted_at, seconds, ended - started)

    def _plain_pass(self, root: int, rest: list[int]) -> _Step:
        """What preset ``off`` would do now, undone again."""
        target = self._target
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

    # --- without decoding ----------------------------------------------------------------------------

    def _planner_of(self, drafter: Drafter) -> Planner:
        """A planner like the engine's over another drafter."""
        engine = self._engine
        assert engine.curve is not None
        return make_planner(
            engine.options.draft,
            drafter,
            engine.curve,
            chain_only=self._target.drafting_shape == "chain",
            largest=self._target.largest_draft,
            exact=False,
        )

    def _feed(self, found: Recorded) -> None:
        """Plan an answer measured before once more, passes priced by the curve instead of decoded."""
        planner, n_sequences = self._planner, self._target.settings.n_sequences
        rest, n_cells = found.answer.tolist(), len(found.prompt) - 1
        planner.reset_context()
        planner.begin(found.prompt)
        while rest:
            room = self._target.context.n_ctx - n_cells
            started = time.perf_counter()
            tree = planner.plan(n_cells, min(room, len(rest)) - 1)
            searched = time.perf_counter() - started
            tree = limit_leaves(tree, n_sequences)
            rows = list(range(1, len(tree) + 1))
            match = _walk(tree, rows, rest)
            self._observe(match.tokens, len(tree), n_cells, searched)
            rest, n_cells = rest[len(match.tokens) :], n_cells + len(match.tokens)

    def _observe(self, tokens: list[int], n_nodes: int, n_cells: int, searched: float) -> None:
        """As if a pass had taken just what the engine's curve expects, after so many seconds of searching."""
        curve = self._engine.curve
        seconds = _price(curve.seconds(n_cells), n_nodes + 1) if curve is not None else 0.0
        self._planner.observe(
            tokens, n_nodes=n_nodes, n_cells=n_cells, verify_seconds=seconds, step_seconds=seconds + searched
        )


def _price(seconds: SecondsArray, n_tokens: int) -> float:
    """Of a pass; the largest tree and its root are one token more than curves cover, priced in proportion."""
    covered = min(n_tokens, LARGEST_BATCH)
    return float(seconds[covered]) * n_tokens / covered


def _walk(tree: DraftTree, row_of: list[int], rest: list[int]) -> Match:
    """The engine's walk down the tree; the target is taken to say the recorded tokens ``rest``, then to end."""
    recorded = iter(rest)
    return sample_and_match(tree, row_of, lambda row: next(recorded), lambda token: False, len(rest))


def _by_key(trace: Trace) -> list[tuple[str, Recorded]]:
    """Answers with a name each; ids that occur again are numbered."""
    seen: dict[str, int] = {}
    found = []
    for answer in trace.answers:
        seen[answer.id] = seen.get(answer.id, 0) + 1
        found.append((answer.id if seen[answer.id] == 1 else f"{answer.id}#{seen[answer.id]}", answer))
    return found
