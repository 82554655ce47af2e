"""The match model: long repetitions, of any length.

Text is often copied: a document is quoted, a file edited, an answer loops. The newest tokens are looked up earlier in
the history. As long as the passage found there goes on as the text does, it proposes its next token.
"""

from __future__ import annotations

from typing import Final

from aded_local.drafters.ngram.state import Predictor
from aded_local.kernels.compiling import kernel
from aded_local.ngrams.table import SEED_KEY, extend_hash

ANCHOR: Final = 4
"""Tokens that must match before a passage is followed."""
LONGEST_COMPARED: Final = 32
"""How far back two passages are compared when one is found; it may grow far longer afterwards."""
LENGTH_EDGES: Final = (5, 6, 7, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 160, 320)
"""Matched lengths from which the next of sixteen classes begins."""
RECORD: Final = 16
"""Latest copied tokens that are remembered as hit or miss."""


@kernel
def length_class(length: int) -> int:
    """Of sixteen classes of matched length."""
    found = 0
    for edge in LENGTH_EDGES:
        if length >= edge:
            found += 1
    return found


@kernel
def misses_class(record: int) -> int:
    """Of four classes of how often copied tokens failed of late."""
    misses = 0
    while record > 0:
        misses += record & 1
        record >>= 1
    return min(misses, 3) if misses < 2 else (2 if misses < 4 else 3)


@kernel
def copy_cell(length: int, local: int, record: int) -> int:
    """The cell of a passage's next token: matched length x in this conversation x failures of late."""
    return (length_class(length) * 2 + local) * 4 + misses_class(record)


@kernel
def follow(model: Predictor, token: int, since: int) -> None:
    """Keep track of repeated passages from the position ``since`` on, after ``token`` became the newest token."""
    state, history = model.state, model.history
    mask = history.shape[0] - 1
    head = state.head  # the token is at head - 1
    at = state.copy_at
    if at >= 0:
        hit = history[at & mask] == token
        state.copy_record = (state.copy_record << 1 | (0 if hit else 1)) & ((1 << RECORD) - 1)
        if hit:
            state.copy_at = at + 1
            state.copy_length += 1
        else:
            state.copy_at = -1
            state.copy_length = 0
    if head - state.start < ANCHOR:
        return
    key = SEED_KEY
    for back in range(ANCHOR):
        key = extend_hash(key, history[(head - 1 - back) & mask])
    place = int(key) & (model.positions.shape[0] - 1)
    seen = model.positions[place]  # position after the earlier passage, 0 for none
    model.positions[place] = head
    if seen == state.copy_at or not (since < seen < head and seen > head - mask):
        return
    if state.copy_length >= LONGEST_COMPARED:
        return
    length = 0
    while length < min(LONGEST_COMPARED, seen):
        if history[(seen - 1 - length) & mask] != history[(head - 1 - length) & mask]:
            break
        length += 1
    # Of two passages of one length the later one is followed.
    if length >= max(ANCHOR, state.copy_length):
        state.copy_at = seen
        state.copy_length = length
