"""An answer on a terminal that can style text: its thoughts dim, its content as Markdown."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

from aded_local.shown import visible

from .markdown import MarkdownStream
from .prose import Prose
from .styles import DIM

if TYPE_CHECKING:
    from aded_local.chat.parsing import AnswerDelta
    from aded_local.chat.style import AnswerStyle


class RenderedAnswer:
    """Writes an answer piece by piece; text of others loses its control characters.

    Attributes:
        said: whether anything is on the terminal.
    """

    def __init__(self, stream: IO[str], style: AnswerStyle | None) -> None:
        """Nothing is written yet.

        Args:
            stream: of the terminal.
            style: tells thoughts apart; None where there are none.
        """
        self._stream = stream
        self._parser = None
        if style is not None and style.reasoning is not None:
            from aded_local.chat.parsing import AnswerParser

            self._parser = AnswerParser(style)
        self._thoughts: Prose | None = None
        self._content: MarkdownStream | None = None
        self.said = False

    def write(self, text: str) -> None:
        """Write what comes next."""
        if self._parser is None:
            self._write_content(text)
        else:
            self._show(self._parser.feed(text))

    def finish(self) -> None:
        """Write what was held back, and end the last line."""
        if self._parser is not None:
            self._show(self._parser.finish())
        self.end()

    def end(self) -> None:
        """The answer goes no further: end the last line."""
        if self._content is not None:
            self._content.finish()
        self._stream.write("\n")
        self._stream.flush()

    def _show(self, delta: AnswerDelta) -> None:
        if delta.reasoning:
            if self._content is not None:  # thoughts again
                self._content.finish()
                self._stream.write("\n\n")
                self._content = None
            self._thoughts = self._thoughts or Prose(self._stream)
            self._thoughts.write(visible(delta.reasoning), DIM)
            self.said = True
        if delta.content:
            self._write_content(delta.content)

    def _write_content(self, text: str) -> None:
        if self._content is None:
            text = text.lstrip("\n") if self._thoughts is not None else text
            if not text:
                return
            if self._thoughts is not None:
                self._stream.write("\n\n")
                self._thoughts = None
            self._content = MarkdownStream(self._stream)
        self._content.write(visible(text))
        self.said = True
