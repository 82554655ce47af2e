"""Replay recorded answers against ways of drafting: no model, the same answer every time, in seconds.

What the passes would cost is looked up on cost curves. Methods that do not look at the curve are replayed once for all
of them; ``auto`` once for each. A way of drafting learns from the answers as it goes (cold), and from other
conversations before (warm).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from aded_bench.replay.curves import NamedCurve
from aded_bench.replay.drafter_settings import DrafterSettings, Variant, open_drafter, variants
from aded_bench.replay.drafts import MOST_NODES, SCRIPTS, exchanges, open_method, settings_of
from aded_bench.replay.peers import PeerLost
from aded_bench.replay.sweep import Sweep
from aded_bench.replay.traces import Trace
from aded_bench.results import ResultFile, provenance, resume
from aded_local.drafters import PRESETS, Drafter
from aded_local.errors import OptionError
from aded_local.step import NO_TOKENS, Beginning, said
from aded_local.tree import FloatArray, IntArray

LEAST_LEFTOVER: Final = 1e-3
"""Probability kept for tokens a predictor does not name: some always come, and minus the logarithm of nothing is
infinite. A tenth of a percent costs a predictor that is sure and right 0.0014 bits."""

NO_BODY: Final = "only our own ways of drafting are decoded on it"

ENGINE: Final = ("quantization", "flash_attention", "cache_type", "threads", "context", "gpu_layers")
"""Of a body's figures, what belongs to where the numbers come from."""

Step = Callable[[str], None]


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
        drafter: what ``auto`` drafts with.
        ablate: replay ``auto`` without each of its parts too.
        body: a model on which our presets are really decoded too; None without.
        body_settings: options of ``trace_driven.measure``.
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
    drafter: DrafterSettings = field(default_factory=DrafterSettings)
    ablate: bool = False
    body: Path | None = None
    body_settings: Mapping[str, Any] = field(default_factory=dict)

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
            "drafter": self.drafter.to_dict() if "auto" in self.methods else None,
            "ablate": self.ablate,
            "body": dict(self.body_settings),
        }

    @cached_property
    def variants(self) -> dict[str, Variant]:
        """How ``auto`` is made, by setting; the whole drafter first."""
        return variants(self.drafter, ablate=self.ablate)

    def settings_of(self, method: str) -> tuple[str, ...]:
        """The settings a method is replayed with."""
        return tuple(self.variants) if method == "auto" else settings_of(method)

    def inputs(self) -> list[Path]:
        """Files that decide the result."""
        traces = (*self.traces, *self.warm)
        vocabularies = dict.fromkeys(trace.vocab for trace in traces if trace.vocab is not None)
        paths = [*(trace.path for trace in traces), *vocabularies, *(curve.path for curve in self.curves)]
        return paths + (self.drafter.inputs() if "auto" in self.methods else [])


@dataclass(frozen=True)
class Unit:
    """One sweep over one trace; ``curve`` is None where one sweep serves all curves."""

    trace: Trace
    method: str
    setting: str
    phase: str
    kind: str  # replay, bits or body
    curve: NamedCurve | None = None

    def is_of(self, row: Mapping[str, Any]) -> bool:
        """Whether ``row`` is where its figures belong."""
        key = (self.trace.name, self.method, self.setting, self.phase)
        return (row["trace"], row["method"], row["setting"], row["phase"]) == key

    def is_in(self, row: Mapping[str, Any]) -> bool:
        """Whether its figures are there."""
        if self.kind == "bits":
            return row["bits_per_token"] is not None
        if self.kind == "body":
            return False  # only the measurement itself knows; asked again, it says so at once
        return self.curve.name in row["curves"] if self.curve is not None else bool(row["curves"])

    def __str__(self) -> str:
        parts = (self.method, self.setting, self.phase, self.curve.name if self.curve else "", self.kind)
        return ", ".join(part for part in parts if part and part != "replay")


def units(plan: Plan) -> Iterator[Unit]:
    """All sweeps, row by row."""
    for trace in plan.traces:
        for phase in plan.phases:
            for method in plan.methods:
                budgets = method == "auto" and plan.nodes is None
                for setting in plan.settings_of(method):
                    for curve in plan.curves if budgets else (None,):
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
    here = provenance(plan.settings(), model=plan.body, inputs=plan.inputs())
    earlier = resume(file, "replay", here) or {"rows": [], "peers": {}}
    modelled = [method for method in plan.methods if method not in PRESETS and plan.body is not None]
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
        "skipped": {f"{method} on the body": NO_BODY for method in modelled},
        "rows": earlier["rows"],
    }
    for row in result["rows"]:
        _note_engine(here, row["body"])
    try:
        for unit in units(plan):
            row = next((row for row in result["rows"] if unit.is_of(row)), None)
            if unit.method in result["missing"] or (row is not None and unit.is_in(row)):
                for _ in unit.trace.answers:
                    step(str(unit))
                continue
            try:
                _Work(plan, unit, result, file, step).do(row or _new_row(unit))
            except PeerLost as error:
                result["missing"][unit.method] = str(error)
        result["complete"] = True
    except KeyboardInterrupt:
        pass
    file.save(result, now=True)
    return result


def _new_row(unit: Unit) -> dict[str, Any]:
    return {
        "trace": unit.trace.name,
        "method": unit.method,
        "setting": unit.setting,
        "phase": unit.phase,
        "answers": len(unit.trace.answers),
        "tokens": unit.trace.tokens,
        "bits_per_token": None,
        "draft_microseconds": None,
        "learn_microseconds": None,
        "curves": {},
        "body": None,
    }


def _note_engine(provenance: dict[str, Any], body: Mapping[str, Any] | None) -> None:
    """Write what the first engine opened says of itself where a run says where its numbers come from."""
    if body is None or provenance["engine"] is not None:
        return
    provenance["engine"] = {key: body[key] for key in ENGINE}
    provenance |= {key: body[key] for key in ("threads", "gpu_layers")}
    provenance["model"]["quantization"] = body["quantization"]


@dataclass
class _Work:
    """One unit, and where its figures go."""

    plan: Plan
    unit: Unit
    result: dict[str, Any]
    file: ResultFile
    step: Step

    def do(self, row: dict[str, Any]) -> None:
        """Fill in the row and keep it."""
        plan, unit = self.plan, self.unit
        warm = plan.warm if unit.phase == "warm" else ()
        if unit.kind == "replay":
            self._replay(row, warm)
        elif unit.kind == "bits":
            row["bits_per_token"] = bits_per_token(self._drafter(), unit.trace, warm, self._told)
        else:
            from aded_bench.replay.trace_driven import measure

            assert plan.body is not None

            def keep(body: dict[str, Any]) -> None:
                row["body"] = body
                _note_engine(self.result["provenance"], body)
                self._keep(row)

            keep(
                measure(
                    plan.body,
                    unit.trace,
                    unit.method,
                    warm=warm,
                    make=self._drafter,
                    seed=plan.seed,
                    earlier=row["body"],
                    save=keep,
                    step=self._told,
                    **plan.body_settings,
                )
            )
        self._keep(row)

    def _told(self) -> None:
        self.step(str(self.unit))

    def _keep(self, row: dict[str, Any]) -> None:
        if not any(row is other for other in self.result["rows"]):
            self.result["rows"].append(row)
        self.file.save(self.result)

    def _drafter(self) -> Drafter:
        plan, unit = self.plan, self.unit
        settings = plan.variants[unit.setting].drafter if unit.method == "auto" else plan.drafter
        return open_drafter(unit.method, unit.trace, settings, seed=plan.seed)

    def _replay(self, row: dict[str, Any], warm: Sequence[Trace]) -> None:
        plan, unit = self.plan, self.unit
        method = open_method(
            unit.method,
            unit.setting,
            unit.trace,
            curve=unit.curve,
            nodes=plan.nodes,
            seed=plan.seed,
            peer_python=plan.peer_python,
            variant=plan.variants[unit.setting] if unit.method == "auto" else None,
        )
        try:
            if unit.method in SCRIPTS:
                self._note_version(method.version)
            method.recall(exchanges(one for trace in warm for one in trace.answers))
            sweep = Sweep(method, unit.trace, unit.curve, plan.nodes or MOST_NODES, self._told)
        finally:
            method.planner.close()
        for curve in plan.curves if unit.curve is None else (unit.curve,):
            found = row["curves"][curve.name] = sweep.on(curve, plan.seed)
            for key in ("draft_microseconds", "learn_microseconds"):
                # Of several curves, the dearest: a budget that drafts more takes longer.
                if found[key] and (row[key] is None or found[key]["median"] > row[key]["median"]):
                    row[key] = found[key]

    def _note_version(self, version: str | None) -> None:
        method, rows = self.unit.method, self.result["rows"]
        before = self.result["peers"].setdefault(method, version)
        if before != version and any(row["method"] == method for row in rows):
            raise OptionError(
                f"the result file holds a run with {method} {before}, and {version} is installed; name another "
                "file or remove it"
            )
        self.result["peers"][method] = version


def bits_per_token(
    drafter: Drafter, trace: Trace, warm: Sequence[Trace], step: Callable[[], None] = lambda: None
) -> float:
    """How well a new drafter's predictor knows the text: -log2 of the probability it gives each next token, averaged.

    It sees one token at a time. What it leaves over is spread evenly over the rest of the vocabulary.
    """
    drafter.recall(exchanges(one for other in warm for one in other.answers))
    total = 0.0
    for recorded in trace.answers:
        drafter.begin(Beginning(0, NO_TOKENS, recorded.prompt))
        for token in recorded.answer.tolist():
            total += bits(*drafter.predict(), token, trace.n_vocab)
            drafter.observe(said([token]))
        step()
    return total / trace.tokens


def bits(tokens: IntArray, probabilities: FloatArray, token: int, n_vocab: int) -> float:
    """Bits that ``token`` costs under a distribution over some tokens of a vocabulary; see ``bits_per_token``."""
    named = float(probabilities.sum())
    scale = min(1.0, (1.0 - LEAST_LEFTOVER) / named) if named > 0.0 else 1.0
    hit = np.flatnonzero(tokens == token)
    if hit.size and probabilities[hit[0]] > 0.0:
        return -float(np.log2(probabilities[hit[0]] * scale))
    return -float(np.log2((1.0 - named * scale) / max(1, n_vocab - tokens.size)))
