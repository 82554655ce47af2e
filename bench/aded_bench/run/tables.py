"""A run's result as tables for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from aded_bench.extra import pandas
from aded_bench.tables import interval, number, print_missing, print_skipped, show, title
from aded_bench.wording import beside


def print_run(result: dict[str, Any], out: Console) -> None:
    """Rates, ratios and the split of time by pass; then what was left out, and why."""
    for which, found in result["summary"].items():
        ratios = found["ratios"]
        rows = [
            {"method": method, **_rates(row, ratios.get(f"{method}/off"), result["arms"].get(method, {}))}
            for method, row in found["methods"].items()
        ]
        caption = "MB: resident, of a server its process"
        if plain := ratios.get("off/llama-cpp"):
            caption = f"off is {interval(plain['summary'] or {}, 'median')} of llama-cpp; {caption}"
        heading = title(result, *filter(None, (result["suite"], f"store {which}", beside(result))))
        show(pandas.DataFrame(rows), heading, caption=caption, console=out)
        by_category = _by_category(ratios)
        if len(by_category) > 1:
            show(by_category, "median ratio of tokens/s to off", console=out)
        drafting = [_draft_model(method, row) for method, row in found["methods"].items()]
        if any(drafting):
            show(pandas.DataFrame(filter(None, drafting)), "the draft model", console=out)
        split = [_split(method, row) for method, row in found["methods"].items()]
        if any(split):
            show(pandas.DataFrame(filter(None, split)), "wall time of a pass", console=out)
    print_missing(result, out)
    print_skipped(result, out)


def _rates(row: dict[str, Any], ratio: dict[str, Any] | None, arm: dict[str, Any]) -> dict[str, str]:
    rate, first = row["tokens_per_second"] or {}, row["first_token_ms"] or {}
    shared = arm.get("shares_weights_with")
    return {
        "tokens/s": number(rate.get("median"), 1),
        "of off (95%)": interval((ratio or {}).get("summary") or {}, "median"),
        "first token, ms": number(first.get("median"), 0),
        "tokens/pass": number(row.get("tokens_per_pass"), 2),
        "nodes/pass": number(row.get("nodes_per_pass"), 2),
        "same": f"{ratio['same_tokens']} of {ratio['pairs']}" if ratio else number(None),
        "MB": f"with {shared}" if shared else number(row.get("memory_megabytes"), 0),
    }


def _by_category(ratios: dict[str, Any]) -> pandas.DataFrame:
    """A row for each category, in the order they occur, and a column for each method."""
    cells = {
        name.removesuffix("/off"): r["by_category"] for name, r in ratios.items() if name.endswith("/off")
    }
    medians, counts = (
        pandas.DataFrame({name: {c: s[key] for c, s in found.items()} for name, found in cells.items()})
        for key in ("median", "count")
    )
    prompts = counts.max(axis=1).astype(int)
    medians.insert(0, "category, prompts", [f"{category}, {count}" for category, count in prompts.items()])
    return medians


def _draft_model(method: str, row: dict[str, Any]) -> dict[str, str]:
    """Nothing of an arm without one."""
    found = row.get("draft_model")
    if found is None:
        return {}
    return {
        "method": method,
        "target waits": f"{found['target_waits']:.1%}",
        "draft idle": f"{found['draft_idle']:.1%}",
        "decodes/token": number(found["decodes_per_token"], 2),
        "asked/token": number(found["asked_per_token"], 2),
        "dropped/token": number(found["dropped_per_token"], 2),
        "steps": ", ".join(f"{mode} {count}" for mode, count in found["steps"].items() if count),
    }


def _split(method: str, row: dict[str, Any]) -> dict[str, str]:
    """Nothing of an arm that does not say where its time went."""
    if "microseconds_per_pass" not in row:
        return {}
    drafting = (number(row.get(f"draft_microseconds_{key}"), 0) for key in ("median", "p99"))
    return {
        "method": method,
        **{f"{part}, µs": number(micros, 0) for part, micros in row["microseconds_per_pass"].items()},
        "outside llama.cpp": f"{100 * row['share_outside_llama_decode']:.2f}%",
        "drafting, µs: median, p99": ", ".join(drafting),
    }
