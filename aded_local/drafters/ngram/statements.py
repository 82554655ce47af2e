"""What a draft model says, as one more source: its likeliest tokens behind a place, and how sure it is of each.

A place is known by the number of tokens before it and the last six of them. So a statement about a path in a tree
still holds when the text has gone that way, and says nothing where it went another. What a probability that the model
gives is worth is learnt as it is for every other source: it only chooses the cell.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from aded_local.drafters.ngram.candidates import (
    CELLS,
    MODEL,
    ODDS,
    RATE,
    SEEN,
    Evidence,
    Rates,
    log_odds,
    propose,
)
from aded_local.drafters.ngram.mixing import SURE_SETS
from aded_local.drafters.ngram.state import NAMED, STATEMENTS, Block
from aded_local.kernels.compiling import entry, kernel
from aded_local.ngrams.table import ORDERS, SEED_KEY, extend_hash

LEVELS: Final = 16
"""Of log-odds from -8 to 8. With 32, and twenty statements believed, three answers that a model drafts for itself are
2.15 times as fast as plain decoding on a virtual clock (a pass takes eight draft steps); with 16 and four 2.53 times.
"""
RANKS: Final = 3
"""The likeliest token, the second, any other."""
OTHERS: Final = RANKS * LEVELS
"""Cells from here on: of tokens that are not named, by how sure the model is of the first one."""
BELIEVED: Final = 4.0
"""A cell starts as if so many of its statements had been seen, and held as often as the model said."""
OTHERS_RATE: Final = 0.002
"""Where cells of tokens that are not named start. Chosen: a twelfth of a percent to one percent was seen."""
PROBES: Final = 4

Statements = npt.NDArray[Any]


@kernel
def level_of_odds(p: float) -> int:
    """Of ``LEVELS``."""
    return min(int((log_odds(p) + 8.0) * (LEVELS / 16.0)), LEVELS - 1)


@kernel
def place_key(key: np.uint64, length: int) -> np.uint64:
    """Of a place, from the hash of its last ``ORDERS`` tokens and the number of all before it; never 0."""
    found: np.uint64 = extend_hash(key, length) | np.uint64(1)
    return found


@kernel
def statement_of(statements: Statements, key: np.uint64) -> int:
    """Where a place's statement lies, -1 without one."""
    first = int(key >> np.uint64(20))
    for i in range(PROBES):
        at = (first + i) & (STATEMENTS - 1)
        if statements[at].key == key:
            return at
    return -1


@kernel
def read_statement(evidence: Evidence, statements: Statements, at: int) -> None:
    """Enter what it says."""
    said = statements[at]
    evidence.absent[MODEL] = said.absent
    for i in range(NAMED):
        if said.tokens[i] >= 0:
            propose(evidence, MODEL, said.tokens[i], said.cells[i])


@entry
def tell(
    block: Block,
    tails: npt.NDArray[np.int32],
    lengths: npt.NDArray[np.int64],
    tokens: npt.NDArray[np.int32],
    probabilities: npt.NDArray[np.float32],
) -> None:
    """Remember statements; each takes a free place or that of an older one.

    Args:
        tails: the last tokens before each place, newest first, int32 ``(m, ORDERS)``.
        lengths: tokens before each place, from the conversation's first, int64 ``(m,)``.
        tokens: likeliest first, -1 for none, int32 ``(m, NAMED)``.
        probabilities: of each, float32 ``(m, NAMED)``.
    """
    statements, state = block[0].statements, block[0].state
    for row in range(tails.shape[0]):
        key = SEED_KEY
        for k in range(min(ORDERS, lengths[row])):
            key = extend_hash(key, tails[row, k])
        key = place_key(key, lengths[row])
        at = statement_of(statements, key)
        if at < 0:
            first = int(key >> np.uint64(20))
            at = first & (STATEMENTS - 1)
            for i in range(1, PROBES):  # a free place was told of before all others
                other = (first + i) & (STATEMENTS - 1)
                if statements[other].told < statements[at].told:
                    at = other
        state.n_told += 1
        said = statements[at]
        said.key = key
        said.told = state.n_told
        first_level = level_of_odds(probabilities[row, 0])
        said.absent = OTHERS + first_level
        said.sure = min(first_level * SURE_SETS // LEVELS, SURE_SETS - 1)
        for i in range(NAMED):
            said.tokens[i] = tokens[row, i]
            said.cells[i] = min(i, RANKS - 1) * LEVELS + level_of_odds(probabilities[row, i])


def start_rates(rates: Rates) -> None:
    """Write what a model's statements are taken for before any was judged: what they say."""
    odds = (np.arange(LEVELS) + 0.5) * (16.0 / LEVELS) - 8.0
    said = 1.0 / (1.0 + np.exp(-odds))
    rates[RATE, MODEL] = np.concatenate([np.tile(said, RANKS), np.full(CELLS - OTHERS, OTHERS_RATE)])
    rates[SEEN, MODEL] = BELIEVED
    rates[ODDS, MODEL] = [math.log(p / (1.0 - p)) for p in rates[RATE, MODEL].tolist()]
