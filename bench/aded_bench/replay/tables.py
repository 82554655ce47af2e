"""A replay's result as tables for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from aded_bench.replay.worth import THRESHOLDS, Worth, below, is_ablated, left_out, percent, worths
from aded_bench.tables import literal, print_missing
from aded_bench.wording import attention

DASH = "–"


def print_replay(result: dict[str, Any], out: Console) -> None:
    """One table per trace and phase, with its slow categories and its ablation, then what is missing, and why."""
    ablated = left_out(result)
    for trace in result["traces"]:
        for phase in dict.fromkeys(row["phase"] for row in result["rows"]):
            rows = [r for r in result["rows"] if (r["trace"], r["phase"]) == (trace["name"], phase)]
            rows = [row for row in rows if not is_ablated(row, ablated)]
            if rows:
                out.print(_table(result, trace, phase, rows))
            for row in (row for row in rows if row["method"] == "auto" and row["curves"]):
                told = "; ".join(f"below {limit:.2f}: {below(row, limit)}" for limit in THRESHOLDS)
                out.print(f"{literal(_label(row))}, {phase}: categories {literal(told)}", soft_wrap=True)
            if found := worths(result, trace["name"], phase):
                out.print(
                    _ablation_table(found, f"{trace['name']}, {phase}: what each part of auto is worth")
                )
            if any(row["body"] for row in rows):
                out.print(_body_table(rows))
    print_missing(result, out)
    for what, why in result.get("skipped", {}).items():
        out.print(f"not measured: {literal(what)}: {literal(why)}", soft_wrap=True)


def _table(result: dict[str, Any], trace: dict[str, Any], phase: str, rows: list[dict[str, Any]]) -> Table:
    warm = ", ".join(w["name"] for w in result.get("warm", ()))
    told = f"warm: {warm} fed first" if phase == "warm" else "cold"
    interrupted = "" if result["complete"] else " (interrupted)"
    title = f"{trace['name']}, {trace['answers']} answers, {trace['tokens']} tokens, {told}{interrupted}"
    table = Table(title=literal(title))
    columns = (
        "method",
        "curve",
        "tokens/pass",
        "nodes/pass",
        "speed-up",
        "95%",
        "draft µs, mean, p99",
        "learn µs",
    )
    for name in (*columns, "bits/token", "ECE"):
        table.add_column(name, justify="left" if name in columns[:2] else "right")
    for row in rows:
        method = literal(_label(row))
        bits = "" if row["bits_per_token"] is None else f"{row['bits_per_token']:.3f}"
        for name, figures in row["curves"].items():
            judged = figures["calibration"]
            table.add_row(
                method,
                literal(name),
                f"{figures['tokens_per_pass']:.3f}",
                f"{figures['nodes_per_pass']:.2f}",
                f"{figures['speedup']:.3f}",
                _interval(figures),
                _times(figures["draft_microseconds"], with_p99=True),
                _times(figures.get("learn_microseconds")),
                bits,
                "" if judged is None else f"{judged['ece']:.3f}",
            )
            method = bits = ""
    return table


def _label(row: dict[str, Any]) -> str:
    return f"{row['method']} ({row['setting']})" if row["setting"] else str(row["method"])


def _ablation_table(found: Sequence[Worth], title: str) -> Table:
    """The whole drafter, then what is worth most first; changes against the whole."""
    table = Table(title=literal(title))
    whole = found[0]
    table.add_column("left out")
    for name in ("bits/token", *whole.speedups):
        table.add_column(literal(name), justify="right")
    for one in found:
        speedups = (
            "" if curve not in one.speedups
            else f"{one.speedups[curve]:.3f}" + ("" if one is whole else f" {percent(one.changes[curve])}")
            for curve in whole.speedups
        )  # fmt: skip
        name = one.setting.removeprefix("without ") if one is not whole else one.setting or "nothing"
        bits = "" if one.bits is None else f"{one.bits:.3f}"
        table.add_row(literal(name), bits, *speedups)
    return table


def _interval(found: dict[str, Any]) -> str:
    """A dash where there were too few answers for one."""
    low, high = found.get("low"), found.get("high")
    return DASH if low is None or high is None else f"{low:.3f}–{high:.3f}"


def _times(found: dict[str, float] | None, with_p99: bool = False) -> str:
    if found is None:
        return ""
    return f"{found['median']:.1f}" + (f", {found['mean']:.1f}, {found['p99']:.0f}" if with_p99 else "")


def _body_name(body: dict[str, Any]) -> str:
    return (
        f"{body.get('model')} {body.get('quantization')}, {attention(body.get('flash_attention'))}, "
        f"{body.get('cache_type')}, {body.get('threads')} threads"
    )


def _body_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="the same, every tree decoded on a model")
    columns = (
        "method",
        "model",
        "speed-up",
        "95%",
        "modelled",
        "tokens/pass",
        "nodes/pass",
        "seconds",
        "plain",
    )
    for name in columns:
        table.add_column(name, justify="left" if name in columns[:2] else "right")
    for row in rows:
        body = row["body"]
        if body:
            table.add_row(
                literal(_label(row)),
                literal(_body_name(body)),
                f"{body['speedup']:.3f}",
                _interval(body),
                f"{body['modelled']:.3f}",
                f"{body['tokens_per_pass']:.3f}",
                f"{body['nodes_per_pass']:.2f}",
                f"{body['seconds']:.1f}",
                f"{body['plain_seconds']:.1f}",
            )
    return table
