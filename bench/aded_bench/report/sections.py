"""Results of kinds "curve" and "lossless" → the sections about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aded_bench.extra import pandas
from aded_bench.report.panels import Chart, Line, Lines, Section, Source, Table, prefix
from aded_bench.tables import lossless_tables, number
from aded_bench.wording import attention

SHOWN_SIZES = (1, 2, 3, 4, 5, 8, 12, 16, 24, 32, 48, 64)  # columns of the cost table; the chart has all

CURVE_DESCRIPTION = (
    "Time of a pass over n tokens, divided by that of one token after the same prefix. A drafted tree of n nodes "
    "costs what n + 1 tokens cost. Filled signs mark sizes whose logits equal one-token decoding's to the last bit."
)


def missing_tables(sources: Sequence[Source]) -> list[Table]:
    """Every peer a run could not measure and every prompt it could not ask, and why."""
    return [
        (caption, pandas.DataFrame(rows, columns=columns))
        for key, caption, columns in (
            ("missing", "Not measured", ("method", "file", "why it is missing")),
            ("skipped", "Left out", ("what", "file", "why")),
        )
        if (rows := [(n, s.label, why) for s in sources for n, why in s.result.get(key, {}).items()])
    ]


def setting_of(curve: Mapping[str, Any]) -> str:
    """``flash attention, bf16 cache``."""
    return f"{attention(curve['flash_attention'])}, {curve['cache_type']} cache"


def curve_panels(result: Mapping[str, Any], head: str = "") -> tuple[Lines, ...]:
    """One panel per setting, one line per prefix; sizes that are exact are marked."""
    settings: dict[str, list[Line]] = {}
    for curve in result["curves"]:
        if curve["ratio"]:
            lines = settings.setdefault(setting_of(curve), [])
            plain = number(curve["milliseconds"].get("1"), 1)
            label = f"after {curve['prefix']} tokens (1 token: {plain} ms)"
            sizes = tuple(map(float, curve["ratio"]))
            exact = tuple(map(float, curve["exact"] or ()))
            lines.append(Line(label, len(lines), sizes, tuple(curve["ratio"].values()), marked=exact))
    axes = ("tokens in the pass", "cost, one token = 1")
    return tuple(Lines(head + name, tuple(lines), *axes, doubling=True) for name, lines in settings.items())


def curve_section(sources: Sequence[Source]) -> Section:
    """Cost curves of every file."""
    panels = tuple(p for s in sources for p in curve_panels(s.result, prefix(s, sources)))
    charts = [Chart("cost", "What a pass costs", CURVE_DESCRIPTION, panels)] if panels else []
    named = [(prefix(s, sources) + setting_of(curve), curve) for s in sources for curve in s.result["curves"]]
    costs = [
        {
            "setting": name,
            "prefix": str(curve["prefix"]),
            "1 token, ms": number(curve["milliseconds"].get("1"), 1),
            **{f"{size}×": number(curve["ratio"].get(str(size)), 2) for size in SHOWN_SIZES},
            "exact sizes": _ranges(curve["exact"]),
        }
        for name, curve in named
        if curve["ratio"]
    ]
    notes = [{"setting": name, "note": curve["note"]} for name, curve in named if curve["note"]]
    tables = [
        (caption, pandas.DataFrame(rows))
        for caption, rows in (("Cost of n tokens, relative to one", costs), ("Notes on settings", notes))
        if rows
    ]
    chosen = [f"{prefix(s, sources)}The engine uses {setting_of(s.result['chosen'])} here." for s in sources]
    return Section("curve", "Cost of a pass", chosen, charts, [*tables, *missing_tables(sources)])


def _ranges(sizes: Sequence[int] | None) -> str:
    """``1–4, 8``."""
    if sizes is None:
        return "not probed"
    starts = [size for size in sorted(sizes) if size - 1 not in sizes]
    ends = [size for size in sorted(sizes) if size + 1 not in sizes]
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in zip(starts, ends, strict=True)) or "none"


def lossless_section(sources: Sequence[Source]) -> Section:
    """Identical token sequences by method; where others part, by how much."""
    tables = [
        (f"{prefix(source, sources)}{caption}", table)
        for source in sources
        for caption, table in lossless_tables(source.result)
    ]
    return Section("lossless", "Same words", tables=[*tables, *missing_tables(sources)])
