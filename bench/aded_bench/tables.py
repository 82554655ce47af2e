"""Results as tables for people: every table is a data frame, drawn by one function."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from aded_bench.extra import pandas
from aded_bench.wording import attention
from aded_local.shown import visible

PIPED_WIDTH = 160  # columns where there is no terminal to ask
MISSING = "–"


class Output(Console):
    """A console whose texts hold nothing that a terminal obeys, but for rich's own styles."""

    def on_broken_pipe(self) -> None:
        """Rich would exit with 1; the command line knows better what to do when the reader has gone."""
        raise BrokenPipeError

    def render_str(self, text: str, **how: Any) -> Text:
        """Every string of a line comes through here."""
        return super().render_str(visible(text), **how)


def console() -> Console:
    """Standard output; wide enough for every column when it is a file or a pipe."""
    return Output() if sys.stdout.isatty() else Output(width=PIPED_WIDTH)


def literal(text: str) -> str:
    """``text`` for ``Console.print``, as it is: square brackets in it are no markup."""
    return escape(
        visible(text)
    )  # in this order: what is removed may part a bracket from what makes it markup


def cell(value: Any) -> str:
    """A value as a table shows it: three decimals, a dash where nothing is known; text as it is."""
    if isinstance(value, str):
        return visible(value)
    if value is None or value != value:  # of all values only NaN differs from itself
        return MISSING
    return f"{value:.3f}" if isinstance(value, float) else visible(str(value))


def number(value: float | None, digits: int = 3) -> str:
    """With so many decimals; a dash where it is not known."""
    return MISSING if value is None else f"{value:,.{digits}f}"


def interval(found: Mapping[str, Any], key: str, digits: int = 3) -> str:
    """``1.080 (1.040 to 1.120)``; without the interval where there were too few values for one."""
    low, high = found.get("low"), found.get("high")
    middle = number(found.get(key), digits)
    return middle if low is None or high is None else f"{middle} ({low:,.{digits}f} to {high:,.{digits}f})"


def ranges(sizes: Sequence[int]) -> str:
    """``1–4, 8``."""
    starts = [size for size in sorted(sizes) if size - 1 not in sizes]
    ends = [size for size in sorted(sizes) if size + 1 not in sizes]
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in zip(starts, ends, strict=True)) or "none"


def show(
    frame: pandas.DataFrame, title: str, *, caption: str | None = None, console: Console | None = None
) -> None:
    """Draw a table: names of columns above, numbers to the right, the index left out.

    No text of it is markup or a control sequence.

    Args:
        frame: texts as they are to be read; numbers and missing values as ``cell`` writes them.
        title: above the table.
        caption: below it.
        console: where to; standard output when None.
    """
    out = console or _standard_output()
    table = Table(title=Text(visible(title), "table.title"))
    table.caption = None if caption is None else Text(visible(caption), "table.caption")
    columns = {name: [cell(value) for value in frame[name]] for name in frame}
    for name, cells in columns.items():
        is_number = all(text[:1] in "0123456789+-–" for text in cells)  # also of no text at all
        table.add_column(
            Text(visible(str(name))),
            justify="right" if is_number else "left",
            no_wrap=is_number
            and out.width >= PIPED_WIDTH,  # where it is narrow, a figure is folded, never cut
            overflow="fold",
        )
    for row in zip(*columns.values(), strict=True):
        table.add_row(*map(Text, row))
    out.print(table)


_standard_output = console  # ``show`` has an argument of that name


def title(result: dict[str, Any], *more: str) -> str:
    """What a table of ``result`` was measured with, and whether it is all there; ``more`` comes in between."""
    engine = result["provenance"]["engine"]
    model = result["provenance"]["model"]["file"]
    how = (f"{engine.get('cache_type')} cache", attention(engine.get("flash_attention")))
    parts = (model, *how, f"{engine.get('threads')} threads", *more)
    return ", ".join(parts) + ("" if result["complete"] else " (interrupted)")


def print_missing(result: Mapping[str, Any], out: Console) -> None:
    """What was asked for and could not be measured, and why."""
    for what, why in result.get("missing", {}).items():
        out.print(f"missing: {literal(what)}: {literal(why)}", soft_wrap=True)


def print_skipped(result: dict[str, Any], out: Console) -> None:
    """Prompts that could not be asked, and why."""
    for prompt, why in result.get("skipped", {}).items():
        out.print(f"skipped: {literal(prompt)}: {literal(why)}", soft_wrap=True)
