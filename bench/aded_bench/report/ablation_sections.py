"""Result files of kind "replay" → what each part of `auto` is worth, and categories slower than plain decoding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from aded_bench.replay.worth import THRESHOLDS, Worth, below, is_ablated, left_out, percent, worths
from aded_bench.report.panels import Chart, Dot, DotRow, Dots, Table
from aded_bench.report.sections import Source, limits_of, prefix
from aded_bench.report.untrusted import objects, shown, words


def ablation_charts(sources: Sequence[Source]) -> list[Chart]:
    """A bar per part left out, one panel per trace, phase and curve; none where nothing was ablated."""
    drawn: list[tuple[str, tuple[DotRow, ...]]] = []
    for head, found in _ablations(sources):
        for curve in found[0].speedups:
            parts = sorted((p for p in found[1:] if curve in p.changes), key=lambda part: part.changes[curve])
            rows = tuple(DotRow(part.setting, "auto", (_bar(part.changes[curve]),)) for part in parts)
            if rows:
                drawn.append((f"{head}, {curve}", rows))
    if not drawn:
        return []
    limits = limits_of([row for _, rows in drawn for row in rows], 0.0)
    axis = "change of speed-up, percent"
    panels = tuple(Dots(title, rows, axis, 0.0, limits) for title, rows in drawn)
    description = (
        "How the speed-up of auto changes when one part of it is left out, in percent of the whole drafter's. "
        "Left of the line the part is missed."
    )
    return [Chart("replay-ablation", "What each part of auto is worth", description, panels)]


def _bar(change: float) -> Dot:
    """From no change to this one."""
    return Dot(change, min(0.0, change), max(0.0, change))


def ablation_tables(sources: Sequence[Source]) -> list[Table]:
    """The whole drafter, then what is missed most first."""
    tables = []
    for head, found in _ablations(sources):
        whole = found[0]
        rows = [(whole.setting or "nothing", *_figures(whole, whole, ""))]
        rows += [(part.setting, *_figures(part, whole, " ({})")) for part in found[1:]]
        columns = ("left out", "bits/token", *whole.speedups)
        tables.append(Table(f"{head}: what each part of auto is worth", columns, tuple(rows)))
    return tables


def _figures(part: Worth, whole: Worth, change: str) -> list[str]:
    cells = [shown(part.bits, 3)]
    for curve in whole.speedups:
        changed = change.format(percent(part.changes[curve])) if curve in part.changes else ""
        cells.append(shown(part.speedups.get(curve), 3) + changed)
    return cells


def _ablations(sources: Sequence[Source]) -> Iterator[tuple[str, list[Worth]]]:
    for source in sources:
        rows = objects(source.result.get("rows"))
        for trace, phase in dict.fromkeys(
            (words(r.get("trace", "")), words(r.get("phase", ""))) for r in rows
        ):
            if found := worths(source.result, trace, phase):
                yield f"{prefix(source, sources)}{trace}, {phase}", found


def slow_table(sources: Sequence[Source]) -> Table:
    """Where `auto` is slower than plain decoding, by trace and phase."""
    rows = []
    for source in sources:
        ablated = left_out(source.result)
        for row in objects(source.result.get("rows")):
            if row.get("method") == "auto" and row.get("curves") and not is_ablated(row, ablated):
                names = [words(row.get(key, "")) for key in ("trace", "setting", "phase")]
                rows.append(
                    (names[0], source.label, *names[1:], *(below(row, limit) for limit in THRESHOLDS))
                )
    columns = ("trace", "file", "setting", "store", *(f"below {limit:.2f}" for limit in THRESHOLDS))
    return Table("Categories in which auto is slower than plain decoding", columns, tuple(rows))
