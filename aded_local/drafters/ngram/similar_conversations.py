"""Related conversations: what was said when something like this was asked before.

Earlier conversations are compared with a new prompt by the words of their first prompts, rare words counting for
more (cosine of binary vectors weighted by inverse document frequency). The likest ones are counted once more in a
store of their own, which speaks of this subject alone.
"""

from __future__ import annotations

import math
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from aded_local.kernels.compiling import kernel

MOST_CONVERSATIONS: Final = 4096
"""Latest conversations that are compared."""
WORDS: Final = 1 << 16
"""Tokens told apart, by their lowest bits."""
COMPARED_TOKENS: Final = 256
"""Of a prompt, the last so many: before them stand system prompts and documents."""
MOST_RELATED: Final = 3
RELATED_TOKENS: Final = 2048
"""Of a related conversation, so many tokens before and after the end of its first prompt are counted again."""
LEAST_LIKENESS: Final = 0.2
LIKENESS_CLASSES: Final = 6


class Conversations(Protocol):
    """Where earlier conversations lie in the history.

    Attributes:
        places: positions of the first token, after the first prompt, and after the last token; and in which later
            conversation it was counted again last; int64 ``(4, MOST_CONVERSATIONS)``, a ring.
        documents: prompts in which a token occurred, int32 ``(WORDS,)``.
        marks: scratch for ``compare``, int64 ``(2, WORDS)``.
        likeness: of the conversations, scratch, float64 ``(MOST_CONVERSATIONS,)``.
        noted: conversations so far.
        marked: marks used so far.
        best: likeness of the best related one in 1/1000.
    """

    places: npt.NDArray[np.int64]
    documents: npt.NDArray[np.int32]
    marks: npt.NDArray[np.int64]
    likeness: npt.NDArray[np.float64]
    noted: int
    marked: int
    best: int


START, ASKED, END, COUNTED = 0, 1, 2, 3


CONVERSATIONS = np.dtype(
    [
        ("places", np.int64, (4, MOST_CONVERSATIONS)),
        ("documents", np.int32, WORDS),
        ("marks", np.int64, (2, WORDS)),
        ("likeness", np.float64, MOST_CONVERSATIONS),
        ("noted", np.int64),
        ("marked", np.int64),
        ("best", np.int64),
    ],
    align=True,
)


@kernel
def rarity(conversations: Conversations, word: int) -> float:
    """Weight of a word: the logarithm of how many prompts there are for each that holds it."""
    return math.log((conversations.noted + 1.0) / (conversations.documents[word] + 0.5))


def note(
    conversations: Conversations, history: npt.NDArray[np.int32], start: int, asked: int, end: int
) -> None:
    """Remember a conversation that ended, by positions in the history."""
    place = conversations.noted % MOST_CONVERSATIONS
    conversations.places[:, place] = start, asked, end, -1
    conversations.noted += 1
    compared = np.arange(max(start, asked - COMPARED_TOKENS), asked)
    words = history[compared & (len(history) - 1)] & (WORDS - 1)
    conversations.documents[np.unique(words)] += 1


@kernel
def compare(
    conversations: Conversations, history: npt.NDArray[np.int32], head: int, prompt: npt.NDArray[np.int32]
) -> None:
    """Write to ``likeness`` how like ``prompt`` the first prompts of all conversations are, 0 to 1.

    Args:
        history: the ring; ``head`` the position after its newest token.
        prompt: int32 ``(n,)``.
    """
    marks = conversations.marks
    mask = history.shape[0] - 1
    conversations.marked += 1
    query = conversations.marked
    own = 0.0
    for i in range(max(0, prompt.shape[0] - COMPARED_TOKENS), prompt.shape[0]):
        word = prompt[i] & (WORDS - 1)
        if marks[0, word] != query:
            marks[0, word] = query
            own += max(0.0, rarity(conversations, word)) ** 2
    for place in range(min(conversations.noted, MOST_CONVERSATIONS)):
        conversations.likeness[place] = 0.0
        start, asked = conversations.places[START, place], conversations.places[ASKED, place]
        if start <= head - history.shape[0]:
            continue  # overwritten
        conversations.marked += 1
        mark = conversations.marked
        shared = other = 0.0
        for position in range(max(start, asked - COMPARED_TOKENS), asked):
            word = history[position & mask] & (WORDS - 1)
            if marks[1, word] == mark:
                continue
            marks[1, word] = mark
            weight = max(0.0, rarity(conversations, word)) ** 2
            other += weight
            if marks[0, word] == query:
                shared += weight
        if own > 0.0 and other > 0.0:
            conversations.likeness[place] = shared / math.sqrt(own * other)


@kernel
def likest(conversations: Conversations) -> int:
    """The conversation most like the prompt compared last; -1 where none is like it."""
    best = -1
    for place in range(min(conversations.noted, MOST_CONVERSATIONS)):
        like = conversations.likeness[place]
        if like >= LEAST_LIKENESS and (best < 0 or like > conversations.likeness[best]):
            best = place
    return best


@kernel
def likeness_class(conversations: Conversations) -> int:
    """Of ``LIKENESS_CLASSES``: how like the most related conversation is; 0 for none."""
    best = conversations.best / 1000.0
    if best <= 0.0:
        return 0
    return 1 + min(int(best * 5.0), LIKENESS_CLASSES - 2)
