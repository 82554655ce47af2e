"""Prepares beside and between answers what a first start lacks: kernels, the best setting, the cost curve.

The first token never waits for them. A child process compiles the kernels, and goes on when this process ends. Settings
and costs are measured while no answer is computed, in contexts of their own. Then drafting begins.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from math import inf
from typing import Final

from aded_local.drafters import Search
from aded_local.errors import ADEDError
from aded_local.llama.interrupts import held_back
from aded_local.llama.loading import is_forked
from aded_local.scheduler import Closed, Scheduler
from aded_local.trials import trial

KERNELS: Final = "kernels"
MEASURING: Final = "measuring"
READY: Final = "ready"

PREPARATION_POLL: Final = 0.1
"""Seconds between two looks at the compiling child, and two interruptions of a thread that is to end."""

LOOK_SECONDS: Final = 0.005
"""Seconds between two looks of whoever waits for the thread."""

FIRST_ANSWER_SECONDS: Final = 1.0
"""Compiling begins so many seconds after the start if no answer was asked for, else after the first answer: beside
compiling, an answer streams at half its speed (SmolLM2, two cores)."""

COMPILING_LIMIT: Final = 600.0
"""Seconds after which a compiling child is no longer waited for: forty times what it takes on a quiet core."""

SWITCH_SECONDS: Final = 5e-4
"""Seconds after which Python code of this thread lets an answer's thread run. Python's default, 5 ms, would delay every
token."""

CLOSING_SECONDS: Final = 30.0
"""Seconds that closing waits for the pass that is being timed."""

Say = Callable[[str], None]


class Preparation:
    """Runs steps in a thread until drafting is ready.

    Attributes:
        scheduler: who may use the model now.
        stage: ``KERNELS``, ``MEASURING`` or ``READY``.
        compiled: seconds that compiling kernels took, 0.0 where they were kept.
        joined: seconds from the start until drafting began; 0.0 before, and where it began at once.
    """

    def __init__(self, scheduler: Scheduler, notice: Say) -> None:
        self.scheduler = scheduler
        self.stage = READY
        self.compiled = 0.0
        self.joined = 0.0
        self._notice = notice
        self._steps: Callable[[Preparation], None] = _nothing
        self._started = time.perf_counter()
        # Looked at, and nothing else: a Ctrl-C in Thread.join makes CPython 3.11 believe that the thread has ended, and
        # one in an Event's methods leaves its lock held.
        self._running = False
        self._interruptible: int | None = None

    def start(self, steps: Callable[[Preparation], None], stage: str) -> None:
        """Run ``steps`` in a thread; they may raise ``Closed`` or an ADEDError, which ends them.

        Args:
            steps: sets ``stage`` as it goes.
            stage: the first.
        """
        self.stage = stage
        self._steps = steps
        # A thread inside llama.cpp must not outlive the library at the interpreter's end.
        atexit.register(_close_at_exit, weakref.ref(self))
        with held_back():  # a Ctrl-C could keep the thread from ever running
            self._running = True
            threading.Thread(target=self._run, name="aded-prepare", daemon=True).start()

    def _run(self) -> None:
        steps, self._steps = self._steps, _nothing
        try:
            steps(self)
        except Closed:
            pass
        except (ADEDError, OSError) as error:
            self._notice(f"not all could be measured here, so decoding goes on as it is: {error}")
        except Exception as error:  # no error here may stop answers
            if self.scheduler.closing:
                return  # a compiler turns ``Closed`` into an exception of its own
            what = f"{type(error).__name__}: {error}"
            self._notice(
                f"measuring ended unexpectedly ({what}), so decoding goes on as it is; please report it"
            )
        finally:
            # The steps may hold the last reference to a model: it is freed before ``wait`` returns.
            del steps
            self.stage = READY
            self._running = False

    def has_joined(self) -> None:
        """Drafting is ready."""
        self.joined = time.perf_counter() - self._started

    @property
    def running(self) -> bool:
        """Whether preparation goes on."""
        return self._running

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until all is ready, at most ``seconds``; tells whether it is."""
        until = time.monotonic() + (inf if seconds is None else seconds)
        while self._running and (left := until - time.monotonic()) > 0.0:
            time.sleep(min(LOOK_SECONDS, left))
        return not self._running

    def close(self) -> bool:
        """Stop after the current pass; tells whether the thread has ended and no longer uses the model.

        A Ctrl-C meanwhile takes effect after the pass, which needs the weights.
        """
        self.scheduler.close()
        until = time.monotonic() + CLOSING_SECONDS
        with held_back():
            while self._running and time.monotonic() < until:
                self._interrupt()  # repeated, since compilers sometimes drop it
                self.wait(PREPARATION_POLL)
        return not self._running

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Within the block closing raises ``Closed`` in this thread, wherever it is."""
        self._interruptible = threading.get_ident()
        try:
            yield
        finally:
            self._interruptible = None

    def _interrupt(self) -> None:
        thread = self._interruptible
        if thread is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(Closed))

    def describe(self) -> str:
        """The state in a few words, for people."""
        parts = [f"kernels compiled in {self.compiled:.0f} s"] if self.compiled else []
        if self.stage == KERNELS:
            parts.append("compiling the drafter beside the answers, once per installation")
        elif self.stage == MEASURING:
            parts.append("measuring this machine between answers, once per model")
        if self.joined:
            parts.append(f"drafting joined after {self.joined:.1f} s")
        return "; ".join(parts) or "all is ready"


def _nothing(_preparation: Preparation) -> None:
    return


def _close_at_exit(preparation: weakref.ref[Preparation]) -> None:
    found = preparation()
    if found is not None and not is_forked():
        found.close()


def compile_beside(scheduler: Scheduler, search: Search = "best-first") -> None:
    """Have a child process compile the drafter's kernels, with this search, into the cache.

    The child goes on when this process ends, so that short runs get there too.

    Raises:
        Closed: the model is being closed.
    """
    from aded_local.drafters.ngram import ahead
    from aded_local.kernels import kept

    started = time.perf_counter()
    if kept.FOLDER is None:
        return  # a child could not hand its kernels over, so this process compiles them
    child = None
    try:
        scheduler.wait_for_a_first_answer(FIRST_ANSWER_SECONDS)
    finally:  # also where this program ends now: the kernels are there at the next start
        if not kept.somebody_compiles():
            # In a session of its own a terminal's Ctrl-C does not reach it.
            with contextlib.suppress(OSError):
                child = subprocess.Popen(
                    trial.interpreter(
                        f"import runpy; runpy.run_module({ahead.__name__!r}, run_name='__main__', alter_sys=True)",
                        search,
                    ),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
                # The child may outlive this object, and its exit code has to be collected.
                threading.Thread(target=child.wait, daemon=True).start()
    while time.perf_counter() - started < COMPILING_LIMIT:
        if scheduler.closing:
            raise Closed
        time.sleep(PREPARATION_POLL)
        if child.poll() is not None if child is not None else not kept.somebody_compiles():
            return


@contextlib.contextmanager
def giving_way() -> Iterator[None]:
    """Within the block Python switches threads more often, so that an answer beside it is not delayed."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
