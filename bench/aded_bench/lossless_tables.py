"""Results of kinds "lossless" and "sameness" as tables for people, and what must not be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from aded_bench.extra import pandas
from aded_bench.run.methods import EXACT, OWN, PEER
from aded_bench.tables import MISSING, literal, number, print_missing, print_skipped, ranges, show

Table = tuple[str, pandas.DataFrame]

MOVED = "how far decoding in the passes that drafting took moves the probabilities"

SHOWN_LINES = 20
"""Lines of what must not be; the table and the result have all."""


def print_lossless(result: dict[str, Any], out: Console) -> None:
    """Identical sequences by method, how far probabilities move, then where the others part."""
    for caption, table in lossless_tables(result):
        show(table, f"{heading(result)}: {caption}", console=out)
    print_missing(result, out)
    print_skipped(result, out)
    _print_broken(broken(result), out)


def print_sameness(result: dict[str, Any], out: Console) -> None:
    """Identical sequences by version of the model, and what the versions are made of."""
    for caption, table in sameness_tables(result):
        show(table, f"{heading(result)}: {caption}", console=out)
    print_missing(result, out)
    print_skipped(result, out)
    _print_broken(broken(result), out)


def broken(result: Mapping[str, Any]) -> list[str]:
    """What must not be, a line each: partings that rounding does not explain, and other words where exact was asked."""
    if "types" in result:
        parts = result["types"].items()
        return [f"{file_type}: {line}" for file_type, part in parts for line in broken(part)]
    lines = [
        f"{row['method']} ({shown_setting(result, row)}, temperature {row['temperature']:g}) parts from off at token "
        f"{row['position']} of prompt {row['prompt']}, and rounding does not explain it: the candidates are "
        f"{number(row.get('gap'), 4)} apart, and other widths move that by {number(row.get('moved'), 4)}"
        for row in result.get("partings", ())
        if row.get("within_rounding") is False
    ]
    return lines + [
        f"{row['method']} with same exact says other words in {row['total'] - row['identical']} of {row['total']} "
        f"answers at temperature {row['temperature']:g}"
        for row in result.get("comparisons", ())
        if row["same"] == EXACT and row["method"] in OWN and row["identical"] < row["total"]
    ]


def _print_broken(lines: list[str], out: Console) -> None:
    for line in lines[:SHOWN_LINES]:
        out.print(f"NOT THE SAME: {literal(line)}", style="bold red", soft_wrap=True)
    if len(lines) > SHOWN_LINES:
        out.print(f"NOT THE SAME: {len(lines) - SHOWN_LINES} more", style="bold red")


def heading(result: Mapping[str, Any]) -> str:
    """The model, the threads where one setup holds for all, and whether all is there."""
    found, threads = result["provenance"]["model"]["file"], result["provenance"].get("threads")
    if threads:
        found += f", {threads} threads"
    return str(found) + ("" if result["complete"] else " (interrupted)")


def lossless_tables(result: Mapping[str, Any]) -> list[Table]:
    """Frames with their captions; those without a row are left out."""
    compared = pandas.DataFrame(
        {
            "method": row["method"],
            "same": shown_same(row),
            "setting": shown_setting(result, row),
            "passes over": shown_sizes(result, row),
            "temperature": f"{row['temperature']:g}",
            "identical to off": f"{row['identical']} of {row['total']}",
            "crossing 512 cells": str(row["crossing_512_cells"]),
            "not rounding": _not_rounding(result, row),
        }
        for row in result.get("comparisons", ())
    )
    moved = pandas.DataFrame(_movement_rows(result))
    parted = pandas.DataFrame(_parting(result, row) for row in result.get("partings", ()))
    tables = (
        ("same tokens?", compared),
        (MOVED, moved),
        ("where they part: plain decoding's candidate, then the other's", parted),
    )
    return [table for table in tables if len(table[1])]


def _movement_rows(result: Mapping[str, Any]) -> list[dict[str, str]]:
    return [
        {
            "method": row["method"],
            "same": ", ".join(_same_of(result, row["arm"])),
            "setting": shown_setting(result, row),
        }
        | shown_movement(row)
        for row in result.get("movements", ())
    ]


def shown_same(row: Mapping[str, Any]) -> str:
    """What a row was asked with; a dash for a peer, which does not draft."""
    return MISSING if row["method"] == PEER else str(row.get("same", MISSING))


def shown_setting(result: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """``fa-off/f16``, or ``fa-off/f16/rows`` where drafts were multiplied row by row."""
    by_row = result.get("arms", {}).get(row["arm"], {}).get("row_by_row")
    return f"{row['setting']}{'/rows' if by_row else ''}"


def shown_sizes(result: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """Tokens that a pass of this arm may have."""
    sizes = result["arms"].get(row["arm"], {}).get("sizes")
    return "any" if sizes is None else ranges(sizes)


def shown_movement(row: Mapping[str, Any]) -> dict[str, str]:
    """The columns of a movement."""
    return {
        "positions (in wider passes)": f"{row['positions']} ({row['wide']})",
        "KL, nats: mean": _small(row["divergence_mean"]),
        "largest": _small(row["divergence_largest"]),
        "a probability moves by, at most": number(row["change_largest"], 4),
    }


def _small(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}"


def _same_of(result: Mapping[str, Any], arm: str) -> list[str]:
    """What was asked for by all that this arm answers for."""
    return [name for name, chosen in result.get("same", {}).items() if arm in chosen["arms"]]


def _not_rounding(result: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """Partings of a row that rounding does not explain, of those that were looked at."""
    parted = [
        each
        for each in result.get("partings", ())
        if (each.get("arm"), each["temperature"]) == (row.get("arm"), row["temperature"])
    ]
    seen = [each["within_rounding"] for each in parted if "within_rounding" in each]
    return f"{seen.count(False)} of {len(seen)}" if parted else MISSING


def _parting(result: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, str]:
    pair = row.get("candidates", ())  # none where nobody could look at it again
    wider = "real" if pair and "real" in pair[0] else "wide"
    return {
        "method": row["method"],
        "setting": shown_setting(result, row),
        "temp.": f"{row['temperature']:g}",
        "prompt": row["prompt"],
        "position": str(row["position"]),
        "cells": str(row["cells"]),
        "tokens": " | ".join(repr(candidate["text"]) for candidate in pair) or MISSING,
        "logits, one by one": " | ".join(f"{candidate['one']:.4f}" for candidate in pair) or MISSING,
        "wider": " | ".join(number(candidate.get(wider), 4) for candidate in pair) or MISSING,
        "apart": number(row.get("gap"), 4),
        "moves": number(row.get("moved"), 4),
        "rounding": ("yes" if row["within_rounding"] else "NO") if pair else MISSING,
    }


def sameness_tables(result: Mapping[str, Any]) -> list[Table]:
    """By version and by what was asked for: identical answers, and how far probabilities move; then the versions."""
    parts = result["types"].items()
    rows = [{"file type": file_type} | row for file_type, part in parts for row in _sameness_rows(part)]
    moved = [{"file type": file_type} | row for file_type, part in parts for row in _movement_rows(part)]
    made = [
        {
            "file type": file_type,
            "tensors, by share of weights": _by_share(part["tensors"]),
            "not as asked": ", ".join(f"{kind} {share:.0%}" for kind, share in part["replaced"].items())
            or "none",
        }
        for file_type, part in result["types"].items()
        if "tensors" in part
    ]
    source = result["source"]["tensors"]
    origin = f"made by llama.cpp's quantizer by way of BF16 from {_by_share(source)}"
    tables = (
        ("identical answers", pandas.DataFrame(rows)),
        (MOVED, pandas.DataFrame(moved)),
        (origin, pandas.DataFrame(made)),
    )
    return [table for table in tables if len(table[1])]


def _sameness_rows(part: Mapping[str, Any]) -> list[dict[str, str]]:
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for row in part.get("comparisons", ()):
        key = row["method"], shown_same(row), shown_setting(part, row), shown_sizes(part, row)
        names = ("method", "same", "setting", "passes over")
        cells = found.setdefault(key, dict(zip(names, key, strict=True)))
        cells[at_temperature(row)] = f"{row['identical']} of {row['total']}"
        cells[f"not rounding, {at_temperature(row)}"] = _not_rounding(part, row)
    return list(found.values())


def at_temperature(row: Mapping[str, Any]) -> str:
    """``greedy``, or the temperature."""
    return f"at {row['temperature']:g}" if row["temperature"] else "greedy"


def _by_share(tensors: Mapping[str, Mapping[str, int]]) -> str:
    """``Q5_0 62%, Q8_0 38%``: what holds less than half a percent is left out."""
    total = sum(each["weights"] for each in tensors.values()) or 1
    shares = {kind: each["weights"] / total for kind, each in tensors.items()}
    return ", ".join(f"{kind} {share:.0%}" for kind, share in shares.items() if share >= 0.005)
