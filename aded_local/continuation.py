"""How a prompt goes on from what was said before: the one place that decides it.

Cache, drafter and memory each hold something of a conversation, and each has to know what of it a new prompt still
says. The cache needs the same tokens at the same places; the others do not, so for them a conversation also goes on
where its oldest turns were dropped to make room.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from aded_local.tree import IntArray

ENDING: Final = 2
"""Tokens by which a prompt may differ from the end of an earlier answer and still continue it: an end token that the
chat template spells otherwise, or that a cancelled answer lacks."""

RESUMED: Final = 16
"""Tokens in a row by which a prompt is recognised as a conversation whose oldest turns were dropped. As many as the
longest context a drafter looks at; chosen, not tuned."""

SAME_CONVERSATION: Final = 0.75
"""A prompt that begins with this share of what was said goes on from there, though its end is another: an answer that
is asked for again, a message that was changed. Chosen, not tuned."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """What of a conversation a prompt says again.

    Attributes:
        shared: tokens that both begin with.
        past: tokens at the beginning of what was said that still hold; 0 where another conversation begins. Dropped
            turns are among them.
        known: tokens at the beginning of the prompt that they stand for.
        follows: the prompt goes on from the very end of what was said.
    """

    shared: int
    past: int
    known: int
    follows: bool


def continuation(said: IntArray, prompt: IntArray) -> Continuation:
    """Compare what was said with a prompt.

    Args:
        said: the prompt before and its answer, int32 ``(n,)``; empty before the first.
        prompt: the whole prompt, int32 ``(m,)``.
    """
    shared = common_prefix(said, prompt)
    if shared < len(prompt):
        if shared > ENDING and shared + ENDING >= len(said):
            return Continuation(shared, shared, shared, True)
        resumed = _resumed(said, prompt, shared)
        if resumed is not None:
            past, known = resumed
            return Continuation(shared, past, known, True)
    if 0 < shared >= SAME_CONVERSATION * len(said):
        return Continuation(shared, shared, shared, False)
    return Continuation(shared, 0, 0, False)


def _resumed(said: IntArray, prompt: IntArray, shared: int) -> tuple[int, int] | None:
    """Where turns behind the first ``shared`` tokens were dropped and the rest still stands: how far ``said`` and the
    prompt agree then."""
    rest = prompt[shared:]
    if len(rest) <= RESUMED or len(said) - shared < RESUMED:
        return None
    for start in (shared + np.flatnonzero(said[shared:] == rest[0])).tolist():
        length = common_prefix(said[start:], rest)
        if length >= RESUMED and start + length + ENDING >= len(said) and length < len(rest):
            return start + length, shared + length
    return None


def common_prefix(a: IntArray, b: IntArray) -> int:
    """How many tokens both begin with."""
    n = min(len(a), len(b))
    differ = np.flatnonzero(a[:n] != b[:n])
    return int(differ[0]) if differ.size else n
