"""Whether llama.cpp, as it was built, works on this processor: tried in a child process before this one relies on it.

A build can be broken without a word: GCC before 12.4, 13.3 and 14 drops what AMX needs (target/llama_cpp.cmake has
more), and pip's cache or a moved disk brings libraries made for another processor. Such a library ends the process with
an illegal instruction. So a child tries it, once for each library and processor, and the verdict is kept.

This module imports neither llama_cpp nor NumPy, so that a program can ask before it loads them.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aded_local import library, trial
from aded_local.errors import BrokenBuildError
from aded_local.folders import cache_folder, read_private, write_privately
from aded_local.processor import processor
from aded_local.trial import Ending, Outcome

CHECK = 1
"""Version of what is tried; another one is tried anew."""

PROGRAM = "aded_local.target.preflight_trial"
"""What the child runs."""

LIMIT = 120.0
"""Seconds for a step of the child, after which it counts as hung. All together take one or two; beside twenty busy
programs a core, the slowest step took 8 and all 35."""

NOT_FINITE = "computed what is no number"
"""The line with which the child says that llama.cpp computed infinities, or nothing that is a number."""

FAULTS = {
    "SIGILL": "illegal instruction",
    "SIGSEGV": "bad memory access",
    "SIGBUS": "bad memory access",
    "SIGFPE": "arithmetic fault",
    "SIGABRT": "abort",
    "SIGTRAP": "trap",
    "SIGSYS": "bad system call",
}
"""Signals that a process brings on itself. Any other came from outside (out of memory, a person), and says nothing."""

REBUILD_FLAGS = 'CMAKE_ARGS="-DCMAKE_CXX_FLAGS=-fno-dse"'
"""Keeps GCC from removing the stores it takes for dead; see target/llama_cpp.cmake."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of the check of one library on one processor.

    Attributes:
        sound: it works.
        what: what went wrong, e.g. ``died of SIGILL (illegal instruction)``; empty where it is sound.
        step: what the child was doing then; empty likewise, or where it had not begun.
        processor: the processor's name.
        library: the folder it was found in.
        seconds: how long the check took.
        when: Unix time of its end.
    """

    sound: bool
    what: str
    step: str
    processor: str
    library: str
    seconds: float
    when: float


@dataclass(frozen=True, slots=True)
class Examination:
    """A check just made.

    Attributes:
        verdict: None where the check did not come to one.
        reason: why it did not.
        kept: where the verdict lies now; None where it could not be written.
    """

    verdict: Verdict | None
    reason: str = ""
    kept: Path | None = None


_passed = False
_refused: Verdict | None = None


def require_sound_build(progress: Say | None = None) -> None:
    """Make sure, once in this process, that llama.cpp works here; call before it computes.

    A check that comes to no verdict (no child process can be started, no library found) is no obstacle.

    Args:
        progress: told before the check, which takes a second or two.

    Raises:
        BrokenBuildError: it dies or hangs on this processor.
    """
    global _passed, _refused
    if _passed or trial.is_child():
        return
    verdict = _refused or _kept_or_new(progress)
    if verdict is not None and not verdict.sound:
        _refused = verdict
        raise BrokenBuildError(complaint(verdict))
    _passed = True


def _kept_or_new(progress: Say | None) -> Verdict | None:
    path = verdict_path()
    if path is None:
        return None
    verdict = read(path)
    if verdict is None:
        if progress is not None:
            progress("trying llama.cpp on this processor (once per build)")
        verdict = examine(path).verdict
    return verdict


def verdict_path() -> Path | None:
    """Where the verdict on this library and this processor is kept; None where there is no library to be judged."""
    try:
        paths = library.files()
        found = library.fingerprint(paths) if paths else None
    except OSError:
        return None
    if found is None:
        return None
    here = processor()
    key = hashlib.sha256(repr((CHECK, found, here.name, here.flags)).encode()).hexdigest()[:24]
    return cache_folder() / "preflight" / f"{key}.json"


def read(path: Path) -> Verdict | None:
    """A kept verdict; None where there is none, or none that can be used."""
    try:
        found: dict[str, Any] = json.loads(read_private(path))
        verdict = Verdict(**found)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    texts = (verdict.what, verdict.step, verdict.processor, verdict.library)
    numbers = (verdict.seconds, verdict.when)
    is_right = (
        isinstance(verdict.sound, bool)
        and all(isinstance(text, str) for text in texts)
        and all(isinstance(number, (int, float)) for number in numbers)
    )
    return verdict if is_right else None


def examine(path: Path | None) -> Examination:
    """Try the library in a child process, now, whatever is known of it, and keep the verdict in ``path``."""
    if path is None:
        return Examination(None, f"no library of llama.cpp was found in {library.folder() or 'any package'}")
    try:
        with tempfile.TemporaryDirectory(prefix="aded-preflight-") as folder:
            outcome = trial.run(PROGRAM, [folder], limit=LIMIT)
    except OSError as error:
        return Examination(None, f"no folder for temporary files: {error}")
    what = _fault(outcome)
    if what is None:
        return Examination(None, outcome.cause)
    verdict = Verdict(
        sound=not what,
        what=what,
        step=outcome.step if what else "",
        processor=processor().name,
        library=str(library.folder()),
        seconds=round(outcome.seconds, 3),
        when=round(time.time(), 3),
    )
    kept = None
    with contextlib.suppress(OSError):
        write_privately(path, json.dumps(asdict(verdict)))
        kept = path
    return Examination(verdict, kept=kept)


def _fault(outcome: Outcome) -> str | None:
    """What the library did wrong; empty where nothing, None where the outcome does not tell."""
    if outcome.ending is Ending.FINE:
        return ""
    if outcome.ending is Ending.HUNG:
        return f"hung for {LIMIT:.0f} s"
    if outcome.ending is Ending.DIED:
        meaning = FAULTS.get(outcome.cause)
        if meaning is not None:
            return f"died of {outcome.cause} ({meaning})"
        return f"died of an {outcome.cause}" if sys.platform == "win32" else None
    return NOT_FINITE if NOT_FINITE in outcome.said else None


def complaint(verdict: Verdict) -> str:
    """A bad verdict as one line: what happened, where, and what to do about it."""
    when = f" while {verdict.step}" if verdict.step else " before its first step"
    line = (
        f"llama.cpp, as it was built, does not work on this processor ({verdict.processor}): tried in a child process, "
        f"it {verdict.what}{when}; build it anew with: {reinstall_command()}"
    )
    override = os.environ.get(library.OVERRIDE)
    if override is not None:
        line += f" (and unset {library.OVERRIDE}, which names the library in {override})"
    return f"{line}; then aded-doctor checks again"


def reinstall_command() -> str:
    """The command that builds the installed version of llama-cpp-python again, for this machine."""
    try:
        version = f"=={importlib.metadata.version(library.DISTRIBUTION)}"
    except importlib.metadata.PackageNotFoundError:
        version = ""
    name = library.DISTRIBUTION
    pip = f"-m pip install --force-reinstall --no-cache-dir --no-deps --no-binary {name} {name}{version}"
    if sys.platform == "win32":
        # Its compilers keep those stores, and its shells set variables in ways of their own.
        python = f'"{sys.executable}"' if " " in sys.executable else sys.executable
        return f"{python} {pip}"
    return f"{REBUILD_FLAGS} {shlex.quote(sys.executable)} {pip}"
