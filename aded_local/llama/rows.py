"""Whether a pass over a few tokens is multiplied row by row, as a pass over one token is, so that both round alike.

It can be asked for where llama.cpp was built with this package's rules, on Linux: see row_by_row.c. llama.cpp's own
choice is another kernel from two rows on, which is faster for many rows and rounds differently.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator
from typing import Final

from aded_local.llama.loading import ggml

LARGEST: Final = 16
"""Rows up to which it is asked for: the largest draft whose exactness is probed. Prompts keep the fast kernel."""


def _found() -> ctypes.c_int | None:
    try:
        return ctypes.c_int.in_dll(ggml, "aded_row_by_row_until")
    except (ValueError, AttributeError, OSError):
        return None


_until: Final = _found()
LONGEST_WAIT: Final = 1.0
"""Seconds after which a waiting pass looks whether the one it waits for still has a thread."""
AVAILABLE: Final = _until is not None
"""Whether this build of llama.cpp can be asked."""

_lock: Final = threading.RLock()
_waiting: Final[list[threading.Lock]] = []
"""Given back to wake who waits. Not a condition: a Ctrl-C in its methods would leave its lock held."""
_wanted: Final[dict[int, int]] = {}
"""By thread, what its pass under way was begun with. A thread that was interrupted between two lines of this file may
leave its entry behind, which its next pass replaces."""


@contextlib.contextmanager
def row_by_row(wanted: bool) -> Iterator[None]:
    """Within the block passes are multiplied row by row, or by llama.cpp's own choice. The switch belongs to the whole
    process, so a pass that wants it otherwise waits in another thread."""
    if _until is None:
        yield
        return
    me, value = threading.get_ident(), LARGEST if wanted else 0
    try:
        while (woken := _wait_or_begin(me, value, _until)) is not None:
            woken.acquire(timeout=LONGEST_WAIT)
            _forget_ended()
        yield
    finally:
        with _lock:
            _wanted.pop(me, None)
            if not _wanted:
                _until.value = 0  # other packages that use the library get llama.cpp's own choice
            while _waiting:
                _waiting.pop().release()


def _wait_or_begin(me: int, value: int, until: ctypes.c_int) -> threading.Lock | None:
    """Begin a pass; where others are under way that want it otherwise, what is given back when one of them ends."""
    with _lock:
        _wanted.pop(me, None)
        if any(other != value for other in _wanted.values()):
            woken = threading.Lock()
            woken.acquire()
            _waiting.append(woken)
            return woken
        _wanted[me] = value
        until.value = value
    return None


def _forget_ended() -> None:
    """Threads that have ended have no pass under way."""
    alive = {thread.ident for thread in threading.enumerate()}
    with _lock:
        for thread in [each for each in _wanted if each not in alive]:
            del _wanted[thread]
