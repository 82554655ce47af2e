"""Replay recorded answers against ways of drafting: no model, the same answer every time, in seconds.

A pass verifies a tree below the last token; nodes that equal what the model wrote are accepted, and one more token
follows. What the passes would cost is looked up on cost curves. Methods that do not look at the curve are
replayed once for all of them; ``auto`` once for each. A way of drafting learns from the answers as it goes
(cold), and from other conversations before (warm).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from aded_bench.replay.ablation import Variant, variants
from aded_bench.replay.curves import NamedCurve
from aded_bench.replay.drafts import SCRIPTS, Own, Replayed, open_replayed, settings_of
from aded_bench.replay.earlier import note_engine, rows_of
from aded_bench.replay.makeup import Makeup, open_drafter
from aded_bench.replay.peers import PeerLost
from aded_bench.replay.tally import spread, sweep
from aded_bench.replay.traces import Trace
from aded_bench.results import ResultFile, provenance, resume
from aded_local.drafters import PRESETS, Drafter
from aded_local.errors import OptionError

LEAST_LEFTOVER: Final = 1e-3
"""Probability kept for tokens a predictor does not name: some always come, and minus the logarithm of nothing is
infinite. A tenth of a percent costs a predictor that is sure and right 0.0014 bits."""

NO_BODY: Final = "only our own ways of drafting are decoded on it"

Step = Callable[[str], None]
Save = Callable[[dict[str, Any]], None]
Earlier = dict[str, Any] | None
Body = Callable[[str, Trace, Sequence[Trace], Earlier, Save, Step], dict[str, Any]]
"""Measures one preset on a real body: preset, trace, warm traces, earlier result, save, step. See ``trace_driven``."""


@dataclass(frozen=True)
class Plan:
    """What to replay.

    Attributes:
        traces: measured, each with a store of its own.
        warm: fed before the warm phase.
        phases: ``cold``, ``warm`` or both.
        methods: of ``commands.replay.METHODS``.
        curves: what passes cost.
        nodes: verify so many nodes at every step, whatever they cost; None for each method's own choice.
        limit, longest: how traces were cut to so many answers of so many tokens, for the record.
        peer_python: interpreter with the peers' packages.
        makeup: what ``auto`` drafts with.
        ablate: replay ``auto`` without each of its parts too.
        body: measures on a real model too; None without.
        body_settings: what was asked of it, for the record.
    """

    traces: tuple[Trace, ...]
    curves: tuple[NamedCurve, ...]
    warm: tuple[Trace, ...] = ()
    phases: tuple[str, ...] = ("cold",)
    methods: tuple[str, ...] = ("off", "auto")
    nodes: int | None = None
    limit: int | None = None
    longest: int | None = None
    seed: int = 0
    peer_python: Path | None = None
    makeup: Makeup = field(default_factory=Makeup)
    ablate: bool = False
    body: Body | None = None
    body_model: Path | None = None
    body_settings: dict[str, Any] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """What a continued run must share, beside the files."""
        return {
            "traces": [trace.name for trace in self.traces],
            "warm": [trace.name for trace in self.warm],
            "curves": [curve.name for curve in self.curves],
            "phases": list(self.phases),
            "methods": list(self.methods),
            "nodes": self.nodes,
            "limit": self.limit,
            "longest": self.longest,
            "seed": self.seed,
            "peer_python": None if self.peer_python is None else str(self.peer_python),
            "makeup": self.makeup.settings() if "auto" in self.methods else None,
            "ablate": self.ablate,
            "body": self.body_settings,
        }

    @cached_property
    def variants(self) -> dict[str, Variant]:
        """How ``auto`` is made, by setting; the whole drafter first."""
        return variants(self.makeup, ablate=self.ablate)

    def settings_of(self, method: str) -> tuple[str, ...]:
        """The settings a method is replayed with."""
        return tuple(self.variants) if method == "auto" else settings_of(method)

    def inputs(self) -> list[Path]:
        """Files that decide the result."""
        traces = (*self.traces, *self.warm)
        vocabularies = dict.fromkeys(trace.vocab for trace in traces if trace.vocab is not None)
        paths = [*(trace.path for trace in traces), *vocabularies, *(curve.path for curve in self.curves)]
        return paths + (self.makeup.inputs() if "auto" in self.methods else [])

    def without_body(self) -> list[str]:
        """Methods that are only modelled where the others are decoded on a body too."""
        return [] if self.body is None else [method for method in self.methods if method not in PRESETS]


@dataclass(frozen=True)
class Unit:
    """One sweep over one trace; ``curve`` is None where one sweep serves all curves."""

    trace: Trace
    method: str
    setting: str
    phase: str
    kind: str  # replay, bits or body
    curve: NamedCurve | None = None

    def row(self) -> dict[str, Any]:
        """The row of the result it belongs to, without figures."""
        return {
            "trace": self.trace.name,
            "method": self.method,
            "setting": self.setting,
            "phase": self.phase,
        }

    def __str__(self) -> str:
        parts = (self.method, self.setting, self.phase, self.curve.name if self.curve else "", self.kind)
        return ", ".join(part for part in parts if part and part != "replay")


def units(plan: Plan) -> Iterator[Unit]:
    """All sweeps, row by row."""
    for trace in plan.traces:
        for phase in plan.phases:
            for method in plan.methods:
                budgeted = method == "auto" and plan.nodes is None
                for setting in plan.settings_of(method):
                    for curve in plan.curves if budgeted else (None,):
                        yield Unit(trace, method, setting, phase, "replay", curve)
                    if method in PRESETS:
                        if method != "auto" or plan.variants[setting].predicts_anew:
                            yield Unit(trace, method, setting, phase, "bits")
                        if plan.body is not None:
                            yield Unit(trace, method, setting, phase, "body")


def total_steps(plan: Plan) -> int:
    """How often ``run`` calls ``step``: once an answer and sweep."""
    return sum(len(unit.trace.answers) for unit in units(plan))


def run(plan: Plan, file: ResultFile, step: Step = lambda note: None) -> dict[str, Any]:
    """Replay everything; the result as plain data, with ``complete`` False after Ctrl-C.

    Finished sweeps of an earlier, interrupted run with the same settings are taken over; an unfinished one starts anew,
    since its drafter learnt from answer to answer.

    Raises:
        ADEDError: a file cannot be used, or ``file`` holds another run.
    """
    here = provenance(plan.settings(), model=plan.body_model, inputs=plan.inputs())
    earlier = rows_of(resume(file, "replay", here), file)
    result: dict[str, Any] = {
        "kind": "replay",
        "complete": False,
        "provenance": here,
        "curves": {c.name: {"ratio": {str(n): r for n, r in c.ratio.items()}} for c in plan.curves},
        "traces": [trace.describe() for trace in plan.traces],
        "warm": [trace.describe() for trace in plan.warm],
        "ablation": list(plan.variants)[1:],
        "peers": earlier["peers"],
        "missing": {},
        "skipped": {f"{method} on the body": NO_BODY for method in plan.without_body()},
        "rows": earlier["rows"],
    }
    for row in result["rows"]:
        note_engine(here, row["body"] or {})
    _check_peers(plan, result)
    try:
        for unit in units(plan):
            if unit.method not in result["missing"]:
                _do(plan, unit, result, file, step)
            else:
                for _ in unit.trace.answers:
                    step(str(unit))
        result["complete"] = True
    except KeyboardInterrupt:
        pass
    file.save(result, now=True)
    return result


def _check_peers(plan: Plan, result: dict[str, Any]) -> None:
    """Before any sweep: is a peer whose rows are to be completed still the version that made them?

    Raises:
        OptionError: it is not.
    """
    for method, before in result["peers"].items():
        left = [u for u in units(plan) if u.method == method and not _is_done(u, _row_of(u, result))]
        if not left or not any(row["method"] == method for row in result["rows"]):
            continue
        try:
            replayed = _open(plan, left[0])
        except PeerLost:
            continue  # its sweep says why
        replayed.close()
        now = getattr(replayed, "version", None)
        if now != before:
            raise OptionError(
                f"the result file holds a run with {method} {before}, and {now} is installed; name another file "
                "or remove it"
            )


def _row_of(unit: Unit, result: dict[str, Any]) -> dict[str, Any] | None:
    key = unit.row()
    return next((r for r in result["rows"] if all(r[name] == key[name] for name in key)), None)


def _do(plan: Plan, unit: Unit, result: dict[str, Any], file: ResultFile, step: Step) -> None:
    row = _row_of(unit, result)
    if row is not None and _is_done(unit, row):
        for _ in unit.trace.answers:
            step(str(unit))
        return
    if row is None:
        row = unit.row() | {
            "answers": len(unit.trace.answers),
            "tokens": unit.trace.tokens,
            "bits_per_token": None,
            "draft_microseconds": None,
            "learn_microseconds": None,
            "curves": {},
            "body": None,
        }
    warm = plan.warm if unit.phase == "warm" else ()

    def keep(body: dict[str, Any]) -> None:
        row["body"] = body
        note_engine(result["provenance"], body)
        _add(result, row)
        file.save(result)

    try:
        if unit.kind == "bits":
            makeup = plan.variants[unit.setting].makeup if unit.method == "auto" else plan.makeup
            drafter = open_drafter(unit.method, unit.trace, makeup, seed=plan.seed)
            row["bits_per_token"] = bits_per_token(drafter, unit, warm, step)
        elif unit.kind == "body" and plan.body is not None:
            keep(plan.body(unit.method, unit.trace, warm, row["body"], keep, step))
        else:
            _replay_unit(plan, unit, warm, row, result, step)
    except PeerLost as error:
        result["missing"][unit.method] = str(error)
        return
    _add(result, row)
    file.save(result)


def _add(result: dict[str, Any], row: dict[str, Any]) -> None:
    if not any(row is other for other in result["rows"]):
        result["rows"].append(row)


def _is_done(unit: Unit, row: dict[str, Any] | None) -> bool:
    if row is None:
        return False
    if unit.kind == "bits":
        return row["bits_per_token"] is not None
    if unit.kind == "body":
        # Only the measurement itself knows whether it is complete; asked again, it says so at once.
        return False
    return unit.curve.name in row["curves"] if unit.curve is not None else bool(row["curves"])


def _open(plan: Plan, unit: Unit) -> Replayed:
    return open_replayed(
        unit.method,
        unit.setting,
        unit.trace,
        curve=unit.curve,
        nodes=plan.nodes,
        seed=plan.seed,
        peer_python=plan.peer_python,
        variant=plan.variants[unit.setting] if unit.method == "auto" else None,
    )


def _replay_unit(
    plan: Plan, unit: Unit, warm: Sequence[Trace], row: dict[str, Any], result: dict[str, Any], step: Step
) -> None:
    replayed = _open(plan, unit)
    try:
        if unit.method in SCRIPTS:
            result["peers"][unit.method] = getattr(replayed, "version", None)
        replayed.feed(one for trace in warm for one in trace.answers)
        tally = sweep(replayed, unit.trace, unit.curve, plan.nodes, lambda: step(str(unit)))
    finally:
        replayed.close()
    for curve in plan.curves if unit.curve is None else (unit.curve,):
        row["curves"][curve.name] = tally.on(curve, unit.trace, plan.seed)
    times = tally.times
    for key, values in (("draft_microseconds", times.draft), ("learn_microseconds", times.learn)):
        found = spread(values)
        # Of several curves, the dearest: a budget that drafts more takes longer.
        if found is not None and (row[key] is None or found["median"] > row[key]["median"]):
            row[key] = found


def bits_per_token(drafter: Drafter, unit: Unit, warm: Sequence[Trace], step: Step) -> float:
    """How well a new drafter's predictor knows the text: -log2 of the probability it gives each next token, averaged.

    It sees one token at a time. What it leaves over is spread evenly over the rest of the vocabulary.
    """
    Own.teach(drafter, (one for trace in warm for one in trace.answers))
    total = 0.0
    for recorded in unit.trace.answers:
        drafter.reset_context()
        drafter.begin(recorded.prompt)
        for i, token in enumerate(recorded.answer.tolist()):
            total += bits(*drafter.predict(), token, unit.trace.n_vocab)
            drafter.observe(recorded.answer[i : i + 1])
        step(str(unit))
    return total / unit.trace.tokens


def bits(
    tokens: npt.NDArray[np.int32], probabilities: npt.NDArray[np.float32], token: int, n_vocab: int
) -> float:
    """Bits that ``token`` costs under a distribution over some tokens of a vocabulary; see ``bits_per_token``."""
    named = float(probabilities.sum())
    scale = min(1.0, (1.0 - LEAST_LEFTOVER) / named) if named > 0.0 else 1.0
    hit = np.flatnonzero(tokens == token)
    if hit.size and probabilities[hit[0]] > 0.0:
        return -float(np.log2(probabilities[hit[0]] * scale))
    return -float(np.log2((1.0 - named * scale) / max(1, n_vocab - tokens.size)))
