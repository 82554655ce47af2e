"""A replay's result as tables: printed at the end of a run, and in a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console

from aded_bench.extra import pandas
from aded_bench.replay.ablation import THRESHOLDS, below, effect_table, effects, is_ablated
from aded_bench.tables import MISSING, interval, literal, number, print_missing, show
from aded_bench.wording import attention

Result = Mapping[str, Any]
"""``schema.ReplayResult``."""


def print_replay(result: Result, out: Console) -> None:
    """All tables, where `auto` is slow, then what is missing, and why."""
    for title, table in tables(result):
        show(table, title, console=out)
    for row in methods(result):
        if row["method"] == "auto" and row["curves"]:
            told = "; ".join(f"below {limit:.2f}: {below(row, limit)}" for limit in THRESHOLDS)
            name = f"{row['trace']}, {label(row)}, {row['phase']}"
            out.print(f"{literal(name)}: categories {literal(told)}", soft_wrap=True)
    print_missing(result, out)
    for what, why in result.get("skipped", {}).items():
        out.print(f"not measured: {literal(what)}: {literal(why)}", soft_wrap=True)


def tables(result: Result) -> Iterator[tuple[str, pandas.DataFrame]]:
    """By trace: the methods on every curve, what each part of `auto` is worth, and wall clock on a body."""
    warm = ", ".join(trace["name"] for trace in result["warm"])
    fed = f", warm: {warm} fed first" if warm else ""
    interrupted = "" if result["complete"] else " (interrupted)"
    for trace in result["traces"]:
        rows = [row for row in methods(result) if row["trace"] == trace["name"]]
        answers = f"{trace['answers']} answer{'' if trace['answers'] == 1 else 's'}"
        title = f"{trace['name']}, {answers}, {trace['tokens']} tokens{fed}{interrupted}"
        modelled = [
            _modelled(row, curve, figures) for row in rows for curve, figures in row["curves"].items()
        ]
        if modelled:
            yield title, pandas.DataFrame(modelled)
        for phase in dict.fromkeys(row["phase"] for row in rows):
            found = effects(result, trace["name"], phase)
            if len(found):
                yield f"{trace['name']}, {phase}: what each part of auto is worth", effect_table(found)
        decoded = [_decoded(row, row["body"]) for row in rows if row["body"]]
        if decoded:
            yield f"{trace['name']}, every tree decoded on a model", pandas.DataFrame(decoded)


def methods(result: Result) -> list[dict[str, Any]]:
    """The rows without those of an ablation."""
    return [row for row in result["rows"] if not is_ablated(row, result)]


def label(row: Mapping[str, Any]) -> str:
    """Method and setting."""
    return f"{row['method']} ({row['setting']})" if row["setting"] else str(row["method"])


def _modelled(row: Mapping[str, Any], curve: str, figures: Mapping[str, Any]) -> dict[str, str]:
    drafting, judged = figures["draft_microseconds"] or {}, figures["calibration"] or {}
    return {
        "method": label(row),
        "store": row["phase"],
        "curve": curve,
        "speed-up (95%)": interval(figures, "speedup"),
        "tokens/pass": number(figures["tokens_per_pass"]),
        "nodes/pass": number(figures["nodes_per_pass"], 2),
        "draft µs": number(drafting.get("median"), 1),
        "mean": number(drafting.get("mean"), 1),
        "p99": number(drafting.get("p99"), 0),
        "learn µs": number((figures["learn_microseconds"] or {}).get("median"), 1),
        "bits/token": number(row["bits_per_token"]),
        "ECE": number(judged.get("ece"), 4),
    }


def body_name(body: Mapping[str, Any]) -> str:
    """The model, and how it decodes."""
    how = (attention(body["flash_attention"]), body["cache_type"], f"{body['threads']} threads")
    return ", ".join((f"{body['model']} {body['quantization']}", *how))


def _decoded(row: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, str]:
    apart = f"{100 * (body['speedup'] / body['modelled'] - 1):+.1f}%" if body["modelled"] else MISSING
    return {
        "method": label(row),
        "store": row["phase"],
        "model": body_name(body),
        "measured (95%)": interval(body, "speedup"),
        "modelled": number(body["modelled"]),
        "apart": apart,
        "tokens/pass": number(body["tokens_per_pass"]),
        "nodes/pass": number(body["nodes_per_pass"], 2),
        "seconds": number(body["seconds"], 1),
        "plain": number(body["plain_seconds"], 1),
        "largest gap": body["largest_gap"],
    }
