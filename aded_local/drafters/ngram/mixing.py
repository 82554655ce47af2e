"""Mixing: the sources' hit rates become one probability for each candidate.

The log-odds of the hit rates are added, each times the weight of its source, and after every token the weights follow
the gradient of the coding cost (logistic mixing; M. Mahoney, "Adaptive weighing of context models for lossless data
compression", 2005). A weight is the sum of three. The first set is chosen by the longest context that the conversation
and the memory know, the second by the repeated passage and the longest context of the stores, and the third is the same
everywhere. Where a draft model spoke there are sets apart, chosen by how sure it is and by the repeated passage:
n-grams weigh less beside it.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from aded_local.drafters.ngram.candidates import (
    BIAS,
    MODEL,
    ODDS,
    SEEN_ORDERS,
    SOFT,
    SOFT_ORDERS,
    SOURCES,
    Evidence,
    Rates,
    learn_rate,
)
from aded_local.kernels.compiling import kernel
from aded_local.ngrams.table import ORDERS

COPY_BUCKETS: Final = 8
FIRST_SETS: Final = (SEEN_ORDERS + 1) * (SEEN_ORDERS + 1)
SECOND_SETS: Final = COPY_BUCKETS * (ORDERS + 1)
COMMON_SET: Final = FIRST_SETS + SECOND_SETS
"""Weighs everywhere, but where a draft model spoke."""
SURE_SETS: Final = 8
MODEL_FIRST_SETS: Final = COMMON_SET + 1
MODEL_SECOND_SETS: Final = MODEL_FIRST_SETS + SURE_SETS
MODEL_COMMON_SET: Final = MODEL_SECOND_SETS + COPY_BUCKETS
SETS: Final = MODEL_COMMON_SET + 1

LEARNING_RATE: Final = 0.0015
"""Of the weights. Ten times as much loses a tenth of a bit per token; a third is as good but slower to follow."""
START_WEIGHT: Final = 0.1
"""Of every source in each of the three sets, before anything was learnt."""
MODEL_WEIGHT: Final = 0.3
"""Of a draft model in each of its three sets at the start: nearly believed."""
BESIDE_MODEL: Final = 0.02
"""Of every other source there."""
BIAS_INPUT: Final = 0.5
MOST_ODDS: Final = 12.0

Weights = npt.NDArray[np.float32]


@kernel
def weight_of(evidence: Evidence, weights: Weights, source: int) -> float:
    """Of a source: the sum over the three sets."""
    first, second = evidence.first_set, evidence.second_set
    weight: float = weights[first, source] + weights[second, source] + weights[evidence.common_set, source]
    return weight


@kernel
def said_odds(evidence: Evidence, rates: Rates, entry: int) -> float:
    """What an entry adds to the log-odds of its candidate, before it is weighed."""
    source = evidence.source[entry]
    odds: float = rates[ODDS, source, evidence.cell[entry]]
    if evidence.absent[source] >= 0:
        odds -= rates[ODDS, source, evidence.absent[source]]
    return odds


@kernel
def mix(evidence: Evidence, rates: Rates, weights: Weights) -> None:
    """Turn the evidence into a probability for each candidate, in ``evidence.odds`` and ``evidence.raw``.

    Which source says most for a candidate is noted beside it.
    """
    n = evidence.n_candidates
    everyone = weight_of(evidence, weights, BIAS) * BIAS_INPUT
    for source in range(SOURCES):
        absent = evidence.absent[source]
        if absent >= 0:
            everyone += weight_of(evidence, weights, source) * rates[ODDS, source, absent]
    for i in range(n):
        evidence.odds[i] = everyone
        evidence.foremost[i] = -math.inf
    for entry in range(evidence.n_entries):
        source, i = evidence.source[entry], evidence.candidate[entry]
        said = weight_of(evidence, weights, source) * said_odds(evidence, rates, entry)
        evidence.odds[i] += said
        if said > evidence.foremost[i]:
            evidence.foremost[i] = said
            evidence.said_by[i] = source
    for i in range(n):
        evidence.odds[i] = min(max(evidence.odds[i], -MOST_ODDS), MOST_ODDS)
        evidence.raw[i] = 1.0 / (1.0 + math.exp(-evidence.odds[i]))


@kernel
def learn_mix(evidence: Evidence, rates: Rates, weights: Weights, token: int, weigh: int, rate: int) -> None:
    """After ``token`` came: teach the weights, then the rates, what each candidate's evidence was worth.

    Args:
        weigh, rate: 0 to leave weights or rates alone.
    """
    n = evidence.n_candidates
    if n == 0:
        return
    errors = evidence.calibrated
    hit = -1
    total = 0.0  # error over all candidates
    for i in range(n):
        if evidence.tokens[i] == token:
            hit = i
            errors[i] = 1.0 - evidence.raw[i]
        else:
            errors[i] = -evidence.raw[i]
        total += errors[i]
    gradient, trials, hits = evidence.gradient, evidence.trials, evidence.hits
    for source in range(SOURCES):
        gradient[source] = 0.0
        trials[source] = n
        hits[source] = 1.0 if hit >= 0 else 0.0
        if evidence.absent[source] >= 0:
            gradient[source] = total * rates[ODDS, source, evidence.absent[source]]
    gradient[BIAS] = BIAS_INPUT * total
    for entry in range(evidence.n_entries):
        gradient[evidence.source[entry]] += errors[evidence.candidate[entry]] * said_odds(
            evidence, rates, entry
        )
    if weigh:
        for source in range(SOURCES):
            step = np.float32(LEARNING_RATE * gradient[source])
            weights[evidence.first_set, source] += step
            weights[evidence.second_set, source] += step
            weights[evidence.common_set, source] += step
    if not rate:
        return
    for entry in range(evidence.n_entries):
        source = evidence.source[entry]
        came = 1.0 if evidence.candidate[entry] == hit else 0.0
        learn_rate(rates, source, evidence.cell[entry], came, 1.0)
        trials[source] -= 1.0
        hits[source] -= came
    for source in range(SOURCES):
        if evidence.absent[source] >= 0:
            learn_rate(rates, source, evidence.absent[source], hits[source], trials[source])


def start_weights() -> Weights:
    """Weights before anything was learnt.

    What the target found likely starts at 0: recorded answers have no logits, so no start can be fitted for it.
    """
    weights = np.full((SETS, SOURCES), START_WEIGHT, np.float32)
    weights[MODEL_FIRST_SETS:] = BESIDE_MODEL
    weights[:, SOFT : SOFT + SOFT_ORDERS] = 0.0
    weights[:, MODEL] = MODEL_WEIGHT
    return weights
