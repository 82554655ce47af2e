"""Whether other programs had the processor while something was timed.

Linux counts, for each thread, the nanoseconds in which it could have run and had no core (``schedstat``, second
number): the very thing that makes a pass dear. Elsewhere, and where a virtual machine is kept waiting by its host, only
the spread of repeated timings tells.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Final

WAITING_LIMIT: Final = 0.05
"""Share of the time for which a thread may have waited for a core: see docs/benchmarks.md, "Beside other programs"."""

SPREAD_LIMIT: Final = 1.4
"""How far the typical timing of a size may lie above its shortest, as a ratio. Quiet: 1.01 to 1.15."""

SAMPLES_THAT_SPREAD: Final = 3
"""Timings of a size below which nothing is said of their spread."""

THREADS_FOLDER: Final = Path("/proc/self/task")


class Watch:
    """Watches this process from its making on."""

    def __init__(self) -> None:
        """Begin."""
        self._started = time.perf_counter()
        self._waited = _waited_by_thread()

    def waiting(self) -> float:
        """Share of the time since the beginning for which the unluckiest thread waited for a core; 0.0 where the
        system does not tell."""
        elapsed = time.perf_counter() - self._started
        if elapsed <= 0.0:
            return 0.0
        now = _waited_by_thread()
        # A thread that was born meanwhile counts from its birth.
        longest = max((waited - self._waited.get(thread, 0) for thread, waited in now.items()), default=0)
        return max(0, longest) * 1e-9 / elapsed


def _waited_by_thread() -> dict[str, int]:
    """Nanoseconds that each thread of this process has waited for a core; empty where unknown."""
    found: dict[str, int] = {}
    try:
        threads = os.listdir(THREADS_FOLDER)
    except OSError:
        return found
    for thread in threads:
        try:
            found[thread] = int((THREADS_FOLDER / thread / "schedstat").read_text().split()[1])
        except (OSError, ValueError, IndexError):
            continue  # it has ended, or the kernel does not count
    return found


def spread(samples: Mapping[int, Sequence[float]]) -> float:
    """Median over sizes of (typical timing / shortest timing); 1.0 where there are too few timings."""
    ratios = [
        median(times) / min(times)
        for times in samples.values()
        if len(times) >= SAMPLES_THAT_SPREAD and min(times) > 0.0
    ]
    return median(ratios) if ratios else 1.0


def contended(waiting: Iterable[float], samples: Mapping[int, Sequence[float]]) -> bool:
    """Whether timings were taken beside other programs, so that they hold for this moment only.

    Args:
        waiting: of ``Watch.waiting``, of each stretch of timings.
        samples: seconds by batch size.
    """
    # The median, as of the timings: a moment's disturbance moves neither.
    typical = median([*waiting] or [0.0])
    return typical > WAITING_LIMIT or spread(samples) > SPREAD_LIMIT
