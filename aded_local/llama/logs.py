"""llama.cpp's log: silent unless asked for, its last errors kept for our own messages."""

from __future__ import annotations

import ctypes
import sys
from collections import deque

from aded_local.llama.loading import lib
from aded_local.shown import visible

ERROR_LEVEL = 4
"""``GGML_LOG_LEVEL_ERROR`` in ggml.h."""
CONTINUE_LEVEL = 5
"""``GGML_LOG_LEVEL_CONT``: more of the line before."""

_recent_errors: deque[str] = deque(maxlen=4)
_verbose = False
_last_level = 0


@lib.llama_log_callback
def _on_log(level: int, text: bytes, _user_data: ctypes.c_void_p) -> None:
    global _last_level
    if level != CONTINUE_LEVEL:
        _last_level = level
    line = text.decode("utf-8", errors="replace")
    if _last_level == ERROR_LEVEL and line.strip():
        _recent_errors.append(line.strip())
    if _verbose:
        sys.stderr.write(visible(line))  # it quotes what stands in the file


def capture(verbose: bool) -> None:
    """Route llama.cpp's log to us; ``verbose`` passes every line on to standard error.

    The log is one per process, so the last loaded model decides.
    """
    global _verbose
    _verbose = verbose
    lib.llama_log_set(_on_log, ctypes.c_void_p(0))


def clear_errors() -> None:
    """Forget what was logged, before an operation whose errors matter."""
    _recent_errors.clear()


def last_error() -> str:
    """The last error lines llama.cpp logged, joined to one line; empty when there were none."""
    return "; ".join(dict.fromkeys(_recent_errors))
