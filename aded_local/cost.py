"""What a pass costs on this very machine: measured once per loaded model, kept, refined as it runs.

The cost of verifying n tokens is jagged in n and grows with the number of cells attended over, so it is
kept as two arrays over n: seconds at ``BASE_FILL`` cells, and seconds per further cell. The same probe
that times a batch of n tokens compares its logits with those of one-token decoding, bit for bit.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import numpy.typing as npt

from aded_local.target import Context

SecondsArray = npt.NDArray[np.float64]

BASE_FILL = 256
"""Cells at which the curve is measured first: llama.cpp pads attention to this many anyway."""

FAR_FILL = 2048
"""Cells of the second measurement, from which the cost per cell is taken."""

PREFIX = 32
"""Tokens really decoded before a probe; the other cells are copies of theirs, which costs no decoding."""

CHAIN = 16
"""Tokens decoded one by one, for the cost of one and as the reference of exactness."""

SIZES = (2, 4, 3, 8, 5, 6, 7, 16, 12, 10, 9, 14, 20, 24, 32, 48, 64)
"""Batch sizes probed, most useful first, because a slow model's probe ends when its time is spent. Up to 8
every size counts on the jagged CPU curves of field measurements (3 dearer than 4, 7 than 8)."""

FAR_SIZES = (1, 2, 4, 8, 16)
"""Sizes probed at ``FAR_FILL``; in between the cost per cell is interpolated."""

EXACT_POSITIONS = 1024
"""Tokens that are decoded one by one and in batches before a size is believed exact, where the context has room.
Kernels for one row and for several may differ only where a value lies just between two quantized ones: with the
built-in model's Q8_0 weights at one token in a hundred or so, and 300 in a row have been seen without one."""
EXACT_SECONDS = 3.0
LEAST_EXACT_POSITIONS = 256
"""On a slow model, as many as are decoded one by one in this time, but at least this many. Such a model has
fifty times the built-in one's values per token, each of which might tell."""
EXACT_FILLS = (256, 512, 2048)
"""Cells at which exactness is probed: llama.cpp changes kernels at 512 (split KV, ggml-cpu/ops.cpp)."""

LARGEST_BATCH = 64
"""Largest batch a curve covers: the paper's largest tree."""

PROBE_SECONDS = 3.0
"""Time after which a timing probe starts no further size: a start-up delay people bear once per model."""

ROUNDS = 5
"""Repetitions per size where time allows; the median counts."""

MOST_SECONDS = 1e6
"""A file that claims that a pass takes longer is damaged."""

SIGHTINGS = 2
"""Starts at which the curve is measured: the first may have been at a busy moment."""

PROBE_SEED = 20407
"""Seed of the probe's tokens."""

REFINE_RATE = 0.05
"""Weight of one real step in the running correction of a size's cost: some twenty steps to follow a change."""

REFINE_BOUND = 4.0
"""A single step counts as at most this many times dearer or cheaper than predicted: it was interrupted."""


@dataclass
class CostCurve:
    """Seconds of one target pass over n tokens after a given number of cells.

    Attributes:
        measured: batch sizes measured, ascending, first 1.
        base: seconds at ``BASE_FILL`` cells, float64 ``(LARGEST_BATCH + 1,)``; index 0 unused (0).
        per_cell: seconds per cell beyond, same shape.
        exact: batch sizes whose logits equal one-token decoding to the last bit, at every fill probed;
            None while not probed.
        exact_fills: cells at which that was seen.
        sightings: starts at which it was measured, up to ``SIGHTINGS``.
    """

    measured: list[int]
    base: SecondsArray
    per_cell: SecondsArray
    exact: list[int] | None = None
    exact_fills: list[int] = field(default_factory=list)
    sightings: int = 1
    _drift: float = 1.0
    _correction: SecondsArray = field(default_factory=lambda: np.ones(LARGEST_BATCH + 1))
    _steps: int = 0
    _cached_bucket: int = -1
    _cached: SecondsArray = field(default_factory=lambda: np.zeros(LARGEST_BATCH + 1))

    def seconds(self, n_cells: int) -> SecondsArray:
        """Cost by batch size after ``n_cells`` cells, float64 ``(LARGEST_BATCH + 1,)``; index 0 is 0.

        The array is reused while cells stay within 64 of each other and no step came in; do not write to it.
        """
        bucket = n_cells >> 6
        if bucket != self._cached_bucket:
            cells = (bucket << 6) + 32
            self._cached = np.maximum(self.base + self.per_cell * (cells - BASE_FILL), self.base * 0.1)
            self._cached *= self._correction * self._drift
            self._cached_bucket = bucket
        return self._cached

    def observe(self, n: int, n_cells: int, seconds: float) -> None:
        """Refine the curve with a real pass.

        Args:
            n: tokens in the batch.
            n_cells: cells before it.
            seconds: what it took.
        """
        if not 1 <= n <= LARGEST_BATCH:
            return
        predicted = self.seconds(n_cells)[n]
        if predicted <= 0.0:
            return
        ratio = min(max(seconds / predicted, 1.0 / REFINE_BOUND), REFINE_BOUND)
        # Half of it to all sizes: a machine that slows down slows all of them, also those not tried now.
        step = ratio ** (REFINE_RATE / 2)
        self._drift *= step
        self._correction[n] *= step
        self._cached *= step
        self._cached[n] *= step
        self._steps += 1

    def seen_again(self, other: CostCurve) -> CostCurve:
        """What two measurements at different times agree on: of each size the cheaper.

        Another process only ever makes a pass dearer, and sizes that look too dear are never drafted, so that no
        real step would put them right. Exactness, and measured sizes, are this curve's. To be asked before real
        steps refine either.
        """
        quieter = self if self.base[1] <= other.base[1] else other
        return CostCurve(
            self.measured,
            np.minimum(self.base, other.base),
            quieter.per_cell,
            self.exact,
            self.exact_fills,
            min(self.sightings + 1, SIGHTINGS),
        )

    def to_dict(self) -> dict[str, object]:
        """Plain data for a file: corrections of single sizes folded in, the moment's drift of all left out."""
        return {
            "measured": self.measured,
            "base": (self.base * self._correction).tolist(),
            "per_cell": (self.per_cell * self._correction).tolist(),
            "exact": self.exact,
            "exact_fills": self.exact_fills,
            "sightings": self.sightings,
        }

    @classmethod
    def from_dict(cls, data: dict[str, object]) -> CostCurve:
        """Inverse of ``to_dict``.

        Raises:
            ValueError, TypeError, KeyError: the data is not a curve.
        """
        base = np.array(data["base"], np.float64)
        per_cell = np.array(data["per_cell"], np.float64)
        measured = [int(n) for n in _listed(data["measured"])]
        exact = None if data["exact"] is None else [int(n) for n in _listed(data["exact"])]
        fills = [int(n) for n in _listed(data["exact_fills"])]
        shape = (LARGEST_BATCH + 1,)
        if (
            base.shape != shape
            or per_cell.shape != shape
            or not np.isfinite(base).all()
            or base[1:].min() <= 0
        ):
            raise ValueError("not a cost curve")
        if not np.isfinite(per_cell).all() or abs(per_cell).max() > 1.0 or base.max() > MOST_SECONDS:
            raise ValueError("not a cost curve")
        if 1 not in measured or not all(1 <= n <= LARGEST_BATCH for n in [*measured, *(exact or [1])]):
            raise ValueError("not a cost curve")
        sightings = min(max(int(cast(int, data.get("sightings", 1))), 1), SIGHTINGS)
        return cls(measured, base, per_cell, exact, fills, sightings)

    @property
    def steps_seen(self) -> int:
        """Real passes this curve was refined with."""
        return self._steps


def _listed(value: object) -> list[int]:
    if not isinstance(value, list):
        raise TypeError("not a list")
    return value


def from_measurements(near: dict[int, float], far: dict[int, float], far_fill: int) -> CostCurve:
    """A curve from medians at two fills.

    Args:
        near: seconds by batch size at ``BASE_FILL`` cells; holds 1.
        far: the same at ``far_fill`` cells, for fewer sizes; may be empty.
        far_fill: cells of ``far``.
    """
    sizes = sorted(near)
    every = np.arange(LARGEST_BATCH + 1)
    base = np.interp(every, sizes, [near[n] for n in sizes])
    # Beyond the largest size measured cost grows in proportion: the dear assumption, so never a lure.
    largest = sizes[-1]
    beyond = every > largest
    base[beyond] = near[largest] * every[beyond] / largest
    base[0] = 0.0
    per_cell = np.zeros(LARGEST_BATCH + 1)
    shared = sorted(set(far) & set(near))
    if shared and far_fill > BASE_FILL:
        slopes = [max(0.0, (far[n] - near[n]) / (far_fill - BASE_FILL)) for n in shared]
        # Attention over the prefix is done once per token: the slope through the origin is the natural one.
        per_cell = np.interp(every, [0, *shared], [0.0, *slopes])
        per_cell[every > shared[-1]] = slopes[-1] * every[every > shared[-1]] / shared[-1]
    return CostCurve(sizes, base, per_cell)


class Probe:
    """Times and compares batches in a context that holds nothing anyone needs.

    Args:
        context: empty; empty again after each measurement.
        clock: seconds, for tests.
    """

    LARGEST_ROOM = FAR_FILL + 2 * BASE_FILL
    """Cells a context made only for probing needs."""

    def __init__(self, context: Context, clock: Callable[[], float] = time.perf_counter) -> None:
        self._context = context
        self._clock = clock
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

    def _rewind(self, n_past: int) -> None:
        if not self._rewinds:
            # A running state's snapshots do not reach back beyond the last batch.
            self._context.clear()
        if self._context.roll_back(n_past) != n_past:
            self._context.prefill(self._tokens[:n_past], want_logits=False)

    def cells_for(self, n_cells: int) -> int:
        """Cells a probe asked for ``n_cells`` really has: whole copies of the prefix, and no more than fit."""
        if not self._rewinds or n_cells > self.largest_fill:
            return PREFIX
        return max(PREFIX, n_cells // PREFIX * PREFIX)

    def passes(
        self, sizes: Iterable[int], n_cells: int, *, rounds: int = ROUNDS, seconds: float = math.inf
    ) -> Iterator[tuple[int, float]]:
        """Time batches round by round, so that a machine that slows down slows all sizes alike.

        Args:
            sizes: batch sizes wanted, most useful first; size 1 is always among them.
            n_cells: cells attended over; fewer when the context has fewer.
            rounds: repetitions where time allows.
            seconds: time after which nothing further is begun, save the very first pass.

        Yields:
            Batch size and seconds of each pass. The context is empty after the last.
        """
        wanted = [1, *(n for n in dict.fromkeys(sizes) if 1 < n <= self.largest_size)]
        self._fill(n_cells)
        started = self._clock()
        self._time(1)  # the first pass pays for memory that nobody touched yet
        begun = False
        for _ in range(rounds):
            for n in wanted:
                if begun and self._clock() - started > seconds:
                    continue
                begun = True
                if n == 1:
                    # Plain steps follow plain steps: llama.cpp reuses their graph, and nothing large has just
                    # gone through the caches. After 64 tokens one costs 1.8 times as much on the built-in model.
                    self._time(1)
                yield n, self._time(n)
        self._context.clear()

    def time_sizes(
        self, sizes: Iterable[int], n_cells: int, *, rounds: int = ROUNDS, seconds: float = PROBE_SECONDS
    ) -> dict[int, float]:
        """Median seconds by batch size; arguments as for ``passes``."""
        samples: dict[int, list[float]] = {}
        for n, taken in self.passes(sizes, n_cells, rounds=rounds, seconds=seconds):
            samples.setdefault(n, []).append(taken)
        return {n: float(np.median(times)) for n, times in samples.items()}

    def exact_sizes(self, sizes: Iterable[int], n_cells: int, *, longest: int = CHAIN) -> set[int]:
        """Batch sizes up to ``longest`` equal to one-token decoding, bit for bit, after ``n_cells`` cells."""
        limit = min(longest, self.largest_size)
        self._fill(n_cells)
        chain = self._tokens[PREFIX : PREFIX + limit]
        reference = []
        for i in range(limit):
            self._context.prefill(chain[i : i + 1])
            reference.append(self._context.logits(-1).copy())
        exact = {1}
        for n in sizes:
            if 1 < n <= limit:
                self._rewind(PREFIX)
                self._context.probe_batch(chain[:n])
                if all(np.array_equal(self._context.logits(i), reference[i]) for i in range(n)):
                    exact.add(n)
        self._context.clear()
        return exact

    def lasting_sizes(self, sizes: Iterable[int], positions: int = EXACT_POSITIONS) -> set[int]:
        """Batch sizes that equal one-token decoding, bit for bit, at each of so many tokens in a row (fewer where
        that takes long: see ``EXACT_SECONDS``)."""
        positions = min(positions, self.largest_fill)
        started = self._clock()
        tokens = self._context.model.random_tokens(PREFIX + positions, PROBE_SEED)
        chain = tokens[PREFIX:]
        self._context.clear()
        self._context.prefill(tokens[:PREFIX], want_logits=False)
        reference = []
        for i in range(positions):
            if i >= LEAST_EXACT_POSITIONS and self._clock() - started > EXACT_SECONDS:
                break
            self._context.prefill(chain[i : i + 1])
            reference.append(_digest(self._context.logits(-1)))
        positions = len(reference)
        exact = {1}
        for n in sizes:
            if not 1 < n <= positions:
                continue
            self._context.roll_back(PREFIX)
            for start in range(0, positions - n + 1, n):
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
            far = self.time_sizes(FAR_SIZES, far_fill, seconds=PROBE_SECONDS / 3)
        return from_measurements(near, far, far_fill)

    def exactness(self) -> tuple[list[int], list[int]]:
        """Batch sizes up to ``CHAIN`` that are exact at every fill the context can have, and those fills (cells)."""
        fills = [fill for fill in EXACT_FILLS if fill <= self.largest_fill] or [PREFIX]
        holding = set(range(1, CHAIN + 1))
        for fill in fills:
            holding &= self.exact_sizes(sorted(holding), fill)
        if self._rewinds and len(holding) > 1:
            holding &= self.lasting_sizes(sorted(holding))
        return sorted(holding), fills


def _digest(logits: npt.NDArray[np.float32]) -> bytes:
    """Tells logits apart to the last bit, in little memory."""
    return hashlib.blake2b(np.ascontiguousarray(logits).view(np.uint8).data, digest_size=16).digest()
