"""Tables of Markdown: columns side by side, as wide as their cells or as the terminal allows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from .flow import Line, laid_out
from .inline import inline
from .styles import BOLD, DIM, PLAIN, Run
from .widths import width

SEPARATOR: Final = " │ "
NARROWEST: Final = 4
"""Columns that a cell keeps where the terminal is too narrow for all."""

_RULER: Final = re.compile(r"\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$")
_MAYBE_RULER: Final = re.compile(r"[\s|:-]*$")
_BAR: Final = re.compile(r"(?<!\\)\|")

Cells = list[list[Run]]


def may_be_header(line: str) -> bool:
    """Whether a finished line may be the head of a table."""
    return _BAR.search(line) is not None


def may_be_ruler(beginning: str) -> bool:
    """Whether a line that begins like that may be the one below the head."""
    return _MAYBE_RULER.match(beginning) is not None


def is_ruler_below(line: str, header: str) -> bool:
    """Whether a finished line makes the one above the head of a table."""
    return "-" in line and _RULER.match(line) is not None and len(_split(line)) == len(_split(header))


def is_row(line: str) -> bool:
    """Whether a finished line below a table goes on with it."""
    return _BAR.search(line) is not None


def _split(line: str) -> list[str]:
    """Cells of a row. A bar within code belongs to it only behind a backslash, as in GitHub's Markdown."""
    text = line.strip()
    text = text.removeprefix("|")
    if text.endswith("|") and not text.endswith("\\|"):
        text = text[:-1]
    return [cell.strip().replace("\\|", "|") for cell in _BAR.split(text)]


class Table:
    """A table whose rows come one by one.

    Attributes:
        begins_with_bar: its rows do.
        widths: of the columns, as laid out last.
    """

    def __init__(self, header: str, ruler: str) -> None:
        """Its head alone."""
        self.begins_with_bar = header.lstrip().startswith("|")
        self._has_head = True
        self._sides = [_side(cell) for cell in _split(ruler)]
        self._rows: list[Cells] = [[inline(cell, BOLD) for cell in _split(header)]]
        self._laid: list[list[Line]] = []
        self.widths: list[int] = []
        self._least = [1] * len(self._sides)

    def add(self, line: str) -> None:
        """Append a row. Cells that the head does not have are dropped, as in GitHub's Markdown."""
        n = len(self._sides)
        cells = [inline(cell) for cell in _split(line)][:n]
        self._rows.append([*cells, *([] for _ in range(n - len(cells)))])

    def lines(self, columns: int) -> list[Line]:
        """The whole table in lines."""
        widths = self._widths(columns)
        if widths != self.widths:
            self._laid, self.widths = [], widths
        self._laid += [self._row(row, widths) for row in self._rows[len(self._laid) :]]
        lines = [line for row in self._laid for line in row]
        if self._has_head:
            lines.insert(len(self._laid[0]), [("─┼─".join("─" * each for each in widths), DIM)])
        return lines

    def begin_again(self, at_least: Sequence[int] = ()) -> None:
        """What is shown stays; the rows that come stand below it without a head.

        Args:
            at_least: widths that their columns have at least.
        """
        self._rows, self._laid, self._has_head = [], [], False
        self._least = list(at_least) or [1] * len(self._sides)

    def _widths(self, columns: int) -> list[int]:
        wanted = list(self._least)
        for row in self._rows:
            for at, cell in enumerate(row):
                wanted[at] = max(wanted[at], sum(width(text) for text, _ in cell))
        return fitted(wanted, columns - len(SEPARATOR) * (len(wanted) - 1))

    def _row(self, row: Cells, widths: Sequence[int]) -> list[Line]:
        cells = [laid_out(cell, columns) for cell, columns in zip(row, widths, strict=True)]
        lines: list[Line] = []
        for n in range(max(len(cell) for cell in cells)):
            line: Line = []
            for at, cell in enumerate(cells):
                if at:
                    line.append((SEPARATOR, DIM))
                runs = cell[n] if n < len(cell) else []
                is_last = at == len(cells) - 1
                line += _aligned(runs, widths[at], self._sides[at], pads=not is_last)
            lines.append(line)
        return lines


def fitted(wanted: Sequence[int], most: int) -> list[int]:
    """Widths that add up to ``most`` where they can: the widest give way, none below ``NARROWEST``."""
    widths = list(wanted)
    over = sum(widths) - most
    while over > 0:
        widest = max(widths)
        if widest <= NARROWEST:
            break
        at = [i for i, each in enumerate(widths) if each == widest]
        below = max((each for each in widths if each < widest), default=NARROWEST)
        step = min(widest - max(below, NARROWEST), max(1, over // len(at)))
        for i in at:
            taken = min(step, over)
            widths[i] -= taken
            over -= taken
    return widths


def _side(cell: str) -> str:
    if cell.startswith(":") and cell.endswith(":") and len(cell) > 1:
        return "center"
    return "right" if cell.endswith(":") else "left"


def _aligned(runs: Sequence[Run], columns: int, side: str, *, pads: bool) -> Line:
    room = max(0, columns - sum(width(text) for text, _ in runs))
    before = {"left": 0, "right": room, "center": room // 2}[side]
    after = room - before if pads else 0
    return [*([(" " * before, PLAIN)] if before else []), *runs, *([(" " * after, PLAIN)] if after else [])]
