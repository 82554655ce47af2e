"""Is reading the target's likeliest tokens cheap enough on this machine?"""

from __future__ import annotations

from typing import Final

TOP_K_GAIN: Final = 0.0015
"""What reading and learning may take for each row, as a share of a plain pass: what it is worth. Learning the likeliest
tokens changed the speed of SmolLM2's answers by -0.8 to 0.3% at two to three rows a pass, by 1.0% at three in chats,
and by 1.7 to 5.7% at twelve (docs/ablation.md): wide drafts gain, narrow ones hardly."""

FIRST_ROWS: Final = 2.0
"""Rows of a step, before any was met."""

LEARNING: Final = 0.15
"""Learning what was read takes this part of reading it: 11 of 90 us for three rows of 49,152 logits."""

TOP_K_RATE: Final = 0.1
"""Weight of one step in the running means of that share, and of the rows: seven steps at twice the limit switch it
off."""

TOP_K_HICCUP: Final = 5.0
"""A single step counts as at most this many limits: one interruption by the machine does not switch it off."""

FIRST_TOP_K_PAUSE: Final = 64
LONGEST_TOP_K_PAUSE: Final = 1024
"""Steps until it is tried again, for one timed step; doubled each time it is too dear again."""


class TopKSwitch:
    """Whether reading the target's distribution is cheap enough here to go on with.

    It starts on, goes off when the running mean of its cost passes what as many rows are worth, and is then tried on
    single steps ever further apart. Once it has stayed on for as long as it was last off, pauses start short again.
    """

    def __init__(self) -> None:
        """On, nothing timed yet."""
        self._mean = 0.0
        self._rows = FIRST_ROWS
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

    def record(self, seconds: float, plain_seconds: float, rows: int) -> None:
        """Take note of what reading a step's rows took, beside a plain pass at this cache fill."""
        if plain_seconds <= 0.0:
            return
        self._rows += TOP_K_RATE * (rows - self._rows)
        limit = TOP_K_GAIN * self._rows
        share = min(seconds * (1.0 + LEARNING) / plain_seconds, TOP_K_HICCUP * limit)
        # A trial speaks for itself: the mean is of the time before the pause.
        self._mean = share if self._trying else self._mean + TOP_K_RATE * (share - self._mean)
        self._trying = False
        if self._mean > limit:
            self._wait = self._pause = min(max(2 * self._pause, FIRST_TOP_K_PAUSE), LONGEST_TOP_K_PAUSE)
            self._on_for = 0
            return
        self._on_for += 1
        if self._on_for >= self._pause:
            self._pause = 0
