"""Do real passes take what the kept measurements say? The first of each start tell."""

from __future__ import annotations

from statistics import median
from typing import Final

PASSES: Final = 48
"""Plain passes that are looked at: half an ordinary answer. Their median does not follow a short disturbance."""

TOLERATED: Final = 0.15
"""How far their typical time may be from what was measured, as a share. Given by the issue that asked for it."""


class FirstPasses:
    """Compares the first plain passes of a start with what was measured.

    Args:
        done: look at none.

    Attributes:
        done: enough were seen.
        ratio: real time over measured time, typically; None until enough passes were seen.
    """

    def __init__(self, *, done: bool = False) -> None:
        self.done = done
        self._ratios: list[float] = []
        self.ratio: float | None = None

    def see(self, seconds: float, measured: float) -> None:
        """Take note of a pass."""
        if not self.done and measured > 0.0:
            self._ratios.append(seconds / measured)
            if len(self._ratios) >= PASSES:
                self.ratio = median(self._ratios)
                self.done = True

    def doubt(self, usual: float) -> bool:
        """Whether what was measured holds no longer.

        Args:
            usual: the ratio that holds here usually: a pass between drafts finds colder caches than one in a trial.
        """
        return self.ratio is not None and not 1.0 - TOLERATED <= self.ratio / usual <= 1.0 / (1.0 - TOLERATED)
