"""Calibration: what a predicted probability has been worth so far.

Raw n-gram probabilities are far too sure: of the tokens given 0.8, a third came true. A cell, one per
class of evidence (how long a context matched, where, and whether an earlier passage is being
copied) and bucket of raw probability, holds the rate at which its candidates were hits, learned as
it runs. Every candidate whose parent lies on the path the target took is a hit or a miss, verified
or not, so cells are learnt also while nothing is verified.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from aded_local.drafting.compiling import kernel

ORDERS: Final = 5
"""Longest n-gram context, in tokens."""

BUCKETS: Final = 16
BUCKET_WIDTH: Final = 0.75
"""Buckets divide the log-odds of the raw probability, from -6 to 6, into equal parts."""

COPY_LENGTHS: Final = 6
NGRAM_CLASSES: Final = (ORDERS + 1) * 4
CLASSES: Final = NGRAM_CLASSES + COPY_LENGTHS * 2 + 2
"""N-gram classes: longest matching order x seen in this context x likeliest of its siblings. Then one
class per length of a copied passage x from this context; last, the rivals of a copied token, and echoes."""

RIVAL_CLASS: Final = CLASSES - 2
ECHO_CLASS: Final = CLASSES - 1

PRIOR_WEIGHT: Final = 24.0
"""Observations the shipped prior counts for."""

LONGEST_MEMORY: Final = 600.0
"""A cell averages over about this many of its latest observations, so that it follows the text."""

PRIOR_LOG_ODDS: Final = (
    # (a, b): log-odds of a hit = a + b * log-odds of the raw probability, a line per class
    (-1.49, 0.69), (-1.16, 0.50), (-1.49, 0.69), (-1.16, 0.50),
    (-1.60, 0.79), (-1.52, 0.59), (-1.22, 0.79), (-0.91, 0.52),
    (-1.54, 0.67), (-1.49, 1.15), (-1.65, 0.54), (-1.41, 0.55),
    (-1.80, 0.51), (-1.24, 0.80), (-1.68, 0.41), (-1.30, 0.41),
    (-1.52, 0.72), (-1.27, 0.43), (-1.49, 0.69), (-1.19, 0.34),
    (-1.48, 0.67), (-1.13, 0.44), (-1.49, 0.69), (-1.16, 0.50),
    (-1.71, 0.74), (-0.93, 0.31), (-1.40, 0.68), (-0.46, 0.32),
    (-0.53, 0.60), (-0.86, 0.50), (-0.23, 0.73), (-0.08, 0.46),
    (-0.27, 0.51), (0.02, 0.61), (-0.31, 0.43), (3.12, 0.50),
    (-2.06, 0.44), (-0.20, 1.00),
)  # fmt: skip
"""Where cells start. Logistic fits to the first 10 answers (100 for shell questions) after an empty start,
pooled over six traces of instructions, code and shell questions; slopes below one say
how over-confident raw probabilities are."""

Rates = npt.NDArray[np.float32]
"""Hit rate and number of observations of each cell, float32 ``(2, CLASSES * BUCKETS)``."""


@kernel
def bucket_of(raw: float) -> int:
    """Bucket of a raw probability; those outside (0.25%, 99.75%) fall into the outermost."""
    p = min(max(raw, 1e-4), 1.0 - 1e-4)
    place = int((math.log(p / (1.0 - p)) + 6.0) / BUCKET_WIDTH)
    return min(max(place, 0), BUCKETS - 1)


@kernel
def ngram_class(order: int, in_context: int, likeliest: int) -> int:
    """Class of a candidate that n-grams propose."""
    return order * 4 + in_context * 2 + likeliest


@kernel
def copy_class(length: int, in_context: int) -> int:
    """Class of a candidate that continues a passage of which ``length`` tokens already matched."""
    if length < 6:
        place = 0
    elif length < 8:
        place = 1
    elif length < 12:
        place = 2
    elif length < 20:
        place = 3
    elif length < 32:
        place = 4
    else:
        place = 5
    return NGRAM_CLASSES + place * 2 + in_context


@kernel
def record(rates: Rates, cell: int, hit: int) -> None:
    """Learn that a candidate of this cell came true (1) or not (0)."""
    n = rates[1, cell]
    rates[0, cell] += np.float32((hit - rates[0, cell]) / (n + 1.0))
    rates[1, cell] = np.float32(min(n + 1.0, LONGEST_MEMORY))


def prior_rates() -> Rates:
    """The cells before anything was observed."""
    rates = np.zeros((2, CLASSES * BUCKETS), np.float32)
    offset, slope = np.array(PRIOR_LOG_ODDS).T
    centre = (np.arange(BUCKETS) + 0.5) * BUCKET_WIDTH - 6.0
    rates[0] = (1.0 / (1.0 + np.exp(-offset[:, None] - slope[:, None] * centre))).ravel()
    rates[1] = PRIOR_WEIGHT
    return rates
