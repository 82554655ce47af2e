"""Which mode is worth it here: each is tried for some steps, and what was fastest goes on.

What counts is seconds per token, in plain passes: texts grow, and with them what a pass costs. A trial that failed is
made again later; the later, the more it cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from aded_local.drafters.model import DraftMode

TRIAL: Final = 24
"""Steps of a trial. A few dozen tokens tell a gain of a tenth; smaller ones do not matter much."""
HOPELESS: Final = 1.3
"""A trial ends after ``SHORTEST`` steps where tokens take so many times what they take otherwise."""
SHORTEST: Final = 8
FORGETTING: Final = 0.97
"""What a step's weight loses with each further step of its mode: some thirty steps tell."""
TRIAL_SHARE: Final = 0.01
"""Of the time, what trials that fail may cost."""
FIRST_PAUSE: Final = 128
LONGEST_PAUSE: Final = 4096
"""Steps from a failed trial to the next of that mode."""
BETTER: Final = 0.98
"""n-grams alone give way to a mode that takes at most this share of their time."""


@dataclass(frozen=True, slots=True)
class Way:
    """A mode, and how many threads it takes from the target's passes.

    Attributes:
        mode: never ``auto``.
        lent: threads that the target leaves to the draft model beside it.
    """

    mode: DraftMode
    lent: int = 0


NGRAM: Final = Way("ngram")


def ways_of(mode: DraftMode, target_threads: int) -> tuple[Way, ...]:
    """Those that may be taken in a mode, in the order of trying.

    Beside the target's passes the model gets one of its threads, or both use all: which is faster is a matter of the
    machine.
    """
    parallel = (Way("parallel", 1), Way("parallel")) if target_threads > 1 else (Way("parallel"),)
    if mode == "auto":
        return (Way("serial"), NGRAM, *parallel)
    return parallel if mode == "parallel" else (Way(mode),)


class _Pace:
    """Seconds per token of one way, in plain passes."""

    def __init__(self) -> None:
        self.seconds = self.tokens = 0.0
        self.steps = 0
        self.due = 0
        self.pause = FIRST_PAUSE

    def add(self, seconds: float, tokens: int) -> None:
        self.seconds = FORGETTING * self.seconds + seconds
        self.tokens = FORGETTING * self.tokens + tokens
        self.steps += 1

    @property
    def value(self) -> float:
        return self.seconds / self.tokens if self.tokens else 0.0


class Chooser:
    """See this module's first line.

    Args:
        ways: that may be taken; the first one is what to begin with.

    Attributes:
        way: of the next step.
    """

    def __init__(self, ways: tuple[Way, ...]) -> None:
        self._paces = {way: _Pace() for way in ways}
        self.way = self._best = ways[0]
        self._in_trial = 0
        self._lost = 0.0
        self._step = 0

    @property
    def decided(self) -> bool:
        """Whether every way was tried."""
        return all(pace.steps >= SHORTEST for pace in self._paces.values())

    @property
    def best(self) -> Way:
        """The fastest as far as is known."""
        return self._best

    def record(self, seconds: float, tokens: int, *, ready: bool = True) -> None:
        """A step took ``seconds``, in plain passes, and brought ``tokens``.

        Args:
            ready: it was taken in ``way``; else the model still read the text beside it. In a trial such a step says
                nothing of the pace, and counts as its price.
        """
        if len(self._paces) == 1:
            return
        self._step += 1
        if not ready and self.way != self._best:
            self._lost += max(0.0, seconds - self._paces[self._best].value * tokens)
            return
        pace = self._paces[self.way]
        pace.add(seconds, tokens)
        self._in_trial += 1
        if self.way == self._best:
            self._after_usual_step()
            return
        best = self._paces[self._best].value
        self._lost += seconds - best * tokens
        if self._in_trial < SHORTEST or (self._in_trial < TRIAL and pace.value < HOPELESS * best):
            return
        if self._is_better(self.way, self._best):
            self._best = self.way
            pace.pause = FIRST_PAUSE
        else:
            longest = int(max(0.0, self._lost) / TRIAL_SHARE / max(best, 1e-9))
            pace.due = self._step + min(max(pace.pause, longest), LONGEST_PAUSE)
            pace.pause = min(2 * pace.pause, LONGEST_PAUSE)
        self._begin(self._best)

    def _is_better(self, way: Way, than: Way) -> bool:
        ours, theirs = self._paces[way].value, self._paces[than].value
        return ours * (BETTER if way == NGRAM else 1.0) < theirs * (BETTER if than == NGRAM else 1.0)

    def _after_usual_step(self) -> None:
        if self._in_trial < TRIAL:
            return
        # Another one whose tokens took less time before may be the best again by now.
        for way, pace in self._paces.items():
            if way != self._best and pace.due <= self._step:
                pace.seconds, pace.tokens = 0.0, 0.0
                self._begin(way)
                return

    def _begin(self, way: Way) -> None:
        self.way = way
        self._in_trial = 0
        self._lost = 0.0
