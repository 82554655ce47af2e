"""PUCT, the rule by which both tree searches walk: what the paper's authors and ``auto`` have in common.

Of the children of a node visited ``V`` times, the one with the highest

    W / N + (c1 + ln((V + c2 + 1) / c2)) * sqrt(V) * p / (1 + N)

is visited next, where ``W`` is the sum of what its ``N`` visits brought and ``p`` its probability. The mean ``W / N``
and the bonus ``p / (1 + N)`` are brought up to date when a visit ends, so that a choice is one multiplication for each
child. An unvisited child has an infinite mean.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from aded_local.kernels.compiling import kernel

Floats = npt.NDArray[np.float32]

C1: Final = 32.0
C2: Final = 8.0
"""Exploration constants of PUCT, from the paper (section on the draft maker)."""

MOST_VISITS: Final = 256
"""Of a node; a search has fewer iterations."""


def _exploration() -> Floats:
    visits = np.arange(MOST_VISITS, dtype=np.float64)
    return ((C1 + np.log((visits + C2 + 1.0) / C2)) * np.sqrt(visits)).astype(np.float32)


EXPLORATION: Final = _exploration()
"""``(c1 + ln((V + c2 + 1) / c2)) * sqrt(V)`` by ``V``, float32 ``(MOST_VISITS,)``."""


@kernel
def best_child(means: Floats, bonuses: Floats, first: int, n: int, visits: int) -> int:
    """Of ``n`` children from ``first`` on, of a node visited so often, the one to visit; the first of equal ones."""
    factor = EXPLORATION[visits]
    best = first
    highest = np.float32(-1)
    for child in range(first, first + n):
        score = means[child] + factor * bonuses[child]
        if score > highest:
            highest = score
            best = child
    return best


@kernel
def draw(rng: npt.NDArray[np.uint64]) -> float:
    """A number from [0, 1) by splitmix64; ``rng`` is its state, uint64 ``(1,)``."""
    rng[0] += np.uint64(0x9E3779B97F4A7C15)
    z = rng[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return float(z >> np.uint64(11)) * 2.0**-53
