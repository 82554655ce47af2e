"""Colours for code, a line at a time.

A line is looked at together with those before it back to where a statement began: what an earlier line opened, a
comment or a text in quotes, is known then, and a long block takes no longer per line than a short one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .flow import Line
from .styles import BLUE, BOLD, CYAN, DIM, GREEN, MAGENTA, PLAIN, RED

if TYPE_CHECKING:
    from pygments.lexer import Lexer

MOST_LINES: Final = 40
"""Lines that are looked at again for a new one. Chosen: some 2 ms of Python code."""

LONGEST_LINE: Final = 1000
"""Characters of a line that is coloured: what is longer is data."""

_COLOURS: Final[tuple[tuple[str, int], ...]] = (
    ("Comment.Preproc", MAGENTA),
    ("Comment", DIM),
    ("Keyword.Constant", CYAN),
    ("Keyword", MAGENTA),
    ("Operator.Word", MAGENTA),
    ("Literal.String", GREEN),
    ("Literal.Number", CYAN),
    ("Name.Function", BLUE),
    ("Name.Class", BLUE | BOLD),
    ("Name.Tag", BLUE),
    ("Name.Decorator", MAGENTA),
    ("Name.Attribute", CYAN),
    ("Name.Builtin", CYAN),
    ("Name.Exception", CYAN),
    ("Generic.Deleted", RED),
    ("Generic.Inserted", GREEN),
    ("Generic.Heading", BOLD),
    ("Generic.Subheading", CYAN),
)
"""By the beginning of a token's type, the first that fits."""


class Highlighter:
    """The lines of one block of code, in order."""

    def __init__(self, language: str) -> None:
        """No line yet; of a language that nobody knows all lines stay plain."""
        self._lexer = _lexer(language)
        self._styles: dict[Any, int] = {}
        self._context: list[str] = []
        self._is_open = False  # a comment or a text goes on behind the last line

    def line(self, text: str) -> Line:
        """A finished line in runs."""
        if self._lexer is None or len(text) > LONGEST_LINE:
            return [(text, PLAIN)] if text else []
        begins_statement = bool(text) and not text[0].isspace() and text[0] not in ")]}"
        if begins_statement and not self._is_open:
            self._context = []
        elif len(self._context) >= MOST_LINES:
            del self._context[0]
        runs, self._is_open = self._coloured(self._lexer, text)
        self._context.append(text)
        return runs

    def preview(self, text: str) -> Line:
        """The line that has begun, or its beginning."""
        if self._lexer is None or len(text) > LONGEST_LINE:
            return [(text, PLAIN)] if text else []
        return self._coloured(self._lexer, text)[0]

    def _coloured(self, lexer: Lexer, text: str) -> tuple[Line, bool]:
        """The line's runs, and whether a comment or a text goes on behind it."""
        source = "\n".join([*self._context, text, ""])
        begins = len(source) - len(text) - 1
        runs: Line = []
        at = 0
        is_open = False
        for kind, part in lexer.get_tokens(source):
            end = at + len(part)
            if end > begins:
                style = self._style(kind)
                own = part[max(0, begins - at) :]
                is_open = own.endswith("\n") and str(kind).startswith(("Token.Literal", "Token.Comment.M"))
                shown = own.rstrip("\n")
                if shown:
                    runs.append((shown, style))
            at = end
        if "".join(part for part, _ in runs) != text:
            return ([(text, PLAIN)] if text else []), False
        return runs, is_open

    def _style(self, kind: Any) -> int:
        style = self._styles.get(kind)
        if style is None:
            name = str(kind).removeprefix("Token.")
            style = next((colour for prefix, colour in _COLOURS if name.startswith(prefix)), PLAIN)
            self._styles[kind] = style
        return style


def warm_up() -> None:
    """Import what colours code, which takes a tenth of a second, before the first block of it comes."""
    Highlighter("python").line("")


def _lexer(language: str) -> Lexer | None:
    if not language:
        return None
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    try:
        return get_lexer_by_name(language.lower().strip("{}."), stripnl=False, ensurenl=False, stripall=False)
    except ClassNotFound:
        return None
