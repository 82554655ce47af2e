"""Results of kind "run" → the section about them: rates, ratios to plain decoding, where the time went."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas

from aded_bench.report.panels import (
    Chart,
    Dot,
    DotRow,
    Section,
    Source,
    Table,
    dot_panels,
    prefix,
    side_by_side,
)
from aded_bench.report.sections import missing_tables
from aded_bench.tables import interval, number

PHASES = ("empty", "warm")
PARTS = ("draft", "verify", "sample", "elsewhere")

Ratios = dict[str, dict[str, Any]]


def run_section(sources: Sequence[Source]) -> Section:
    """End-to-end runs."""
    cells: dict[str, dict[str, str]] = {}
    tables: list[Table] = []
    for source, phase, found in _phases(sources):
        for name, ratio in _ratios(found).items():
            cells.setdefault(f"{name}, store {phase}", {})[source.name] = interval(
                ratio["summary"] or {}, "median"
            )
        tables += _tables(source, found, f"{prefix(source, sources)}store {phase}")
    compared = ("Side by side: tokens/s over those of off, median (95%)", side_by_side(cells, sources))
    tables = [table for table in (compared, *tables, *missing_tables(sources)) if len(table[1])]
    suites = [f"{s.label}: suite {s.result['suite']}." for s in sources if "suite" in s.result]
    return Section("run", "End to end", suites, [*_ratio_charts(sources), *_rate_charts(sources)], tables)


def _phases(sources: Sequence[Source]) -> Iterator[tuple[Source, str, Mapping[str, Any]]]:
    for source in sources:
        for phase, found in source.result.get("summary", {}).items():
            yield source, phase, found


def _ratios(found: Mapping[str, Any]) -> Ratios:
    """Ratios by the name shown: the method, and its base where that is not ``off``."""
    return {name.removesuffix("/off"): ratio for name, ratio in found["ratios"].items()}


def _dot(summary: Mapping[str, Any] | None, ends: tuple[str, str], hollow: bool = False) -> list[Dot]:
    return [Dot(summary["median"], summary[ends[0]], summary[ends[1]], hollow)] if summary else []


def _ratio_charts(sources: Sequence[Source]) -> list[Chart]:
    """Panels in total and by category, a file each; both stores in one row."""
    panels = []
    for source in sources:
        phases = {phase: _ratios(found) for _, phase, found in _phases([source])}
        every = [ratio for ratios in phases.values() for ratio in ratios.values()]
        for category in (None, *dict.fromkeys(c for ratio in every for c in ratio["by_category"])):
            rows = []
            for name in dict.fromkeys(name for ratios in phases.values() for name in ratios):
                found = [(phase, ratios[name]) for phase, ratios in phases.items() if name in ratios]
                dots = [
                    dot
                    for phase, ratio in found
                    for dot in _dot(
                        ratio["by_category"].get(category) if category else ratio["summary"],
                        ("low", "high"),
                        hollow=phase == PHASES[0],
                    )
                ]
                if dots:
                    rows.append(DotRow(name, name, tuple(dots)))
            panels.append((prefix(source, sources) + (category or "all prompts"), rows))
    drawn = dot_panels(panels, "tokens/s over those of off", 1.0)
    description = (
        "Tokens per second over those of plain decoding on the same prompt: the median over prompts, and its 95% "
        "bootstrap interval."
    )
    legend = (f"store {PHASES[0]}", f"store {PHASES[1]}")
    return (
        [Chart("run-speed-up", "Speed-up over plain decoding", description, drawn, legend)] if drawn else []
    )


def _rate_charts(sources: Sequence[Source]) -> list[Chart]:
    panels = []
    for source, phase, found in _phases(sources):
        rates = {name: one.get("tokens_per_second") for name, one in found["methods"].items()}
        dots = {name: _dot(rate, ("first_quartile", "third_quartile")) for name, rate in rates.items()}
        rows = [DotRow(name, name, tuple(each)) for name, each in dots.items() if each]
        panels.append((f"{prefix(source, sources)}store {phase}", rows))
    drawn = dot_panels(panels, "tokens/s", None)
    description = "Tokens per second from the first token on: the median over prompts, and the quartiles."
    return [Chart("run-rate", "Tokens per second by method", description, drawn)] if drawn else []


def _tables(source: Source, found: Mapping[str, Any], caption: str) -> list[Table]:
    rates = pandas.DataFrame(
        _rates(name, one, source.result.get("arms", {}).get(name, {}))
        for name, one in found["methods"].items()
    )
    ratios = pandas.DataFrame(
        {
            "ratio of tokens/s": name,
            "median (95%)": interval(ratio["summary"] or {}, "median"),
            "minimum": number((ratio["summary"] or {}).get("minimum")),
            "same tokens": f"{ratio['same_tokens']} of {ratio['pairs']}",
            **{c: number((each or {}).get("median"), 2) for c, each in ratio["by_category"].items()},
        }
        for name, ratio in found["ratios"].items()
    )
    return [(f"{caption}: rates", rates), (f"{caption}: ratios", ratios)]


def _rates(name: str, one: Mapping[str, Any], arm: Mapping[str, Any]) -> dict[str, str]:
    rate, first = one.get("tokens_per_second") or {}, one.get("first_token_ms") or {}
    split = one.get("microseconds_per_pass", {})
    shared = arm.get("shares_weights_with")
    return {
        "method": name,
        "tokens/s": number(rate.get("median"), 1),
        "quartiles": f"{number(rate.get('first_quartile'), 1)} to {number(rate.get('third_quartile'), 1)}",
        "first token, ms": number(first.get("median"), 0),
        "tokens/pass": number(one.get("tokens_per_pass"), 2),
        "nodes/pass": number(one.get("nodes_per_pass"), 2),
        **{f"{part}, µs": number(split.get(part), 0) for part in PARTS},
        "memory, MB": f"with {shared}" if shared else number(one.get("memory_megabytes"), 0),
    }
