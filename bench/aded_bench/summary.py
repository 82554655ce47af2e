"""Numbers about numbers: quartiles and bootstrap intervals over prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

RESAMPLES = 10_000  # bootstrap samples: the interval's ends then move by less than 1% of its width
RATIO_RESAMPLES = 2_000  # of ratios over hundreds of answers, of which a replay has dozens
INTERVAL = (2.5, 97.5)  # percentiles of a 95% interval

FEWEST_VALUES = 6
"""Values that an interval takes. Even from the least of n values to the greatest, the true median lies with
probability 1 - 2 / 2^n only: 94% of five, 97% of six; and resampling can reach no further than those two."""


@dataclass(frozen=True)
class Summary:
    """A distribution over prompts.

    ``low`` and ``high`` bound the median with 95% confidence (bootstrap); None of fewer than ``FEWEST_VALUES`` values.
    """

    count: int
    minimum: float
    first_quartile: float
    median: float
    third_quartile: float
    maximum: float
    low: float | None
    high: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)


def summarize(values: Sequence[float], seed: int = 0) -> Summary | None:
    """Summary of at least one value, else None."""
    if not values:
        return None
    data = np.asarray(values, np.float64)
    low: float | None = None
    high: float | None = None
    if data.size >= FEWEST_VALUES:
        samples = np.random.default_rng(seed).choice(data, (RESAMPLES, data.size))
        low, high = (float(v) for v in np.percentile(np.median(samples, axis=1), INTERVAL))
    least, first, middle, third, most = (float(v) for v in np.percentile(data, (0, 25, 50, 75, 100)))
    return Summary(data.size, least, first, middle, third, most, low, high)


def ratio_interval(
    numerators: Sequence[float],
    denominators: Sequence[float],
    seed: int = 0,
    resamples: int = RATIO_RESAMPLES,
) -> tuple[float | None, float | None]:
    """95% interval of sum(numerators) / sum(denominators): bootstrap over pairs, which belong together.

    Args:
        numerators: one per answer.
        denominators: as many, positive.

    Returns:
        The interval's ends; None and None of fewer than ``FEWEST_VALUES`` pairs.
    """
    if len(numerators) < FEWEST_VALUES:
        return None, None
    above = np.asarray(numerators, np.float64)
    below = np.asarray(denominators, np.float64)
    picked = np.random.default_rng(seed).integers(0, above.size, (resamples, above.size))
    low, high = np.percentile(above[picked].sum(axis=1) / below[picked].sum(axis=1), INTERVAL)
    return float(low), float(high)
