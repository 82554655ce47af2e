"""Which mode is worth it here: n-grams alone, until another promises more; then that is tried for some steps.

What counts is seconds per token, in plain passes: texts grow, and with them what a pass costs. A trial ends as soon as
what was measured meanwhile promises nothing any more. One that failed is made again later; the later, the more it cost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from aded_local.drafters.model import DraftMode

TRIAL: Final = 24
"""Steps of a trial. A few dozen tokens tell a gain of a tenth; smaller ones do not matter much."""
HOPELESS: Final = 1.3
"""A trial ends after ``SHORTEST`` steps where tokens take so many times what they take otherwise."""
SHORTEST: Final = 8
FIRST_LOOK: Final = 3
"""Steps of a trial after which what was measured on the way is compared with the promise. Chosen: the fewest that an
interruption of one does not decide."""
FORGETTING: Final = 0.97
"""What a step's weight loses with each further step of its mode: some thirty steps tell."""
TRIAL_SHARE: Final = 0.01
"""Of the time, what trials of one way that fail may cost."""
FIRST_PAUSE: Final = 128
LONGEST_PAUSE: Final = 4096
"""Steps from a failed trial to the next of that way, where it cost little."""
DEAREST_READING: Final = 24.0
"""Plain passes that may be lost while the model reads, before its trial counts as failed. Chosen: as many as a trial
has steps."""
BETTER: Final = 0.98
"""n-grams alone give way to a mode that takes at most this share of their time."""
PROMISING: Final = 0.95
"""A mode is tried where it promises at most this share of the present time. Promises are for the best case.
Chosen."""


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

Promise = Callable[[Way], float]
"""Seconds per token that a way can reach alone, over those of plain decoding; infinite where it is not to be tried."""


def ways_of(mode: DraftMode, target_threads: int) -> tuple[Way, ...]:
    """Those that may be taken in a mode, in the order of trying.

    Beside the target's passes the model gets one of its threads, or both use all: which is faster is a matter of the
    machine.
    """
    parallel = (Way("parallel", 1), Way("parallel")) if target_threads > 1 else (Way("parallel"),)
    if mode == "auto":
        return (NGRAM, Way("serial"), *parallel)
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
        promise: what each can reach.

    Attributes:
        way: to take.
        best: the fastest as far as is known.
    """

    def __init__(self, ways: tuple[Way, ...], promise: Promise = lambda way: 0.0) -> None:
        self._paces = {way: _Pace() for way in ways}
        self._promise = promise
        self.way = self.best = ways[0]
        self._in_trial = 0
        self._lost = 0.0
        self._step = 0

    @property
    def says_no(self) -> bool:
        """Whether n-grams alone are best, and nothing is left that is worth a first trial."""
        return self.way == self.best == NGRAM and not any(
            pace.steps == 0 and self.promises(way) for way, pace in self._paces.items()
        )

    def promises(self, way: Way) -> bool:
        """Whether a way may be faster than the best one."""
        return way != self.best and self._reach(way) < PROMISING * self._value(self.best)

    def gain(self, way: Way) -> float:
        """Plain passes that a way saves for each token, over n-grams alone: as measured, else as promised."""
        return self._value(NGRAM) - (self._paces[way].value or self._reach(way))

    def _value(self, way: Way) -> float:
        pace = self._paces.get(way)
        return (pace.value if pace else 0.0) or 1.0

    def _reach(self, way: Way) -> float:
        # What n-grams bring is taken to come on top.
        return self._value(NGRAM) * self._promise(way)

    def record(self, way: Way, seconds: float, tokens: int, *, ready: bool = True) -> None:
        """A step in ``way`` took ``seconds``, in plain passes, and brought ``tokens``.

        Args:
            ready: it was taken as that way is meant; else the model still read the text beside it. In a trial such a
                step says nothing of the pace, and counts as its price.
        """
        if len(self._paces) == 1:
            return
        self._step += 1
        if not ready and self.way != self.best:
            self._lost += max(0.0, seconds - self._value(self.best) * tokens)
            if self._lost > DEAREST_READING:
                self._fail()
            return
        self._paces[way].add(seconds, tokens)
        if way != self.way:
            return
        self._in_trial += 1
        if way == self.best:
            self._after_usual_step()
        else:
            self._lost += seconds - self._value(self.best) * tokens
            self._after_trial_step(self._paces[way])

    def _after_trial_step(self, pace: _Pace) -> None:
        best = self._value(self.best)
        hopeless = self._in_trial >= SHORTEST and pace.value >= HOPELESS * best
        if self.way != NGRAM and self._in_trial >= FIRST_LOOK:
            hopeless = hopeless or not self.promises(self.way)
        if self._in_trial < TRIAL and not hopeless:
            return
        if not hopeless and self._is_better(self.way, self.best):
            self.best = self.way
            pace.pause = FIRST_PAUSE
            self._begin(self.best)
        else:
            self._fail()

    def _fail(self) -> None:
        """The trial has failed: another one is due when it will have cost its share of the time."""
        pace = self._paces[self.way]
        paid = int(max(0.0, self._lost) / TRIAL_SHARE / max(self._value(self.best), 1e-9))
        pace.due = self._step + max(pace.pause, paid)
        pace.pause = min(2 * pace.pause, LONGEST_PAUSE)
        self._begin(self.best)

    def _is_better(self, way: Way, than: Way) -> bool:
        ours, theirs = self._value(way), self._value(than)
        return ours * (BETTER if way == NGRAM else 1.0) < theirs * (BETTER if than == NGRAM else 1.0)

    def _after_usual_step(self) -> None:
        if self._in_trial < TRIAL:
            return
        # A way that lost before may be the best by now.
        for way, pace in self._paces.items():
            if way != self.best and pace.due <= self._step and (way == NGRAM or self.promises(way)):
                pace.seconds, pace.tokens = 0.0, 0.0
                self._begin(way)
                return
        self._in_trial = 0  # looking again at every step would take a tenth of a millisecond

    def _begin(self, way: Way) -> None:
        self.way = way
        self._in_trial = 0
        self._lost = 0.0

    # --- kept ------------------------------------------------------------------------------------

    def kept(self) -> list[str]:
        """The best way first, then those whose trials failed, as text."""
        failed = [way for way, pace in self._paces.items() if way != self.best and pace.due > 0]
        return [f"{way.mode} {way.lent}" for way in (self.best, *failed)]

    def take(self, kept: object) -> None:
        """Go on from what ``kept`` returned; whatever names no way of these is passed over."""
        names = kept if isinstance(kept, list) else []
        for way, pace in self._paces.items():
            name = f"{way.mode} {way.lent}"
            if name in names[:1]:
                self.way = self.best = way
            elif name in names:
                pace.due = FIRST_PAUSE
