"""Frees what llama.cpp allocated when the last reference to it goes, also where an object is not closed."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from aded_local.llama.loading import is_forked


class Owned:
    """A handle of llama.cpp's that is freed when this object goes.

    Python collects the objects of a cycle in any order; ``needs`` keeps llama.cpp's order. A forked child frees
    nothing. At the end of the program the system frees everything.

    Args:
        handle: llama.cpp's pointer.
        free: llama.cpp's function that frees it.
        needs: what must not be freed before this one.

    Attributes:
        handle: as given.
    """

    def __init__(self, handle: Any, free: Callable[[Any], object], needs: Owned | None = None) -> None:
        self.handle = handle
        weakref.finalize(self, _free, handle, free, needs).atexit = False


def _free(handle: Any, free: Callable[[Any], object], _needs: Owned | None) -> None:
    if not is_forked():
        free(handle)
