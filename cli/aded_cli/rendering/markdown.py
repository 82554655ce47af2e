"""Markdown on a terminal, piece by piece: each line of the source is shown as it grows, and left when it ends."""

from __future__ import annotations

from dataclasses import replace
from typing import IO, Final

from . import blocks
from .code import Highlighter
from .flow import Flow, Line
from .inline import SPECIAL, inline
from .live import Live, terminal_size
from .styles import DIM, HEADINGS, PLAIN, Run
from .tables import Table, is_row, is_ruler_below, may_be_header, may_be_ruler
from .widths import cut, width

WIDEST_PROSE: Final = 100
"""Columns of prose on a wide terminal: longer lines are hard to read. Code and tables take all there are."""

MOST_LIVE: Final = 12
"""Lines of a paragraph that may still change; those above are left when one more begins."""

FRAME: Final = 40
"""Columns of the lines above and below code."""


class MarkdownStream:
    """Writes an answer's text to a terminal. ``finish`` ends it, with the cursor behind the last character."""

    def __init__(self, stream: IO[str]) -> None:
        """Nothing is written yet.

        Args:
            stream: of the terminal.
        """
        self._stream = stream
        self._live = Live(stream)
        self._columns = terminal_size(stream)[0]
        self._owed = 0  # line ends that are written when something follows
        self._source = ""  # of the line that grows
        self._text = _Paragraph()
        self._is_after_blank, self._is_in_list = True, False
        self._header: str | None = None  # a line that the next one may make the head of a table, or a heading
        self._heading: _Paragraph | None = None  # the same, where it may become a heading
        self._table: Table | None = None
        self._rows: list[Line] = []
        self._fence: blocks.Fence | None = None
        self._code: Highlighter | None = None
        self._row = 0  # characters of a line of code that stand in the rows above, or cannot be changed

    def write(self, text: str) -> None:
        """Write what comes next: visible characters, and line ends."""
        columns = terminal_size(self._stream)[0]
        if columns != self._columns:
            self._resize(columns)
        first, *others = text.split("\n")
        if first:
            self._extend(first)
        for line in others:
            self._end_line()
            if line:
                self._extend(line)

    def finish(self) -> None:
        """Write what was held back, since its meaning was not certain."""
        if self._source:
            self._end_line()
        self._leave_table()

    # --- lines of the source -------------------------------------------------------------------------

    def _extend(self, part: str) -> None:
        self._source += part
        if self._fence is not None:
            self._show_code_row()
        elif self._table is not None:
            self._extend_table()
        elif self._is_header_open(self._source):
            return
        else:
            self._leave_header()
            self._extend_text(part)

    def _end_line(self) -> None:
        line, self._source = self._source, ""
        if self._fence is not None:
            self._end_code_line(self._fence, line)
            return
        if self._table is not None and self._end_row(line):
            return
        if self._header is not None and may_be_header(self._header) and is_ruler_below(line, self._header):
            self._table, self._header, self._heading = Table(self._header, line), None, None
            self._show_table()
            return
        level = 0 if self._heading is None else blocks.underline_of(line)
        if self._heading is not None and level:
            self._show(self._heading.as_heading(level, self._limit))
            self._leave_header()
            return
        self._leave_header()
        if not line.strip():
            self._is_after_blank = True
            self._owed = 2 if self._owed else 0
            return
        fence = blocks.fence_of(line)
        if fence is not None:
            self._begin_code(fence)
        else:
            self._end_text(line)

    def _show(self, lines: list[Line], since: int = 0) -> None:
        if self._owed:
            self._live.end_lines(self._owed)
            self._owed = 0
        self._live.show(lines, since)

    def _leave(self) -> None:
        """The line is finished."""
        self._live.leave()
        self._owed = 1

    # --- text ----------------------------------------------------------------------------------------

    @property
    def _limit(self) -> int:
        """Columns of prose: the last one stays free, since terminals differ in what happens behind it."""
        return max(1, min(self._columns - 1, WIDEST_PROSE))

    def _extend_text(self, part: str) -> None:
        text = self._text
        if text.is_plain and text.flow is not None and SPECIAL.isdisjoint(part):
            text.feed(part, self._limit)
            self._show(text.flow.lines, text.flow.touched)
            text.flow.touched = len(text.flow.lines) - 1
            if len(text.flow.lines) > MOST_LIVE and text.may_be_cut:
                text.cut(self._limit)
                self._live.keep_last()
        elif not blocks.is_undecided(self._source):
            self._show_text(self._source, is_complete=False)

    def _show_text(self, line: str, *, is_complete: bool) -> None:
        kind = blocks.kind_of(line, may_be_code=self._is_after_blank and not self._is_in_list)
        if kind.is_rule:
            self._show([[*kind.first, ("─" * min(FRAME, self._limit), DIM)]])
        else:
            self._show(self._text.lay_out(kind, self._limit, is_complete=is_complete))

    def _end_text(self, line: str) -> None:
        self._show_text(line, is_complete=True)
        text, self._text = self._text, _Paragraph()
        kind = text.kind
        self._is_in_list = kind.is_item or (
            self._is_in_list and (line[0].isspace() or not self._is_after_blank)
        )
        self._is_after_blank = False
        if text.flow is not None and kind.is_plain_text and not self._is_in_list:
            self._heading = text
        if self._heading is not None or (may_be_header(line) and not (kind.style or kind.is_item)):
            self._header = line
        else:
            self._leave()

    # --- tables --------------------------------------------------------------------------------------

    def _is_header_open(self, beginning: str) -> bool:
        """Whether a line that begins like that may still make something else of the line above."""
        if self._header is None:
            return False
        is_ruler = may_be_header(self._header) and may_be_ruler(beginning)
        return is_ruler or (self._heading is not None and blocks.may_be_underline(beginning))

    def _leave_header(self) -> None:
        """The line above stays as it is."""
        if self._header is not None:
            self._header = self._heading = None
            self._leave()

    def _show_table(self) -> None:
        assert self._table is not None
        columns, rows = terminal_size(self._stream)
        self._rows = self._table.lines(max(1, columns - 1))
        self._show(self._rows)
        if len(self._rows) > rows - 3:  # those above are out of reach soon
            self._table.begin_again(at_least=self._table.widths)
            self._rows = []
            self._leave()

    def _extend_table(self) -> None:
        assert self._table is not None
        beginning = self._source.lstrip()
        if not beginning or beginning[0] == "|" or not self._table.begins_with_bar:
            tail = beginning[-max(1, self._columns // 2) :]
            self._show([*self._rows, [(tail, DIM)]], len(self._rows))
        else:
            self._leave_table()
            self._extend_text(self._source)

    def _end_row(self, line: str) -> bool:
        """Whether the line belongs to the table; else that is left."""
        assert self._table is not None
        if is_row(line):
            self._table.add(line)
            self._show_table()
            return True
        self._leave_table()
        return False

    def _leave_table(self) -> None:
        if self._table is None:
            return
        self._table = None
        self._is_after_blank = False
        if self._rows:
            self._show(self._rows, len(self._rows) - 1)
            self._leave()
        elif not self._owed:  # a row that was none stands there
            self._live.show([[]])
            self._live.leave()

    # --- code ----------------------------------------------------------------------------------------

    def _begin_code(self, fence: blocks.Fence) -> None:
        self._fence, self._code, self._row = fence, Highlighter(fence.language), 0
        prefix = self._code_prefix(fence)
        self._show([[*prefix, self._frame(prefix, f"── {fence.language} " if fence.language else "")]])
        self._leave()

    def _frame(self, prefix: tuple[Run, ...], name: str = "") -> Run:
        """The line above or below code; it is never longer than the terminal."""
        room = max(1, min(FRAME, self._columns - 1 - sum(width(part) for part, _ in prefix)))
        if width(name) > room:
            name = name[: cut(name, room)]
        return name + "─" * (room - width(name)), DIM

    def _code_prefix(self, fence: blocks.Fence) -> tuple[Run, ...]:
        indent = " " * min(fence.indent, blocks.DEEPEST)
        return (*blocks.quote_prefix(fence.quotes), *(((indent, PLAIN),) if indent else ()))

    def _code_text(self, fence: blocks.Fence, line: str) -> str:
        return fence.text_of(line).expandtabs(4)

    def _show_code_row(self) -> None:
        """The line of code that grows, as it comes; its rows are coloured when they are full, or with its end."""
        fence = self._fence
        assert fence is not None and self._code is not None
        text = self._code_text(fence, self._source)
        if fence.may_be_closed_by(text):
            return
        self._fill_rows(fence, text)
        row = text[self._row :]
        if row:
            self._show([[*self._row_prefix(fence), (row, PLAIN)]])

    def _row_prefix(self, fence: blocks.Fence) -> tuple[Run, ...]:
        return () if self._row else self._code_prefix(fence)

    def _fill_rows(self, fence: blocks.Fence, text: str) -> None:
        """Write the rows that are full. The terminal itself begins the next one, so that a copied line is whole."""
        assert self._code is not None
        while True:
            prefix = self._row_prefix(fence)
            room = max(1, self._columns - sum(width(part) for part, _ in prefix))
            if width(text[self._row :]) <= room:
                return
            end = self._row + cut(text[self._row :], room)
            self._show([[*prefix, *_behind(self._code.preview(text[:end]), self._row)]])
            self._live.leave()
            self._row = end

    def _end_code_line(self, fence: blocks.Fence, line: str) -> None:
        assert self._code is not None
        text = self._code_text(fence, line)
        if fence.is_closed_by(text):
            prefix = self._code_prefix(fence)
            self._show([[*prefix, self._frame(prefix)]])
            self._fence = self._code = None
            self._is_after_blank = False
        else:
            self._fill_rows(fence, text)
            runs = _behind(self._code.line(text), self._row)
            if runs or not self._row:
                self._show([[*self._row_prefix(fence), *runs]])
            self._row = 0
        self._leave()

    # --- another size --------------------------------------------------------------------------------

    def _resize(self, columns: int) -> None:
        """The terminal has moved what it shows, nobody knows where to: all that stays, and what comes follows it."""
        self._columns = columns
        if self._owed:
            return
        if self._fence is not None:
            self._live.leave()
            self._row = len(self._code_text(self._fence, self._source))
        elif self._table is not None:
            self._table.begin_again()
            self._rows = []
            self._live.end_lines(1)
        elif self._header is not None:
            self._leave_header()
        elif self._text.flow is not None:
            self._live.leave(self._text.go_on(self._limit))


def _behind(runs: Line, n: int) -> Line:
    """Runs without their first ``n`` characters."""
    left: Line = []
    for text, style in runs:
        if n < len(text):
            left.append((text[n:], style))
        n = max(0, n - len(text))
    return left


class _Paragraph:
    """One line of the source as text in lines.

    Attributes:
        kind: of the line.
        flow: what may still change of it; None before anything is shown.
        is_plain: what comes next cannot change what stands there.
    """

    def __init__(self) -> None:
        self.kind = blocks.Kind((), (), "")
        self.flow: Flow | None = None
        self.is_plain = False
        self._style = PLAIN
        self._left = 0  # characters that stay as they are
        self._said = 0  # characters in all
        self._begin: tuple[tuple[Run, ...] | None, int] = (None, 0)

    def lay_out(self, kind: blocks.Kind, limit: int, *, is_complete: bool) -> list[Line]:
        """The line anew, as it is so far."""
        self.kind = kind
        body = kind.body
        runs: Line = [(body, kind.style)]
        if not kind.is_verbatim:
            runs = inline(body, kind.style, is_complete=is_complete)
        first, at = self._begin
        self.flow = Flow(limit, kind.first if first is None else first, kind.others, at=at)
        for text, style in _behind(runs, self._left):
            self.flow.feed(text, style)
        self._style = runs[-1][1] if runs else kind.style
        self._said = sum(len(text) for text, _ in runs)
        may_be_box = kind.is_item and body.startswith("[") and len(body) < len("[x] a")
        self.is_plain = bool(body) and body[-1] not in SPECIAL and not may_be_box
        self.flow.touched = len(self.flow.lines) - 1
        return self.flow.lines

    def as_heading(self, level: int, limit: int) -> list[Line]:
        """The line anew, as a heading."""
        return self.lay_out(replace(self.kind, style=HEADINGS[level - 1]), limit, is_complete=True)

    def feed(self, part: str, limit: int) -> None:
        """Go on with text that is nothing but text."""
        assert self.flow is not None
        self.flow.feed(part, self._style)
        self._said += len(part)

    @property
    def may_be_cut(self) -> bool:
        """Whether all lines but the last can be left: it holds one word yet, and nothing is open before it."""
        return self.flow is not None and self.flow.is_one_word and self._style == self.kind.style

    def cut(self, limit: int) -> None:
        """Leave all lines but the last."""
        assert self.flow is not None
        word = self.flow.word
        self._left = self._said - len(word)
        self._begin = (self.kind.others, 0)
        self.flow = Flow(limit, self.kind.others, self.kind.others)
        self.flow.feed(word, self._style)
        self.flow.touched = 0

    def go_on(self, limit: int) -> int:
        """Leave all that is shown; the column behind it, where the rest begins."""
        assert self.flow is not None
        at = self.flow.column
        self._left = self._said
        self._begin = ((), at)
        self.flow = Flow(limit, (), self.kind.others, at=at)
        return at
