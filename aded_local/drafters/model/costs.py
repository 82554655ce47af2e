"""What asking a draft model costs here, alone and beside a pass of the target, and what it tells on average."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from aded_local.llama.branches import MOST_ROWS

RATE: Final = 0.1
"""Weight of one decode in its running mean: some ten decodes tell."""
HIT_RATE: Final = 0.02
"""Weight of one answer: some fifty tell."""
FURTHER_ROW: Final = 0.15
"""What a further place in one decode is taken to cost before that was measured, as a share of the first."""
FIRST_SURENESS: Final = 0.6
"""How likely the best token behind a place is taken to be before anything was asked. Chosen: between the draft models
that are good for something (0.4 to 0.8)."""
OUTLIER: Final = 4.0
"""A decode counts as at most so many times its mean: an interruption tells nothing."""


class AskingCosts:
    """Running means, of one thread's decodes.

    Attributes:
        sureness: how often the likeliest token came behind a place that was asked for.
        slowdown: what the target's passes take with the draft model beside them, over what they take alone.
    """

    def __init__(self) -> None:
        """Nothing was measured yet."""
        self.sureness = FIRST_SURENESS
        self.slowdown = 1.0
        self._seconds: dict[bool, dict[int, float]] = {False: {}, True: {}}

    def decoded(self, rows: int, seconds: float, *, beside: bool) -> None:
        """A decode over ``rows`` places took so long."""
        known = self._seconds[beside]
        before = known.get(rows)
        if before is None:
            known[rows] = seconds
        else:
            known[rows] = before + RATE * (min(seconds, OUTLIER * before) - before)

    def seconds(self, rows: int, *, beside: bool = False) -> float | None:
        """What a decode over so many places takes; None before the first."""
        known = self._seconds[beside] or self._seconds[not beside]
        if not known:
            return None
        rows = min(max(rows, 1), MOST_ROWS)
        exact = known.get(rows)
        if exact is not None:
            return exact
        # From the nearest that is known, with the slope between the smallest and the largest.
        smallest, largest = min(known), max(known)
        slope = FURTHER_ROW * known[smallest] / (1.0 + FURTHER_ROW * (smallest - 1))
        if largest > smallest:
            slope = max(0.0, (known[largest] - known[smallest]) / (largest - smallest))
        nearest = min(known, key=lambda n: abs(n - rows))
        return max(known[nearest] + slope * (rows - nearest), 0.2 * known[nearest])

    def judged(self, hits: Sequence[bool]) -> None:
        """The text went through places that were asked for, and took the likeliest token or not."""
        for hit in hits:
            self.sureness += HIT_RATE * (hit - self.sureness)

    def passed(self, slowdown: float) -> None:
        """A pass with the draft model beside it took so many times what it takes alone."""
        self.slowdown += RATE * (min(slowdown, OUTLIER) - self.slowdown)
