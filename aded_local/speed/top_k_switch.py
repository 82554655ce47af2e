"""Is reading the target's likeliest tokens cheap enough on this machine?"""

from __future__ import annotations

from typing import Final

TOP_K_SHARE_LIMIT: Final = 0.01
"""Reading the target's likeliest tokens may take this share of a plain pass per step; learning them is part of the
step's one kernel call. Chosen, not tuned: small beside what a draft must promise (``budget.DRAFT_MARGIN``)."""

TOP_K_RATE: Final = 0.1
"""Weight of one step in the running mean of that share: seven steps at twice the limit switch it off."""

TOP_K_HICCUP: Final = 5.0
"""A single step counts as at most this many limits: one interruption by the machine does not switch it off."""

FIRST_TOP_K_PAUSE: Final = 64
LONGEST_TOP_K_PAUSE: Final = 1024
"""Steps until it is tried again, for one timed step; doubled each time it is too dear again."""


class TopKSwitch:
    """Whether reading the target's distribution is cheap enough here to go on with.

    It starts on, goes off when the running mean of its cost passes the limit, and is then tried on single
    steps ever further apart. Once it has stayed on for as long as it was last off, pauses start short again.
    """

    def __init__(self) -> None:
        """On, nothing timed yet."""
        self._mean = 0.0
        self._wait = 0
        self._pause = 0
        self._on_for = 0
        self._trying = False

    def due(self) -> bool:
        """Whether to read at this step; asked once per step in which it could be."""
        if self._wait == 0:
            return True
        self._wait -= 1
        self._trying = self._wait == 0
        return self._trying

    def record(self, seconds: float, plain_seconds: float) -> None:
        """Take note of what a step's reading and learning took, beside a plain pass at this cache fill."""
        if plain_seconds <= 0.0:
            return
        share = min(seconds / plain_seconds, TOP_K_HICCUP * TOP_K_SHARE_LIMIT)
        # A trial speaks for itself: the mean is of the time before the pause.
        self._mean = share if self._trying else self._mean + TOP_K_RATE * (share - self._mean)
        self._trying = False
        if self._mean > TOP_K_SHARE_LIMIT:
            self._wait = self._pause = min(max(2 * self._pause, FIRST_TOP_K_PAUSE), LONGEST_TOP_K_PAUSE)
            self._on_for = 0
            return
        self._on_for += 1
        if self._on_for >= self._pause:
            self._pause = 0
