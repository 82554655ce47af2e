"""How many columns a text takes on a terminal, and between which characters a line may be broken."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Final

from wcwidth import wcwidth

JOINER: Final = "\u200d"
EMOJI_STYLE: Final = "\ufe0f"

_UNSURE: Final = re.compile("[\u200d\ufe0f\U0001f1e6-\U0001f1ff\U0001f3fb-\U0001f3ff]")
"""Emoji of several characters: terminals differ in how many columns they give them."""

_CLOSING: Final = frozenset("、。，．！？：；）］｝」』】》〉〕…ー々")
"""Wide characters that do not begin a line."""
_OPENING: Final = frozenset("（［｛「『【《〈〔")
"""Wide characters that do not end a line."""

_PARTS: Final = re.compile(r" +|[^ ]+")


@functools.lru_cache(maxsize=4096)
def _columns(character: str) -> int:
    if character == EMOJI_STYLE:
        return 1  # at most: what stands before it becomes wide
    return max(0, wcwidth(character))


def width(text: str) -> int:
    """Columns that a text takes at most, without tabs and line ends."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def is_sure(text: str) -> bool:
    """Whether all terminals agree on the width."""
    return text.isascii() or not _UNSURE.search(text)


def units(text: str) -> Iterator[tuple[str, bool]]:
    """The text in parts that no line break divides, each with whether one may stand before it.

    Spaces are a part of their own. Of a word in wide characters each is a part.
    """
    for found in _PARTS.finditer(text):
        part = found[0]
        if part.isascii():
            yield part, False
        else:
            yield from _wide_units(part)


def _wide_units(word: str) -> Iterator[tuple[str, bool]]:
    start = 0
    is_wide = False  # the part that has begun
    for at, character in enumerate(word):
        columns = _columns(character)
        before = word[at - 1] if at else ""
        joins = columns == 0 or character == EMOJI_STYLE or before == JOINER
        if joins or character in _CLOSING or before in _OPENING:
            continue
        wide = columns > 1
        if at > start and (wide or is_wide):
            yield word[start:at], is_wide
            start = at
        is_wide = wide or (is_wide and start != at)
    yield word[start:], is_wide


def wrapped(text: str, columns: int) -> str:
    """The text with a line end between words where a line would be longer. A longer word, such as a path, stays whole:
    the terminal itself goes on with it on the next line, so that it can be copied."""
    lines = []
    for source in text.split("\n"):
        line = spaces = ""
        for unit, may_break in units(source):
            if unit[0] == " ":
                spaces = unit
                continue
            if line and (spaces or may_break) and width(line + spaces + unit) > columns:
                lines.append(line)
                line = unit
            else:
                line += spaces + unit
            spaces = ""
        lines.append(line)
    return "\n".join(lines)


def cut(text: str, columns: int) -> int:
    """How many characters of a text fit into so many columns; at least one."""
    if text.isascii():
        return max(1, columns)
    taken = 0
    for at, character in enumerate(text):
        taken += _columns(character)
        if taken > columns:
            return max(1, at)
    return len(text)
