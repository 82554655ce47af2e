"""A run's result as tables for people."""

from __future__ import annotations

from typing import Any

import pandas
from rich.console import Console

from aded_bench.tables import print_missing, print_skipped, show, title

PARTS = ("draft", "verify", "sample", "elsewhere")


def print_run(result: dict[str, Any], out: Console) -> None:
    """Rates, ratios and the split of time by pass; then what was left out, and why."""
    for which, found in result["summary"].items():
        methods, ratios = found["methods"], found["ratios"]
        caption = None
        if plain := ratios.get("off/llama-cpp"):
            said = _number(plain["summary"], "median", ".3f")
            caption = f"off is {said} of llama-cpp; MB: resident, of a server its process"
        rates = [_rates(result, ratios, method, row) for method, row in methods.items()]
        heading = title(result, result["suite"], f"store {which}")
        show(pandas.DataFrame(rates), heading, caption=caption, console=out)
        by_category = _by_category({name: ratio for name, ratio in ratios.items() if name.endswith("/off")})
        if len(by_category) > 1:
            show(by_category, "median ratio of tokens/s to off", console=out)
        split = [_split(method, row) for method, row in methods.items() if "microseconds_per_pass" in row]
        if split:
            show(pandas.DataFrame(split), "wall time of a pass", console=out)
    print_missing(result, out)
    print_skipped(result, out)


def _rates(
    result: dict[str, Any], ratios: dict[str, Any], method: str, row: dict[str, Any]
) -> dict[str, str]:
    ratio = ratios.get(f"{method}/off", {})
    summary = ratio.get("summary")
    low, high = (_number(summary, end, ".3f") for end in ("low", "high"))
    shared = result["arms"].get(method, {}).get("shares_weights_with")
    return {
        "method": method,
        "tokens/s": _number(row["tokens_per_second"], "median", ".1f"),
        "of off": _number(summary, "median", ".3f"),
        "95%": "-" if "-" in (low, high) else f"{low} to {high}",  # a dash of too few prompts
        "first token": _number(row["first_token_ms"], "median", ".0f") + " ms",
        "tokens/pass": _number(row, "tokens_per_pass", ".2f"),
        "nodes/pass": _number(row, "nodes_per_pass", ".2f"),
        "same": f"{ratio['same_tokens']} of {ratio['pairs']}" if ratio else "-",
        "MB": f"with {shared}" if shared else _number(row, "memory_megabytes", ".0f"),
    }


def _by_category(ratios: dict[str, Any]) -> pandas.DataFrame:
    """A row for each category, in the order they occur, and a column for each method."""
    counts: dict[str, int] = {}
    for ratio in ratios.values():
        for category, cell in ratio["by_category"].items():
            counts[category] = max(counts.get(category, 0), cell["count"])
    columns = {"category, prompts": [f"{category}, {count}" for category, count in counts.items()]}
    for name, ratio in ratios.items():
        cells = [_number(ratio["by_category"].get(category), "median", ".2f") for category in counts]
        columns[name.removesuffix("/off")] = cells
    return pandas.DataFrame(columns)


def _split(method: str, row: dict[str, Any]) -> dict[str, str]:
    drafting = (_number(row, f"draft_microseconds_{key}", ".0f") for key in ("median", "p99"))
    return {
        "method": method,
        **{f"{part} us": f"{row['microseconds_per_pass'][part]:.0f}" for part in PARTS},
        "outside llama.cpp": f"{100 * row['share_outside_llama_decode']:.2f}%",
        "drafting us: median, p99": ", ".join(drafting),
    }


def _number(values: dict[str, Any] | None, key: str, form: str) -> str:
    found = values.get(key) if values else None
    return "-" if found is None else format(found, form)
