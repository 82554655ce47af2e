"""How long a test waits for what must happen: long enough for a busy machine, short enough for a hang to be told."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 60.0
"""Seconds. Nothing that a test waits for takes one second on a quiet machine."""


def becomes(happened: Callable[[], object], every: float = 0.002) -> bool:
    """Whether it happens before patience ends; asked again after ``every`` seconds."""
    end = time.monotonic() + PATIENCE
    while not happened():
        if time.monotonic() > end:
            return False
        time.sleep(every)
    return True


def until(happened: Callable[[], object]) -> None:
    """Go on when it has happened."""
    assert becomes(happened), "it never happened"
