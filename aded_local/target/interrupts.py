"""Ctrl-C while llama.cpp works and logs.

Python delivers an interrupt at its next bytecode, and while a model loads that may be in llama.cpp's log callback,
where ctypes can only print and drop it.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Hold an interrupt back until the block has ended, then let it take effect.

    Only the main thread receives signals; elsewhere, and where Ctrl-C is ignored, this does nothing.
    """
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(previous):
        yield
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        if came:
            previous(signal.SIGINT, None)
