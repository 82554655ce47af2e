"""Results as tables for people."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.table import Table

PIPED_WIDTH = 140  # columns where there is no terminal to ask


def console() -> Console:
    """Standard output; wide enough for every column when it is a file or a pipe."""
    return Console() if sys.stdout.isatty() else Console(width=PIPED_WIDTH)


def print_lossless(result: dict[str, Any], out: Console) -> None:
    """Identical sequences by method, then where the others part."""
    table = Table("method", "against", "temperature", "identical", "crossing 512 cells", title=_title(result))
    for row in result["comparisons"]:
        counted = f"{row['identical']} of {row['total']}"
        crossing = str(row["crossing_512_cells"])
        table.add_row(row["method"], row["against"], f"{row['temperature']:g}", counted, crossing)
    out.print(table)
    if not result["partings"]:
        return
    columns = (
        "method",
        "temp.",
        "prompt",
        "position",
        "cells",
        "tokens",
        "logits, one by one",
        "wider",
        "moves",
        "rounding",
    )
    table = Table(*columns, title="where they part: plain decoding's candidate, then the other's")
    for row in result["partings"]:
        pair = row["candidates"]
        table.add_row(
            row["method"],
            f"{row['temperature']:g}",
            row["prompt"],
            str(row["position"]),
            str(row["cells"]),
            " | ".join(repr(candidate["text"]) for candidate in pair),
            " | ".join(f"{candidate['one']:.4f}" for candidate in pair),
            " | ".join(f"{candidate['wide']:.4f}" for candidate in pair),
            f"{row['difference']:.4f}",
            "yes" if row["within_rounding"] else "no",
        )
    out.print(table)


def _title(result: dict[str, Any]) -> str:
    engine = result["provenance"]["engine"]
    attention = "flash attention" if engine.get("flash_attention") else "no flash attention"
    name = f"{result['provenance']['model']['file']}, {engine.get('cache_type')} cache, {attention}"
    return name + f", {engine.get('threads')} threads" + ("" if result["complete"] else " (interrupted)")
