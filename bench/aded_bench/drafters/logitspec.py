"""LogitSpec (arXiv 2507.01449): what the target did not choose now, it may say next; passages follow both.

The other likely tokens in the place of the last one are guesses for the token after it. The last token, and each guess,
go on as the latest passage did that ended in up to three of the same tokens. Here a guess is one of the seven next
likeliest tokens, all that our drafters are told; the authors take as many as fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from aded_bench.drafters.published import Sketch, last_row
from aded_local.step import Beginning, Likely, StepResult
from aded_local.tree import ROOT

LONGEST_MATCH: Final = 3
PASSAGE: Final = 20
"""Tokens that follow the last token."""
GUESSED: Final = 4
"""Tokens of a branch that begins with a guess, among the eight likeliest."""
NODES: Final = 63
"""The authors' capacity of 64 counts the root."""

Context = tuple[int, ...]


def _behind(known: int, depth: int) -> tuple[str, int, int]:
    """The kind of a node behind a guess."""
    return "behind", known, depth


class LogitSpec:
    """See this module's first line."""

    def __init__(self) -> None:
        self._text: list[int] = []
        self._whole: dict[Context, int] = {}
        self._first: dict[Context, int] = {}
        self._unchosen: list[int] = []

    def begin(self, beginning: Beginning) -> None:
        self._text, self._whole, self._first, self._unchosen = [], {}, {}, []
        self._append(beginning.new.tolist())

    def _append(self, tokens: Sequence[int]) -> None:
        """Where each context went on: the latest place that has a whole passage behind it, else the first one."""
        for token in tokens:
            self._text.append(token)
            end = len(self._text)
            for n in range(1, LONGEST_MATCH + 1):
                if n <= end:
                    self._first.setdefault(tuple(self._text[end - n :]), end)
                if n <= end - PASSAGE:
                    self._whole[tuple(self._text[end - PASSAGE - n : end - PASSAGE])] = end - PASSAGE

    def read_prompt(self, tokens: Sequence[int], likely: Likely) -> None:
        self._keep(likely, -1)

    def _keep(self, likely: Likely, row: int) -> None:
        self._unchosen = [token for token in likely.tokens[row].tolist() if token >= 0]

    def _passage(self, ends: Sequence[int]) -> tuple[list[int], int]:
        """What followed the longest known end of a text, and how long that is."""
        for n in range(min(LONGEST_MATCH, len(ends)), 0, -1):
            context = tuple(ends[-n:])
            place = self._whole.get(context, self._first.get(context))
            if place is not None and place < len(self._text):
                return self._text[place : place + PASSAGE], n
        return [], 0

    def sketch(self) -> Sketch:
        sketch = Sketch(NODES)
        text = self._text[-LONGEST_MATCH:]
        passage, matched = self._passage(text)
        sketch.add_path(ROOT, passage, lambda depth: ("passage", matched, min(depth, 3)))
        for rank, guess in enumerate(self._unchosen):
            if guess == text[-1]:
                continue
            node = sketch.add(ROOT, guess, ("guess", rank))
            if node is not None:
                passage, known = self._passage([*text, guess])
                sketch.add_path(node, passage[: GUESSED - 1], partial(_behind, known))
        return sketch

    def observe(self, result: StepResult) -> None:
        self._unchosen = []
        if result.likely is not None:
            self._keep(result.likely, last_row(result))
        self._append(result.tokens)
