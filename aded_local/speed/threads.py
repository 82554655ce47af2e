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
"""A pass that takes more than so many times its price does not refine the curve that is kept."""

FIRST_PASSES: Final = 8
"""Where no curve is kept, the median of so many passes stands for one."""
JUMP: Final = 64
"""Where no curve is kept and the cells change by more than this between two passes, that is done anew."""

READ_TOGETHER: Final = 16
"""So many usual passes are looked at together. One by one they took 50 us each between passes of SmolLM2, and 2.5 us in
a loop."""

RECENT: Final = 9
"""Passes whose median says how fast passes are now."""
MAJORITY: Final = 4
"""So many passes decide a trial: the best of seven."""
BETTER: Final = 0.85
"""A pass of a trial counts for it where it takes at most this share of what passes take now."""
SETTLING: Final = 2
"""Passes of a trial that do not count yet: the system needs some 50 ms to share the cores anew. SmolLM2 beside load 6,
33 ms a pass with two threads: 52, 36, 36, 25, 17, 16, then 16 on with one."""
FAR_SLOWER: Final = 2.0
"""A trial ends at the first pass that takes more than so many times that."""
MOST_WAITING: Final = 0.9
"""Where threads wait for more of the time, how many would not wait can no longer be told from it."""

FIRST_PAUSE: Final = 32
LONGEST_PAUSE: Final = 256
"""Passes from one trial to the next. The pause doubles until the machine has been quiet for as long."""
TRIAL_SHARE: Final = 0.02
"""Of the time, what trials that fail may cost: a very slow one has a long pause behind it."""
LONGEST_WAIT: Final = 8192
"""Passes from one trial to the next at most, however much the last one cost."""
FASTER: Final = 0.6
"""Where passes take less than this share of what they took, other programs have ended: the pause is over."""
IDLE_SECONDS: Final = 0.05
"""Seconds of passes from one look at idle cores to the next: the system counts them in hundredths."""
MORE_IDLE: Final = 0.5
"""Where so many more cores are idle than when fewer threads were faster, the pause is over too."""


class Watching(Protocol):
    """How long threads waited and cores were idle since it was made: ``contention.Watch``, or a replay of one."""

    counts: bool

    def waiting(self) -> float:
        """See ``Watch.waiting``."""
        ...

    def idle(self) -> float:
        """See ``Watch.idle``."""
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
        self._may_change = True
        self._n_cells = 0
        self._unread: list[tuple[int, int, float]] = []
        self._usual = 0.0
        # What passes cost.
        self._kept: CostCurve | None = None
        self._quiet: CostCurve | None = None  # while nothing runs beside: the kept one, if any
        self._curve: CostCurve | None = None  # now
        self._curves: dict[int, CostCurve] = {}  # by threads, while something does
        self._first: list[float] = []
        self._young = FIRST_PASSES  # passes until it is known whether the first ones were disturbed
        self._recent: deque[float] = deque(maxlen=RECENT)
        # Are they slow?
        self._excess = 0.0
        self._slow: deque[float] = deque(maxlen=4 * RECENT)
        self._slowed = False
        self._quiet_for = 0
        self._idle: float | None = None
        self._watched = 0.0
        # What is tried.
        self._settled = opened
        self._tried = 0
        self._trial: list[float] = []
        self._better = 0
        self._queue: list[int] = []
        self._turn = 0
        self._wait = 0
        self._pause = FIRST_PAUSE

    @property
    def count(self) -> int:
        """Threads of the next pass."""
        return self._tried or self._settled

    def without(self, lent: int) -> int:
        """Threads of the next pass, where so many are left to whatever works beside it; all where counts must stay."""
        return max(1, self.count - lent) if self._may_change else self.count

    def allow(self, may_change: bool) -> None:
        """Whether other counts than ``opened`` may be used: not where they change bits and words shall not change."""
        self._may_change = may_change
        if not may_change and self.count != self.opened:
            self._settled, self._tried, self._queue = self.opened, 0, []
            self._end_slowness()

    def costs(self) -> CostCurve | None:
        """What passes cost now: another object where threads or other programs changed that. None while passes with
        different counts are compared, which is best done with plain ones."""
        return None if self._tried else self._curve

    def use(self, kept: CostCurve) -> None:
        """Compare passes with the curve that lasts, and refine it with undisturbed ones; from any thread."""
        if kept is self._kept:
            return
        self._unread, self._usual = [], 0.0  # passes that were priced by another curve
        now = kept
        if self._slowed and self._curve is not None:
            # The first curve is of passes that were timed before; another one is of another setting, slowed as much.
            usual = kept if self._kept is None or self._quiet is None else self._quiet
            slower = self._curve.seconds(self._n_cells)[1] / usual.seconds(self._n_cells)[1]
            now = kept.scaled(float(slower))
        self._curves = {}
        self._recent.clear()
        # A curve that was measured beside other programs does not tell whether they run.
        self._young = FIRST_PASSES if kept.contended else 0
        self._curve, self._quiet, self._kept = now, kept, kept

    def observe(self, n: int, n_cells: int, seconds: float) -> None:
        """Take note of a pass, which ran with ``count`` threads.

        While nothing is unusual passes are looked at together: what is computed between two passes finds cold caches.

        Args:
            n: tokens in the batch.
            n_cells: cells before it.
            seconds: in llama.cpp.
        """
        self._unread.append((n, n_cells, seconds))
        if seconds <= self._usual and len(self._unread) < READ_TOGETHER:
            return
        unread, self._unread = self._unread, []
        for each in unread:
            self._see(*each)
        self._usual = self._limit()

    def _limit(self) -> float:
        """Seconds up to which a pass is no news; 0 where every pass is."""
        if self._slowed or self._tried or self._young or self._excess > 0.0 or self._curve is None:
            return 0.0
        return TOLERATED * float(self._curve.seconds(self._n_cells)[1])

    def _see(self, n: int, n_cells: int, seconds: float) -> None:
        if not 1 <= n <= LARGEST_BATCH or (self._kept is None and n != 1):
            return
        if self._kept is None and abs(n_cells - self._n_cells) > JUMP:
            self._start_anew()
        self._n_cells = n_cells
        curve = self._curve
        if self._young or curve is None:
            self._see_first(seconds)
            return
        ratio = seconds / float(curve.seconds(n_cells)[n])
        if self._tried:
            self._judge(ratio, seconds)
            return
        self._recent.append(ratio)
        if self._slowed or ratio <= DISTURBED:
            curve.observe(n, n_cells, seconds)
        if not self._slowed:
            self._suspect(ratio)
            return
        self._wait -= 1
        if self._wait <= 0 or self._is_quieter(seconds):
            self._after_pause()

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
        """Take a passes' median for a curve, and see whether threads waited meanwhile."""
        if self._young == FIRST_PASSES:
            self._watch = self._new_watch()
        if self._curve is None:
            self._first.append(seconds)
        self._young -= 1
        if self._young:
            return
        if self._curve is None:
            self._curve = self._quiet = from_measurements({1: median(self._first)}, {}, 0)
        waited = self._waited()
        if waited > WAITING_LIMIT:
            self._begin_slowness(1.0, waited)

    # --- noticing --------------------------------------------------------------------------------------

    def _waited(self) -> float:
        """Share of the time that threads waited for a core since the watch began; the watch ends."""
        watch, self._watch = self._watch, None
        return 0.0 if watch is None else watch.waiting()

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
        elif self._excess > (NOTICED if self._watch.counts else UNSEEN):
            known = self._watch.counts
            self._begin_slowness(median(self._slow), self._waited() if known else None)

    def _begin_slowness(self, slower: float, waited: float | None) -> None:
        """Passes take ``slower`` times as long as the curve says. Where threads waited, or nobody knows, fewer are
        tried; else a battery or heat may be the reason, and prices follow until the pause is over."""
        self._slowed = True
        self.contended = waited is None or waited > WAITING_LIMIT
        self._quiet_for, self._excess, self._turn = 0, 0.0, 0
        self._slow.clear()
        self._take(self._settled, slower)
        self._queue = self._fewer(waited) if self.contended and self._may_change else []
        self._try_next(failed=True)

    def _fewer(self, waited: float | None) -> list[int]:
        """Counts to try. Where c threads and k others share c cores, each waits a share of 1 - c / (c + k)."""
        settled = self._settled
        guess = settled // 2
        if waited is not None:
            guess = round(2 * settled - settled / (1.0 - min(waited, MOST_WAITING)))
        guess = max(guess, settled // 2)
        order = (settled - 1, guess) if waited is None else (guess, settled - 1)
        return [n for n in dict.fromkeys(order) if 1 <= n < settled]

    def _is_quieter(self, seconds: float) -> bool:
        """Whether there is a sign, before the pause is over, that other programs have ended."""
        if len(self._recent) == RECENT and median(self._recent) < FASTER:
            return True
        if self._settled == self.opened:
            return False
        idle = self._seen_idle(seconds)
        if idle is None or self._idle is None:
            self._idle = self._idle if idle is None else idle
            return False
        return idle > self._idle + MORE_IDLE

    def _seen_idle(self, seconds: float) -> float | None:
        """Cores that were idle in the last ``IDLE_SECONDS`` of passes, at the end of each such time."""
        self._watched += seconds
        if self._watch is not None and self._watched < IDLE_SECONDS:
            return None
        idle = None if self._watch is None else self._watch.idle()
        self._watch, self._watched = self._new_watch(), 0.0
        return idle

    def _take(self, count: int, slower: float) -> None:
        """Price passes with what they cost with so many threads, given by how much that is above what they cost now."""
        assert self._curve is not None
        now = float(self._curve.seconds(self._n_cells)[1])
        known = self._curves.get(count, self._curve)
        self._curve = known.scaled(slower * now / float(known.seconds(self._n_cells)[1]))
        self._curves[count] = self._curve
        self._recent.clear()

    # --- trials ----------------------------------------------------------------------------------------

    def _try_next(self, *, failed: bool) -> None:
        """Try the next count of the queue; without one, go on for a while with what is settled."""
        self._trial, self._better, self._tried = [], 0, 0
        self._watch, self._watched = None, 0.0
        if self._queue:
            self._tried = self._queue.pop(0)
            self._idle = None
            return
        self._wait = max(self._wait, self._pause)
        if failed:
            self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _judge(self, ratio: float, seconds: float) -> None:
        """One pass of a trial. It is over as soon as the best of seven is known, or a pass was far slower."""
        idle = self._seen_idle(seconds)
        self._idle = self._idle if idle is None else idle
        level = median(self._recent) if len(self._recent) > RECENT // 2 else 1.0
        self._trial.append(ratio)
        counted = len(self._trial) - SETTLING
        self._better += counted > 0 and ratio < BETTER * level
        if self._better == MAJORITY:
            self._settle(median(self._trial[SETTLING:]))
        elif ratio > FAR_SLOWER * level or counted - self._better == MAJORITY:
            lost = sum(self._trial) / level - len(self._trial)
            self._wait = min(max(self._wait, int(lost / TRIAL_SHARE)), LONGEST_WAIT)
            self._try_next(failed=True)

    def _settle(self, slower: float) -> None:
        """Stay with the count that was tried, and go on to fewer where that was faster already."""
        before, self._settled, self._tried = self._settled, self._tried, 0
        if self._settled == self.opened:
            if self._kept is None and self._curve is not None:
                self._quiet = self._curve.scaled(slower)
            self._end_slowness()
            return
        self._take(self._settled, slower)
        self._queue = [self._settled - 1] if 1 < self._settled < before else []
        self._wait = 0
        self._try_next(failed=False)

    def _end_slowness(self) -> None:
        """All threads, and the curve that lasts."""
        self.contended = self._slowed = False
        self._curve = self._quiet
        self._recent.clear()
        self._wait, self._quiet_for, self._watch = 0, 0, None

    def _after_pause(self) -> None:
        """Try another count: all, one more, one fewer, by turns. Where all are in use already, forget that passes were
        slow; those that still are will be noticed."""
        self._wait = 0
        settled = self._settled
        if settled == self.opened:
            self._end_slowness()
            if self._kept is None or self._kept.contended:
                self._young = FIRST_PASSES  # time alone would not tell
            return
        others = [n for n in dict.fromkeys((self.opened, settled + 1, settled - 1)) if n >= 1]
        self._queue = [others[self._turn % len(others)]]
        self._turn += 1
        self._try_next(failed=False)
