"""The lines at the end of a terminal's text that may still change. What differs is written, in one write."""

from __future__ import annotations

import os
from typing import IO, Final

from .flow import Line
from .styles import styled
from .widths import is_sure, width

UNKNOWN_SIZE: Final = (80, 24)
"""Columns and rows where the terminal does not say."""


def terminal_size(stream: IO[str]) -> tuple[int, int]:
    """Columns and rows, 1 at least."""
    try:
        columns, rows = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        return UNKNOWN_SIZE
    return (columns, rows) if columns > 0 and rows > 0 else UNKNOWN_SIZE


def on_screen(line: Line) -> str:
    """A line with its escape sequences."""
    return "".join(styled(text, style) for text, style in line)


class Live:
    """Lines that may still change, with the cursor behind the last of them."""

    def __init__(self, stream: IO[str]) -> None:
        """Nothing is shown yet; the cursor is where a line begins.

        Args:
            stream: of the terminal.
        """
        self._stream = stream
        self._shown: list[Line] = []
        self._at = 0
        self._is_fresh = True  # nothing was written, so no line has to be ended

    def show(self, lines: list[Line], since: int = 0) -> None:
        """Let ``lines`` stand where those shown last stand. What is out of reach above the screen stays as it is.

        Args:
            since: the first line that may differ.
        """
        shown = self._shown
        last = len(shown) - 1
        first = max(0, min(since, last))
        if last > 0:
            first = max(first, last - terminal_size(self._stream)[1] + 2)
        while first < len(lines) and first <= last and lines[first] == shown[first]:
            first += 1
        if first >= len(lines):
            if len(lines) == len(shown):
                return
            first = len(lines) - 1  # the cursor is to stand behind the last line
        out = []
        if first > last:
            out.append("\n" * (first > 0 and last >= 0))
            rest = [on_screen(line) for line in lines[first:]]
        else:
            column, tail, is_appended = _difference(shown[first], lines[first])
            if first < last:
                out.append(f"\x1b[{last - first}A")
            if not (is_appended and first == last):
                column += self._at if first == 0 else 0
                out.append(f"\x1b[{column + 1}G" if column else "\r")
                out.append("\x1b[J" if first < last else "\x1b[K")
            rest = [on_screen(tail), *(on_screen(line) for line in lines[first + 1 :])]
        out.append("\n".join(rest))
        self._write("".join(out))
        self._shown[first:] = [list(line) for line in lines[first:]]

    def end_lines(self, n: int) -> None:
        """What is shown stays, and what comes stands ``n`` lines below it."""
        if not self._is_fresh:
            self._write("\n" * n)
        self.leave()

    def leave(self, at: int = 0) -> None:
        """What is shown stays; what comes goes on behind it.

        Args:
            at: the column there, of an unfinished line.
        """
        self._shown, self._at = [], at

    def keep_last(self) -> None:
        """Of what is shown, all but the last line stays."""
        del self._shown[:-1]
        self._at = 0

    def _write(self, text: str) -> None:
        self._is_fresh = False
        self._stream.write(text)
        self._stream.flush()


def _difference(old: Line, new: Line) -> tuple[int, Line, bool]:
    """Columns that both lines share at their beginning, what follows in ``new``, and whether that is only added."""
    n = same = 0
    while n < len(old) and n < len(new) and old[n] == new[n]:
        same += width(old[n][0])
        n += 1
    tail = new[n:]
    is_appended = n == len(old)
    if n < len(old) and tail and old[n][1] == tail[0][1]:
        before, after = old[n][0], tail[0][0]
        common = _shared(before, after)
        is_appended = common == len(before) and n == len(old) - 1
        same += width(before[:common])
        tail = [(after[common:], tail[0][1]), *tail[1:]]
        shared = before[:common]
    else:
        shared = ""
    if not is_appended and not all(is_sure(text) for text in (*(text for text, _ in old[:n]), shared)):
        return 0, new, False
    return same, tail, is_appended


def _shared(one: str, other: str) -> int:
    """Characters that both begin with."""
    if other.startswith(one):
        return len(one)
    return next((n for n, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), len(other))
