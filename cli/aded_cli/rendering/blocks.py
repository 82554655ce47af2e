"""What a line of Markdown is: a heading, a list's item, a quotation, a rule, a fence of code, or text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from .styles import CODE, DIM, HEADINGS, PLAIN, Run
from .widths import width

BULLET: Final = "•"
QUOTE_BAR: Final = "▌ "
BOXES: Final = {" ": "☐ ", "x": "☑ ", "X": "☑ "}

DEEPEST: Final = 24
"""Columns that a line is indented at most: what is indented more says nothing on a narrow terminal."""

_UNDECIDED: Final = re.compile(r"(?:\s*>)*\s*(?:(?:[-*_+]\s*)+|#{1,6}|`{1,2}|`{3,}[^`]*|~{1,2}|~{3}.*|>|)$")
"""Beginnings that may become several kinds of lines. Nothing is shown of them yet."""

_QUOTE: Final = re.compile(r"\s{0,3}>\s?")
_RULE: Final = re.compile(r"\s{0,3}([-*_])(?:\s*\1){2,}\s*$")
_HEADING: Final = re.compile(r"\s{0,3}(#{1,6})(?:\s+|$)")
_HEADING_END: Final = re.compile(r"\s+#+\s*$")
_UNDERLINE: Final = re.compile(r" {0,3}(={2,}|-{2,})\s*$")
_UNDERLINE_BEGUN: Final = re.compile(r" {0,3}(?:=*|-*)\s*$")
_ITEM: Final = re.compile(r"(\s*)([-*+]|\d{1,9}[.)])(?:\s+|$)(?:\[([ xX])\]\s+)?")
_FENCE: Final = re.compile(r"(\s*)(`{3,}|~{3,})\s*([^`]*)$")


@dataclass(frozen=True, slots=True)
class Kind:
    """How a line is shown.

    Attributes:
        first, others: what stands before its first line on the terminal, and before the others.
        body: what is left of its text.
        style: of that.
        is_verbatim: nothing in it is Markdown.
        is_item: it begins an item of a list.
        is_rule: it is a line across.
    """

    first: tuple[Run, ...]
    others: tuple[Run, ...]
    body: str
    style: int = PLAIN
    is_verbatim: bool = False
    is_item: bool = False
    is_rule: bool = False

    @property
    def is_plain_text(self) -> bool:
        """Whether it is neither heading, item, code nor rule, and stands in no quotation."""
        stands_before = "".join(text for text, _ in self.first)
        return not (self.style or self.is_item or self.is_rule or stands_before.strip())


@dataclass(frozen=True, slots=True)
class Fence:
    """The line before a block of code.

    Attributes:
        quotes: how many quotations it stands in.
        indent: columns of white space before it.
        marks: backticks or tildes.
        language: the first word behind them; empty for none.
    """

    quotes: int
    indent: int
    marks: str
    language: str

    def text_of(self, line: str) -> str:
        """A line of the block without the quotations and the white space that the fence has too."""
        text = without_quotes(line, self.quotes)
        before = text[: self.indent]
        return text[len(before) - len(before.lstrip(" ")) :]

    def is_closed_by(self, line: str) -> bool:
        """Whether a line of the block, without its quotations, ends it."""
        text = line.strip()
        return len(text) >= len(self.marks) and set(text) == {self.marks[0]}

    def may_be_closed_by(self, beginning: str) -> bool:
        """Whether the line that begins like that may do so."""
        text = beginning.strip()
        return not text.strip(self.marks[0])


def is_undecided(line: str) -> bool:
    """Whether more of an unfinished line is needed to know its kind."""
    return _UNDECIDED.match(line) is not None


def may_be_underline(beginning: str) -> bool:
    """Whether a line that begins like that may make a heading of the one above."""
    return _UNDERLINE_BEGUN.match(beginning) is not None


def underline_of(line: str) -> int:
    """The level of the heading that a finished line makes of the one above; 0 for none."""
    found = _UNDERLINE.match(line)
    return 0 if found is None else 1 if found[1][0] == "=" else 2


def fence_of(line: str) -> Fence | None:
    """The fence that a finished line is."""
    quotes, rest = _without_quotes(line)
    found = _FENCE.match(rest)
    if found is None:
        return None
    words = found[3].split()
    return Fence(quotes, width(found[1].expandtabs(4)), found[2], words[0] if words else "")


def without_quotes(line: str, most: int) -> str:
    """A line of code without the signs of so many quotations."""
    return _without_quotes(line, most)[1]


def _without_quotes(line: str, most: int = 99) -> tuple[int, str]:
    n = 0
    while n < most and (found := _QUOTE.match(line)) is not None:
        line = line[found.end() :]
        n += 1
    return n, line


def quote_prefix(n: int) -> tuple[Run, ...]:
    """What stands before each line of so many quotations."""
    return ((QUOTE_BAR * n, DIM),) if n else ()


def kind_of(line: str, *, may_be_code: bool) -> Kind:
    """The kind of a line that has begun.

    Args:
        line: of the source, no fence.
        may_be_code: it is code where it is indented by four columns: it stands behind an empty line and in no list.
    """
    line = line.expandtabs(4)
    quotes, rest = _without_quotes(line)
    before = quote_prefix(quotes)
    if quotes == 0 and may_be_code and rest.startswith("    "):
        return Kind((), (("    ", PLAIN),), rest, CODE, is_verbatim=True)
    if _RULE.match(rest):
        return Kind(before, before, "", DIM, is_rule=True)
    heading = _HEADING.match(rest)
    if heading is not None:
        style = HEADINGS[min(len(heading[1]), len(HEADINGS)) - 1]
        return Kind(before, before, _HEADING_END.sub("", rest[heading.end() :]), style)
    item = _ITEM.match(rest)
    if item is not None:
        indent = item[1][:DEEPEST]
        sign = item[2] if item[2][0].isdigit() else BULLET
        sign = BOXES[item[3]] if item[3] and not item[2][0].isdigit() else f"{sign} " + BOXES.get(item[3], "")
        hanging = " " * width(indent + sign)
        first = (*before, (indent + sign, PLAIN))
        return Kind(first, (*before, (hanging, PLAIN)), rest[item.end() :], is_item=True)
    text = rest.lstrip()
    indent = rest[: min(len(rest) - len(text), DEEPEST)]
    own = ((indent, PLAIN),) if indent else ()
    return Kind((*before, *own), (*before, *own), text)
