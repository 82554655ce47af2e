"""Results of kinds "curve", "lossless", "sameness" and "schemas" → the sections about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from aded_bench.extra import pandas
from aded_bench.lossless_tables import at_temperature, broken, lossless_tables, sameness_tables, shown_same
from aded_bench.report.panels import Chart, Dot, Line, Lines, Section, Source, Table, dot_chart, prefix
from aded_bench.run.methods import PEER
from aded_bench.schemas_table import schemas_rows
from aded_bench.tables import number, ranges
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
            "exact sizes": "not probed" if curve["exact"] is None else ranges(curve["exact"]),
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


def lossless_section(sources: Sequence[Source]) -> Section:
    """Identical token sequences by method; how far probabilities move; where answers part, by how much."""
    tables = [
        (f"{prefix(source, sources)}{caption}", table)
        for source in sources
        for caption, table in lossless_tables(source.result)
    ]
    charts = _identical_charts("lossless", [(prefix(s, sources), "", s.result) for s in sources])
    return Section(
        "lossless", "Same words", charts=charts, tables=[*tables, *missing_tables(sources), *_broken(sources)]
    )


def sameness_section(sources: Sequence[Source]) -> Section:
    """Identical token sequences by version of the model and by what was asked for."""
    tables = [
        (f"{prefix(source, sources)}{caption}", table)
        for source in sources
        for caption, table in sameness_tables(source.result)
    ]
    parts = [
        (prefix(s, sources), f"{file_type}, ", part)
        for s in sources
        for file_type, part in s.result["types"].items()
    ]
    charts = _identical_charts("sameness", parts)
    return Section(
        "sameness",
        "Same words, by quantization",
        charts=charts,
        tables=[*tables, *missing_tables(sources), *_broken(sources)],
    )


SCHEMAS_DESCRIPTION = (
    "Tokens a second of answers that a JSON schema binds, over plain decoding: the median over answers. What the "
    "schema forces is known beforehand, and drafted."
)


def schemas_section(sources: Sequence[Source]) -> Section:
    """Answers that schemas bind: what drafting gains, and whether all are valid and the same."""
    tables = [
        (f"{prefix(source, sources)}Answers bound to schemas", pandas.DataFrame(rows))
        for source in sources
        if (rows := schemas_rows(source.result))
    ]
    panels = [
        (
            prefix(source, sources),
            [
                Dot(name, name, found["median_gain"])
                for name, found in source.result.get("summary", {}).items()
                if found["median_gain"] is not None
            ],
        )
        for source in sources
    ]
    charts = dot_chart(
        "schemas", "Answers bound to schemas", SCHEMAS_DESCRIPTION, panels, "tokens/s over off", 1.0
    )
    return Section("schemas", "Schemas", charts=charts, tables=[*tables, *missing_tables(sources)])


IDENTICAL_DESCRIPTION = (
    "Share of answers whose tokens are those of plain decoding in the same setting. The other answers part where two "
    "candidates are nearly equal, unless the tables say otherwise."
)


def _identical_charts(key: str, parts: Sequence[tuple[str, str, Mapping[str, Any]]]) -> list[Chart]:
    """A panel per file and temperature; each part is (head of the panel, head of the row, result)."""
    panels: dict[str, list[Dot]] = {}
    for head, row_head, result in parts:
        rows = [row for row in result.get("comparisons", ()) if row["total"]]
        alike = Counter((row["method"], row["same"], row["temperature"]) for row in rows)
        for row in rows:
            same, own = shown_same(row), row["method"] != PEER
            label = f"{row_head}{row['method']} {same}" if own else row["method"]
            if alike[row["method"], row["same"], row["temperature"]] > 1:
                label += row["arm"].removeprefix(row["method"])  # its setting, and sizes of passes
            dot = Dot(label, same if own else row["method"], row["identical"] / row["total"])
            panels.setdefault(head + at_temperature(row), []).append(dot)
    return dot_chart(
        key, "Identical answers", IDENTICAL_DESCRIPTION, list(panels.items()), "share of answers", 1.0
    )


def _broken(sources: Sequence[Source]) -> list[Table]:
    """What must not be, a row each."""
    rows = [
        {"file": source.label, "what must not be": line}
        for source in sources
        for line in broken(source.result)
    ]
    return [("NOT THE SAME", pandas.DataFrame(rows))] if rows else []
