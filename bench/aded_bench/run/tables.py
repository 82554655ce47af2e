"""A run's result as tables for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from aded_bench.tables import literal, print_missing, print_skipped, title

PARTS = ("draft", "verify", "sample", "elsewhere")


def print_run(result: dict[str, Any], out: Console) -> None:
    """Rates, ratios and the split of time by pass; then what was left out, and why."""
    for which, found in result["summary"].items():
        out.print(_rates(result, found, title(result, result["suite"], f"store {which}")))
        if categories := _categories(found["ratios"]):
            out.print(_by_category(found["ratios"], categories))
        if any("microseconds_per_pass" in row for row in found["methods"].values()):
            out.print(_split(found["methods"]))
    print_missing(result, out)
    print_skipped(result, out)


def _rates(result: dict[str, Any], found: dict[str, Any], caption: str) -> Table:
    columns = (
        "method",
        "tokens/s",
        "of off",
        "95%",
        "first token",
        "tokens/pass",
        "nodes/pass",
        "same",
        "MB",
    )
    table = Table(*columns, title=caption)
    for method, row in found["methods"].items():
        ratio = found["ratios"].get(f"{method}/off", {})
        summary = ratio.get("summary")
        table.add_row(
            method,
            _number(row["tokens_per_second"], "median", ".1f"),
            _number(summary, "median", ".3f"),
            _interval(summary),
            _number(row["first_token_ms"], "median", ".0f") + " ms",
            _number(row, "tokens_per_pass", ".2f"),
            _number(row, "nodes_per_pass", ".2f"),
            f"{ratio['same_tokens']} of {ratio['pairs']}" if ratio else "-",
            _memory(result, method, row),
        )
    if plain := found["ratios"].get("off/llama-cpp"):
        summary = plain["summary"]
        table.caption = (
            f"off is {_number(summary, 'median', '.3f')} of llama-cpp; MB: resident, of a server its process"
        )
    return table


def _interval(summary: dict[str, Any] | None) -> str:
    """A dash of too few prompts."""
    low, high = _number(summary, "low", ".3f"), _number(summary, "high", ".3f")
    return "-" if "-" in (low, high) else f"{low} to {high}"


def _memory(result: dict[str, Any], method: str, row: dict[str, Any]) -> str:
    shared = result.get("arms", {}).get(method, {}).get("shares_weights_with")
    return f"with {shared}" if shared else _number(row, "memory_megabytes", ".0f")


def _number(values: dict[str, Any] | None, key: str, form: str) -> str:
    found = values.get(key) if values else None
    return "-" if found is None else format(found, form)


def _categories(ratios: dict[str, Any]) -> list[str]:
    """In the order they occur; none where there is but one."""
    found = list(dict.fromkeys(category for ratio in ratios.values() for category in ratio["by_category"]))
    return found if len(found) > 1 else []


def _by_category(ratios: dict[str, Any], categories: list[str]) -> Table:
    names = [name for name in ratios if name.endswith("/off")]
    table = Table("category, prompts", title="median ratio of tokens/s to off")
    for name in names:
        table.add_column(name.removesuffix("/off"), overflow="fold")
    for category in categories:
        cells = [ratios[name]["by_category"].get(category) for name in names]
        count = max((cell["count"] for cell in cells if cell), default=0)
        table.add_row(f"{literal(category)}, {count}", *(_number(cell, "median", ".2f") for cell in cells))
    return table


def _split(methods: dict[str, Any]) -> Table:
    columns = ("method", *(f"{part} us" for part in PARTS), "outside llama.cpp", "drafting us: median, p99")
    table = Table(*columns, title="wall time of a pass")
    for method, found in methods.items():
        if "microseconds_per_pass" in found:
            drafting = (_number(found, f"draft_microseconds_{key}", ".0f") for key in ("median", "p99"))
            table.add_row(
                method,
                *(f"{found['microseconds_per_pass'][part]:.0f}" for part in PARTS),
                f"{100 * found['share_outside_llama_decode']:.2f}%",
                ", ".join(drafting),
            )
    return table
