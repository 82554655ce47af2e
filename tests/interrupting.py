"""A Ctrl-C at every instant of a piece of code, one after the other, and no other ones: nothing depends on timing."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class _Signal(int):
    """Reading ``comes`` lets the signal come at the next instant at which Python looks for one. A call would look."""

    comes = property(_thread.interrupt_main)


_SIGINT = _Signal(signal.SIGINT)


def interrupt_when(waits: Callable[[], bool]) -> None:
    """Send a Ctrl-C as soon as this thread waits; returns at once."""

    def interrupt() -> None:
        while not waits():
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()


def interrupted(work: Callable[[], object], instruction: int) -> tuple[bool, BaseException | None]:
    """Do ``work`` with a Ctrl-C at an instruction of this thread.

    Args:
        work: looks into no other thread while it is interrupted.
        instruction: counted from 0.

    Returns:
        Whether there are so many instructions; and what was raised, without what was on the way.
    """
    left, error = instruction, None

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            left -= 1
            if left < 0:
                sys.settrace(None)
                _SIGINT.comes  # noqa: B018
        return trace

    with _traced(trace):
        try:
            work()
            sys.settrace(None)
        except BaseException as raised:
            error = raised
    if error is not None:
        error.__traceback__ = error.__context__ = error.__cause__ = None
    return left < 0, error


@contextmanager
def _traced(trace: Any) -> Iterator[None]:
    before, handler = sys.gettrace(), signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.settrace(trace)
    try:
        yield
    finally:
        # Where the code failed of itself, its Ctrl-C may still be to come.
        signal.signal(signal.SIGINT, lambda number, frame: None)
        sys.settrace(before)
        signal.signal(signal.SIGINT, handler)


def instants(prepare: Callable[[], Callable[[], object]], every: int = 1) -> Iterator[BaseException | None]:
    """What each Ctrl-C had raised; the caller looks at what it left behind.

    Args:
        prepare: gives the work, which is begun anew for each instant.
        every: at so many instructions only the first.
    """
    instruction = 0
    while True:
        came, error = interrupted(prepare(), instruction)
        if not came:
            return
        yield error
        instruction += every
