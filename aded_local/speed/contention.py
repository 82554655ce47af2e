"""Whether other programs used the processor while something was timed.

Linux counts for each thread the nanoseconds in which it could have run and had no core (``schedstat``, second number).
Waiting of this kind makes a pass slow. On other systems, and where the host of a virtual machine causes the waiting,
only the spread of repeated timings shows it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Final

import psutil

WAITING_LIMIT: Final = 0.05
"""Share of the time that a thread may wait for a core: see docs/benchmarks.md, "Beside other programs"."""

SPREAD_LIMIT: Final = 1.4
"""Largest ratio of a size's typical to its shortest timing. On a quiet machine it is 1.01 to 1.15."""

SAMPLES_THAT_SPREAD: Final = 3
"""With fewer timings of a size their spread is not computed."""

THREADS_FOLDER: Final = Path("/proc/self/task")


class Watch:
    """Measures how long threads of this process wait for a core, from its creation on.

    Attributes:
        counts: whether the system counts that.
    """

    def __init__(self) -> None:
        """Begin."""
        self._started = time.perf_counter()
        self._waited = _waited_by_thread()
        self.counts = bool(self._waited)
        self._idle = _idle_seconds()

    def waiting(self) -> float:
        """Share of the time since the beginning that one thread, of all the longest, waited for a core; 0.0 where the
        system does not count it."""
        elapsed = time.perf_counter() - self._started
        if elapsed <= 0.0:
            return 0.0
        now = _waited_by_thread()
        # A thread that was started since counts from its start.
        longest = max((waited - self._waited.get(thread, 0) for thread, waited in now.items()), default=0)
        return max(0, longest) * 1e-9 / elapsed

    def idle(self) -> float:
        """How many cores of the machine had nothing to do since the beginning, in the mean."""
        elapsed = time.perf_counter() - self._started
        return max(0.0, _idle_seconds() - self._idle) / elapsed if elapsed > 0.0 else 0.0


def _idle_seconds() -> float:
    """Of all cores, also of those that this process may not use."""
    return float(psutil.cpu_times().idle)


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
            continue  # the thread has ended, or the kernel does not count
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
    """Whether other programs ran beside the timings, so that they are not worth keeping.

    Args:
        waiting: ``Watch.waiting`` of each round of timings.
        samples: seconds by batch size.
    """
    # The median: a short disturbance does not move it.
    typical = median([*waiting] or [0.0])
    return typical > WAITING_LIMIT or spread(samples) > SPREAD_LIMIT
