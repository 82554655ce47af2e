"""Times passes in a context of its own, and finds the batch sizes that equal one-token decoding.

A probe times a batch of n tokens, and compares its logits with those of one-token decoding, bit for bit. It waits
before each pass while an answer is computed.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from aded_local.llama import Context
from aded_local.speed.contention import Watch, contended
from aded_local.speed.cost_curve import BASE_FILL, LARGEST_BATCH, CostCurve, from_measurements

FAR_FILL = 2048
"""Cells of the second measurement, from which the cost per cell is taken."""

PROMPT_CHUNKS: Final = (64, BASE_FILL)
PROMPT_SECONDS: Final = 2.0
"""A model that reads 64 tokens in half a second and more is not asked to read 256: ten times, in the trials, that took
a minute of a 7B model's first measuring (two cores)."""

PREFIX = 32
"""Tokens decoded before a probe. The other cells are copies of theirs, so that they cost no decoding."""

CHAIN = 16
"""Tokens decoded one by one: they give the cost of one, and the reference for exactness."""

SIZES = (2, 4, 3, 8, 5, 6, 7, 16, 12, 10, 9, 14, 20, 24, 32, 48, 64)
"""Batch sizes probed, most useful first: on a slow model the time ends before the list. Up to 8 every size matters on
the jagged CPU curves of the field measurements (3 costs more than 4, 7 more than 8)."""

FAR_SIZES = (1, 2, 4, 8, 16)
"""Sizes probed at ``FAR_FILL``; in between the cost per cell is interpolated."""

EXACT_SIZES: Final = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
"""Batch sizes whose exactness is probed: a draft in between is padded. Each costs a second or two (SmolLM2)."""

EXACT_POSITIONS = 1024
"""A size counts as exact after so many tokens were decoded one by one and in batches with equal logits, where the
context has room. Kernels for one row and for several may differ only where a value lies just between two quantized
ones: with the built-in model's Q8_0 weights that is about one token in a hundred, and 300 in a row have shown none."""
EXACT_SECONDS = 1.5
EXACT_VALUES: Final = 256 * 30 * 576
LEAST_EXACT_POSITIONS: Final = 64
"""On a slow model: as many tokens as are decoded one by one in these seconds, at least as many as have these values
between layers (256 tokens of SmolLM2), and at least this number. Any value can show a difference, and a token of a
7B model has 7.6 times as many as one of SmolLM2: to compare 256 of its tokens took over six minutes (two cores)."""
EXACT_FILLS = (256, 512, 2048)
"""Cells at which exactness is probed: llama.cpp changes kernels at 512 (split KV, ggml-cpu/ops.cpp)."""
STEADY_TOKENS: Final = 4
"""Tokens by which thread counts are compared: where they change bits, as the split-KV kernels do, every token shows it
(SmolLM2: 1.0 logits)."""

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


class Exactness(NamedTuple):
    """What equals one-token decoding to the last bit.

    Attributes:
        sizes: of batches, ascending.
        fills: cells at which that was seen.
        steady: one-token decoding itself is the same with one thread as with all.
    """

    sizes: list[int]
    fills: list[int]
    steady: bool


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
    """Times and compares batches in a context of its own.

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

    def exact_sizes(self, sizes: Iterable[int], n_cells: int, *, longest: int = CHAIN) -> set[int]:
        """Batch sizes up to ``longest`` equal to one-token decoding, bit for bit, after ``n_cells`` cells."""
        limit = min(longest, self.largest_size)
        self._fill(n_cells)
        chain = self._tokens[PREFIX : PREFIX + limit]
        reference = []
        for i in range(limit):
            self._gate.wait()
            self._context.prefill(chain[i : i + 1])
            reference.append(self._context.logits(-1).copy())
        exact = {1}
        for n in sizes:
            if 1 < n <= limit:
                self._gate.wait()
                self._rewind(PREFIX)
                self._context.probe_batch(chain[:n])
                if all(np.array_equal(self._context.logits(i), reference[i]) for i in range(n)):
                    exact.add(n)
        self._context.clear()
        return exact

    def lasting_sizes(self, sizes: Iterable[int], positions: int = EXACT_POSITIONS) -> set[int]:
        """Batch sizes that equal one-token decoding, bit for bit, at each of ``positions`` tokens in a row; at fewer
        where that takes longer than ``EXACT_SECONDS``."""
        positions = min(positions, self.largest_fill)
        model = self._context.model
        least = max(LEAST_EXACT_POSITIONS, EXACT_VALUES // (model.n_layer * model.n_embd))
        started = self._clock()
        tokens = model.random_tokens(PREFIX + positions, PROBE_SEED)
        chain = tokens[PREFIX:]
        self._context.clear()
        self._context.prefill(tokens[:PREFIX], want_logits=False)
        reference = []
        for i in range(positions):
            if i >= least and self._clock() - started > EXACT_SECONDS:
                break
            self._gate.wait()
            self._context.prefill(chain[i : i + 1])
            reference.append(_digest(self._context.logits(-1)))
        positions = len(reference)
        exact = {1}
        for n in sizes:
            if not 1 < n <= positions:
                continue
            self._context.roll_back(PREFIX)
            for start in range(0, positions - n + 1, n):
                self._gate.wait()
                self._context.probe_batch(chain[start : start + n])
                if any(_digest(self._context.logits(i)) != reference[start + i] for i in range(n)):
                    break
            else:
                exact.add(n)
        self._context.clear()
        return exact

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

    def exactness(self) -> Exactness:
        """Which of ``EXACT_SIZES`` are exact at every fill the context can have."""
        fills = [fill for fill in EXACT_FILLS if fill <= self.largest_fill] or [PREFIX]
        holding = set(EXACT_SIZES)
        for fill in fills:
            if len(holding) > 1:
                holding &= self.exact_sizes(sorted(holding), fill)
        if self._rewinds and len(holding) > 1:
            holding &= self.lasting_sizes(sorted(holding))
        return Exactness(sorted(holding), fills, all(self._is_steady(fill) for fill in fills))

    def _is_steady(self, n_cells: int) -> bool:
        """Whether tokens decoded one by one after ``n_cells`` cells have the logits of one thread with all too."""
        threads = self._context.settings.n_threads
        found: list[list[bytes]] = []
        for count in (1, threads):
            self._context.set_threads(count)
            self._fill(n_cells)
            found.append([])
            for token in self._tokens[PREFIX : PREFIX + STEADY_TOKENS]:
                self._gate.wait()
                self._context.prefill(token[None])
                found[-1].append(_digest(self._context.logits(-1)))
        self._context.set_threads(threads)
        self._context.clear()
        return all(each == found[0] for each in found)


def _digest(logits: npt.NDArray[np.float32]) -> bytes:
    """A short value that differs where logits differ in a bit."""
    return hashlib.blake2b(np.ascontiguousarray(logits).view(np.uint8).data, digest_size=16).digest()
