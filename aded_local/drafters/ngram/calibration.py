"""Calibration: the last word on a probability, from how often such ones came true.

Mixing minimises coding cost and is nearly calibrated; what it still gets wrong where text is unusually easy or hard
is put right here. A class of candidates has a curve from probability to observed hit rate, of ``BUCKETS`` points
equally far apart in log-odds, read and taught by interpolation (the "adaptive probability maps" of PAQ).

Deep in a draft the curves are slow to follow: an error of a hundredth at each of fifty copied tokens is an error
of a half at the last, and few drafts get there. So their log-odds are shifted too, by one number for each group of
classes, which a few dozen tokens teach.
"""

from __future__ import annotations

import math
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
CLASSES: Final = 2 * COPIES * DEPTHS
"""How deep in a draft x how much of the passage it continues had matched before x likeliest of its siblings or not.

Depth counts because passages go on or end as a whole: the deeper the draft has held, the likelier it holds on."""
LEAST_RATE: Final = 0.005
"""How far a point moves towards what came, at least: it averages over its latest two hundred candidates."""
TRUST: Final = 30.0
"""Candidates that the shipped curves count for."""

GROUPS: Final = 2 * DEPTHS
"""How deep x whether it continues a passage. With all classes apart the error on edits of code is 1.4 to
1.8 times as large."""
SHIFT_TRUST: Final = 1.0
"""What the start at no shift counts for, in units of information (a candidate of probability p tells p (1 - p))."""
MOST_INFORMATION: Final = 20.0
"""That a shift remembers. Replayed on file edits, 5 to 40 made no difference."""
MOST_SHIFT: Final = 3.0

Finals = npt.NDArray[np.float32]
Shifts = npt.NDArray[np.float64]


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
def class_of(depth: int, likeliest: bool, matched: int) -> int:
    """Class of a candidate.

    Args:
        depth: tokens after the last one, at least 1.
        likeliest: of its siblings.
        matched: tokens of the passage it continues that had matched before the draft; 0 where it continues none.
    """
    copies = 0
    for edge in COPY_EDGES:
        if matched >= edge:
            copies += 1
    return (level_of(depth) * COPIES + copies) * 2 + (1 if likeliest else 0)


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


def no_shifts() -> Shifts:
    """Shifts, and the information behind them, before anything was learnt: float64 ``(2, GROUPS)``."""
    return np.zeros((2, GROUPS), np.float64)


@kernel
def group_of(kind: int) -> int:
    """Group of a class."""
    level = kind // (2 * COPIES)
    copies = kind // 2 % COPIES
    return level * 2 + (1 if copies > 0 else 0)


@kernel
def shift_factor(shifts: Shifts, kind: int) -> float:
    """What the shift of a class multiplies the odds of its candidates by."""
    return math.exp(shifts[0, group_of(kind)])


@kernel
def shifted(p: float, factor: float) -> float:
    """The probability whose odds are ``factor`` times those of ``p``."""
    moved: float = p * factor / (1.0 - p + p * factor)
    return moved


@kernel
def teach_shift(shifts: Shifts, kind: int, p: float, hit: bool) -> None:
    """A candidate that was given the probability ``p``, shift included, came true or did not (a Newton step)."""
    group = group_of(kind)
    p = min(max(p, 1e-4), 1.0 - 1e-4)
    shifts[1, group] = min(shifts[1, group] + p * (1.0 - p), MOST_INFORMATION)
    step = ((1.0 if hit else 0.0) - p) / (SHIFT_TRUST + shifts[1, group])
    shifts[0, group] = min(max(shifts[0, group] + step, -MOST_SHIFT), MOST_SHIFT)
