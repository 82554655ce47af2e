"""Evidence: what each source says of each candidate, as a cell, and how often such evidence came true.

A source that knows a context proposes its successors. What it says of a candidate is told by how often that one
followed there, how often others did, and whether it did last: a cell. The hit rate of each cell is learnt as the
text goes on, from every candidate considered at every token, verified or not. A source that knows the context but
not the candidate speaks too: "known, and never this". A source that does not know the context says nothing.

This is the indirect modelling of context-mixing compressors (M. Mahoney, PAQ): counts are not taken as
probabilities but looked up in a table of what they have been worth.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from aded_local.drafting.compiling import kernel
from aded_local.drafting.statistics import ORDERS, UNIT

CONTEXT: Final = 0
"""Sources ``CONTEXT`` … ``CONTEXT + ORDERS - 1``: n-grams of this conversation, shortest first."""
MEMORY: Final = CONTEXT + ORDERS
STATIC: Final = MEMORY + ORDERS
SOFT: Final = STATIC + ORDERS
SOFT_ORDERS: Final = 2
"""What the target would have said, and did not: its own distribution after one or two tokens."""
RELATED: Final = SOFT + SOFT_ORDERS
RELATED_ORDERS: Final = 4
"""N-grams of earlier conversations about the same."""
LONGEST: Final = RELATED + RELATED_ORDERS
"""How a context went on when no longer one was known."""
SPARSE: Final = LONGEST + 1
SPARSES: Final = 3
"""Contexts with a gap: the token before the last; the two before the last; the last and the third last."""
UNIGRAM: Final = SPARSE + SPARSES
COPY: Final = UNIGRAM + 1
RESUME: Final = COPY + 1
BIAS: Final = RESUME + 1
SOURCES: Final = BIAS + 1

BUCKETS: Final = 8
CELLS: Final = BUCKETS * BUCKETS * 2
"""Of a source: its own count x that of others x whether it came last."""

EDGES: Final = (1, 1.5, 2.5, 4.5, 8.5, 20.5, 60.5)
"""Counts from which the next bucket begins; 0 is the first."""

RATE, SEEN, ODDS = 0, 1, 2
"""Rows of the rates: hit rate, observations (up to ``LONGEST_MEMORY``), and the rate's log-odds."""

LONGEST_MEMORY: Final = 1000.0
"""A cell averages over about this many of its latest observations, so that it follows the text."""
UNMET: Final = 0.2
"""Where a cell never met starts to learn, with the weight of one observation; until then it says nothing."""

MOST_CANDIDATES: Final = 48
MOST_ENTRIES: Final = 512

Rates = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int32]


class Evidence(NamedTuple):
    """What is known of a node's successors. Scratch: gathered for one node after the other.

    Attributes:
        tokens: the candidates, int32 ``(MOST_CANDIDATES,)``.
        odds: their log-odds once mixed, float64 ``(MOST_CANDIDATES,)``.
        raw: the same as probabilities, each for itself, float64.
        chances: the same, adding up to one at most, float64.
        calibrated: scratch for ``prediction``, float64; ``order`` likewise, int64.
        candidate: of each entry, the candidate's place, int32 ``(MOST_ENTRIES,)``.
        source: of each entry, int32.
        cell: of each entry, int32.
        absent: of each source, the cell of candidates it does not name; -1 where it says nothing;
            int32 ``(SOURCES,)``.
        size: number of candidates, number of entries, the three weight sets, and the bound of token ids,
            int64 ``(6,)``.
    """

    tokens: Integers
    odds: npt.NDArray[np.float64]
    raw: npt.NDArray[np.float64]
    chances: npt.NDArray[np.float64]
    calibrated: npt.NDArray[np.float64]
    order: npt.NDArray[np.int64]
    candidate: Integers
    source: Integers
    cell: Integers
    absent: Integers
    size: npt.NDArray[np.int64]


N_CANDIDATES, N_ENTRIES, FIRST_SET, SECOND_SET, THIRD_SET, BOUND = range(6)


def new_evidence() -> Evidence:
    """Room for one node's evidence."""
    return Evidence(
        tokens=np.zeros(MOST_CANDIDATES, np.int32),
        odds=np.zeros(MOST_CANDIDATES, np.float64),
        raw=np.zeros(MOST_CANDIDATES, np.float64),
        chances=np.zeros(MOST_CANDIDATES, np.float64),
        calibrated=np.zeros(MOST_CANDIDATES, np.float64),
        order=np.zeros(MOST_CANDIDATES, np.int64),
        candidate=np.zeros(MOST_ENTRIES, np.int32),
        source=np.zeros(MOST_ENTRIES, np.int32),
        cell=np.zeros(MOST_ENTRIES, np.int32),
        absent=np.full(SOURCES, -1, np.int32),
        size=np.zeros(6, np.int64),
    )


def _buckets() -> npt.NDArray[np.uint8]:
    units = np.arange(int(EDGES[-1] * UNIT) + 2)
    found: npt.NDArray[np.uint8] = np.searchsorted(np.array(EDGES) * UNIT, units, side="right").astype(
        np.uint8
    )
    found[1:] = np.maximum(found[1:], 1)  # a trace of evidence is some
    return found


BUCKET_OF_UNITS = _buckets()


@kernel
def bucket_of_units(units: int) -> int:
    """Bucket of a count, 0 to ``BUCKETS - 1``."""
    return int(BUCKET_OF_UNITS[min(units, BUCKET_OF_UNITS.shape[0] - 1)])


@kernel
def count_cell(own: int, others: int, last: int) -> int:
    """The cell of a candidate counted ``own`` units where others were counted ``others``."""
    return (bucket_of_units(own) * BUCKETS + bucket_of_units(others)) * 2 + last


@kernel
def clear(evidence: Evidence) -> None:
    """Begin with another node."""
    evidence.size[N_CANDIDATES] = 0
    evidence.size[N_ENTRIES] = 0
    evidence.absent[:] = -1


@kernel
def propose(evidence: Evidence, source: int, token: int, cell: int) -> None:
    """Enter that ``source`` says ``cell`` of ``token``; a new candidate if there is room."""
    n = evidence.size[N_CANDIDATES]
    entries = evidence.size[N_ENTRIES]
    if entries == MOST_ENTRIES or token >= evidence.size[BOUND]:
        return
    place = 0
    while place < n and evidence.tokens[place] != token:
        place += 1
    if place == n:
        if n == MOST_CANDIDATES:
            return
        evidence.tokens[n] = token
        evidence.size[N_CANDIDATES] = n + 1
    evidence.candidate[entries] = place
    evidence.source[entries] = source
    evidence.cell[entries] = cell
    evidence.size[N_ENTRIES] = entries + 1


@kernel
def log_odds(p: float) -> float:
    """ln(p / (1 - p)), within ±8."""
    p = min(max(p, 3.4e-4), 1.0 - 3.4e-4)
    return math.log(p / (1.0 - p))


@kernel
def learn_rate(rates: Rates, source: int, cell: int, hits: float, trials: float) -> None:
    """Of ``trials`` candidates with this evidence, ``hits`` came true."""
    if trials <= 0.0:
        return
    seen = np.float64(rates[SEEN, source, cell])
    rate = np.float64(rates[RATE, source, cell])
    if seen == 0.0:
        rate = UNMET
    rate += (hits - trials * rate) / (seen + trials + 1.0)
    rates[RATE, source, cell] = np.float32(rate)
    rates[SEEN, source, cell] = np.float32(min(seen + trials, LONGEST_MEMORY))
    rates[ODDS, source, cell] = np.float32(log_odds(rate))
