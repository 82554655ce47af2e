"""Results as tables for people."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from aded_bench.wording import attention
from aded_local.shown import visible

PIPED_WIDTH = 140  # columns where there is no terminal to ask


class Output(Console):
    """A console whose texts hold nothing that a terminal obeys, but for rich's own styles."""

    def on_broken_pipe(self) -> None:
        """Rich would exit with 1; the command line knows better what to do when the reader has gone."""
        raise BrokenPipeError

    def render_str(self, text: str, **how: Any) -> Text:
        """Every string of a line or a table comes through here."""
        return super().render_str(visible(text), **how)


def console() -> Console:
    """Standard output; wide enough for every column when it is a file or a pipe."""
    return Output() if sys.stdout.isatty() else Output(width=PIPED_WIDTH)


def literal(text: str) -> str:
    """``text`` as it is: square brackets in it are no markup."""
    return escape(
        visible(text)
    )  # in this order: what is removed may part a bracket from what makes it markup


def title(result: dict[str, Any], *more: str) -> str:
    """What a table of ``result`` was measured with, and whether it is all there; ``more`` comes in between."""
    engine = result["provenance"]["engine"]
    model = result["provenance"]["model"]["file"]
    how = (f"{engine.get('cache_type')} cache", attention(engine.get("flash_attention")))
    parts = (model, *how, f"{engine.get('threads')} threads", *more)
    return literal(", ".join(parts)) + ("" if result["complete"] else " (interrupted)")


def print_missing(result: dict[str, Any], out: Console) -> None:
    """What was asked for and could not be measured, and why."""
    for what, why in result.get("missing", {}).items():
        out.print(f"missing: {literal(what)}: {literal(why)}", soft_wrap=True)


def print_skipped(result: dict[str, Any], out: Console) -> None:
    """Prompts that could not be asked, and why."""
    for prompt, why in result.get("skipped", {}).items():
        out.print(f"skipped: {literal(prompt)}: {literal(why)}", soft_wrap=True)


def print_lossless(result: dict[str, Any], out: Console) -> None:
    """Identical sequences by method, then where the others part."""
    table = Table("method", "against", "temperature", "identical", "crossing 512 cells", title=title(result))
    for row in result["comparisons"]:
        counted = f"{row['identical']} of {row['total']}"
        crossing = str(row["crossing_512_cells"])
        table.add_row(row["method"], row["against"], f"{row['temperature']:g}", counted, crossing)
    out.print(table)
    if result["partings"]:
        out.print(_partings(result["partings"]))
    print_missing(result, out)
    print_skipped(result, out)


def _partings(rows: list[dict[str, Any]]) -> Table:
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
    for row in rows:
        head = (row["method"], f"{row['temperature']:g}", literal(row["prompt"]))
        place = (str(row["position"]), str(row["cells"]))
        if "candidates" not in row:  # nobody could look at it again
            table.add_row(*head, *place, *"-----")
            continue
        pair = row["candidates"]
        table.add_row(
            *head,
            *place,
            literal(" | ".join(repr(candidate["text"]) for candidate in pair)),
            " | ".join(f"{candidate['one']:.4f}" for candidate in pair),
            " | ".join(f"{candidate['wide']:.4f}" for candidate in pair),
            f"{row['difference']:.4f}",
            "yes" if row["within_rounding"] else "no",
        )
    return table
