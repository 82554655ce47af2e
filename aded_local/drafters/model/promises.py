"""What a draft model can bring at best, from what it costs and how often it is right, before it is tried.

The chain of its likeliest tokens is all that is looked at: if that alone does not beat plain decoding, it is hardly
worth its time beside n-grams either.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from aded_local.drafters.model.costs import AskingCosts
from aded_local.drafters.model.modes import NGRAM, Way

LONGEST_CHAIN: Final = 16
"""Tokens of a chain that are thought of."""


def promise(way: Way, costs: AskingCosts, cost: npt.NDArray[np.float64], most: int = LONGEST_CHAIN) -> float:
    """Seconds per token that a way can reach, over those of plain decoding; infinite where nothing is known of it.

    Args:
        way: the mode, and the threads that it takes.
        costs: of asking.
        cost: seconds of a target pass over i tokens, float64 ``(m,)``, index 0 unused.
        most: tokens that a draft may have.
    """
    if way == NGRAM:
        return 1.0
    beside = way.mode != "serial"
    asking = costs.seconds(1, beside=beside)
    most = min(most, LONGEST_CHAIN, len(cost) - 2)
    if asking is None or costs.n_judged == 0 or most < 1:
        return np.inf
    n = np.arange(1, most + 1)
    tokens = 1.0 + np.cumsum(costs.sureness**n)
    passes, drafting = cost[n + 1], n * asking
    # Beside a pass drafting is free as long as the pass takes, and at best all that was prepared is of use.
    seconds = np.maximum(costs.slowdown(way.lent) * passes, drafting) if beside else passes + drafting
    return float((seconds / tokens).min() / cost[1])
