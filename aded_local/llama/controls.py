"""Control texts: which texts steer a model, where they are in a prompt, and where to cut those that must stay text.

llama.cpp makes a control token wherever its whole text occurs in its input, and USER_DEFINED tokens even where it is
told not to. So a control text that must stay text is cut in two, and the halves are tokenized apart. Then no such token
can come out, and the text around it is tokenized as before.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Final

_DOUBLE_BRACKETS: Final = re.compile(r"<[|｜].+>|<.+[|｜]>", re.DOTALL)
_LETTER_OR_DIGIT: Final = re.compile(r"[^\W_]")
_SIGNS_AROUND: Final = re.compile(r"^[\W_]+|[\W_]+$")


def is_bracketed_twice(text: str) -> bool:
    """Whether a text has the shape ``<|…|>``, at one end at least. A token with such a text always steers."""
    return _DOUBLE_BRACKETS.fullmatch(text) is not None


def used_as_marker(text: str, source: str) -> bool:
    """Whether a chat template uses a USER_DEFINED token's text as a marker, as in ``<think>`` or ``[TOOL_CALLS]``.

    It stands in the template's source and looks like one: a word between signs, without white space. The other
    USER_DEFINED tokens of a vocabulary (runs of spaces, HTML tags, digits) are ordinary text.
    """
    return (
        len(text) > 2
        and not (text[0].isalnum() or text[-1].isalnum())
        and _LETTER_OR_DIGIT.search(text) is not None
        and not any(map(str.isspace, text))
        and text in source
    )


class Controls:
    """A vocabulary's control texts.

    White space alone is not treated as a control text: RWKV ends a turn with two line ends, which everybody types. Nor
    is a single character, which cannot be cut.

    Args:
        texts: of the control tokens.

    Attributes:
        characters: all characters of control texts.
        edges: the characters that control texts begin or end with.
        words: control texts without the signs around them, such as ``im_end``.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = frozenset(text for text in texts if len(text) > 1 and not text.isspace())
        self.characters = frozenset("".join(self.texts))
        self.edges = frozenset(text[place] for text in self.texts for place in (0, -1))
        self.words = frozenset(_SIGNS_AROUND.sub("", text) for text in self.texts)
        self._lengths: dict[str, set[int]] = defaultdict(set)
        for text in self.texts:
            self._lengths[text[:2]].add(len(text))

    def occurrences(self, text: str) -> Iterator[tuple[int, int]]:
        """Where control texts stand, (start, end) each; they may overlap."""
        for head, lengths in self._lengths.items():
            at = text.find(head)
            while at >= 0:
                for length in lengths:
                    if at + length <= len(text) and text[at : at + length] in self.texts:
                        yield at, at + length
                at = text.find(head, at + 1)

    def own(self, text: str, marked: str) -> Counter[str]:
        """The control texts in which no character is marked, and how often each occurs.

        Args:
            text: where they are looked for.
            marked: the same text, where some characters are replaced by others.
        """
        found = (
            text[start:end] for start, end in self.occurrences(text) if text[start:end] == marked[start:end]
        )
        return Counter(found)

    def pieces(self, text: str, marked: str) -> Iterator[tuple[str, bool]]:
        """A text cut so that no control text with a marked character in it stands whole in any piece.

        Args:
            text: what to cut.
            marked: the same text, where some characters are replaced by others.

        Returns:
            Each piece, and whether a control text ends where it ends.
        """
        own: list[tuple[int, int]] = []
        foreign: list[tuple[int, int]] = []
        for start, end in self.occurrences(text):
            (own if text[start:end] == marked[start:end] else foreign).append((start, end))
        ends = {end for _, end in own}
        whole = {place for start, end in own for place in range(start + 1, end)} if foreign else set()
        cuts = bytearray(len(text))
        for start, end in foreign:
            if 1 not in cuts[start + 1 : end]:
                cuts[_cut(text, start, end, whole)] = 1
        last, place = 0, cuts.find(1)
        while place > 0:
            yield text[last:place], place in ends
            last, place = place, cuts.find(1, place + 1)
        if last < len(text):
            yield text[last:], len(text) in ends

    def split(self, text: str) -> list[str]:
        """A text cut so that no control text stands whole in any piece."""
        return [piece for piece, _ in self.pieces(text, "\0" * len(text))]


def _cut(text: str, start: int, end: int, whole: set[int]) -> int:
    """Where to cut a control text in two: before the signs at its end, where a word ends for any tokenizer.

    No place in ``whole`` is used, since there another control text overlaps it that must stay a control token. Such a
    text covers no marked character, so there is always a place beside one.
    """
    place = end - 1
    while place > start + 1 and not text[place - 1].isalnum():
        place -= 1
    if place not in whole:
        return place
    return next(place for place in range(start + 1, end) if place not in whole)
