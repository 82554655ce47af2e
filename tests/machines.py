"""Machines that exist as numbers: what passes take beside other programs, in bursts of stops, under a limit.

Everything follows from a seed, so a replay repeats exactly.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from aded_local.speed.cost_curve import CostCurve, from_measurements
from aded_local.speed.planner import Planner
from aded_local.speed.threads import Threads
from aded_local.step import StepResult
from aded_local.tree import EMPTY_TREE, DraftTree, chain

AMX = {1: 1.0, 2: 1.6, 3: 1.7, 4: 1.8, 8: 2.5, 16: 3.6, 32: 7.0, 64: 13.0}
REPACKED = {1: 1.0, 2: 1.5, 3: 1.9, 4: 1.25, 8: 2.3, 16: 3.7, 32: 7.5, 64: 14.5}
FLAT = {1: 1.0, 2: 1.05, 4: 1.1, 8: 1.3, 16: 1.7, 32: 2.6, 64: 4.6}
GRAPHS = {1: 1.0, 2: 2.9, 4: 3.0, 8: 3.0, 16: 4.0, 32: 4.2, 64: 4.8}
CURVES = {"amx": AMX, "repacked": REPACKED, "flat": FLAT, "graphs": GRAPHS}
"""Seconds of a pass relative to one token, by size: three of docs/benchmarks.md, the last of them a GPU that records
graphs, and one as a GPU without has it."""

WOKEN = 2
"""Plain passes behind a wider one that take longer where graphs are recorded."""

BARRIERS = 3.0
"""How many times longer a pass takes where its threads wait for one that has no core. Of SmolLM2's passes beside busy
processes (docs/benchmarks.md, "Beside other programs")."""


@dataclass
class Machine:
    """A clock, and passes that move it.

    Attributes:
        relative: of ``CURVES``.
        seed: of the chances.
        one: seconds of a quiet pass over one token with all threads.
        cores: threads that a context is opened with.
        beside: busy processes at a time.
        counts: the system tells how long threads waited.
        stops: seconds between stops and of each, at most, as SIGSTOP makes them; (0, 0) for none.
        quota: cores that a limit allows, by tenths of a second; 0 for none.
        slow: the whole machine is so many times slower, at a time.
        noise: spread of a quiet pass, as the logarithm's standard deviation.
        woken: plain passes that each of the first ``WOKEN`` behind a wider one takes longer.
    """

    relative: dict[int, float]
    seed: int = 0
    one: float = 5e-3
    cores: int = 2
    beside: Callable[[float], int] = lambda now: 0
    counts: bool = True
    stops: tuple[float, float] = (0.0, 0.0)
    quota: float = 0.0
    slow: Callable[[float], float] = lambda now: 1.0
    noise: float = 0.03
    woken: float = 0.0
    now: float = 0.0
    waited: float = 0.0
    idled: float = 0.0
    looks: int = 0
    _next_stop: float = 0.0
    _used: float = 0.0
    _period: int = 0
    _plain: int = 10**9
    _chance: random.Random = field(default_factory=random.Random)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)
        self._curve = self.curve()
        self._next_stop = self._chance.uniform(0.0, self.stops[0])

    def curve(self) -> CostCurve:
        """What a quiet pass costs with all threads."""
        seconds = {n: self.one * times for n, times in self.relative.items()}
        curve = from_measurements(seconds, {n: 1.5 * taken for n, taken in seconds.items()}, 1024)
        curve.waking = WOKEN * self.woken * self.one
        return curve

    def take(self, n: int, n_cells: int, threads: int) -> float:
        """A pass: seconds it took."""
        chance, began = self._chance, self.now
        work = float(self._curve.seconds(n_cells)[n]) * self.cores / threads
        self._plain = self._plain + 1 if n == 1 else 0
        if 1 <= self._plain <= WOKEN:
            work += self.woken * self.one
        work *= self.slow(self.now) * math.exp(chance.gauss(0.0, self.noise))
        beside = self.beside(self.now)
        if beside + threads > self.cores:
            share = self.cores / (threads + beside)
            longer = math.exp(chance.gauss(0.0, 0.5)) * (BARRIERS if threads > 1 else 1.0)
            self.waited += work * longer / share * (1.0 - share)
            work *= max(1.0, longer / share)
        self.idled += self._run(work, threads) * max(0, self.cores - threads - beside)
        return self.now - began

    def _run(self, work: float, threads: int) -> float:
        began = self.now
        between, longest = self.stops
        while work > 0.0:
            step = work
            if longest:
                step = min(step, max(0.0, self._next_stop - self.now))
            if self.quota:
                period = int(self.now / 0.1)
                if period != self._period:
                    self._period, self._used = period, 0.0
                step = min(step, (0.1 * self.quota - self._used) / threads, 0.1 * (period + 1) - self.now)
            step = max(step, 0.0)
            self.now += step
            self._used += step * threads
            work -= step
            if longest and self.now >= self._next_stop:
                self.now += self._chance.uniform(0.2, 1.0) * longest
                self._next_stop = self.now + self._chance.uniform(0.2, 1.0) * between
            elif self.quota and self._used >= 0.1 * self.quota - 1e-9:
                end = 0.1 * (int(self.now / 0.1) + 1) + 1e-9
                self.waited += end - self.now
                self.now = end
            elif work > 0.0:
                self.now += 1e-9
        return self.now - began

    def watch(self) -> SimulatedWatch:
        """What ``contention.Watch`` would see."""
        self.looks += 1
        return SimulatedWatch(self)


class SimulatedWatch:
    """Waiting of a machine's threads since it was made."""

    def __init__(self, machine: Machine) -> None:
        self.counts = machine.counts
        self._machine, self._began = machine, machine.now
        self._waited, self._idled = machine.waited, machine.idled

    def waiting(self) -> float:
        machine = self._machine
        elapsed = machine.now - self._began
        return (machine.waited - self._waited) / elapsed if self.counts and elapsed > 0.0 else 0.0

    def idle(self) -> float:
        elapsed = self._machine.now - self._began
        return (self._machine.idled - self._idled) / elapsed if elapsed > 0.0 else 0.0


class Text:
    """What a target will say, as far as a drafter's guesses go: which of them come true, and what it thinks of them.

    Stretches differ: some repeat, some are new.

    Args:
        length: tokens.
        seed: of the chances.
        shares: of guesses that come true, one of them for each stretch.
        boast: what the drafter thinks of them beyond that, at least and at most.
    """

    def __init__(
        self,
        length: int,
        seed: int,
        *,
        shares: tuple[float, ...] = (0.05, 0.15, 0.3, 0.6, 0.9),
        boast: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        chance = random.Random(seed)
        self.claimed: list[float] = []
        self.right: list[bool] = []
        while len(self.right) < length + 64:
            true = chance.choice(shares)
            claimed = min(0.95, max(0.02, true + chance.uniform(*boast)))
            for _ in range(chance.randint(10, 60)):
                self.claimed.append(claimed)
                self.right.append(chance.random() < true)
        self.length = length
        self.at = 0

    def draft(self, max_nodes: int, cost: object = None) -> DraftTree:
        """A chain of what the drafter guesses; as ``Drafter.draft``."""
        n = min(max_nodes, 16)
        if n < 1:
            return EMPTY_TREE
        probabilities = np.cumprod(self.claimed[self.at : self.at + n]).astype(np.float32)
        return chain(np.arange(n, dtype=np.int32), probabilities)

    def accepted(self, tree: DraftTree) -> int:
        """Nodes that come true."""
        n = 0
        while n < len(tree) - tree.padding and self.right[self.at + n]:
            n += 1
        return n


SEARCH_SECONDS = 40e-6
ANSWER = 300
"""Tokens of an answer; then the next one begins with fewer cells."""


def answer(machine: Machine, planner: Planner, threads: Threads, text: Text) -> float:
    """Seconds in which the whole text is said."""
    began = machine.now
    text.at = 0
    while text.at < text.length:
        n_cells = 256 + text.at % ANSWER
        tree = planner.plan(n_cells, 60)
        took = machine.take(len(tree) + 1, n_cells, threads.count)
        n = text.accepted(tree)
        searched = SEARCH_SECONDS if len(tree) else 0.0
        machine.now += searched
        text.at += n + 1
        result = StepResult(
            tree,
            [0] * (n + 1),
            list(range(n)),
            n_cells,
            verify_seconds=took,
            search_seconds=searched,
            total_seconds=took + searched,
        )
        planner.observe(result)
        threads.observe(len(tree) + 1, n_cells, took)
    return machine.now - began
