"""Cost curves read from files: what a pass over n tokens costs, relative to one token.

Two kinds of file are read: ``{"ratio": {"1": 1.0, "2": 1.5, …}, "milliseconds": {…}}``, and a result of
``aded-bench curve``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aded_local.errors import StoreError

if TYPE_CHECKING:
    from aded_local.speed.cost_curve import CostCurve

NOMINAL_SECONDS = 0.020
"""One token, where a curve has ratios only: a 1B model in four bits on two cores. Modelled speed-ups do not depend on
it; only a planner's thresholds in seconds would."""

LARGEST_PASS = 65
"""Tokens: the paper's largest tree, and its root."""


@dataclass(frozen=True)
class NamedCurve:
    """Cost of a pass by its tokens.

    Attributes:
        name: of the file.
        ratio: measured sizes, relative to one token; holds 1.
        plain_seconds: of a pass over one token.
        path: the file.
    """

    name: str
    ratio: dict[int, float]
    plain_seconds: float
    path: Path

    @cached_property
    def costs(self) -> npt.NDArray[np.float64]:
        """Relative cost by tokens, float64 ``(LARGEST_PASS + 1,)``, rising from 2; below 1 where the file says so.

        Index 0 is 0. Do not write to it.
        """
        sizes = sorted(self.ratio)
        every = np.arange(LARGEST_PASS + 1)
        cost = np.interp(every, sizes, [self.ratio[n] for n in sizes])
        largest = sizes[-1]
        beyond = every > largest
        cost[beyond] = self.ratio[largest] * every[beyond] / largest
        # A batch may always be padded up to a cheaper size; one token alone is what all is relative to.
        cost[2:] = np.minimum.accumulate(cost[:1:-1])[::-1]
        cost[0] = 0.0
        return cost

    def engine_curve(self) -> CostCurve:
        """The same as the engine's own curve, independent of the cells."""
        from aded_local.speed.cost_curve import LARGEST_BATCH, from_measurements

        near = {n: r * self.plain_seconds for n, r in self.ratio.items() if n <= LARGEST_BATCH}
        return from_measurements(near, {}, 0)


def read_curve(path: Path) -> NamedCurve:
    """Read a curve.

    Raises:
        StoreError: there is none in the file.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        found = _chosen(data) if data.get("kind") == "curve" else data
        ratio = {int(n): float(r) for n, r in found["ratio"].items()}
        milliseconds = found.get("milliseconds") or {}
        plain = float(milliseconds["1"]) / 1e3 if "1" in milliseconds else NOMINAL_SECONDS
    except OSError as error:
        raise StoreError(f"the curve {path} cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise StoreError(
            f"{path} is no cost curve: give a result of `aded-bench curve`, or JSON with the costs under ratio"
        ) from None
    sound = all(n >= 1 and np.isfinite(r) and r > 0 for n, r in ratio.items()) and plain > 0
    if 1 not in ratio or not sound:
        raise StoreError(f"{path} is no cost curve: costs must be positive, and that of 1 token be there")
    return NamedCurve(path.stem, {n: r / ratio[1] for n, r in ratio.items()}, plain, path)


def _chosen(data: dict[str, Any]) -> dict[str, Any]:
    """Of a result of ``aded-bench curve``, the setting the engine uses, at its shortest prefix."""
    chosen = data.get("chosen") or {}
    usable = [curve for curve in data["curves"] if curve.get("ratio")]
    same = [c for c in usable if all(c.get(key) == value for key, value in chosen.items())]
    candidates = same or usable
    if not candidates:
        raise ValueError("no curve was measured")
    shortest: dict[str, Any] = min(candidates, key=lambda curve: curve.get("prefix", 0))
    return shortest
