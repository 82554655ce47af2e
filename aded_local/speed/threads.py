"""How many threads the next pass uses, and what passes cost with so many.

llama.cpp's threads wait for each other after every operator. Where another program has the core of one thread, all of
them wait, and a pass with fewer threads is faster. So passes that take several times what they should, while threads
wait for a core, lead to a trial with fewer threads; what is faster stays; and now and then more threads are tried
again. What passes cost meanwhile is kept in memory only: the curve that lasts learns from undisturbed passes.

All decisions follow from the timings handed in, and from what a ``Watch`` says; nothing here reads a clock. Numbers
without another origin were chosen in the replays of tests/test_threads.py and tests/test_beside.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from statistics import median
from typing import Final, Protocol

from aded_local.speed.contention import WAITING_LIMIT, Watch
from aded_local.speed.cost_curve import LARGEST_BATCH, CostCurve, from_measurements

TOLERATED: Final = 1.25
"""What a pass takes beyond so many times its price is excess. On a quiet machine the median pass is within 2% of it."""
MOST_EXCESS: Final = 2.0
"""The most that one pass adds to the excess: an interruption, however long, changes nothing."""
WATCHED: Final = 1.5
"""Excess from which on the waiting of threads is watched. A watch costs a few hundred microseconds."""
NOTICED: Final = 5.0
"""Excess at which other programs are suspected: three very slow passes, or twenty that take half as long again."""
UNSEEN: Final = 15.0
"""The same where the system does not count how long threads wait, so that time alone has to tell."""
DISTURBED: Final = 1.5
"""A pass that takes more than so many times its price does not refine the curve that is kept, unless three quarters of
the passes do: then the machine has become slower."""

FIRST_PASSES: Final = 8
"""Where no curve is kept, the median of so many passes stands for one."""
JUMP: Final = 64
"""Where no curve is kept and the cells change by more than this between two passes, that is done anew."""

RECENT: Final = 9
"""Passes whose median says how fast passes are now."""
MAJORITY: Final = 3
"""So many passes decide a trial: the best of five."""
BETTER: Final = 0.9
"""A pass of a trial counts for it where it takes at most this share of what passes take now."""
FAR_SLOWER: Final = 2.0
"""A trial ends at the first pass that takes more than so many times that."""

FIRST_PAUSE: Final = 32
LONGEST_PAUSE: Final = 256
"""Passes from one trial to the next. The pause doubles until the machine has been quiet for as long."""
TRIAL_SHARE: Final = 0.03
"""Of the time, what trials that fail may cost: after one with a pass of a hundred times the usual comes a long one."""
LONGEST_WAIT: Final = 8192
"""Passes from one trial to the next at most, however much the last one cost."""
CALM: Final = 64
"""Passes until the next suspicion where passes were slow and no thread had waited: a battery, heat."""
FASTER: Final = 0.75
"""Where passes take less than this share of what they took beside other programs, more threads are tried at once."""


class Watching(Protocol):
    """How long threads have waited for a core since it was made: ``contention.Watch``, or a replay of one."""

    counts: bool

    def waiting(self) -> float:
        """Share of the time; see ``Watch.waiting``."""
        ...


class Threads:
    """See this module's first line.

    Args:
        opened: threads that the context was opened with; never more are used.
        watch: makes a ``Watching``.

    Attributes:
        opened: as given.
        contended: other programs run beside the passes.
    """

    def __init__(self, opened: int, *, watch: Callable[[], Watching] = Watch) -> None:
        """All threads, and nothing known of passes."""
        self.opened = opened
        self.contended = False
        self._new_watch = watch
        self._watch: Watching | None = None
        self._kept: CostCurve | None = None
        self._quiet: CostCurve | None = (
            None  # what passes cost while nothing runs beside; the kept one, if any
        )
        self._curve: CostCurve | None = None  # what they cost now
        self._curves: dict[int, CostCurve] = {}  # what they cost beside other programs, by threads
        self._n_cells = 0
        self._first: list[float] = []
        self._young = FIRST_PASSES  # passes until it is known whether the first ones were disturbed
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._excess = 0.0
        self._slow: deque[float] = deque(maxlen=4 * RECENT)
        self._may_change = True
        self._settled = opened
        self._tried = 0  # the count of a trial under way
        self._queue: list[int] = []  # counts to try after it
        self._step = 1  # by how much the next count is smaller, where smaller ones pay
        self._turn = 0  # which count is tried after the next pause
        self._trial: list[float] = []
        self._better = 0
        self._wait = 0
        self._pause = FIRST_PAUSE
        self._quiet_for = 0

    @property
    def count(self) -> int:
        """Threads of the next pass."""
        return self._tried or self._settled

    def allow(self, may_change: bool) -> None:
        """Whether other counts than ``opened`` may be used: not where they change bits and words have to stay."""
        self._may_change = may_change
        if not may_change and self.count != self.opened:
            self._settled, self._tried, self._queue = self.opened, 0, []
            self._end_contention()

    def costs(self) -> CostCurve:
        """What passes cost now. Another object where threads or other programs changed that."""
        assert self._curve is not None, "use() comes first"
        return self._curve

    def use(self, kept: CostCurve) -> None:
        """Compare passes with the curve that lasts, and refine it with undisturbed ones; from any thread."""
        if kept is self._kept:
            return
        now = kept
        if self.contended and self._curve is not None:
            seconds = float(self._curve.seconds(self._n_cells)[1])
            now = kept.scaled(seconds / float(kept.seconds(self._n_cells)[1]))
        self._curves = {}
        self._recent.clear()
        # A curve that was measured beside other programs does not tell whether they run.
        self._young = FIRST_PASSES if kept.contended else 0
        self._curve, self._quiet, self._kept = now, kept, kept

    def observe(self, n: int, n_cells: int, seconds: float) -> None:
        """Take note of a pass, which ran with ``count`` threads.

        Args:
            n: tokens in the batch.
            n_cells: cells before it.
            seconds: in llama.cpp.
        """
        if not 1 <= n <= LARGEST_BATCH or (self._kept is None and n != 1):
            return
        if self._kept is None and abs(n_cells - self._n_cells) > JUMP:
            self._start_anew()
        self._n_cells = n_cells
        if self._young:
            self._see_first(seconds)
        curve = self._curve
        if curve is None:
            return
        ratio = seconds / float(curve.seconds(n_cells)[n])
        if self._tried:
            self._judge(ratio)
            return
        self._recent.append(ratio)
        if self.contended or ratio <= DISTURBED or ratio <= DISTURBED * self._usual():
            curve.observe(n, n_cells, seconds)
        if self._wait:
            self._wait -= 1
            if self.contended and len(self._recent) == RECENT and median(self._recent) < FASTER:
                self._wait = 0
        elif self.contended:
            self._after_pause()
        else:
            self._suspect(ratio)

    def _usual(self) -> float:
        """What three quarters of the recent passes exceed, at least 1: above it the machine itself has slowed."""
        recent = self._recent
        return max(1.0, sorted(recent)[2]) if len(recent) == RECENT else 1.0

    # --- without a curve -----------------------------------------------------------------------------

    def _start_anew(self) -> None:
        """Passes at another fill cost something else: the next ones tell what."""
        self._curve = self._quiet = None
        self._curves = {}
        self._recent.clear()
        self._first = []
        self._young = FIRST_PASSES
        self._tried, self._queue = 0, []

    def _see_first(self, seconds: float) -> None:
        if self._young == FIRST_PASSES:
            self._watch = self._new_watch()
        if self._curve is None:
            self._first.append(seconds)
        self._young -= 1
        if self._young:
            return
        if self._curve is None:
            self._curve = self._quiet = from_measurements({1: median(self._first)}, {}, 0)
        if self._waited():
            self._begin_trials(1.0)

    # --- noticing --------------------------------------------------------------------------------------

    def _waited(self) -> bool:
        """Whether the system says that threads waited for a core since the watch began; the watch ends."""
        watch, self._watch = self._watch, None
        return watch is not None and watch.counts and watch.waiting() > WAITING_LIMIT

    def _suspect(self, ratio: float) -> None:
        """Add up what passes take too long, and look for other programs where that is much."""
        self._quiet_for += 1
        if self._quiet_for == self._pause:
            self._pause = FIRST_PAUSE
        self._excess += min(ratio - TOLERATED, MOST_EXCESS)
        if self._excess <= 0.0:
            if self._slow:
                self._slow.clear()
                self._watch = None
            self._excess = 0.0
            return
        self._slow.append(ratio)
        if self._excess <= WATCHED:
            return
        if self._watch is None:
            self._watch = self._new_watch()
            return
        counts = self._watch.counts
        if self._excess <= (NOTICED if counts else UNSEEN):
            return
        slow = median(self._slow)
        self._excess = 0.0
        self._slow.clear()
        if self._waited() or not counts:
            self._begin_trials(slow)
        else:
            self._wait = CALM

    def _begin_trials(self, slower: float) -> None:
        """Other programs run, and passes take ``slower`` times as long as the curve says."""
        self.contended = True
        self._quiet_for = 0
        self._take(self._settled, slower)
        self._step, self._turn = 1, 0
        fewer = {self._settled - 1, self._settled // 2} if self._may_change else set()
        self._queue = sorted((n for n in fewer if n >= 1), reverse=True)
        self._try_next()

    def _take(self, count: int, slower: float) -> None:
        """Price passes with what they cost with so many threads, given by how much that is above what they cost now."""
        assert self._curve is not None
        now = float(self._curve.seconds(self._n_cells)[1])
        known = self._curves.get(count, self._curve)
        self._curve = known.scaled(slower * now / float(known.seconds(self._n_cells)[1]))
        self._curves[count] = self._curve
        self._recent.clear()

    # --- trials ----------------------------------------------------------------------------------------

    def _try_next(self) -> None:
        """Try the next count of the queue; without one, go on with what is settled for a while."""
        self._trial, self._better, self._tried = [], 0, 0
        if self._queue:
            self._tried = self._queue.pop(0)
        else:
            self._wait = max(self._wait, self._pause)

    def _judge(self, ratio: float) -> None:
        """One pass of a trial. It is over as soon as the best of five is known, or a pass was far slower."""
        level = median(self._recent) if len(self._recent) > RECENT // 2 else 1.0
        self._trial.append(ratio)
        self._better += ratio < BETTER * level
        if self._better == MAJORITY:
            self._settle(median(self._trial))
        elif ratio > FAR_SLOWER * level or len(self._trial) - self._better == MAJORITY:
            lost = sum(self._trial) / level - len(self._trial)
            self._wait = min(max(self._wait, int(lost / TRIAL_SHARE)), LONGEST_WAIT)
            self._try_next()
            self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _settle(self, slower: float) -> None:
        """Stay with the count that was tried."""
        tried, before = self._tried, self._settled
        self._settled, self._tried = tried, 0
        if tried == self.opened:
            if self._kept is None and self._curve is not None:
                self._quiet = self._curve.scaled(slower)
            self._end_contention()
            return
        self._take(tried, slower)
        self._queue = []
        if tried < before and tried > 1:
            self._queue = [max(1, tried - self._step)]
            self._step *= 2
        self._wait = 0
        self._try_next()

    def _end_contention(self) -> None:
        """All threads again, and the curve that lasts."""
        self.contended = False
        self._curve = self._quiet
        self._recent.clear()
        self._excess, self._wait, self._quiet_for = 0.0, 0, 0

    def _after_pause(self) -> None:
        """Try another count: all, one more, one fewer, by turns. Where all are in use already, be quiet again; passes
        that are still slow are noticed anew."""
        settled = self._settled
        if settled == self.opened:
            self._end_contention()
            if self._kept is None or self._kept.contended:
                self._young = FIRST_PASSES  # time alone would not tell that they are slow
            return
        others = [n for n in dict.fromkeys((self.opened, settled + 1, settled - 1)) if n >= 1]
        self._queue = [others[self._turn % len(others)]]
        self._turn += 1
        self._try_next()
