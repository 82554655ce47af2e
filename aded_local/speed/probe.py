"""Times passes in a context of its own. A probe waits before each pass while an answer is computed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

import numpy as np

from aded_local.llama import Context
from aded_local.speed.contention import Watch, contended
from aded_local.speed.cost_curve import BASE_FILL, LARGEST_BATCH, CostCurve, from_measurements

FAR_FILL = 2048
"""Cells of the second measurement, from which the cost per cell is taken."""

PROMPT_CHUNKS: Final = (64, BASE_FILL)
PROMPT_SECONDS: Final = 2.0
"""A model that takes more than half a second for 64 tokens is not asked to read 256. Chosen: the trials ask ten times,
and a 7B model takes 3.5 s for the 64 (Q4_0, two cores)."""

PREFIX = 32
"""Tokens decoded before a probe. The other cells are copies of theirs, so that they cost no decoding."""

SIZES = (2, 4, 3, 8, 5, 6, 7, 16, 12, 10, 9, 14, 20, 24, 32, 48, 64)
"""Batch sizes probed, most useful first: on a slow model the time ends before the list. Up to 8 every size matters on
the jagged CPU curves of the field measurements (3 costs more than 4, 7 more than 8)."""

FAR_SIZES = (1, 2, 4, 8, 16)
"""Sizes probed at ``FAR_FILL``; in between the cost per cell is interpolated."""

CURVE_SECONDS = 3.0
"""Seconds after which a curve's measurement begins no further size: people wait for it once per model."""

ROUNDS = 5
"""Timings of each size where time allows; their median is used."""

LEAST_SIZES: Final = 5
"""Batch sizes that are always measured, however long that takes. With a single size, measured beside other programs,
drafting once lost a tenth of the speed (SmolLM2, two cores)."""

SETTLED: Final = 0.9
MOST_SETTLING: Final = 5
"""So many one-token passes come between a wider one and the first that is timed, and before later ones as many as were
needed until the last took at least this share of one. CUDA records a graph once it has met the same one some times, and
one-token passes take half as long from there on (SmolLM2 on an H200: 2.6 and 1.3 ms); llama.cpp reuses its own, and
caches are warm: after a batch of 64, one token costs 1.8 times as much (built-in model, CPU)."""

WAKING_SIZE: Final = 4
WAKING_ROUNDS: Final = 5
WOKEN: Final = 3
"""One-token passes behind one over several tokens that are looked at, in so many rounds. The least of them counts: what
a device does happens each time, and what disturbs a round does not."""
LEAST_WAKING: Final = 1.0
"""Less than so many plain passes is no price of its own. On an H200 it would be 2.1; on two cores with AMX single
rounds lose 0.1 (SmolLM2) and 0.4 (built-in model), and now and then 1.5."""

MIXED_SIZES: Final = (2, 4, 8)
"""Sizes by which thread counts are compared: the usual ones of a draft."""
LEAST_COMPARED: Final = 3
"""Rounds of that at least, so that a median means something."""

PROBE_SEED = 20407
"""Seed of the probe's tokens."""


def room_for(fill: int) -> int:
    """Cells of a context made only for probing after ``fill`` of them."""
    return fill + 2 * BASE_FILL


class Gate(Protocol):
    """Says when a probe may use the processor."""

    def wait(self) -> bool:
        """Return when no answer is computed; tells whether it had to wait."""
        ...

    def undisturbed(self) -> bool:
        """Whether no answer has begun since ``wait`` returned."""
        ...


class OpenGate:
    """No answer is ever computed."""

    def wait(self) -> bool:
        """Return at once."""
        return False

    def undisturbed(self) -> bool:
        """Always."""
        return True


class Probe:
    """Times batches in a context of its own.

    Args:
        context: empty; empty again after each measurement.
        clock: seconds, for tests.
        gate: asked before each pass.

    Attributes:
        contended: other programs used the processor during a timing.
    """

    def __init__(
        self, context: Context, clock: Callable[[], float] = time.perf_counter, gate: Gate | None = None
    ) -> None:
        self._context = context
        self._clock = clock
        self._gate: Gate = OpenGate() if gate is None else gate
        self.contended = False
        self._waiting: list[float] = []
        self._settling = MOST_SETTLING
        self._tokens = context.model.random_tokens(PREFIX + LARGEST_BATCH, PROBE_SEED)
        room = min(context.n_ctx, context.model.n_ctx_train or context.n_ctx)
        # A running state has no cells to fill, and its rollback is short: one fill, and no batches to rewind.
        self._rewinds = not (context.model.is_recurrent or context.model.is_hybrid)
        self.largest_fill = room - LARGEST_BATCH - PREFIX if self._rewinds else 0
        self.largest_size = min(
            LARGEST_BATCH,
            context.batch_capacity,
            room - PREFIX,
            LARGEST_BATCH if self._rewinds else context.n_rollback + 1,
        )

    def _fill(self, n_cells: int) -> None:
        self._context.clear()
        self._context.prefill(self._tokens[:PREFIX], want_logits=False)
        if self._rewinds and n_cells > PREFIX and n_cells <= self.largest_fill:
            self._context.fill_by_copy(n_cells)

    def _time(self, n: int) -> float:
        """Seconds to decode the first n chain tokens as one batch, rolled back afterwards."""
        seconds = self._context.probe_batch(self._tokens[PREFIX : PREFIX + n])
        self._rewind(PREFIX)
        return seconds

    def _settled(self) -> float:
        """Seconds of a one-token pass in plain decoding, where the passes before were plain too."""
        is_first = self._settling == MOST_SETTLING
        if is_first:
            self._time(min(WAKING_SIZE, self.largest_size))
        taken = [self._time(1) for _ in range(self._settling + 1)]
        if is_first:
            near = (i for i, each in enumerate(taken) if taken[-1] >= SETTLED * each)
            self._settling = max(1, next(near, MOST_SETTLING))
        return taken[-1]

    def _rewind(self, n_past: int) -> None:
        if not self._rewinds:
            # A running state can be rolled back within the last batch only.
            self._context.clear()
        if self._context.roll_back(n_past) != n_past:
            self._context.prefill(self._tokens[:n_past], want_logits=False)

    def cells_for(self, n_cells: int) -> int:
        """Cells a probe at ``n_cells`` really has: whole copies of the prefix, as many as fit."""
        if not self._rewinds or n_cells > self.largest_fill:
            return PREFIX
        return max(PREFIX, n_cells // PREFIX * PREFIX)

    def passes(
        self,
        sizes: Iterable[int],
        n_cells: int,
        *,
        rounds: int = ROUNDS,
        seconds: float = math.inf,
        least: int = LEAST_SIZES,
    ) -> Iterator[tuple[int, float]]:
        """Time batches round by round, so that a machine that slows down slows all sizes alike.

        Args:
            sizes: batch sizes wanted, most useful first; size 1 is always among them.
            n_cells: cells attended over; fewer when the context has fewer.
            rounds: repetitions where time allows.
            seconds: time after which no pass begins, except those of the first ``least`` sizes.
            least: sizes that are timed however long that takes.

        Yields:
            Batch size and seconds of each pass. The context is empty after the last.
        """
        wanted = [1, *(n for n in dict.fromkeys(sizes) if 1 < n <= self.largest_size)]
        self._gate.wait()
        self._fill(n_cells)
        self._time(1)  # the first pass is slower: memory is touched for the first time
        spent, met = 0.0, 0
        for _ in range(rounds):
            watch, before = Watch(), met
            for n in wanted:
                if spent > seconds and met >= min(least, len(wanted)):
                    continue
                while True:
                    if self._gate.wait():
                        watch = Watch()
                    began = self._clock()
                    taken = self._settled() if n == 1 else self._time(n)
                    spent += self._clock() - began
                    if self._gate.undisturbed():
                        break
                met += 1
                yield n, taken
            if met > before:
                self._waiting.append(watch.waiting())
        self._context.clear()

    def time_sizes(
        self,
        sizes: Iterable[int],
        n_cells: int,
        *,
        rounds: int = ROUNDS,
        seconds: float = CURVE_SECONDS,
        least: int = LEAST_SIZES,
    ) -> dict[int, float]:
        """Median seconds by batch size; arguments as for ``passes``. Sets ``contended``."""
        samples: dict[int, list[float]] = {}
        self._waiting = []
        for n, taken in self.passes(sizes, n_cells, rounds=rounds, seconds=seconds, least=least):
            samples.setdefault(n, []).append(taken)
        self.contended |= contended(self._waiting, samples)
        return {n: float(np.median(times)) for n, times in samples.items()}

    def time_thread_counts(self, counts: Iterable[int], n_cells: int, *, seconds: float) -> dict[int, float]:
        """Seconds of passes as a draft makes them, by the threads that those over several tokens use.

        Args:
            counts: to compare.
            n_cells: cells before each pass.
            seconds: after which no further round begins, but the first three.
        """
        one, spent = self._context.settings.n_threads, 0.0
        samples: dict[int, list[float]] = {count: [] for count in counts}
        self._fill(n_cells)
        self._waiting = []
        rounds = 0
        while rounds < LEAST_COMPARED or spent < seconds:
            rounds += 1
            watch = Watch()
            for count in samples:
                self._gate.wait()
                self._context.set_thread_counts(one, count)
                taken = 0.0
                for n in MIXED_SIZES:
                    # Threads that are only needed now and then have to be woken, so one token comes before each.
                    taken += self._time(1) + self._time(min(n, self.largest_size))
                samples[count].append(taken)
                spent += taken
            self._waiting.append(watch.waiting())
        self._context.set_thread_counts(one, self._context.settings.n_threads_batch or one)
        self._context.clear()
        self.contended |= contended(self._waiting, samples)
        return {count: float(np.median(times)) for count, times in samples.items()}

    def time_waking(self, n_cells: int) -> float:
        """Seconds that a pass over several tokens costs the plain ones behind it; 0 where it is not much."""
        self._fill(n_cells)
        plain, lost = [], []
        for _ in range(WAKING_ROUNDS):
            self._gate.wait()
            plain.append(self._settled())
            self._time(min(WAKING_SIZE, self.largest_size))
            lost.append(sum(self._time(1) for _ in range(WOKEN)) - WOKEN * plain[-1])
        self._context.clear()
        found = float(min(lost))
        return found if found > LEAST_WAKING * float(np.median(plain)) else 0.0

    def time_prompt(self) -> float:
        """Seconds for a token of a prompt: of the longest chunk of ``PROMPT_CHUNKS`` that the context has room for and
        that promises to be decoded within ``PROMPT_SECONDS``."""
        room = min(self.largest_fill or PREFIX, self._context.batch_capacity)
        per_token = 0.0
        for n in sorted({min(each, room) for each in PROMPT_CHUNKS}):
            if n * per_token > PROMPT_SECONDS:
                break
            tokens = self._context.model.random_tokens(n, PROBE_SEED)
            self._context.clear()
            self._gate.wait()
            per_token = self._context.prefill(tokens, want_logits=False) / n
        self._context.clear()
        return per_token

    def curve(self) -> CostCurve:
        """Measure the curve of this context."""
        near = self.time_sizes(SIZES, BASE_FILL)
        far: dict[int, float] = {}
        far_fill = min(FAR_FILL, self.largest_fill)
        if far_fill > 2 * BASE_FILL:
            far = self.time_sizes(FAR_SIZES, far_fill, seconds=CURVE_SECONDS / 3)
        curve = from_measurements(near, far, far_fill)
        curve.contended = self.contended
        if not self.contended:
            curve.waking = self.time_waking(BASE_FILL)
        return curve
