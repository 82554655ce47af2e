"""The threads that libgomp keeps for a thread that has decoded.

Each thread that decodes gets a team of its own, which stays when its pass is over. Where the teams of a process have
more threads than the machine has cores, libgomp lets them sleep at once at each barrier, and a pass takes 1.3 to 1.5
times as long (two cores, SmolLM2, answers in a second thread). So a thread gives its team back when its turn ends: a
tenth of a millisecond, once an answer.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Final

from aded_local.llama.loading import ggml, is_forked

HARD: Final = 2
"""``omp_pause_hard``: the threads end."""


def _found() -> Callable[[int], int] | None:
    try:
        if hasattr(ggml, "__kmpc_fork_call"):  # LLVM's runtime would stop the teams of all threads
            return None
        pause = ggml.omp_pause_resource_all
    except (AttributeError, OSError):  # built without OpenMP, or with an older libgomp
        return None
    pause.argtypes, pause.restype = [ctypes.c_int], ctypes.c_int
    found: Callable[[int], int] = pause
    return found


_pause: Final = _found()


def give_team_back() -> None:
    """End the threads that passes of the calling thread have used; its next pass makes new ones."""
    if _pause is not None and not is_forked():
        _pause(HARD)
