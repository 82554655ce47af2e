"""How long a test waits for what must happen: long enough for a busy machine, short enough for a hang to be told."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 60.0
"""Seconds. Chosen: many times what anything here takes on a quiet machine."""


LOOK = 0.002
"""Seconds between two looks."""


def becomes(happened: Callable[[], object]) -> bool:
    """Whether it happens before patience ends."""
    end = time.monotonic() + PATIENCE
    while not happened():
        if time.monotonic() > end:
            return False
        time.sleep(LOOK)
    return True


def until(happened: Callable[[], object]) -> None:
    """Go on when it has happened."""
    assert becomes(happened), "it never happened"
