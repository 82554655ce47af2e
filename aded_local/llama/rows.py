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
AVAILABLE: Final = _until is not None
"""Whether this build of llama.cpp can be asked."""

_turn: Final = threading.Condition()
_passes = 0  # under way with the present value


@contextlib.contextmanager
def row_by_row(wanted: bool) -> Iterator[None]:
    """Within the block passes are multiplied row by row, or by llama.cpp's own choice. The switch belongs to the whole
    process, so a pass that wants it otherwise waits in another thread."""
    if _until is None:
        yield
        return
    global _passes
    value = LARGEST if wanted else 0
    with _turn:
        while _passes and _until.value != value:
            _turn.wait()
        _until.value = value
        _passes += 1
    try:
        yield
    finally:
        with _turn:
            _passes -= 1
            if not _passes:
                _until.value = 0  # other packages that use the library get llama.cpp's own choice
                _turn.notify_all()
