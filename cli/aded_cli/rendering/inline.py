"""Emphasis, code and links within a line of Markdown.

The rules are CommonMark's, but for what people would miss of code and formulas that a model writes into its prose:
double underscores stay (``__init__``), and so does a star between letters or digits (``2*3*4``), and a backslash before
anything but Markdown's own signs (``\\(x\\)``). A line that is not complete is shown as if what is open were closed.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from .styles import BOLD, CODE, DIM, ITALIC, LINK, PLAIN, STRIKE, Run, joined

SPECIAL: Final = frozenset("*_`~\\)>;")
"""Characters after which the beginning of a line has to be looked at anew."""

_TOKEN: Final = re.compile(
    r"(?P<code>`+)"
    r"|\\(?P<escaped>[*_`~#|<>\\])"
    r"|(?P<marks>\*+|_+|~~)"
    r"|!?\[(?P<label>[^\[\]]+)\]\((?P<url>[^\s()]*(?:\([^\s()]*\)[^\s()]*)?)(?:\s+\"[^\"]*\")?\)"
    r"|<(?P<auto>https?://[^\s<>]+)>"
    r"|(?P<entity>&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});)"
)
_HELD: Final = re.compile(r"(?:\*+|_+|~+|`+|\\)$")
"""What at the end of an unfinished line may be half a mark."""

_BEFORE_OPENING: Final = frozenset("([{\"'“‘«¿¡")
"""Signs behind which a mark opens and does not close."""


@dataclass
class _Marks:
    """A run of stars, underscores or tildes among the parts of a line."""

    sign: str
    left: int
    opens: bool
    closes: bool
    is_literal: bool = False


def inline(text: str, style: int = 0, *, is_complete: bool = True) -> list[Run]:
    """A line's text in runs.

    Args:
        text: without what makes it a heading or a list's item.
        style: of the line.
        is_complete: else more of it comes.
    """
    if not is_complete:
        text = _HELD.sub("", text)
    if not SPECIAL.intersection(text):
        return [(text, style)] if text else []
    parts, styles = _parts(text, style, is_complete)
    _emphasise(parts, styles, is_complete)
    runs: list[Run] = []
    for part, own in zip(parts, styles, strict=True):
        shown = part if isinstance(part, str) else part.sign * part.left
        if not shown:
            continue
        if runs and runs[-1][1] == own:
            runs[-1] = (runs[-1][0] + shown, own)
        else:
            runs.append((shown, own))
    return runs


def _parts(text: str, style: int, is_complete: bool) -> tuple[list[str | _Marks], list[int]]:
    parts: list[str | _Marks] = []
    styles: list[int] = []

    def add(part: str | _Marks, own: int = PLAIN) -> None:
        parts.append(part)
        styles.append(joined(style, own))

    at = 0
    while (found := _TOKEN.search(text, at)) is not None:
        add(text[at : found.start()])
        at = found.end()
        if found["code"]:
            end = _closing(text, at, found["code"])
            if end < 0 and is_complete:
                add(found[0])
                continue
            add(_code(text[at:] if end < 0 else text[at:end]), CODE)
            at = len(text) if end < 0 else end + len(found["code"])
        elif found["escaped"]:
            add(found["escaped"])
        elif found["entity"]:
            add(_character(found["entity"]))
        elif found["marks"]:
            add(_marks(text, found.start(), found.end()))
        else:
            _add_link(add, found["label"], found["url"] if found["auto"] is None else found["auto"])
    add(text[at:])
    return parts, styles


def _character(entity: str) -> str:
    """What HTML's ``&amp;`` stands for; as it is where that is unknown, or nothing that a terminal shows."""
    said = html.unescape(entity)
    return said if said and (said.isprintable() or said == "\xa0") else entity


def _add_link(add: Callable[[str, int], None], label: str | None, url: str) -> None:
    add(label or url, LINK)
    if label and url and url != label:
        add(f" ({url})", DIM)


def _closing(text: str, at: int, ticks: str) -> int:
    """Where a run of as many backticks stands; -1 where none does."""
    for found in re.finditer("`+", text[at:]):
        if found[0] == ticks:
            return at + found.start()
    return -1


def _code(text: str) -> str:
    """Code without the space that keeps it apart from its backticks."""
    return text[1:-1] if len(text) > 2 and text[0] == text[-1] == " " and text.strip() else text


def _marks(text: str, start: int, end: int) -> _Marks:
    sign, n = text[start], end - start
    before, after = text[start - 1 : start], text[end : end + 1]
    opens = bool(after) and not after.isspace()
    closes = bool(before) and not before.isspace()
    if sign == "_":
        is_within = before.isalnum() and after.isalnum()
        opens, closes = opens and not before.isalnum(), closes and not after.isalnum()
        return _Marks(sign, n, opens, closes, is_literal=n > 1 or is_within)
    if sign == "*" and _is_ascii_word(before) and _is_ascii_word(after):
        opens = False
    if opens and before in _BEFORE_OPENING:
        closes = False
    return _Marks(sign, n, opens, closes)


def _is_ascii_word(character: str) -> bool:
    return character.isascii() and (character.isalnum() or character in (")", "]"))


def _emphasise(parts: list[str | _Marks], styles: list[int], is_complete: bool) -> None:
    """Pair what opens with what closes, and style what stands between."""
    open_marks: list[int] = []
    for at, part in enumerate(parts):
        if isinstance(part, str) or part.is_literal:
            continue
        while part.closes and part.left:
            opener = _opener(parts, open_marks, part)
            if opener is None:
                break
            del open_marks[open_marks.index(opener) + 1 :]
            first = parts[opener]
            assert isinstance(first, _Marks)
            n = 2 if min(first.left, part.left) > 1 else 1
            _style(styles, opener + 1, at, first.sign, n)
            first.left -= n
            part.left -= n
            if first.left == 0:
                open_marks.pop()
        if part.opens and part.left:
            open_marks.append(at)
    if is_complete:
        return
    for at in open_marks:
        part = parts[at]
        assert isinstance(part, _Marks)
        if part.closes:  # it may be neither: a star between two words
            continue
        for n in (2,) * (part.left // 2) + (1,) * (part.left % 2):
            _style(styles, at + 1, len(parts), part.sign, n)
        part.left = 0


def _opener(parts: list[str | _Marks], open_marks: list[int], closing: _Marks) -> int | None:
    for at in reversed(open_marks):
        part = parts[at]
        assert isinstance(part, _Marks)
        if part.sign == closing.sign and (part.left > 1) == (closing.left > 1 or closing.sign == "~"):
            return at
        if part.sign == closing.sign and 3 in (part.left, closing.left):
            return at
    return None


def _style(styles: list[int], first: int, last: int, sign: str, n: int) -> None:
    own = STRIKE if sign == "~" else BOLD if n == 2 else ITALIC
    for at in range(first, last):
        styles[at] = joined(styles[at], own)
