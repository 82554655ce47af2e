"""Takes llama.cpp's log: shows it only if asked to, and keeps the last errors for our own messages."""

from __future__ import annotations

import ctypes
import sys
from collections import deque

from aded_local.llama.loading import lib
from aded_local.shown import visible

ERROR_LEVEL = 4
"""``GGML_LOG_LEVEL_ERROR`` in ggml.h."""
CONTINUE_LEVEL = 5
"""``GGML_LOG_LEVEL_CONT``: the text continues the line before."""

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
        sys.stderr.write(visible(line))  # the log quotes texts of the file


def capture(verbose: bool) -> None:
    """Take llama.cpp's log; with ``verbose``, write every line to standard error.

    A process has one log, so the model that was loaded last decides.
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
