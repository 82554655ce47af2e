"""Results of kind "replay" → the section about them: drafters against recorded answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from aded_bench.extra import pandas
from aded_bench.replay.ablation import THRESHOLDS, below, effects
from aded_bench.replay.tables import body_name, methods, tables
from aded_bench.report.panels import (
    FEWEST,
    Chart,
    Dot,
    Line,
    Lines,
    Reliability,
    Section,
    Source,
    Table,
    dot_chart,
    prefix,
    side_by_side,
)
from aded_bench.report.sections import missing_tables
from aded_bench.tables import interval

PHASES = ("cold", "warm")
MEASURED = "measured on "  # heads the name of a body among the names of curves
SPEED_UP = "speed-up, plain decoding = 1"
NOTE = (
    "Recorded answers are replayed: a drafted token counts as accepted where it equals what the model wrote. "
    "Speed-ups are modelled on cost curves, drafting time stands beside them; only those named "
    f"“{MEASURED.strip()}” were timed."
)


@dataclass(frozen=True)
class Outcome:
    """One way of drafting under one curve, or on one body; ``figures`` are ``schema.Swept`` at least."""

    method: str
    setting: str
    phase: str
    figures: Mapping[str, Any]

    @property
    def label(self) -> str:
        """Method and setting."""
        return f"{self.method} {self.setting}".strip()


Groups = dict[str, list[Outcome]]
"""By file, trace and curve, as panels are titled."""


def replay_section(sources: Sequence[Source]) -> Section:
    """Modelled speed-ups, acceptance and calibration of every drafter."""
    groups: Groups = {}
    cells: dict[str, dict[str, str]] = {}
    for source in sources:
        for trace, curve, one in _outcomes(source):
            groups.setdefault(f"{prefix(source, sources)}{trace}, {curve}", []).append(one)
            row = f"{trace}, {curve}: {one.label} {one.phase}"
            cells.setdefault(row, {})[source.name] = interval(one.figures, "speedup")
    charts = [
        *_total_chart(groups),
        *_category_charts(groups),
        *_depth_chart(groups),
        *_calibration(groups),
        *_ablation_chart(sources),
    ]
    listed = [
        *_overviews(sources),
        ("Side by side: speed-up (95%)", side_by_side(cells, sources)),
        *((prefix(s, sources) + caption, table) for s in sources for caption, table in tables(s.result)),
        *((f"{head}: speed-up by category (95%)", _categories(group)) for head, group in groups.items()),
        *missing_tables(sources),
    ]
    return Section("replay", "Replayed answers", [NOTE], charts, [table for table in listed if len(table[1])])


def _outcomes(source: Source) -> Iterator[tuple[str, str, Outcome]]:
    """Trace, curve and outcome of every row but the ablation's; bodies after the curves."""
    for row in methods(source.result):
        places = dict(row["curves"])
        if row["body"]:
            places[MEASURED + body_name(row["body"])] = row["body"]
        for curve, figures in places.items():
            yield row["trace"], curve, Outcome(row["method"], row["setting"], row["phase"], figures)


def best_settings(group: Sequence[Outcome]) -> list[Outcome]:
    """Of each method and phase the setting with the highest total speed-up."""
    best: dict[tuple[str, str], Outcome] = {}
    for one in group:
        before = best.setdefault((one.method, one.phase), one)
        if one.figures["speedup"] > before.figures["speedup"]:
            best[one.method, one.phase] = one
    return list(best.values())


def _dot(one: Outcome, label: str, figures: Mapping[str, Any]) -> Dot:
    hollow = one.phase == PHASES[0]
    return Dot(label, one.method, figures["speedup"], figures["low"], figures["high"], hollow)


def _total_chart(groups: Groups) -> list[Chart]:
    panels = [(head, [_dot(one, one.label, one.figures) for one in group]) for head, group in groups.items()]
    description = (
        "Speed-up over plain decoding under each cost curve, in total, with the 95% bootstrap interval over answers. "
        "Right of the line a drafter gains time, left of it it costs time."
    )
    return dot_chart("replay-total", "Speed-up by method", description, panels, SPEED_UP, 1.0, PHASES)


def _category_charts(groups: Groups) -> list[Chart]:
    charts = []
    description = (
        "Speed-up over plain decoding by category, with the 95% bootstrap interval over answers; of each method "
        "the setting that is best in total."
    )
    for index, (head, group) in enumerate(groups.items(), 1):
        panels: dict[str, list[Dot]] = {}
        for one in best_settings(group):
            for name, found in one.figures["categories"].items():
                # Cold and warm may have different best settings: the method's name stands for both.
                panels.setdefault(name, []).append(_dot(one, one.method, found))
        key, title = f"replay-categories-{index}", f"Speed-up by category and method: {head}"
        charts += dot_chart(key, title, description, list(panels.items()), SPEED_UP, 1.0, PHASES)
    return charts


def _depth_chart(groups: Groups) -> list[Chart]:
    panels = []
    for head, group in groups.items():
        for phase in dict.fromkeys(one.phase for one in group):
            lines = []
            for one in best_settings([one for one in group if one.phase == phase]):
                known = [d for d in one.figures.get("depths", ()) if d["proposed"] >= FEWEST]
                x = tuple(float(d["depth"]) for d in known)
                y = tuple(d["accepted"] / d["proposed"] for d in known)
                if known:
                    lines.append(Line(one.label, one.method, x, y))
            if lines:
                panels.append(Lines(f"{head}, {phase}", tuple(lines), "depth in the tree", "share accepted"))
    if not panels:
        return []
    highest = max(max(line.y) for panel in panels for line in panel.lines)
    panels = [replace(panel, y_limits=(0.0, 1.08 * highest or 1.0)) for panel in panels]
    description = (
        "Of the nodes proposed at each depth of the tree, the share that was accepted; of each method the setting that "
        f"is best in total. Depths with fewer than {FEWEST} nodes are left out."
    )
    return [Chart("replay-depth", "Acceptance by depth", description, tuple(panels))]


def _calibration(groups: Groups) -> list[Chart]:
    panels = []
    for head, group in groups.items():
        for one in best_settings(group):
            if found := one.figures.get("calibration"):
                bins = tuple((b["predicted"], b["observed"], b["count"]) for b in found["bins"])
                panels.append(Reliability(f"{head}, {one.label} {one.phase}", one.method, bins, found["ece"]))
    description = (
        "Probability a drafter gave its nodes against the share that was accepted, in bins; below, how many nodes "
        "a bin holds. On the diagonal a drafter knows what it knows; below it, it promises too much. ECE: the mean "
        "distance from the diagonal, weighted by nodes. "
        f"Of each method the setting that is best in total. Bins with fewer than {FEWEST} nodes are faint."
    )
    return [Chart("replay-calibration", "Calibration", description, tuple(panels))] if panels else []


def _ablation_chart(sources: Sequence[Source]) -> list[Chart]:
    """A bar per part left out, one panel per trace, phase and curve."""
    panels = []
    for source in sources:
        for trace, phase in dict.fromkeys((row["trace"], row["phase"]) for row in source.result["rows"]):
            found = effects(source.result, trace, phase).iloc[1:]
            for name in (name for name in found if name.startswith("change ")):
                parts = found.dropna(subset=name).sort_values(name)
                dots = [
                    Dot(setting, "auto", change, min(0.0, change), max(0.0, change))
                    for setting, change in zip(parts["setting"], parts[name], strict=True)
                ]
                title = f"{prefix(source, sources)}{trace}, {phase}, {name.removeprefix('change ')}"
                panels.append((title, dots))
    description = (
        "How the speed-up of auto changes when one part of it is left out, in percent of the whole drafter's. "
        "Left of the line the part is missed."
    )
    title, axis = "What each part of auto is worth", "change of speed-up, percent"
    return dot_chart("replay-ablation", title, description, panels, axis, 0.0)


def _overviews(sources: Sequence[Source]) -> list[Table]:
    """Which traces, which peers, and where `auto` is slower than plain decoding."""
    traces = [
        {
            "trace": trace["name"],
            "file": source.label,
            "answers": f"{trace['answers']:,}",
            "tokens": f"{trace['tokens']:,}",
            "answers by category": ", ".join(f"{name} {n:,}" for name, n in trace["categories"].items()),
        }
        for source in sources
        for trace in source.result["traces"]
    ]
    peers = [
        {"method": method, "file": source.label, "version": version}
        for source in sources
        for method, version in source.result["peers"].items()
    ]
    slow = [
        {
            "trace": row["trace"],
            "file": source.label,
            "setting": row["setting"],
            "store": row["phase"],
            **{f"below {limit:.2f}": below(row, limit) for limit in THRESHOLDS},
        }
        for source in sources
        for row in methods(source.result)
        if row["method"] == "auto" and row["curves"]
    ]
    captions = ("Traces", "Peers", "Categories in which auto is slower than plain decoding")
    return [
        (caption, pandas.DataFrame(rows))
        for caption, rows in zip(captions, (traces, peers, slow), strict=True)
    ]


def _categories(group: Sequence[Outcome]) -> pandas.DataFrame:
    return pandas.DataFrame(
        {
            "method": one.label,
            "store": one.phase,
            **{name: interval(found, "speedup", 2) for name, found in one.figures["categories"].items()},
        }
        for one in group
        if one.figures["categories"]
    )
