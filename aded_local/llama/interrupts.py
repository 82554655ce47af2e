"""Handles Ctrl-C while llama.cpp loads a model, kernels are compiled, or a thread starts.

Python raises KeyboardInterrupt at its next bytecode. While a model loads that may be in llama.cpp's log callback, where
ctypes prints the exception and drops it. Numba's compiler has such callbacks too.

Elsewhere it may come after any call of the main thread: also in the methods of Python's own Condition, Event and
Thread, whose lock then stays held, or whose thread never runs. So what the main thread waits for is an attribute that
it looks at, or a lock of ``threading``, which the interpreter takes and leaves in one go.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Delay Ctrl-C until the block has ended.

    Only the main thread receives signals. In other threads, and where Ctrl-C is ignored, this does nothing.
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


@contextlib.contextmanager
def not_dropped() -> Iterator[None]:
    """Let Ctrl-C end the block at once; where a callback drops it, when the block fails because of it, or ends.

    For a block that takes long and may be left half done, such as compiling. In other threads, and where the program
    has a handler of its own, this does nothing.
    """
    previous = signal.default_int_handler
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not previous
    ):
        yield
        return
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        previous(number, frame)

    def say(dropped: Any) -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            say_before(dropped)

    say_before = sys.unraisablehook
    signal.signal(signal.SIGINT, note)
    sys.unraisablehook = say
    try:
        yield
    except Exception as failure:
        if came:
            raise KeyboardInterrupt from failure
        raise
    finally:
        signal.signal(signal.SIGINT, previous)
        sys.unraisablehook = say_before
    if came:
        raise KeyboardInterrupt
