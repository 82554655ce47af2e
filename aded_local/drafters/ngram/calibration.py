"""Calibration: a mixed probability is replaced by how often such probabilities came true.

Mixing minimises the coding cost, and its probabilities are nearly right. Where a text is unusually easy or hard they
are not. So each class of candidates has a curve from probability to observed hit rate: ``BUCKETS`` points equally far
apart in log-odds. A value between two points is interpolated, and both points learn from it (the "adaptive
probability maps" of PAQ).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from aded_local.kernels.compiling import kernel

BUCKETS: Final = 33
WIDTH: Final = 0.5
"""Points lie at log-odds from -8 to 8."""
DEPTH_EDGES: Final = (2, 4, 9, 16)
DEPTHS: Final = len(DEPTH_EDGES) + 1
COPY_EDGES: Final = (1, 8, 16, 32)
COPIES: Final = len(COPY_EDGES) + 1
UNTOLD_CLASSES: Final = 2 * COPIES * DEPTHS
CLASSES: Final = 2 * UNTOLD_CLASSES
"""How deep in a draft x how much of the passage it continues had matched before x likeliest of its siblings or not;
once more for those of which a draft model spoke.

Depth matters because a repetition goes on or ends as a whole: the further a draft has held, the likelier it holds."""
LEAST_RATE: Final = 0.005
"""How far a point moves towards what came, at least: it averages over its latest two hundred candidates."""
TRUST: Final = 30.0
"""Candidates that the shipped curves count for."""

Finals = npt.NDArray[np.float32]


def identity() -> Finals:
    """Curves that change nothing."""
    points = (np.arange(BUCKETS) - BUCKETS // 2) * WIDTH
    finals = np.full((2, CLASSES, BUCKETS), TRUST, np.float32)
    finals[0] = 1.0 / (1.0 + np.exp(-points))
    return finals


@kernel
def level_of(depth: int) -> int:
    """Of ``DEPTHS`` levels, how deep in a draft."""
    level = 0
    for edge in DEPTH_EDGES:
        if depth >= edge:
            level += 1
    return level


@kernel
def class_of(depth: int, likeliest: bool, matched: int, spoke: int) -> int:
    """Class of a candidate.

    Args:
        depth: tokens after the last one, at least 1.
        likeliest: of its siblings.
        matched: tokens of the passage it continues that had matched before the draft; 0 where it continues none.
        spoke: 1 where a draft model said something of it and its siblings, else 0.
    """
    copies = 0
    for edge in COPY_EDGES:
        if matched >= edge:
            copies += 1
    return spoke * UNTOLD_CLASSES + (level_of(depth) * COPIES + copies) * 2 + (1 if likeliest else 0)


@kernel
def place_of(odds: float) -> float:
    """Where a probability, as log-odds, lies among the points."""
    return min(max(odds / WIDTH + BUCKETS // 2, 0.0), BUCKETS - 1.001)


@kernel
def calibrated(finals: Finals, kind: int, odds: float) -> float:
    """The hit rate of candidates like this one, by log-odds."""
    place = place_of(odds)
    low = int(place)
    share = place - low
    rate: float = (1.0 - share) * finals[0, kind, low] + share * finals[0, kind, low + 1]
    return rate


@kernel
def teach(finals: Finals, kind: int, odds: float, hit: bool) -> None:
    """A candidate of these log-odds came true, or did not."""
    place = place_of(odds)
    low = int(place)
    share = place - low
    target = 1.0 if hit else 0.0
    for i in range(2):
        part = share if i == 1 else 1.0 - share
        rate = max(LEAST_RATE, 1.0 / (1.5 + finals[1, kind, low + i]))
        finals[0, kind, low + i] += part * rate * (target - finals[0, kind, low + i])
        finals[1, kind, low + i] += part
