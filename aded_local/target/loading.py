"""llama.cpp's library, loaded with its threads' waiting bounded. Every module of this package takes ``lib`` from here.

llama.cpp has a barrier behind every operator. A thread that waits there spins, by libgomp's default for some
milliseconds, and where another process has the core of the thread that is waited for, all of it is lost: a pass of
5 ms can take seconds. A short spin costs nothing on a quiet machine.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Final

SPIN_VARIABLE: Final = "GOMP_SPINCOUNT"
SPIN_COUNT: Final = "500"
"""Turns of the spin loop before a thread sleeps: see docs/benchmarks.md, "Beside other programs"."""

USERS_OWN: Final = (SPIN_VARIABLE, "OMP_WAIT_POLICY")
"""Whoever sets one of these has decided."""


def _libgomp_is_loaded() -> bool:
    try:
        with open("/proc/self/maps") as maps:
            return any("libgomp" in line for line in maps)
    except OSError:
        return False


def waiting() -> str:
    """How threads that wait behave in this process, in a few words."""
    for name in USERS_OWN:
        if name in os.environ:
            return f"{name}={os.environ[name]}, set by the user"
    if not sys.platform.startswith("linux"):
        return "the compiler's default"
    if not BOUND:
        return "libgomp's default: another package loaded libgomp first"
    return f"{SPIN_VARIABLE}={SPIN_COUNT}"


@contextlib.contextmanager
def _bounded_spinning() -> Iterator[None]:
    """Bound libgomp's spinning for a library that is loaded in the block; leave the environment as it was.

    libgomp reads its environment once, when it is loaded. Where another package has loaded it before, this has no
    effect.
    """
    if not BOUND:
        yield
        return
    os.environ[SPIN_VARIABLE] = SPIN_COUNT
    try:
        yield
    finally:
        # Programs that the caller starts later are not ours to tune.
        del os.environ[SPIN_VARIABLE]


BOUND: Final = (
    sys.platform.startswith("linux")
    and not any(name in os.environ for name in USERS_OWN)
    and not _libgomp_is_loaded()
)
"""Whether the spinning of this process is bounded by us."""

with _bounded_spinning():
    from llama_cpp import _ggml
    from llama_cpp import llama_cpp as lib

ggml = _ggml.libggml
"""ggml's own library, below llama.cpp's."""

__all__ = ["BOUND", "ggml", "lib", "waiting"]
