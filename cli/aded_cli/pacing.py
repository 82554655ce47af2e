"""How often somebody who reads lines, not a line that changes, is told how far long work is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

SECONDS_BETWEEN_LINES: Final = 10.0
"""Chosen: a log shows that the work goes on, and stays short."""


def paced(say: Callable[[str], None]) -> Callable[[str], None]:
    """Says what is done once, and how far it is every ``SECONDS_BETWEEN_LINES``: that stands behind a colon."""
    kind, said = "", 0.0

    def told(line: str) -> None:
        nonlocal kind, said
        now = time.monotonic()
        if line.partition(":")[0] != kind or now - said >= SECONDS_BETWEEN_LINES:
            kind, said = line.partition(":")[0], now
            say(line)

    return told
