"""What a pass costs on this machine: measured once per model, kept, and refined with each real pass.

The cost of verifying n tokens is jagged in n and grows with the number of cells attended over. A curve is two arrays
over n: seconds at ``BASE_FILL`` cells, and seconds per further cell. ``probe`` measures them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import numpy.typing as npt

SecondsArray = npt.NDArray[np.float64]

BASE_FILL = 256
"""Cells at which the curve is measured first: llama.cpp pads attention to this many anyway."""

LARGEST_BATCH = 64
"""Largest batch a curve covers: the paper's largest tree."""

MOST_SECONDS = 1e6
"""A file in which a pass takes longer is damaged."""

SIGHTINGS = 2
"""A curve is measured at this many starts of the program, and each size keeps its shorter time. Other programs may slow
one measurement down without a sign of it, as on the host of a virtual machine."""

REFINE_RATE = 0.05
"""Weight of one real pass in the running correction of a size's cost: it follows a change within some twenty passes."""

REFINE_BOUND = 4.0
"""A pass counts as at most this many times slower or faster than predicted; beyond, it was interrupted."""


@dataclass
class CostCurve:
    """Seconds of one target pass over n tokens after a given number of cells.

    Attributes:
        measured: batch sizes measured, ascending, first 1.
        base: seconds at ``BASE_FILL`` cells, float64 ``(LARGEST_BATCH + 1,)``; index 0 unused (0).
        per_cell: seconds per cell beyond, same shape.
        sightings: at how many starts it was measured, at most ``SIGHTINGS``.
        contended: other programs used the processor during the measurement: use it now, and do not keep it.
        waking: seconds that a pass over several tokens costs the plain passes behind it, as on CUDA, whose recorded
            graph is of no use to them any more; 0 where that is little.
    """

    measured: list[int]
    base: SecondsArray
    per_cell: SecondsArray
    sightings: int = 1
    contended: bool = False
    waking: float = 0.0
    _drift: float = 1.0
    _correction: SecondsArray = field(default_factory=lambda: np.ones(LARGEST_BATCH + 1))
    _steps: int = 0
    _cached_bucket: int = -1
    _cached: SecondsArray = field(default_factory=lambda: np.zeros(LARGEST_BATCH + 1))

    def seconds(self, n_cells: int) -> SecondsArray:
        """Cost by batch size after ``n_cells`` cells, float64 ``(LARGEST_BATCH + 1,)``; index 0 is 0.

        The same array is returned for nearby ``n_cells`` until a pass is observed; do not write to it.
        """
        bucket = n_cells >> 6
        if bucket != self._cached_bucket:
            cells = (bucket << 6) + 32
            self._cached = np.maximum(self.base + self.per_cell * (cells - BASE_FILL), self.base * 0.1)
            self._cached *= self._correction * self._drift
            self._cached_bucket = bucket
        return self._cached

    @property
    def lost_behind(self) -> float:
        """``waking``, on a machine as fast as it is now."""
        return self.waking * self._drift

    def observe(self, n: int, n_cells: int, seconds: float) -> None:
        """Refine the curve with a real pass.

        Args:
            n: tokens in the batch.
            n_cells: cells before it.
            seconds: what it took.
        """
        if not 1 <= n <= LARGEST_BATCH:
            return
        predicted = float(self.seconds(n_cells)[n])  # NumPy's own numbers would take twice as long
        if predicted <= 0.0:
            return
        ratio = min(max(seconds / predicted, 1.0 / REFINE_BOUND), REFINE_BOUND)
        # Half of the change goes to all sizes: a machine that slows down slows all of them.
        step = ratio ** (REFINE_RATE / 2)
        self._drift *= step
        self._correction[n] *= step
        self._cached *= step
        self._cached[n] *= step
        self._steps += 1

    def scaled(self, factor: float) -> CostCurve:
        """A copy in which every pass takes ``factor`` times as long. Passes that it observes do not refine this one."""
        return replace(
            self,
            _drift=self._drift * factor,
            _correction=self._correction.copy(),
            _steps=0,
            _cached_bucket=-1,
        )

    def see_again(self, other: CostCurve) -> None:
        """Merge a later measurement: each size keeps the shorter time.

        Other processes can only make a pass slower. A size that looks too slow is never drafted, so no real pass would
        correct it. A contended curve is replaced.
        """
        if self.contended and not other.contended:
            self.measured, self.base, self.per_cell = other.measured, other.base, other.per_cell
            self.waking = other.waking
            self.contended = False
        else:
            if other.base[1] < self.base[1]:
                self.per_cell = other.per_cell
            self.base = np.minimum(self.base, other.base)
            self.waking = min(self.waking, other.waking)
            self.sightings = min(self.sightings + 1, SIGHTINGS)
        self._cached_bucket = -1

    def to_dict(self) -> dict[str, object]:
        """Plain data for a file, with the corrections of single sizes, without the drift that all sizes share."""
        return {
            "measured": self.measured,
            "base": (self.base * self._correction).tolist(),
            "per_cell": (self.per_cell * self._correction).tolist(),
            "sightings": self.sightings,
            "waking": self.waking,
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
        if 1 not in measured or not all(1 <= n <= LARGEST_BATCH for n in measured):
            raise ValueError("not a cost curve")
        sightings = min(max(int(cast(int, data.get("sightings", 1))), 1), SIGHTINGS)
        waking = float(cast(float, data.get("waking", 0.0)))
        if not 0.0 <= waking <= MOST_SECONDS:
            raise ValueError("not a cost curve")
        return cls(measured, base, per_cell, sightings, waking=waking)

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
    # A wider pass is never cheaper than one token. Where it seems so, the pass over one token was interrupted: then
    # plain decoding gets the lower time, which a draft has to beat.
    near = {**near, 1: min(near.values())}
    sizes = sorted(near)
    every = np.arange(LARGEST_BATCH + 1)
    base = np.interp(every, sizes, [near[n] for n in sizes])
    # Beyond the largest size measured, cost is taken to grow in proportion: rather too high than too low.
    largest = sizes[-1]
    beyond = every > largest
    base[beyond] = near[largest] * every[beyond] / largest
    base[0] = 0.0
    per_cell = np.zeros(LARGEST_BATCH + 1)
    shared = sorted(set(far) & set(near))
    if shared and far_fill > BASE_FILL:
        slopes = [max(0.0, (far[n] - near[n]) / (far_fill - BASE_FILL)) for n in shared]
        # Attention over the prefix is computed once per token, so the slope is a line through the origin.
        per_cell = np.interp(every, [0, *shared], [0.0, *slopes])
        per_cell[every > shared[-1]] = slopes[-1] * every[every > shared[-1]] / shared[-1]
    return CostCurve(sizes, base, per_cell)
