"""What asking a draft model costs here, alone and beside a pass of the target, and what it tells on average."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final

from aded_local.llama.branches import MOST_ROWS

Row = tuple[int, int, float]

SURENESS, READING, SLOWDOWN, ALONE, BESIDE = range(5)
"""Kinds of rows that are kept."""

RATE: Final = 0.1
"""Weight of one decode in its running mean: some ten decodes tell."""
SHORTER_RATE: Final = 0.5
"""Weight of one that was shorter: an interruption makes a decode longer, nothing makes it shorter.
Chosen."""
HIT_RATE: Final = 0.02
"""Weight of one answer, once fifty were judged; the first ones weigh more."""
BELIEVED: Final = 2.0
"""``FIRST_SURENESS`` weighs as much as so many answers. Chosen: little, so that a dozen misses tell of a useless model.
Simulated, a perfect draft is 1.6 times as fast for it at a ratio of 50 (docs/specbranch.md)."""
FURTHER_ROW: Final = 0.15
"""What a further place in one decode is taken to cost before that was measured, as a share of the first."""
FIRST_SURENESS: Final = 0.6
"""How likely the best token behind a place is taken to be before anything was asked. Chosen: between the draft models
that are good for something (0.4 to 0.8)."""
OUTLIER: Final = 4.0
"""A decode counts as at most so many times its mean: an interruption tells nothing."""
SHARED_SLOWDOWN: Final = 1.4
"""What a pass is taken to cost beside a model that computes with the same cores, before one was timed. Measured on two
cores: twenty layers of SmolLM2 beside its body of 1B weights, 64 ms a pass in place of 45."""
FADING: Final = 0.1
"""What a slowdown that was measured loses with each start of its distance to what is expected: other programs may have
caused it, and where it forbids a mode it is measured no more. Chosen: ten starts forget most of it."""

MOST_KEPT: Final = 1000
MOST_JUDGED: Final = 1 << 40
LONGEST: Final = 600.0
"""Bounds of what a file may say: rows, places, seconds."""


class AskingCosts:
    """Running means, of one thread's decodes.

    Args:
        target_threads: of the target's passes.
        shares: both models compute on the same device.

    Attributes:
        sureness: how often the likeliest token came behind a place that was asked for.
        n_judged: places that this comes from.
        reading: seconds that a token of the text takes to read; 0 before the first.
    """

    def __init__(self, target_threads: int = 1, *, shares: bool = True) -> None:
        """Nothing was measured yet."""
        self._target_threads, self._shares = target_threads, shares
        self.sureness = FIRST_SURENESS
        self.n_judged = 0
        self.reading = 0.0
        self._seconds: dict[bool, dict[int, float]] = {False: {}, True: {}}
        self._slowdowns: dict[int, float] = {}

    def decoded(self, rows: int, seconds: float, *, beside: bool) -> None:
        """A decode over ``rows`` places took so long."""
        known = self._seconds[beside]
        before = known.get(rows, seconds)
        rate = RATE if seconds > before else SHORTER_RATE
        known[rows] = before + rate * (min(seconds, OUTLIER * before) - before)

    def timed(self, seconds: Sequence[float]) -> None:
        """Decodes over one place, with nothing beside, took so long: what was known of that is given up."""
        if seconds:
            self._seconds[False][1] = median(seconds)

    def seconds(self, rows: int, *, beside: bool = False) -> float | None:
        """What a decode over so many places takes; None before the first."""
        known = dict(self._seconds[beside] or self._seconds[not beside])  # another thread adds to it
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
            self.n_judged += 1
            self.sureness += max(HIT_RATE, 1.0 / (self.n_judged + BELIEVED)) * (hit - self.sureness)

    def read(self, n: int, seconds: float) -> None:
        """Reading ``n`` tokens of the text took so long."""
        each = seconds / max(n, 1)
        if self.reading > 0.0:
            each = self.reading + RATE * (min(each, OUTLIER * self.reading) - self.reading)
        self.reading = each

    def slowdown(self, lent: int) -> float:
        """What the target's passes take with the draft model beside them, over what they take alone.

        Args:
            lent: threads that the target leaves to the draft model.
        """
        return self._slowdowns.get(lent, self._expected(lent))

    def _expected(self, lent: int) -> float:
        if not self._shares:
            return 1.0
        left = self._target_threads - lent
        return self._target_threads / left if lent and left > 0 else SHARED_SLOWDOWN

    def passed(self, lent: int, slowdown: float) -> None:
        """A pass with the draft model beside it took so many times what it takes alone; less than once is chance."""
        before = self._slowdowns.get(lent)
        slowdown = min(max(slowdown, 1.0), OUTLIER)
        self._slowdowns[lent] = slowdown if before is None else before + RATE * (slowdown - before)

    # --- kept ------------------------------------------------------------------------------------

    def kept(self) -> list[Row]:
        """All of it: a kind, a key and a number each."""
        rows: list[Row] = [(SURENESS, self.n_judged, self.sureness), (READING, 0, self.reading)]
        rows += [(SLOWDOWN, lent, found) for lent, found in dict(self._slowdowns).items()]
        for kind, known in ((ALONE, self._seconds[False]), (BESIDE, self._seconds[True])):
            rows += [(kind, n, seconds) for n, seconds in dict(known).items()]
        return rows

    def take(self, kept: object) -> None:
        """Go on from what ``kept`` returned; whatever cannot have come from there is passed over."""
        for row in kept[:MOST_KEPT] if isinstance(kept, list) else ():
            if (
                isinstance(row, (list, tuple))
                and len(row) == 3
                and all(type(each) in (int, float) for each in row)
            ):
                self._take(*row)

    def _take(self, kind: float, key: float, value: float) -> None:
        if not (0.0 <= key <= MOST_JUDGED and 0.0 <= value <= LONGEST):
            return
        n = int(key)
        if kind == SURENESS and value <= 1.0:
            self.n_judged, self.sureness = n, value
        elif kind == READING:
            self.reading = value
        elif kind == SLOWDOWN and 1.0 <= value <= OUTLIER:
            self._slowdowns[n] = value + FADING * (self._expected(n) - value)
        elif kind in (ALONE, BESIDE) and value > 0.0 and 1 <= n <= MOST_ROWS:
            self._seconds[kind == BESIDE][n] = value
