"""Were the probabilities right? Predicted against observed hit rate, and acceptance by depth."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

BINS = 20
"""Of equal width, over probabilities from 0 to 1."""
DEEPEST = 64
"""Depths told apart: a chain of the largest tree."""


class Calibration:
    """Sums over nodes that were handed to verification and whose depth the recorded answer still reaches."""

    def __init__(self) -> None:
        self._count = np.zeros(BINS, np.int64)
        self._predicted = np.zeros(BINS)
        self._observed = np.zeros(BINS, np.int64)
        self._proposed = np.zeros(DEEPEST + 1, np.int64)
        self._accepted = np.zeros(DEEPEST + 1, np.int64)

    def add(
        self,
        probabilities: npt.NDArray[np.float32] | None,
        depths: npt.NDArray[np.int32],
        accepted: npt.NDArray[np.bool_],
    ) -> None:
        """Note one pass.

        Args:
            probabilities: of the nodes' paths, float32 ``(n,)``; None where the drafter gives none.
            depths: int32 ``(n,)``.
            accepted: which nodes lie on the recorded path, bool ``(n,)``.
        """
        kept = np.minimum(depths, DEEPEST)
        self._proposed += np.bincount(kept, minlength=DEEPEST + 1)
        self._accepted += np.bincount(kept[accepted], minlength=DEEPEST + 1)
        if probabilities is not None:
            place = np.minimum((probabilities * BINS).astype(np.int64), BINS - 1)
            self._count += np.bincount(place, minlength=BINS)
            self._predicted += np.bincount(place, weights=probabilities, minlength=BINS)
            self._observed += np.bincount(place[accepted], minlength=BINS)

    def depths(self) -> list[dict[str, int]]:
        """Nodes proposed and accepted, by depth."""
        return [
            {"depth": depth, "proposed": int(self._proposed[depth]), "accepted": int(self._accepted[depth])}
            for depth in range(1, DEEPEST + 1)
            if self._proposed[depth]
        ]

    def result(self) -> dict[str, Any] | None:
        """Expected calibration error (mean distance of predicted and observed, weighted by count) and the bins."""
        total = int(self._count.sum())
        if total == 0:
            return None
        bins = []
        error = 0.0
        for i in range(BINS):
            count = int(self._count[i])
            if count == 0:
                continue
            predicted = float(self._predicted[i]) / count
            observed = int(self._observed[i]) / count
            error += abs(predicted - observed) * count / total
            bins.append(
                {
                    "low": i / BINS,
                    "high": (i + 1) / BINS,
                    "count": count,
                    "predicted": predicted,
                    "observed": observed,
                }
            )
        return {"ece": error, "bins": bins}
