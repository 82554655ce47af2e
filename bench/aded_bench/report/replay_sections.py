"""Result files of kind "replay" → the section about them: drafters against recorded answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from aded_bench.replay.worth import is_ablated, left_out
from aded_bench.report.ablation_sections import ablation_charts, ablation_tables, slow_table
from aded_bench.report.panels import (
    FEWEST,
    Chart,
    Dot,
    DotRow,
    Dots,
    Line,
    Lines,
    Panel,
    Reliability,
    Section,
    Table,
)
from aded_bench.report.sections import Source, limits_of, missing_table, prefix, side_by_side
from aded_bench.report.untrusted import interval, mapping, number, objects, shown, words
from aded_bench.wording import attention

PHASES = ("cold", "warm")
ROW_NAMES = ("trace", "method", "setting", "phase")
MEASURED = "measured on "  # heads the name of a body among the names of curves


@dataclass(frozen=True)
class Outcome:
    """One drafter on one trace under one curve, or on one body."""

    source: Source
    trace: str
    curve: str
    method: str
    setting: str
    phase: str
    row: Mapping[str, Any]
    found: Mapping[str, Any]

    @property
    def label(self) -> str:
        """Method and setting."""
        return f"{self.method} {self.setting}".strip()

    @property
    def speedup(self) -> float:
        """In total; 0 where it is not known."""
        return number(self.found.get("speedup")) or 0.0

    @property
    def categories(self) -> Mapping[str, Any]:
        """Figures by category."""
        return mapping(self.found.get("categories"))


def outcomes(source: Source) -> list[Outcome]:
    """Every row of a file but its ablation's, once per curve, in the file's order; bodies after the curves."""
    listed = []
    ablated = left_out(source.result)
    for row in objects(source.result.get("rows")):
        if is_ablated(row, ablated):
            continue
        trace, method, setting, phase = (words(row.get(key, "")) for key in ROW_NAMES)
        for curve, found in mapping(row.get("curves")).items():
            listed.append(Outcome(source, trace, words(curve), method, setting, phase, row, mapping(found)))
        if body := mapping(row.get("body")):
            listed.append(Outcome(source, trace, _body_name(body), method, setting, phase, row, body))
    return listed


def _body_name(body: Mapping[str, Any]) -> str:
    return (
        f"{MEASURED}{words(body.get('model', 'a body'))}, {attention(body.get('flash_attention'))}, "
        f"{words(body.get('cache_type', '?'))}"
    )


def _grouped(found: Sequence[Outcome], *keys: str) -> dict[tuple[str, ...], list[Outcome]]:
    groups: dict[tuple[str, ...], list[Outcome]] = {}
    for outcome in found:
        groups.setdefault(tuple(str(getattr(outcome, key)) for key in keys), []).append(outcome)
    return groups


def best_settings(found: Sequence[Outcome]) -> list[Outcome]:
    """Of each method and phase the setting with the highest total speed-up; of one trace and one curve."""
    groups = _grouped(found, "method", "phase").values()
    return [max(group, key=lambda outcome: outcome.speedup) for group in groups]


def replay_section(sources: Sequence[Source]) -> Section:
    """Modelled speed-ups, acceptance and calibration of every drafter."""
    found = [(source, outcomes(source)) for source in sources]
    heads = [
        (f"{prefix(source, sources)}{trace}, ", curve, group)
        for source, listed in found
        for (trace, curve), group in _grouped(listed, "trace", "curve").items()
    ]
    charts = [*_total_charts(heads), *_category_charts(heads), *_depth_charts(heads), *_calibration(heads)]
    charts += ablation_charts(sources)
    cells: dict[str, dict[str, str]] = {}
    for source, listed in found:
        for o in listed:
            row = f"{o.trace}, {o.curve}: {o.label} {o.phase}"
            cells.setdefault(row, {})[source.name] = interval(o.found, "speedup")
    peers = [
        (words(method), source.label, words(version))
        for source in sources
        for method, version in mapping(source.result.get("peers")).items()
    ]
    tables = [_traces_table(sources), Table("Peers", ("method", "file", "version"), tuple(peers))]
    tables += [slow_table(sources), *side_by_side("Side by side: speed-up (95%)", sources, cells)]
    for head, curve, group in heads:
        tables += _tables(f"{head}{curve}", group)
        if curve.startswith(MEASURED):
            tables.append(_body_table(f"{head}{curve}", group))
    tables += ablation_tables(sources)
    notes = (
        "Recorded answers are replayed: a drafted token counts as accepted where it equals what the model wrote. "
        "Speed-ups are modelled on cost curves, drafting time stands beside them; only those named "
        f"“{MEASURED.strip()}” were timed.",
    )
    kept = tuple(table for table in tables if table.rows)
    return Section("replay", "Replayed answers", notes, tuple(charts), (*kept, *missing_table(sources)))


Heads = Sequence[tuple[str, str, Sequence[Outcome]]]


def _total_charts(heads: Heads) -> list[Chart]:
    panels = []
    for head, curve, group in heads:
        if rows := _dot_rows(group, None, {o.method + o.setting: o.label for o in group}):
            panels.append((head + curve, rows))
    if not panels:
        return []
    description = (
        "Speed-up over plain decoding under each cost curve, in total, with the 95% bootstrap interval over answers. "
        "Right of the line a drafter gains time, left of it it costs time."
    )
    return [Chart("replay-total", "Speed-up by method", description, _dots(panels), PHASES)]


def _category_charts(heads: Heads) -> list[Chart]:
    charts = []
    for index, (head, curve, group) in enumerate(heads, 1):
        best = best_settings(group)
        categories = list(dict.fromkeys(category for outcome in best for category in outcome.categories))
        # Cold and warm may have different best settings: the method's name stands for both.
        names = {o.method + o.setting: o.method for o in best}
        panels = [(words(c), rows) for c in categories if (rows := _dot_rows(best, c, names))]
        if not panels:
            continue
        title = f"Speed-up by category and method: {head}{curve}"
        description = (
            "Speed-up over plain decoding by category, with the 95% bootstrap interval over answers; of each method "
            "the setting that is best in total."
        )
        charts.append(Chart(f"replay-categories-{index}", title, description, _dots(panels), PHASES))
    return charts


def _dot_rows(group: Sequence[Outcome], category: str | None, names: Mapping[str, str]) -> tuple[DotRow, ...]:
    """A row per name, of one or two phases; in the group's order."""
    rows: dict[str, tuple[str, list[Dot]]] = {}
    for outcome in sorted(group, key=lambda o: o.phase != PHASES[0]):
        found = outcome.found if category is None else mapping(outcome.categories.get(category))
        value = number(found.get("speedup"))
        if value is None:
            continue
        low, high = number(found.get("low")), number(found.get("high"))
        dot = Dot(value, low, high, hollow=outcome.phase == PHASES[0])
        rows.setdefault(names[outcome.method + outcome.setting], (outcome.method, []))[1].append(dot)
    order = dict.fromkeys(names[o.method + o.setting] for o in group)
    return tuple(DotRow(name, rows[name][0], tuple(rows[name][1])) for name in order if name in rows)


def _dots(panels: Sequence[tuple[str, tuple[DotRow, ...]]]) -> tuple[Dots, ...]:
    limits = limits_of([row for _, rows in panels for row in rows], 1.0)
    return tuple(Dots(title, rows, "speed-up, plain decoding = 1", 1.0, limits) for title, rows in panels)


def _depth_charts(heads: Heads) -> list[Chart]:
    panels = []
    for head, curve, group in heads:
        for (phase,), listed in _grouped(best_settings(group), "phase").items():
            lines = []
            for outcome in listed:
                points = [tuple(number(d.get(k)) for k in ("depth", "proposed", "accepted"))
                          for d in objects(outcome.found.get("depths"))]  # fmt: skip
                known = [(depth, accepted / proposed) for depth, proposed, accepted in points
                         if depth is not None and proposed is not None and accepted is not None
                         and proposed >= FEWEST]  # fmt: skip
                if known:
                    x, y = zip(*sorted(known), strict=True)
                    lines.append(Line(outcome.label, outcome.method, x, y))
            if lines:
                axes = ("depth in the tree", "share accepted")
                title = f"{head}{curve}, {phase}".rstrip(", ")
                panels.append(Lines(title, tuple(lines), *axes))
    if not panels:
        return []
    highest = max(max(line.y) for panel in panels for line in panel.lines)
    panels = [replace(panel, y_limits=(0.0, 1.08 * highest or 1.0)) for panel in panels]
    description = (
        "Of the nodes proposed at each depth of the tree, the share that was accepted; of each method the setting that "
        f"is best in total. Depths with fewer than {FEWEST} nodes are left out."
    )
    return [Chart("replay-depth", "Acceptance by depth", description, tuple(panels))]


def _calibration(heads: Heads) -> list[Chart]:
    panels: list[Panel] = []
    for head, curve, group in heads:
        for outcome in best_settings(group):
            found = mapping(outcome.found.get("calibration"))
            read = [tuple(number(b.get(key)) for key in ("predicted", "observed", "count"))
                    for b in objects(found.get("bins"))]  # fmt: skip
            bins = tuple((p, o, int(c)) for p, o, c in read
                         if p is not None and o is not None and c is not None
                         and 0 <= p <= 1 and 0 <= o <= 1 and c >= 1)  # fmt: skip
            if bins:
                title = f"{head}{curve}, {outcome.label} {outcome.phase}".strip()
                panels.append(Reliability(title, outcome.method, bins, number(found.get("ece"))))
    if not panels:
        return []
    description = (
        "Probability a drafter gave its nodes against the share that was accepted, in bins; below, how many nodes "
        "a bin holds. On the diagonal a drafter knows what it knows; below it, it promises too much. ECE: the mean "
        "distance from the diagonal, weighted by nodes. "
        f"Of each method the setting that is best in total. Bins with fewer than {FEWEST} nodes are faint."
    )
    return [Chart("replay-calibration", "Calibration", description, tuple(panels))]


def _traces_table(sources: Sequence[Source]) -> Table:
    rows = []
    for source in sources:
        for trace in objects(source.result.get("traces")):
            counted = mapping(trace.get("categories")).items()
            categories = ", ".join(f"{words(name)} {shown(count, 0)}" for name, count in counted)
            sizes = (shown(trace.get(key), 0) for key in ("answers", "tokens"))
            rows.append((words(trace.get("name", "–")), source.label, *sizes, categories))
    columns = ("trace", "file", "answers", "tokens", "answers by category")
    return Table("Traces", columns, tuple(rows))


def _times(outcome: Outcome) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Microseconds of drafting and of learning. On a body, drafting holds both; the row's are modelled ones."""
    names = ("draft_microseconds", "learn_microseconds")
    places = (outcome.found,) if outcome.curve.startswith(MEASURED) else (outcome.found, outcome.row)
    drafting, learning = (next((p[name] for p in places if p.get(name)), None) for name in names)
    return mapping(drafting), mapping(learning)


def _tables(caption: str, group: Sequence[Outcome]) -> list[Table]:
    rows = []
    for outcome in group:
        drafting, learning = _times(outcome)
        ece = mapping(outcome.found.get("calibration")).get("ece")
        passes = (shown(outcome.found.get(key), 3) for key in ("tokens_per_pass", "nodes_per_pass"))
        times = (shown(drafting.get(key), 0) for key in ("median", "p99"))
        bits = shown(outcome.row.get("bits_per_token"), 3)
        learnt = shown(learning.get("median"), 0)
        cells = (
            outcome.phase,
            interval(outcome.found, "speedup"),
            *passes,
            *times,
            learnt,
            bits,
            shown(ece, 4),
        )
        rows.append((outcome.label, *cells))
    columns = (
        "method", "store", "speed-up (95%)", "tokens/pass", "nodes/pass",
        "drafting, µs", "p99, µs", "learning, µs", "bits/token", "ECE",
    )  # fmt: skip
    tables = [Table(caption, columns, tuple(rows))]
    categories = list(dict.fromkeys(c for outcome in group for c in outcome.categories))
    if categories:
        by = tuple(
            (o.label, o.phase, *(interval(mapping(o.categories.get(c)), "speedup", 2) for c in categories))
            for o in group
        )
        head = ("method", "store", *map(words, categories))
        tables.append(Table(f"{caption}: speed-up by category (95%)", head, by))
    return tables


def _body_table(caption: str, group: Sequence[Outcome]) -> Table:
    """Wall-clock beside the model of it."""
    rows = []
    for outcome in group:
        modelled = number(outcome.found.get("modelled"))
        apart = f"{100 * (outcome.speedup / modelled - 1):+.1f}%" if modelled else "–"
        seconds = (shown(outcome.found.get(key), 1) for key in ("seconds", "plain_seconds"))
        cells = (interval(outcome.found, "speedup"), shown(modelled, 3), apart, *seconds)
        rows.append((outcome.label, outcome.phase, *cells, words(outcome.found.get("largest_gap") or "–")))
    columns = (
        "method", "store", "measured (95%)", "modelled", "apart", "seconds", "plain, seconds", "largest gap",
    )  # fmt: skip
    return Table(f"{caption}: wall-clock beside the model of it", columns, tuple(rows))
