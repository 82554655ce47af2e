"""Candidates for the next token, and how often evidence like theirs came true: the hit rates.

Each source that knows the context lists its successors there. It describes a successor by three numbers: how often
it followed, how often others followed, and whether it came last. Together they choose a cell. A source that knows the
context says something of the other candidates too: it never saw them there. A source that does not know the context
has no part in the decision.

Every cell has a hit rate. It is learnt from every candidate at every token, whether that token was drafted or not. So
counts are not taken for probabilities; what counts as these were worth is looked up, as context-mixing compressors do
(M. Mahoney, PAQ).
"""

from __future__ import annotations

import math
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from aded_local.kernels.compiling import kernel
from aded_local.ngrams.table import ORDERS, UNIT

SEEN_ORDERS: Final = 4
"""Tokens of the longest contexts that are counted as the text goes on; the match model follows longer repetitions.
Chosen by replay (docs/ablation.md): 6 are no faster, and 3 cost 0.7% where Python functions are written."""
CONTEXT: Final = 0
"""Sources ``CONTEXT`` … ``CONTEXT + SEEN_ORDERS - 1``: n-grams of this conversation, shortest first."""
MEMORY: Final = CONTEXT + SEEN_ORDERS
STATIC: Final = MEMORY + SEEN_ORDERS
SOFT: Final = STATIC + ORDERS
SOFT_ORDERS: Final = 2
"""What the target found likely after one or two tokens, whatever it said then."""
LONGEST: Final = SOFT + SOFT_ORDERS
"""How a context went on when no longer one was known."""
SPARSE: Final = LONGEST + 1
SPARSES: Final = 3
"""Contexts with a gap: the token before the last; the two before the last; the last and the third last."""
UNIGRAM: Final = SPARSE + SPARSES
COPY: Final = UNIGRAM + 1
BIAS: Final = COPY + 1
MODEL: Final = BIAS + 1
"""What a draft model says, see ``statements``; nothing without one."""
SOURCES: Final = MODEL + 1

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
"""Where a cell never met starts to learn, with the weight of one observation; until then it counts for nothing."""

COUNTERS: Final = 3
"""Who knows contexts of all orders: the conversation, the memory, the stores."""

MOST_CANDIDATES: Final = 48
MOST_ENTRIES: Final = 512

Rates = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int32]


class Evidence(Protocol):
    """What is known of a node's successors: a record of ``EVIDENCE``. Scratch: gathered for one node after the other.

    Attributes:
        latest: the tokens up to the node, newest first, int32 ``(ORDERS + 1,)``.
        keys, context_keys: hashes of the contexts they make, for all tables and for that of this conversation,
            uint64 ``(ORDERS + 1,)``, by order.
        sparse_keys: of the contexts with a gap, uint64 ``(SPARSES,)``.
        totals: what each of the ``COUNTERS`` counted in them, int64 ``(COUNTERS, ORDERS + 1)``.
        orders: of the longest one that each knows, int64 ``(COUNTERS,)``.
        tokens: the candidates, int32 ``(MOST_CANDIDATES,)``.
        odds: their log-odds once mixed, float64 ``(MOST_CANDIDATES,)``.
        raw: the same as probabilities, each for itself, float64.
        chances: the same, adding up to one at most, float64.
        foremost: what the source that says most for each adds to its log-odds, float64 ``(MOST_CANDIDATES,)``.
        said_by: that source, int32.
        calibrated: scratch for ``prediction``, float64; ``order`` likewise, int64.
        gradient, trials, hits: scratch for ``mixing``, of each source, float64 ``(SOURCES,)``.
        candidate: of each entry, the candidate's place, int32 ``(MOST_ENTRIES,)``.
        source: of each entry, int32.
        cell: of each entry, int32.
        absent: of each source, the cell of candidates it does not name; -1 where it says nothing;
            int32 ``(SOURCES,)``.
        n_candidates, n_entries: of each.
        first_set, second_set, common_set: of weights, see ``mixing``.
        spoke: 1 where a draft model said something of the node.
        bound: token ids are below it.
    """

    latest: Integers
    keys: npt.NDArray[np.uint64]
    context_keys: npt.NDArray[np.uint64]
    sparse_keys: npt.NDArray[np.uint64]
    totals: npt.NDArray[np.int64]
    orders: npt.NDArray[np.int64]
    tokens: Integers
    odds: npt.NDArray[np.float64]
    raw: npt.NDArray[np.float64]
    chances: npt.NDArray[np.float64]
    foremost: npt.NDArray[np.float64]
    said_by: Integers
    calibrated: npt.NDArray[np.float64]
    order: npt.NDArray[np.int64]
    gradient: npt.NDArray[np.float64]
    trials: npt.NDArray[np.float64]
    hits: npt.NDArray[np.float64]
    candidate: Integers
    source: Integers
    cell: Integers
    absent: Integers
    n_candidates: int
    n_entries: int
    first_set: int
    second_set: int
    common_set: int
    spoke: int
    bound: int


EVIDENCE = np.dtype(
    [
        ("latest", np.int32, ORDERS + 1),
        ("keys", np.uint64, ORDERS + 1),
        ("context_keys", np.uint64, ORDERS + 1),
        ("sparse_keys", np.uint64, SPARSES),
        ("totals", np.int64, (COUNTERS, ORDERS + 1)),
        ("orders", np.int64, COUNTERS),
        ("tokens", np.int32, MOST_CANDIDATES),
        ("odds", np.float64, MOST_CANDIDATES),
        ("raw", np.float64, MOST_CANDIDATES),
        ("chances", np.float64, MOST_CANDIDATES),
        ("foremost", np.float64, MOST_CANDIDATES),
        ("said_by", np.int32, MOST_CANDIDATES),
        ("calibrated", np.float64, MOST_CANDIDATES),
        ("order", np.int64, MOST_CANDIDATES),
        ("gradient", np.float64, SOURCES),
        ("trials", np.float64, SOURCES),
        ("hits", np.float64, SOURCES),
        ("candidate", np.int32, MOST_ENTRIES),
        ("source", np.int32, MOST_ENTRIES),
        ("cell", np.int32, MOST_ENTRIES),
        ("absent", np.int32, SOURCES),
        ("n_candidates", np.int64),
        ("n_entries", np.int64),
        ("first_set", np.int64),
        ("second_set", np.int64),
        ("common_set", np.int64),
        ("spoke", np.int64),
        ("bound", np.int64),
    ],
    align=True,
)


def _buckets() -> npt.NDArray[np.uint8]:
    units = np.arange(int(EDGES[-1] * UNIT) + 2)
    found: npt.NDArray[np.uint8] = np.searchsorted(np.array(EDGES) * UNIT, units, side="right").astype(
        np.uint8
    )
    found[1:] = np.maximum(found[1:], 1)  # the smallest count is more than none
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
    evidence.n_candidates = 0
    evidence.n_entries = 0
    for source in range(SOURCES):
        evidence.absent[source] = -1
    for counter in range(COUNTERS):
        evidence.orders[counter] = 0
        for k in range(ORDERS + 1):
            evidence.totals[counter, k] = 0


@kernel
def propose(evidence: Evidence, source: int, token: int, cell: int) -> None:
    """Enter ``cell`` as what ``source`` says of ``token``, which becomes a candidate if there is room."""
    n = evidence.n_candidates
    entries = evidence.n_entries
    if entries == MOST_ENTRIES or token >= evidence.bound:
        return
    place = 0
    while place < n and evidence.tokens[place] != token:
        place += 1
    if place == n:
        if n == MOST_CANDIDATES:
            return
        evidence.tokens[n] = token
        evidence.n_candidates = n + 1
    evidence.candidate[entries] = place
    evidence.source[entries] = source
    evidence.cell[entries] = cell
    evidence.n_entries = entries + 1


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
