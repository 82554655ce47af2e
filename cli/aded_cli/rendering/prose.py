"""Text without Markdown on a terminal: thoughts, and what ``/why`` colours. It is wrapped at words and styled."""

from __future__ import annotations

from typing import IO

from .flow import Flow
from .live import Live, terminal_size
from .markdown import WIDEST_PROSE


class Prose:
    """Writes styled text piece by piece."""

    def __init__(self, stream: IO[str]) -> None:
        """Nothing is written yet."""
        self._stream = stream
        self._live = Live(stream)
        self._columns = 0
        self._owed = 0
        self._begin()

    def _begin(self) -> None:
        self._columns = terminal_size(self._stream)[0]
        self._flow = Flow(max(1, min(self._columns - 1, WIDEST_PROSE)))

    def write(self, text: str, style: int) -> None:
        """Write what comes next: visible characters, and line ends, which are written when something follows."""
        if terminal_size(self._stream)[0] != self._columns and not self._owed:
            at = self._flow.column
            self._begin()
            self._flow = Flow(max(1, min(self._columns - 1, WIDEST_PROSE)), at=at)
            self._live.leave(at)
        for n, line in enumerate(text.split("\n")):
            if n:
                self._live.leave()
                self._owed += 1
                self._begin()
            if line:
                self._add(line, style)

    def _add(self, text: str, style: int) -> None:
        if self._owed:
            self._live.end_lines(self._owed)
            self._owed = 0
        self._flow.feed(text, style)
        self._live.show(self._flow.lines, self._flow.touched)
        self._flow.touched = len(self._flow.lines) - 1
