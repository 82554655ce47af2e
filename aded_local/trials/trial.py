"""Runs in a child process what may crash or hang a process.

The child runs a module as a program. It names each step before it begins it, so that the parent knows where it died.
Its memory may be bounded::

    from aded_local.trials import trial            # in the child
    trial.step("decoding one token")

    outcome = trial.run("package.module", [path], limit=60)      # in the parent
    if outcome.ending is trial.Ending.DIED: ...                 # outcome.cause == "SIGILL", outcome.step
"""

from __future__ import annotations

import contextlib
import enum
import faulthandler
import json
import os
import queue
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

INSIDE = "ADED_TRIAL"
"""Environment variable that marks such a child, and the processes that it starts."""

STEP, ALL_DONE = "step: ", "end of trial"
"""The beginning of a line that names a step, and the last line of a child that did everything."""

GRACE = 10.0
"""Seconds after the limit when a child ends itself, if its parent has not ended it."""

OUT_OF_MEMORY = "ran out of the memory it was given"
"""A child's line when memory ran out and it could still write."""

WINDOWS_FAULT = 0xC0000000
"""Exit codes from this one up are exceptions that ended a process (NTSTATUS, severity "error")."""

WINDOWS_FAULTS = {
    0xC0000005: "access violation",
    0xC000001D: "illegal instruction",
    0xC0000094: "division by zero",
    0xC00000FD: "stack overflow",
    0xC0000374: "heap corruption",
    0xC0000409: "fail-fast abort",
}
"""The names of those that native code is likely to meet (ntstatus.h)."""

_NO_DIALOGS = 0x0001 | 0x0002  # SEM_FAILCRITICALERRORS | SEM_NOGPFAULTERRORBOX

_TAKE_OVER = (
    "import sys; sys.path[:] = filter(None, sys.path); import json; sys.path[:] = json.loads(sys.argv.pop(1)); "
)  # fmt: skip
_BEGIN = (
    "from aded_local.trials import trial; "
    "trial.become_child(sys.argv[1], *map(float, sys.argv[2:4]), sys.argv[4:])"
)
"""The child's first statements."""


class Ending(enum.Enum):
    """How a trial ended."""

    FINE = "fine"
    FAILED = "failed"
    """It could not be started, or ended with an exception or an exit code."""
    DIED = "died"
    """A signal ended it; on Windows, an unhandled exception."""
    HUNG = "hung"
    """It had not ended when its time was over."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a trial.

    Attributes:
        ending: how it ended.
        step: the step it began last; empty before the first.
        cause: DIED: the signal's name; FAILED: the last line on standard error, or the exit code; else empty.
        seconds: how long it took.
        said: its other lines on standard output.
        complained: its lines on standard error.
    """

    ending: Ending
    step: str
    cause: str
    seconds: float
    said: tuple[str, ...] = ()
    complained: tuple[str, ...] = ()


def interpreter(program: str, *arguments: str) -> list[str]:
    """The command of a Python that runs a program's text, with this process's module path.

    With ``-m`` Python would first look for modules in the current folder, and run files that lie there.

    Raises:
        OSError: there is no interpreter. The executable of a frozen program would start that program again.
    """
    if not sys.executable or getattr(sys, "frozen", False):
        raise OSError("there is no Python interpreter to start")
    path = json.dumps([entry for entry in sys.path if isinstance(entry, str)])
    return [sys.executable, "-c", _TAKE_OVER + program, path, *arguments]


def is_child() -> bool:
    """Whether this process is itself a trial, which needs no trials of its own."""
    return INSIDE in os.environ


def run(module: str | Path, arguments: Sequence[str], *, limit: float, memory: int = 0) -> Outcome:
    """Run a module as a program in a child process, and wait for its end.

    The child has this process's environment and module path. It reads no input, and its output is not shown.

    Args:
        module: its full name; or its file, to run it without importing its package.
        arguments: its ``sys.argv[1:]``.
        limit: seconds without a further step after which it counts as hung, and is ended. Not seconds in all: beside
            much other work a sound child may be many times slower.
        memory: bytes it may take besides files that it only reads; 0 for no bound. Only Linux enforces it.
    """
    started = time.monotonic()
    lines: list[str] = []
    complained: list[str] = []

    def outcome(ending: Ending, cause: str = "") -> Outcome:
        steps = [line.removeprefix(STEP) for line in lines if line.startswith(STEP)]
        said = tuple(line for line in lines if line != ALL_DONE and not line.startswith(STEP))
        seconds = time.monotonic() - started
        return Outcome(ending, steps[-1] if steps else "", cause, seconds, said, tuple(complained))

    try:
        child = subprocess.Popen(
            interpreter(_BEGIN, str(module), str(limit), str(memory), *arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, INSIDE: "1"},
            text=True,
            encoding="utf-8",
            errors="replace",
        )
    except (OSError, ValueError) as error:
        return outcome(Ending.FAILED, f"no child process could be started: {error}")
    with child:
        heard, complaints = _listen(child.stdout), _listen(child.stderr)
        try:
            while (line := heard.get(timeout=limit)) is not None:
                lines.append(line)
            code = child.wait(limit)
        except (queue.Empty, subprocess.TimeoutExpired):
            child.kill()
            return outcome(Ending.HUNG)
        except BaseException:  # Ctrl-C: nobody waits for it any more
            child.kill()
            raise
        complained += iter(complaints.get, None)
    fault = fault_of(code)
    if fault is not None:
        return outcome(Ending.DIED, fault)
    # Where a program ignores SIGCHLD, the exit code of a child that died is lost, and reads 0.
    if code == 0 and lines[-1:] == [ALL_DONE]:
        return outcome(Ending.FINE)
    complaint = next((line.strip() for line in reversed(complained) if line.strip()), f"exit code {code}")
    return outcome(Ending.FAILED, complaint)


def _listen(stream: IO[str] | None) -> queue.SimpleQueue[str | None]:
    """The lines of a stream as they come, read in a thread; None after the last."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        with contextlib.suppress(ValueError):  # closed: the child was ended
            for line in stream or ():
                lines.put(line.rstrip("\n"))
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    return lines


def fault_of(code: int) -> str | None:
    """The name of the signal or exception that ended a process; None where it ended itself."""
    if code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
        return f"signal {-code}"
    if sys.platform == "win32" and code >= WINDOWS_FAULT:
        return WINDOWS_FAULTS.get(code, f"exception 0x{code:08X}")
    return None


# --- in the child --------------------------------------------------------------------------------

_limit = 0.0
"""The ``limit`` of ``run``; 0 in a process that is no such child."""


def step(what: str) -> None:
    """Name the step that begins now."""
    if _limit:
        # If the parent dies meanwhile, the child ends itself.
        faulthandler.dump_traceback_later(_limit + GRACE, exit=True)
    print(STEP + what, flush=True)


def become_child(module: str, limit: float, memory: float, arguments: Sequence[str]) -> None:
    """Run a module as a program in this process, which is a child made for it, and print ``ALL_DONE`` at the end."""
    global _limit
    _limit = limit
    die_quietly()
    if memory:
        bound_memory(int(memory))
    # The parent gets a Ctrl-C too, and ends its child.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    step("starting")
    sys.argv[1:] = arguments
    try:
        if module.endswith(".py"):
            runpy.run_path(module, run_name="__main__")
        else:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as leaving:
        if leaving.code:
            raise
    print(ALL_DONE, flush=True)
    # A library's clean-up at the end of the process is not part of the trial, and takes a while.
    os._exit(0)


def bound_memory(n_bytes: int) -> None:
    """Bound the memory of this process; files that are mapped to be read do not count."""
    if not sys.platform.startswith("linux"):
        return  # macOS does not bound mapped memory, and nearly all memory is mapped
    import resource

    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (min(hard, n_bytes) if hard >= 0 else n_bytes, hard))


def die_quietly() -> None:
    """Leave no core dump and open no dialog if this process crashes: its parent reports it."""
    if sys.platform == "win32":
        import ctypes

        ctypes.windll.kernel32.SetErrorMode(_NO_DIALOGS)
        return
    import resource

    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    with contextlib.suppress(OSError, ValueError):
        # At a limit of 0 Linux still hands the core to a collecting program, at 1 it does not (fs/coredump.c).
        resource.setrlimit(resource.RLIMIT_CORE, (min(hard, 1) if hard >= 0 else 1, hard))
