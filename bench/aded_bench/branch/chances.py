"""What a draft model's statements are worth: how often they came true, and how many tokens that pays for."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from aded_bench.drafters.real import Row

EDGES: Final = (0.01, 0.03, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
"""Between classes of probabilities; closer where being wrong costs more."""

PRIOR: Final = 4.0
"""Statements that what the model says counts for, before any came true or not."""


def entropy_of(row: Row) -> float:
    """Of a statement in nats, with all that is not named taken for one token."""
    named = row[1][row[1] > 0].astype(np.float64)
    rest = max(0.0, 1.0 - float(named.sum()))
    return float(-(named * np.log(named)).sum() - (rest * np.log(rest) if rest > 0 else 0.0))


class Hits:
    """How often a statement's likeliest token came, by how likely it was said to be."""

    def __init__(self) -> None:
        self._hits = np.zeros(len(EDGES) + 1)
        self._trials = np.zeros(len(EDGES) + 1)

    def chance(self, said: float) -> float:
        """Of a likeliest token, calibrated."""
        place = bisect_right(EDGES, said)
        return float((self._hits[place] + PRIOR * said) / (self._trials[place] + PRIOR))

    def learn(self, said: float, came: bool) -> None:
        """It came, or another one."""
        place = bisect_right(EDGES, said)
        self._trials[place] += 1
        self._hits[place] += came


def best_size(chances: Sequence[float] | npt.NDArray[np.float32], costs: npt.NDArray[np.float64]) -> int:
    """The nodes of the pass that brings most tokens per time.

    Args:
        chances: of the paths to nodes, likeliest first.
        costs: of a pass by its tokens, index 0 unused.
    """
    n = min(len(chances), len(costs) - 2)
    tokens = 1.0 + np.concatenate([[0.0], np.cumsum(np.asarray(chances[:n], np.float64))])
    return int(np.argmax(tokens / costs[1 : n + 2]))
