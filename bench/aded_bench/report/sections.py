"""Result files of one kind → the section about them. Replayed drafters have a module of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aded_bench.report.panels import WIDE, Chart, Dot, DotRow, Dots, Line, Lines, Section, Table
from aded_bench.report.untrusted import interval, mapping, number, objects, shown, words
from aded_bench.wording import attention

SHOWN_SIZES = (1, 2, 3, 4, 5, 8, 12, 16, 24, 32, 48, 64)  # columns of the cost table; the chart has all
LONGEST_SIZE = 6  # digits of a number of tokens in a pass: a million is more than any context
MARGIN = 0.04  # of the axis, left free beyond the outermost value


@dataclass(frozen=True)
class Source:
    """A result file read. ``name`` is unique among those of a report."""

    name: str
    path: Path
    kind: str
    complete: bool
    result: Mapping[str, Any]

    @property
    def label(self) -> str:
        """The name, and whether the run was interrupted."""
        return self.name if self.complete else f"{self.name} (interrupted)"


def prefix(source: Source, sources: Sequence[Source]) -> str:
    """What panels and captions begin with, so that files side by side can be told apart."""
    if len(sources) > 1:
        return f"{source.label}: "
    return "" if source.complete else "interrupted: "


def missing_table(sources: Sequence[Source]) -> list[Table]:
    """Every peer a run could not measure, and why."""
    rows = [
        (words(method), source.label, words(why))
        for source in sources
        for method, why in mapping(source.result.get("missing")).items()
    ]
    columns = ("method", "file", "why it is missing")
    tables = [Table("Not measured", columns, tuple(rows))] if rows else []
    skipped = [
        (words(name), source.label, words(why))
        for source in sources
        for name, why in mapping(source.result.get("skipped")).items()
    ]
    return [*tables, Table("Left out", ("what", "file", "why"), tuple(skipped))] if skipped else tables


def limits_of(rows: Sequence[DotRow], reference: float | None) -> tuple[float, float] | None:
    """An axis that all the dots and the reference lie on."""
    ends = [e for row in rows for dot in row.dots for e in (dot.value, dot.low, dot.high) if e is not None]
    if reference is not None:
        ends.append(reference)
    if not ends:
        return None
    if reference and min(ends) > 0 and max(ends) / min(ends) > WIDE:
        return min(ends) / (1 + MARGIN) ** 2, max(ends) * (1 + MARGIN) ** 2
    margin = MARGIN * (max(ends) - min(ends)) or 0.1
    return min(ends) - margin, max(ends) + margin


def side_by_side(
    caption: str, sources: Sequence[Source], cells: Mapping[str, Mapping[str, str]]
) -> list[Table]:
    """A column per file; ``cells`` by row and file. Nothing for one file."""
    if len(sources) < 2 or not cells:
        return []
    rows = [(name, *(found.get(source.name, "–") for source in sources)) for name, found in cells.items()]
    return [Table(caption, ("method", *(source.label for source in sources)), tuple(rows))]


# --- kind "curve" ---


def setting_of(curve: Mapping[str, Any]) -> str:
    """``flash attention, bf16 cache``."""
    return f"{attention(curve.get('flash_attention'))}, {words(curve.get('cache_type', '?'))} cache"


def by_size(value: Any) -> dict[int, float]:
    """The numbers of {"1": 1.0, ...} by tokens in the pass, ascending."""
    read = {key: number(found) for key, found in mapping(value).items()}
    read = {key: found for key, found in read.items() if key.isdecimal() and len(key) <= LONGEST_SIZE}
    kept = {int(key): found for key, found in read.items() if found is not None}
    return {size: kept[size] for size in sorted(kept) if size > 0}


def curve_panels(result: Mapping[str, Any], head: str = "") -> tuple[Lines, ...]:
    """One panel per setting, one line per prefix; sizes that are exact are marked."""
    settings: dict[str, list[Line]] = {}
    for curve in objects(result.get("curves")):
        ratio = {size: r for size, r in by_size(curve.get("ratio")).items() if r > 0}
        if not ratio:
            continue
        lines = settings.setdefault(setting_of(curve), [])
        listed = curve.get("exact")
        exact = tuple(
            s for s in (listed if isinstance(listed, list) else ()) if isinstance(s, int) and s in ratio
        )
        label = f"after {words(curve.get('prefix', '?'))} tokens"
        plain = by_size(curve.get("milliseconds")).get(1)
        label += f" (1 token: {plain:.1f} ms)" if plain else ""
        sizes, ratios = tuple(map(float, ratio)), tuple(ratio.values())
        lines.append(Line(label, len(lines), sizes, ratios, marked=exact))
    axes = ("tokens in the pass", "cost, one token = 1")
    return tuple(Lines(head + name, tuple(lines), *axes, doubling=True) for name, lines in settings.items())


def curve_description() -> str:
    """What the cost curve shows."""
    return (
        "Time of a pass over n tokens, divided by that of one token after the same prefix. A drafted tree of n nodes "
        "costs what n + 1 tokens cost. Filled signs mark sizes whose logits equal one-token decoding's to the last bit."
    )


def curve_section(sources: Sequence[Source]) -> Section:
    """Cost curves of every file."""
    panels = tuple(p for s in sources for p in curve_panels(s.result, prefix(s, sources)))
    charts = [Chart("cost", "What a pass costs", curve_description(), panels)] if panels else []
    rows, broken = [], []
    for source in sources:
        for curve in objects(source.result.get("curves")):
            ratio = by_size(curve.get("ratio"))
            name = f"{prefix(source, sources)}{setting_of(curve)}"
            if curve.get("note"):
                broken.append((name, words(curve["note"])))
            if not ratio:
                continue
            plain = shown(by_size(curve.get("milliseconds")).get(1), 1)
            costs = (shown(ratio.get(size)) for size in SHOWN_SIZES)
            cells = (words(curve.get("prefix", "?")), plain, *costs, _exact(curve.get("exact")))
            rows.append((name, *cells))
    columns = ("setting", "prefix", "1 token, ms", *(f"{n}×" for n in SHOWN_SIZES), "exact sizes")
    tables = [Table("Cost of n tokens, relative to one", columns, tuple(rows))] if rows else []
    if broken:
        tables.append(Table("Notes on settings", ("setting", "note"), tuple(broken)))
    chosen = [(s, mapping(s.result.get("chosen"))) for s in sources]
    notes = tuple(f"{prefix(s, sources)}The engine uses {setting_of(c)} here." for s, c in chosen if c)
    return Section("curve", "Cost of a pass", notes, tuple(charts), (*tables, *missing_table(sources)))


def _exact(sizes: Any) -> str:
    """``1–4, 8``; a dash where it was not probed."""
    if not isinstance(sizes, list):
        return "not probed"
    found = sorted({size for size in sizes if isinstance(size, int)})
    starts = [size for size in found if size - 1 not in found]
    ends = [size for size in found if size + 1 not in found]
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in zip(starts, ends, strict=True)) or "none"


# --- kind "run" ---

PHASES = ("empty", "warm")


def run_section(sources: Sequence[Source]) -> Section:
    """End-to-end runs: rates, ratios to plain decoding, where the time went."""
    charts = [*_ratio_charts(sources), *_rate_charts(sources)]
    cells: dict[str, dict[str, str]] = {}
    for source in sources:
        for phase in PHASES:
            for name, ratio in _ratios(source, phase).items():
                by_file = cells.setdefault(f"{name}, store {phase}", {})
                by_file[source.name] = interval(mapping(ratio.get("summary")), "median")
    tables = side_by_side("Side by side: tokens/s over those of off, median (95%)", sources, cells)
    for source in sources:
        for phase, found in mapping(source.result.get("summary")).items():
            caption = f"{prefix(source, sources)}store {words(phase)}"
            tables += _run_tables(source, mapping(found), caption)
    suites = (f"{s.label}: suite {words(s.result['suite'])}." for s in sources if s.result.get("suite"))
    return Section("run", "End to end", tuple(suites), tuple(charts), (*tables, *missing_table(sources)))


def in_order(source: Source, found: Mapping[str, Any]) -> list[str]:
    """Methods as the file lists them, then any others."""
    listed = source.result.get("methods")
    names = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
    first = [name for name in dict.fromkeys(names) if name in found]
    return [*first, *(name for name in found if name not in first)]


def _ratios(source: Source, phase: str) -> dict[str, Mapping[str, Any]]:
    """Ratios by the name shown: the method, and its base where that is not ``off``."""
    found = mapping(mapping(mapping(source.result.get("summary")).get(phase)).get("ratios"))
    ratios = {words(name): mapping(ratio) for name, ratio in found.items()}
    ratios = {name.removesuffix("/off"): ratio for name, ratio in ratios.items()}
    return {name: ratios[name] for name in in_order(source, ratios)}


def summary_dot(summary: Any, hollow: bool, ends: tuple[str, str] = ("low", "high")) -> Dot | None:
    """A dot at the median; ``ends`` names the interval drawn."""
    found = mapping(summary)
    middle = number(found.get("median"))
    low, high = (number(found.get(end)) for end in ends)
    return None if middle is None else Dot(middle, low, high, hollow)


def _ratio_charts(sources: Sequence[Source]) -> list[Chart]:
    panels: list[tuple[str, list[DotRow]]] = []
    for source in sources:
        ratios = {phase: _ratios(source, phase) for phase in PHASES}
        names = list(dict.fromkeys(name for found in ratios.values() for name in found))
        categories = dict.fromkeys(
            category
            for found in ratios.values()
            for ratio in found.values()
            for category in _by_category(ratio)
        )
        for category in (None, *categories):
            rows = []
            for name in names:
                pair = (
                    summary_dot(_of(ratios[p].get(name, {}), category), hollow=p == PHASES[0]) for p in PHASES
                )
                if dots := tuple(dot for dot in pair if dot):
                    rows.append(DotRow(name, name.split("/")[0], dots))
            if rows:
                title = prefix(source, sources) + ("all prompts" if category is None else words(category))
                panels.append((title, rows))
    if not panels:
        return []
    limits = limits_of([row for _, rows in panels for row in rows], 1.0)
    drawn = tuple(Dots(t, tuple(rows), "tokens/s, off = 1", 1.0, limits) for t, rows in panels)
    description = (
        "Tokens per second over those of plain decoding (off) on the same prompt: the median over prompts, with its "
        "95% bootstrap interval. Right of the line a method is faster. A name with a slash is the ratio of those two."
    )
    legend = ("store empty", "warm")
    return [Chart("run-speed-up", "Speed-up by category and method", description, drawn, legend)]


def _by_category(ratio: Mapping[str, Any]) -> Mapping[str, Any]:
    return mapping(ratio.get("by_category"))


def _of(ratio: Mapping[str, Any], category: str | None) -> Any:
    return ratio.get("summary") if category is None else _by_category(ratio).get(category)


def _rate_charts(sources: Sequence[Source]) -> list[Chart]:
    panels = []
    for source in sources:
        summary = mapping(source.result.get("summary"))
        for phase in summary:
            methods = mapping(mapping(summary[phase]).get("methods"))
            rows = []
            for name in in_order(source, methods):
                rate = mapping(methods[name]).get("tokens_per_second")
                dot = summary_dot(rate, False, ("first_quartile", "third_quartile"))
                if dot:
                    rows.append(DotRow(words(name), name, (dot,)))
            if rows:
                panels.append((f"{prefix(source, sources)}store {words(phase)}", tuple(rows)))
    if not panels:
        return []
    limits = limits_of([row for _, rows in panels for row in rows], 0.0)
    limits = limits and (0.0, limits[1])
    drawn = tuple(Dots(title, rows, "tokens/s", None, limits) for title, rows in panels)
    description = "Tokens per second from the first token on: the median over prompts, and the quartiles."
    return [Chart("run-rate", "Tokens per second by method", description, drawn)]


def _run_tables(source: Source, found: Mapping[str, Any], caption: str) -> list[Table]:
    methods, rows = mapping(found.get("methods")), []
    for name in in_order(source, methods):
        one = mapping(methods[name])
        rate, first = mapping(one.get("tokens_per_second")), mapping(one.get("first_token_ms"))
        split = mapping(one.get("microseconds_per_pass"))
        quartiles = f"{shown(rate.get('first_quartile'), 1)} to {shown(rate.get('third_quartile'), 1)}"
        shared = mapping(mapping(source.result.get("arms")).get(name)).get("shares_weights_with")
        parts = (shown(split.get(part), 0) for part in ("draft", "verify", "sample", "elsewhere"))
        passes = (shown(one.get(key)) for key in ("tokens_per_pass", "nodes_per_pass"))
        cells = (shown(rate.get("median"), 1), quartiles, shown(first.get("median"), 0), *passes, *parts)
        rows.append(
            (
                words(name),
                *cells,
                f"with {words(shared)}" if shared else shown(one.get("memory_megabytes"), 0),
            )
        )
    columns = (
        "method", "tokens/s", "quartiles", "first token, ms", "tokens/pass", "nodes/pass",
        "draft, µs", "verify, µs", "sample, µs", "elsewhere, µs", "memory, MB",
    )  # fmt: skip
    tables = [Table(f"{caption}: rates", columns, tuple(rows))] if rows else []
    ratios = {words(name): mapping(ratio) for name, ratio in mapping(found.get("ratios")).items()}
    categories = list(dict.fromkeys(c for ratio in ratios.values() for c in _by_category(ratio)))
    rows = []
    for name, ratio in ratios.items():
        total = mapping(ratio.get("summary"))
        by = (shown(mapping(_by_category(ratio).get(c)).get("median")) for c in categories)
        same = f"{words(ratio.get('same_tokens', '–'))} of {words(ratio.get('pairs', '–'))}"
        cells = (interval(total, "median"), shown(total.get("minimum"), 3), same, *by)
        rows.append((name, *cells))
    head = ("ratio of tokens/s", "median (95%)", "minimum", "same tokens", *map(words, categories))
    if rows:
        tables.append(Table(f"{caption}: ratios", head, tuple(rows)))
    return tables


# --- kind "lossless" ---


def lossless_section(sources: Sequence[Source]) -> Section:
    """Identical token sequences by method; where others part, by how much."""
    rows, partings = [], []
    for source in sources:
        for row in objects(source.result.get("comparisons")):
            names = (words(row.get(key, "–")) for key in ("method", "against"))
            counted = f"{words(row.get('identical', '–'))} of {words(row.get('total', '–'))}"
            crossing = words(row.get("crossing_512_cells", "–"))
            rows.append((source.label, *names, shown(row.get("temperature"), 1), counted, crossing))
        for row in objects(source.result.get("partings")):
            within = {"True": "yes", "False": "no"}.get(str(row.get("within_rounding")), "–")
            names = (words(row.get(key, "–")) for key in ("method", "prompt", "position"))
            measured = (shown(row.get("temperature"), 1), shown(row.get("difference"), 4), within)
            partings.append((source.label, *names, *measured))
    columns = ("file", "method", "against", "temperature", "identical sequences", "crossing 512 cells")
    tables = [Table("Same tokens?", columns, tuple(rows))] if rows else []
    if partings:
        head = ("file", "method", "prompt", "position", "temperature", "logits move by", "within rounding")
        tables.append(Table("Where sequences part", head, tuple(partings)))
    return Section("lossless", "Same words", (), (), (*tables, *missing_table(sources)))
