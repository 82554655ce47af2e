"""Replay recorded answers against ways of drafting: no model, the same answer every time, in seconds.

A pass verifies a tree below the last token; nodes that equal what the model wrote are accepted, and one more token
follows. What the passes would cost is looked up on cost curves. Methods that do not look at the curve are
replayed once for all of them; ``auto`` once for each. A way of drafting learns from the answers as it goes
(cold), and from other conversations before (warm).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from aded_bench.replay import calibration
from aded_bench.replay.curves import LARGEST_PASS, NamedCurve
from aded_bench.replay.drafts import SCRIPTS, Replayed, Times, open_replayed, settings_of
from aded_bench.replay.peers import PeerLost
from aded_bench.replay.traces import Recorded, Trace
from aded_bench.results import ResultFile, provenance, resume
from aded_bench.summary import ratio_interval
from aded_local.drafting import PRESETS, make_drafter
from aded_local.tree import DraftTree

LEAST_LEFTOVER: Final = 1e-3
"""Probability kept for tokens a predictor does not name: some always come, and minus the logarithm of nothing is
infinite. A tenth of a percent costs a predictor that is sure and right 0.0014 bits."""

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
        methods: of ``drafts.METHODS``.
        curves: what passes cost.
        nodes: verify so many nodes at every step, whatever they cost; None for each method's own choice.
        limit, longest: how traces were cut to so many answers of so many tokens, for the record.
        peer_python: interpreter with the peers' packages.
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
            "body": self.body_settings,
        }


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
                for setting in settings_of(method):
                    for curve in plan.curves if budgeted else (None,):
                        yield Unit(trace, method, setting, phase, "replay", curve)
                    if method in PRESETS:
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
    inputs = [trace.path for trace in (*plan.traces, *plan.warm)] + [curve.path for curve in plan.curves]
    here = provenance(plan.settings(), model=plan.body_model, inputs=inputs)
    earlier = resume(file, "replay", here) or {}
    result: dict[str, Any] = {
        "kind": "replay",
        "complete": False,
        "provenance": here,
        "curves": {c.name: {"ratio": {str(n): r for n, r in c.ratio.items()}} for c in plan.curves},
        "traces": [trace.describe() for trace in plan.traces],
        "warm": [trace.describe() for trace in plan.warm],
        "peers": earlier.get("peers", {}),
        "missing": {},
        "rows": earlier.get("rows", []),
    }
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


def _do(plan: Plan, unit: Unit, result: dict[str, Any], file: ResultFile, step: Step) -> None:
    key = unit.row()
    row = next((r for r in result["rows"] if all(r[name] == key[name] for name in key)), None)
    if row is not None and _is_done(unit, row):
        for _ in unit.trace.answers:
            step(str(unit))
        return
    if row is None:
        row = key | {
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
        _add(result, row)
        file.save(result)

    try:
        if unit.kind == "bits":
            row["bits_per_token"] = bits_per_token(unit, warm, plan.seed, step)
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


def _is_done(unit: Unit, row: dict[str, Any]) -> bool:
    if unit.kind == "bits":
        return row["bits_per_token"] is not None
    if unit.kind == "body":
        # Only the measurement itself knows whether it is complete; asked again, it says so at once.
        return False
    return unit.curve.name in row["curves"] if unit.curve is not None else bool(row["curves"])


def _replay_unit(
    plan: Plan, unit: Unit, warm: Sequence[Trace], row: dict[str, Any], result: dict[str, Any], step: Step
) -> None:
    replayed = open_replayed(
        unit.method,
        unit.setting,
        unit.trace,
        curve=unit.curve,
        nodes=plan.nodes,
        seed=plan.seed,
        peer_python=plan.peer_python,
    )
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


class Tally:
    """What a sweep counts, answer by answer.

    Attributes:
        passes: of each answer.
        sizes: how often each answer verified so many nodes, int64 ``(answers, LARGEST_PASS)``.
        judged: nodes by probability and depth.
        times: of drafting.
    """

    def __init__(self, n_answers: int, times: Times) -> None:
        self.passes = np.zeros(n_answers, np.int64)
        self.sizes = np.zeros((n_answers, LARGEST_PASS), np.int64)
        self.judged = calibration.Calibration()
        self.times = times

    def on(self, curve: NamedCurve, trace: Trace, seed: int) -> dict[str, Any]:
        """The row's entry for a curve."""
        cost = self.sizes @ curve.cost_array()[1:]
        nodes = int((self.sizes @ np.arange(LARGEST_PASS)).sum())
        tokens = np.array([len(one.answer) for one in trace.answers], np.int64)
        passes = int(self.passes.sum())
        categories = np.array([one.category for one in trace.answers])
        return {
            "passes": passes,
            "nodes": nodes,
            "tokens_per_pass": int(tokens.sum()) / passes,
            "nodes_per_pass": nodes / passes,
            **_speedup(tokens, cost, seed),
            "draft_microseconds": spread(self.times.draft),
            "learn_microseconds": spread(self.times.learn),
            "categories": {
                str(name): {
                    "answers": int((categories == name).sum()),
                    "tokens": int(tokens[categories == name].sum()),
                    "tokens_per_pass": float(
                        tokens[categories == name].sum() / self.passes[categories == name].sum()
                    ),
                    **_speedup(tokens[categories == name], cost[categories == name], seed),
                }
                for name in dict.fromkeys(categories)
            },
            "calibration": self.judged.result(),
            "depths": self.judged.depths(),
        }


def _speedup(tokens: npt.NDArray[np.int64], cost: npt.NDArray[np.float64], seed: int) -> dict[str, float]:
    low, high = ratio_interval(tokens.tolist(), cost.tolist(), seed)
    return {"speedup": float(tokens.sum() / cost.sum()), "low": low, "high": high}


def spread(microseconds: list[float]) -> dict[str, float] | None:
    """Median, 99th percentile and mean; None of nothing."""
    if not microseconds:
        return None
    median, p99 = np.percentile(microseconds, (50, 99))
    return {"median": float(median), "p99": float(p99), "mean": float(np.mean(microseconds))}


def sweep(
    replayed: Replayed,
    trace: Trace,
    curve: NamedCurve | None,
    nodes: int | None,
    step: Callable[[], None] = lambda: None,
) -> Tally:
    """Replay every answer of ``trace``, in order.

    Args:
        curve: what passes cost, for ways of drafting that learn from it.
        nodes: the most nodes verified; None for all that are drafted.
    """
    tally = Tally(len(trace.answers), replayed.times)
    for index, recorded in enumerate(trace.answers):
        replayed.begin(recorded.prompt)
        at = 0
        while at < len(recorded.answer):
            cells = len(recorded.prompt) - 1 + at  # the root is not decoded yet
            tree = replayed.draft(cells).first(nodes if nodes is not None else LARGEST_PASS - 1)
            emitted = verify(tree, recorded, at, tally.judged, replayed.predicts)
            tally.passes[index] += 1
            tally.sizes[index, len(tree)] += 1
            replayed.observe(
                recorded.answer[at : at + emitted].tolist(),
                n_nodes=len(tree),
                n_cells=cells,
                cost=curve.cost(len(tree) + 1) if curve is not None else 1.0,
            )
            at += emitted
        step()
    return tally


def verify(
    tree: DraftTree, recorded: Recorded, at: int, judged: calibration.Calibration, predicts: bool
) -> int:
    """Walk ``tree`` along the recorded answer from ``at`` on; returns the tokens the pass yields, at least 1."""
    left = len(recorded.answer) - at
    if len(tree) == 0:
        return 1
    wanted = recorded.answer[at : at + len(tree)].tolist()
    path: list[int] = []
    node = -1
    # One look at each node is enough: parents precede their children.
    for i, (token, parent) in enumerate(zip(tree.tokens.tolist(), tree.parents.tolist(), strict=True)):
        if parent == node and len(path) < len(wanted) and token == wanted[len(path)]:
            path.append(i)
            node = i
    accepted = np.zeros(len(tree), np.bool_)
    accepted[path] = True
    # Nodes beyond the recorded end cannot be judged; nodes of probability 0 pad a batch and propose nothing.
    known = (tree.depths <= left) & (tree.probabilities > 0)
    judged.add(tree.probabilities[known] if predicts else None, tree.depths[known], accepted[known])
    return min(len(path) + 1, left)


def bits_per_token(unit: Unit, warm: Sequence[Trace], seed: int, step: Step) -> float:
    """How well the preset's predictor knows the text: -log2 of the probability it gives each next token, averaged.

    It sees one token at a time. What it leaves over is spread evenly over the rest of the vocabulary.
    """
    from aded_bench.replay.drafts import Own

    drafter = make_drafter(unit.method, n_vocab=unit.trace.n_vocab, seed=seed)
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
