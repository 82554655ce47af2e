"""Related conversations: what was said when something like this was asked before.

Earlier conversations are compared with a new prompt by the words of their first prompts, rare words counting for
more (cosine of binary vectors weighted by inverse document frequency). The likest ones are counted once more in a
store of their own, which speaks of this subject alone.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from aded_local.drafting.compiling import kernel

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


class Conversations(NamedTuple):
    """Where earlier conversations lie in the history.

    Attributes:
        places: positions of the first token, after the first prompt, and after the last token; and in which later
            conversation it was counted again last; int64 ``(4, MOST_CONVERSATIONS)``, a ring.
        documents: prompts in which a token occurred, int32 ``(WORDS,)``.
        marks: scratch, int64 ``(2, WORDS)``.
        likeness: of the conversations, scratch, float64 ``(MOST_CONVERSATIONS,)``.
        size: conversations noted so far, marks used so far, likeness of the best related one in 1/1000, int64 ``(3,)``.
    """

    places: npt.NDArray[np.int64]
    documents: npt.NDArray[np.int32]
    marks: npt.NDArray[np.int64]
    likeness: npt.NDArray[np.float64]
    size: npt.NDArray[np.int64]


START, ASKED, END, COUNTED = 0, 1, 2, 3
NOTED, MARKS, BEST = 0, 1, 2


def no_conversations() -> Conversations:
    """Nothing was said yet."""
    return Conversations(
        places=np.full((4, MOST_CONVERSATIONS), -1, np.int64),
        documents=np.zeros(WORDS, np.int32),
        marks=np.zeros((2, WORDS), np.int64),
        likeness=np.zeros(MOST_CONVERSATIONS, np.float64),
        size=np.zeros(3, np.int64),
    )


@kernel
def rarity(conversations: Conversations, word: int) -> float:
    """Weight of a word: the logarithm of how many prompts there are for each that holds it."""
    return math.log((conversations.size[NOTED] + 1.0) / (conversations.documents[word] + 0.5))


@kernel
def note(
    conversations: Conversations, history: npt.NDArray[np.int32], start: int, asked: int, end: int
) -> None:
    """Remember a conversation that ended, by positions in the history."""
    size = conversations.size
    place = size[NOTED] % MOST_CONVERSATIONS
    conversations.places[START, place] = start
    conversations.places[ASKED, place] = asked
    conversations.places[END, place] = end
    conversations.places[COUNTED, place] = -1
    size[NOTED] += 1
    size[MARKS] += 1
    mark = size[MARKS]
    mask = history.shape[0] - 1
    for position in range(max(start, asked - COMPARED_TOKENS), asked):
        word = history[position & mask] & (WORDS - 1)
        if conversations.marks[1, word] != mark:
            conversations.marks[1, word] = mark
            conversations.documents[word] += 1


@kernel
def compare(
    conversations: Conversations, history: npt.NDArray[np.int32], head: int, prompt: npt.NDArray[np.int32]
) -> None:
    """Write to ``likeness`` how like ``prompt`` the first prompts of all conversations are, 0 to 1.

    Args:
        history: the ring; ``head`` the position after its newest token.
        prompt: int32 ``(n,)``.
    """
    size, marks = conversations.size, conversations.marks
    mask = history.shape[0] - 1
    size[MARKS] += 1
    query = size[MARKS]
    own = 0.0
    for token in prompt[-COMPARED_TOKENS:]:
        word = token & (WORDS - 1)
        if marks[0, word] != query:
            marks[0, word] = query
            own += max(0.0, rarity(conversations, word)) ** 2
    for place in range(min(size[NOTED], MOST_CONVERSATIONS)):
        conversations.likeness[place] = 0.0
        start, asked = conversations.places[START, place], conversations.places[ASKED, place]
        if start <= head - history.shape[0]:
            continue  # overwritten
        size[MARKS] += 1
        mark = size[MARKS]
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
    for place in range(min(conversations.size[NOTED], MOST_CONVERSATIONS)):
        like = conversations.likeness[place]
        if like >= LEAST_LIKENESS and (best < 0 or like > conversations.likeness[best]):
            best = place
    return best


@kernel
def likeness_class(conversations: Conversations) -> int:
    """Of ``LIKENESS_CLASSES``: how like the most related conversation is; 0 for none."""
    best = conversations.size[BEST] / 1000.0
    if best <= 0.0:
        return 0
    return 1 + min(int(best * 5.0), LIKENESS_CLASSES - 2)
