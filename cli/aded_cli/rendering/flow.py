"""Styled text in lines that end between words, laid out as it grows."""

from __future__ import annotations

from collections.abc import Sequence

from .styles import Run
from .widths import cut, units, width

Line = list[Run]


class Flow:
    """Lines of a paragraph.

    Attributes:
        lines: what stands in each. The last one grows, and gives its last word to the next where it becomes too long.
        touched: the first line that changed since this was set to the number of the last.
    """

    def __init__(
        self, columns: int, first: Sequence[Run] = (), others: Sequence[Run] = (), *, at: int = 0
    ) -> None:
        """No text yet.

        Args:
            columns: of a line, the prefix included.
            first, others: stand before the first line, and before the others.
            at: column at which the first line begins, behind text that is not this paragraph's.
        """
        self._others = list(others)
        self._indent = min(sum(width(text) for text, _ in others), max(0, columns - 1))
        self._limit = max(columns, self._indent + 1)
        self.lines: list[Line] = [list(first)]
        self._column = at + sum(width(text) for text, _ in first)
        self._begins = at == 0  # nothing but the prefix stands in the line
        self._word: Line = []
        self._word_width = 0
        self.touched = 0

    @property
    def column(self) -> int:
        """Where the last line ends."""
        return self._column + self._word_width

    @property
    def word(self) -> str:
        """The last word so far, as far as it stands in the line; empty behind a space."""
        return "".join(text for text, _ in self._word)

    @property
    def is_one_word(self) -> bool:
        """Whether the last line holds nothing but the last word, and is not the first."""
        return self._begins and len(self.lines) > 1

    def feed(self, text: str, style: int) -> None:
        """Go on with text without line ends."""
        for unit, may_break in units(text.expandtabs(4) if "\t" in text else text):
            if unit[0] == " ":
                self._end_word()
                self._add_spaces(unit, style)
                continue
            if may_break:
                self._end_word()
            self._add_to_word(unit, style)

    def _end_word(self) -> None:
        if self._word:
            self._column += self._word_width
            self._word, self._word_width = [], 0
            self._begins = False

    def _add_spaces(self, spaces: str, style: int) -> None:
        """Spaces at the end of a line are not written: the next word begins a line anyway."""
        if self._begins and len(self.lines) > 1:
            return
        fitting = spaces[: max(0, self._limit - self._column)]
        if fitting:
            _append(self.lines[-1], fitting, style)
            self._column += len(fitting)

    def _add_to_word(self, text: str, style: int) -> None:
        _append(self._word, text, style)
        self._word_width += width(text)
        _append(self.lines[-1], text, style)
        if self._column + self._word_width <= self._limit:
            return
        _take_back(self.lines[-1], len(self.word))
        if not self._begins:
            self._break()
        word, self._word, self._word_width = self._word, [], 0
        for part, part_style in word:
            self._write(part, part_style)

    def _write(self, text: str, style: int) -> None:
        """A part of a word that may be longer than a line."""
        while text:
            room = self._limit - self._column - self._word_width
            if width(text) <= room:
                fitting = len(text)
            elif room < 1 or (width(text[0]) > room and self._column + self._word_width > self._indent):
                self._end_word()
                self._break()
                continue
            else:
                fitting = cut(text, room)
            _append(self.lines[-1], text[:fitting], style)
            _append(self._word, text[:fitting], style)
            self._word_width += width(text[:fitting])
            text = text[fitting:]

    def _break(self) -> None:
        line = self.lines[-1]
        while line and line[-1][0].endswith(" ") and not self._begins:
            text, style = line.pop()
            if text.rstrip(" "):
                line.append((text.rstrip(" "), style))
                break
        self.lines.append(list(self._others))
        self._column = self._indent
        self._begins = True


def _append(line: Line, text: str, style: int) -> None:
    if line and line[-1][1] == style:
        line[-1] = (line[-1][0] + text, style)
    else:
        line.append((text, style))


def _take_back(line: Line, n: int) -> None:
    """Remove the last ``n`` characters."""
    while n > 0:
        text, style = line.pop()
        if len(text) > n:
            line.append((text[:-n], style))
        n -= len(text)


def laid_out(
    runs: Sequence[Run], columns: int, first: Sequence[Run] = (), others: Sequence[Run] = ()
) -> list[Line]:
    """Runs in lines; arguments as of ``Flow``."""
    flow = Flow(columns, first, others)
    for text, style in runs:
        flow.feed(text, style)
    return flow.lines
