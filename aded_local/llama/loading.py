"""Loads llama.cpp's library, with a bound on spinning threads. Every module of this package takes ``lib`` from here.

llama.cpp has a barrier after every operator. A thread that waits there spins, by libgomp's default for some
milliseconds. Where another process has the core of the thread that it waits for, this time is lost: a pass of 5 ms can
take seconds. A short spin costs nothing on a quiet machine.

A forked child has no copy of those threads, and would wait for them for ever at its first barrier. So in such a child
every function of ``lib`` raises ``ForkedError``, and nothing that it inherited is freed.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, Final

from aded_local.errors import BrokenBuildError, ForkedError
from aded_local.trials.preflight import remedy

SPIN_VARIABLE: Final = "GOMP_SPINCOUNT"
SPIN_COUNT: Final = "500"
"""Turns of the spin loop before a thread sleeps: see docs/benchmarks.md, "Beside other programs"."""

USERS_OWN: Final = (SPIN_VARIABLE, "OMP_WAIT_POLICY")
"""Where the user has set one of these, nothing is changed."""


def _libgomp_is_loaded() -> bool:
    try:
        with open("/proc/self/maps") as maps:
            return any("libgomp" in line for line in maps)
    except OSError:
        return False


def waiting() -> str:
    """How waiting threads behave in this process, in a few words."""
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
    """Bound the spinning of a libgomp that is loaded in the block; leave the environment as it was.

    libgomp reads its environment once, when it is loaded. If another package has loaded it before, this has no effect.
    """
    if not BOUND:
        yield
        return
    os.environ[SPIN_VARIABLE] = SPIN_COUNT
    try:
        yield
    finally:
        # Programs that the caller starts later must not inherit it.
        del os.environ[SPIN_VARIABLE]


BOUND: Final = (
    sys.platform.startswith("linux")
    and not any(name in os.environ for name in USERS_OWN)
    and not _libgomp_is_loaded()
)
"""Whether this module has bounded the spinning in this process."""

with _bounded_spinning():
    try:
        from llama_cpp import _ggml, llama_cpp
    except (OSError, RuntimeError) as error:  # there is no library, or the system cannot load it
        raise BrokenBuildError(f"llama.cpp's library cannot be loaded: {error}; {remedy()}") from error

ggml: Any = llama_cpp._lib if os.name == "posix" else _ggml.libggml
"""ggml's own functions, below llama.cpp's. They do not check for forks, so call a function of ``lib`` first.

They are looked up through llama.cpp's library. In a wheel, ggml's lies beside it under several names, and another than
llama.cpp's own would be a second copy, whose devices llama.cpp does not know."""


class _Library:
    """llama.cpp's functions, types and constants under their own names."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(llama_cpp, name)
        if callable(found) and not isinstance(found, type):
            require_not_forked()
        vars(self)[name] = found  # from here on Python finds it without this method
        return found


lib: Any = _Library()

_threads_began = False
_forked = False


def threads_begin() -> None:
    """Note that llama.cpp has threads in this process now, or uses a GPU's driver: neither works after a fork."""
    global _threads_began
    _threads_began = True


def is_forked() -> bool:
    """Whether this process was forked from one in which llama.cpp had threads. Takes no lock."""
    return _forked


def require_not_forked() -> None:
    """Refuse to go on where llama.cpp would hang.

    Raises:
        ForkedError: this process was forked from one in which llama.cpp had threads.
    """
    if _forked:
        raise ForkedError(
            "this process was forked from one that had loaded a model, and llama.cpp does not survive a fork; start it "
            "with multiprocessing.get_context('spawn'), or load models in the children only"
        )


def _in_forked_child() -> None:
    global _forked
    if _threads_began:
        _forked = True
        vars(lib).clear()


if hasattr(os, "register_at_fork"):  # elsewhere nothing forks
    os.register_at_fork(after_in_child=_in_forked_child)

__all__ = ["BOUND", "ggml", "is_forked", "lib", "require_not_forked", "threads_begin", "waiting"]
