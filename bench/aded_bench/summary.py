"""Numbers about numbers: quartiles and bootstrap intervals over prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

RESAMPLES = 10_000  # bootstrap samples: the interval's ends then move by less than 1% of its width
RATIO_RESAMPLES = 2_000  # of ratios over hundreds of answers, of which a replay has dozens
INTERVAL = (2.5, 97.5)  # percentiles of a 95% interval


@dataclass(frozen=True)
class Summary:
    """A distribution over prompts. ``low`` and ``high`` bound the median with 95% confidence (bootstrap)."""

    count: int
    minimum: float
    first_quartile: float
    median: float
    third_quartile: float
    maximum: float
    low: float
    high: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)


def summarize(values: Sequence[float], seed: int = 0) -> Summary | None:
    """Summary of at least one value, else None."""
    if not values:
        return None
    data = np.asarray(values, np.float64)
    samples = np.random.default_rng(seed).choice(data, (RESAMPLES, data.size))
    low, high = np.percentile(np.median(samples, axis=1), INTERVAL)
    least, first, middle, third, most = (float(v) for v in np.percentile(data, (0, 25, 50, 75, 100)))
    return Summary(data.size, least, first, middle, third, most, float(low), float(high))


def ratio_interval(
    numerators: Sequence[float],
    denominators: Sequence[float],
    seed: int = 0,
    resamples: int = RATIO_RESAMPLES,
) -> tuple[float, float]:
    """95% interval of sum(numerators) / sum(denominators): bootstrap over pairs, which belong together.

    Args:
        numerators: one per answer, at least one.
        denominators: as many, positive.
    """
    above = np.asarray(numerators, np.float64)
    below = np.asarray(denominators, np.float64)
    picked = np.random.default_rng(seed).integers(0, above.size, (resamples, above.size))
    low, high = np.percentile(above[picked].sum(axis=1) / below[picked].sum(axis=1), INTERVAL)
    return float(low), float(high)
