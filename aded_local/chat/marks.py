"""Characters that stand for others while a template runs, so that what people wrote can be told from what it writes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice
from typing import Final

from aded_local.errors import PromptError
from aded_local.llama.controls import Controls

_TWINS: Final = range(0x20000, 0x2A6DE)
"""Rare ideographs (Unicode's extension B). A printed list shows them as they are, unlike private-use characters."""

_WRITTEN_SPECIALLY: Final = frozenset("\"'\\")
"""JSON and Python write these with a backslash before, which must not be lost."""

_ESCAPED_TWIN: Final = re.compile(r"\\u(d8[4-6][0-9a-f])\\u(d[c-f][0-9a-f]{2})")

Twins = dict[int, str]


def _escaped(found: re.Match[str]) -> int:
    """The character that two escapes stand for."""
    high, low = int(found[1], 16), int(found[2], 16)
    return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)


class Marks:
    """Twins for one rendering.

    White space gets none, so that what trims and splits text finds it.

    Args:
        controls: texts whose characters get twins.
        texts: everything a twin must not be confused with.

    Attributes:
        full: a twin for each character of a control text.
        edges: only for those that control texts begin or end with.
        answer, end: two more characters that nobody uses.

    Raises:
        PromptError: the conversation uses too many rare characters.
    """

    def __init__(self, controls: Controls, texts: Iterable[str]) -> None:
        used: set[int] = set()
        for text in texts:
            used.update(ord(c) for c in set(text) if c >= chr(_TWINS.start))
            used.update(map(_escaped, _ESCAPED_TWIN.finditer(text)))
        edges = sorted(c for c in controls.edges if not c.isspace())
        inner = sorted(
            c for c in controls.characters - controls.edges - _WRITTEN_SPECIALLY if not c.isspace()
        )
        originals = [*edges, *inner]
        free = (chr(code) for code in _TWINS if code not in used)
        chosen = list(islice(free, len(originals) + 2))
        if len(chosen) < len(originals) + 2:
            raise PromptError("the conversation uses all rare ideographs; leave some out")
        self.answer, self.end, *twins = chosen
        self.full: Twins = dict(zip(map(ord, originals), twins, strict=True))
        self.edges: Twins = {ord(c): self.full[ord(c)] for c in edges}
        self._back: Twins = dict(zip(map(ord, twins), originals, strict=True))

    def unescaped(self, marked: str) -> str:
        """A rendered text where twins that JSON wrote as escapes are twins again."""
        return _ESCAPED_TWIN.sub(self._unescape, marked) if r"\ud8" in marked else marked

    def _unescape(self, found: re.Match[str]) -> str:
        code = _escaped(found)
        return chr(code) if code in self._back else found[0]

    def unmark(self, marked: str) -> str:
        """The text itself, of the same length."""
        return marked.translate(self._back)
