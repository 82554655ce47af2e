"""Results of kind "run" → the section about them: rates, ratios to plain decoding, where the time went."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from aded_bench.extra import pandas
from aded_bench.report.panels import (
    Chart,
    Dot,
    Section,
    Source,
    Table,
    dot_chart,
    prefix,
    side_by_side,
)
from aded_bench.report.sections import missing_tables
from aded_bench.tables import interval, number
from aded_bench.wording import beside

PHASES = ("empty", "warm")
PARTS = ("draft", "verify", "sample", "elsewhere")


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
    suites = [
        f"{s.label}: suite " + ", ".join(filter(None, (s.result["suite"], beside(s.result)))) + "."
        for s in sources
        if "suite" in s.result
    ]
    return Section("run", "End to end", suites, [*_ratio_charts(sources), *_rate_charts(sources)], tables)


def _phases(sources: Sequence[Source]) -> Iterator[tuple[Source, str, Mapping[str, Any]]]:
    for source in sources:
        for phase, found in source.result.get("summary", {}).items():
            yield source, phase, found


def _ratios(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Ratios by the name shown: the method, and its base where that is not ``off``."""
    return {name.removesuffix("/off"): ratio for name, ratio in found["ratios"].items()}


def _dots(
    by_name: Iterable[tuple[str, Mapping[str, Any] | None]], *ends: str, hollow: bool = False
) -> list[Dot]:
    return [
        Dot(name, name, found["median"], found[ends[0]], found[ends[1]], hollow)
        for name, found in by_name
        if found
    ]


def _ratio_charts(sources: Sequence[Source]) -> list[Chart]:
    """Panels in total and by category, a file each; both stores in one row."""
    panels: dict[str, list[Dot]] = {}
    for source, phase, found in _phases(sources):
        head, hollow, ratios = prefix(source, sources), phase == PHASES[0], _ratios(found)
        summaries = [(name, ratio["summary"]) for name, ratio in ratios.items()]
        panels.setdefault(f"{head}all prompts", []).extend(_dots(summaries, "low", "high", hollow=hollow))
        for category in dict.fromkeys(c for ratio in ratios.values() for c in ratio["by_category"]):
            each = [(name, ratio["by_category"].get(category)) for name, ratio in ratios.items()]
            panels.setdefault(head + category, []).extend(_dots(each, "low", "high", hollow=hollow))
    description = (
        "Tokens per second over those of plain decoding on the same prompt: the median over prompts, and its 95% "
        "bootstrap interval."
    )
    title, axis = (
        "Speed-up over plain decoding",
        "tokens/s over those of off, or of what stands behind the slash",
    )
    legend = (f"store {PHASES[0]}", f"store {PHASES[1]}")
    return dot_chart("run-speed-up", title, description, list(panels.items()), axis, 1.0, legend)


def _rate_charts(sources: Sequence[Source]) -> list[Chart]:
    panels = []
    for source, phase, found in _phases(sources):
        rates = [(name, one["tokens_per_second"]) for name, one in found["methods"].items()]
        panels.append(
            (f"{prefix(source, sources)}store {phase}", _dots(rates, "first_quartile", "third_quartile"))
        )
    description = "Tokens per second from the first token on: the median over prompts, and the quartiles."
    return dot_chart("run-rate", "Tokens per second by method", description, panels, "tokens/s")


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
    rate, first = one["tokens_per_second"] or {}, one["first_token_ms"] or {}
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
