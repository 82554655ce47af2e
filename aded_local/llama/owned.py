"""What llama.cpp allocated, freed when nobody holds it any more: also where an object is dropped without a word."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from aded_local.llama.loading import is_forked


class Owned:
    """One of llama.cpp's things and the duty to free it, which falls due when this object goes.

    Objects that go together, in a cycle, go in any order; ``needs`` keeps llama.cpp's. In a forked child nothing is
    freed, nor at the end of the program, where the system does it.

    Args:
        handle: llama.cpp's pointer.
        free: llama.cpp's function that frees it.
        needs: what must not be freed before.

    Attributes:
        handle: as given.
    """

    def __init__(self, handle: Any, free: Callable[[Any], object], needs: Owned | None = None) -> None:
        self.handle = handle
        weakref.finalize(self, _free, handle, free, needs).atexit = False


def _free(handle: Any, free: Callable[[Any], object], _needs: Owned | None) -> None:
    if not is_forked():
        free(handle)
