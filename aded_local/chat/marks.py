"""Replaces characters while a template runs, to distinguish what people wrote from what the template writes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from aded_local.errors import PromptError
from aded_local.llama.controls import Controls

_TWINS: Final = range(0x20000, 0x2A6DE)
"""Rare ideographs (Unicode's extension B). Python prints them in a list as they are, unlike private-use characters."""

_WRITTEN_SPECIALLY: Final = frozenset("\"'\\")
"""JSON and Python write a backslash before these, which must not be lost."""

_ESCAPED_TWIN: Final = re.compile(r"\\u(d8[4-6][0-9a-f])\\u(d[c-f][0-9a-f]{2})")

KNOWN_WORDS: Final = frozenset(
    [
        "$defs", "$ref", "additionalProperties", "allOf", "anyOf", "array", "boolean", "const", "default",
        "definitions", "description", "enum", "examples", "exclusiveMaximum", "exclusiveMinimum", "format",
        "function", "integer", "items", "maxItems", "maxLength", "maximum", "minItems", "minLength", "minimum",
        "name", "null", "nullable", "number", "object", "oneOf", "parameters", "pattern", "properties", "required",
        "strict", "string", "title", "type", "uniqueItems",
    ]
)  # fmt: skip
"""Names of JSON schemas and of OpenAI's functions: a template looks them up."""

OWN_KEYS: Final = frozenset(["arguments", "description", "function", "id", "name", "parameters", "type"])
"""Keys of tools and calls in OpenAI's shape."""

_Replacements = dict[int, str]


@dataclass(frozen=True, slots=True)
class Twins:
    """Which characters are replaced in one rendering.

    Attributes:
        inside: wherever they stand.
        ends: where a word begins or ends. A template may write its own brackets around a word, so that a control text
            is put together; then the word's first and last character belong to it.
        words: which stay as they are, since a template looks them up.
    """

    inside: _Replacements
    ends: _Replacements
    words: frozenset[str]

    def of_text(self, text: str) -> str:
        """A text of which the template writes parts."""
        return text.translate(self.inside)

    def of_word(self, text: str) -> str:
        """A name, a key or another text that a template may write into its own brackets."""
        if text in self.words:
            return text
        marked = text.translate(self.inside)
        if self.inside is self.ends or not (bare := marked.strip()):
            return marked
        at = marked.find(bare)
        first, middle, last = bare[0], bare[1:-1], bare[1:][-1:]
        bare = first.translate(self.ends) + middle + last.translate(self.ends)
        return marked[:at] + bare + marked[at + len(first + middle + last) :]

    def of_message(self, message: dict[str, Any], roles: frozenset[str]) -> dict[str, Any]:
        """A message; ``roles`` are the template's own words."""
        marked: dict[str, Any] = {}
        for key, value in message.items():
            if key == "role":
                marked[key] = value if value in roles else self.of_word(value)
            elif key in ("content", "reasoning_content"):
                marked[key] = None if value is None else self.of_text(value)
            elif key == "tool_calls":
                marked[key] = [self.of_function(call) for call in value]
            else:
                marked[key] = self.of_word(value)
        return marked

    def of_function(self, value: dict[str, Any]) -> dict[str, Any]:
        """A tool or a call, or its function: OpenAI's own keys stay, and so does the type."""
        marked: dict[str, Any] = {}
        for key, inner in value.items():
            if key == "function" and isinstance(inner, dict):
                marked[key] = self.of_function(inner)
            elif key in OWN_KEYS:
                marked[key] = inner if inner == "function" else self.of_value(inner)
            else:
                marked[self.of_word(key)] = self.of_value(inner)
        return marked

    def of_value(self, value: Any) -> Any:
        """A plain value with all its texts, keys among them."""
        if isinstance(value, str):
            return self.of_word(value)
        if isinstance(value, dict):
            return {self.of_word(key): self.of_value(inner) for key, inner in value.items()}
        return [self.of_value(inner) for inner in value] if isinstance(value, list) else value


def _escaped(found: re.Match[str]) -> int:
    """The character that two escapes stand for."""
    high, low = int(found[1], 16), int(found[2], 16)
    return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)


class Marks:
    """The replacements, called twins, for one rendering.

    White space has no twin, so that a template can trim and split text.

    Args:
        controls: texts whose characters get twins.
        texts: texts whose characters are not used as twins.
        words: that stay as they are.

    Attributes:
        full: a twin for each character of a control text.
        edges: twins only for the characters that control texts begin or end with, and for the ends of words.
        fewest: the same without the ends of words: words sort as they would.
        answer, end: two more unused characters.

    Raises:
        PromptError: the conversation uses too many rare characters.
    """

    def __init__(self, controls: Controls, texts: Iterable[str], words: frozenset[str] = frozenset()) -> None:
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
        full = dict(zip(map(ord, originals), twins, strict=True))
        self.full = Twins(full, full, words)
        self.edges = Twins({ord(c): full[ord(c)] for c in edges}, full, words)
        self.fewest = Twins(self.edges.inside, {}, words)
        self._back: _Replacements = dict(zip(map(ord, twins), originals, strict=True))

    def unescaped(self, marked: str) -> str:
        """A rendered text where twins that JSON wrote as escapes are twins again."""
        return _ESCAPED_TWIN.sub(self._unescape, marked) if r"\ud8" in marked else marked

    def _unescape(self, found: re.Match[str]) -> str:
        code = _escaped(found)
        return chr(code) if code in self._back else found[0]

    def unmark(self, marked: str) -> str:
        """The text itself, of the same length."""
        return marked.translate(self._back)
