"""Tries in a child process whether llama.cpp, as it was built, works on this processor.

A build can be broken without any message: GCC before 12.4, 13.3 and 14 removes code that AMX needs (see
llama/llama_cpp.cmake), and pip's cache or a moved disk may hold a library made for another processor. Such a library
ends the process with an illegal instruction. So a child tries it once for each library and processor, and the verdict
is kept.

This module imports neither llama_cpp nor NumPy, so that a program can ask before it loads them.
"""

from __future__ import annotations

import importlib.metadata
import os
import shlex
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aded_local.errors import BrokenBuildError
from aded_local.trials import library, trial, verdicts
from aded_local.trials.verdicts import Verdict

PREFLIGHT_VERSION = 1
"""Version of the trial; verdicts of other versions do not count."""

PREFLIGHT_MODULE = "aded_local.llama.preflight_trial"
"""What the child runs."""

PREFLIGHT_SECONDS = 120.0
"""Seconds for a step of the child, after which it counts as hung. All steps together take one or two; beside twenty
busy programs per core, the slowest step took 8 and all of them 35."""

NOT_FINITE = "computed what is no number"
"""The child's line when llama.cpp computed infinities or NaN."""

REBUILD_FLAGS = 'CMAKE_ARGS="-DCMAKE_CXX_FLAGS=-fno-dse"'
"""Keeps GCC from removing stores that it takes for dead; see llama/llama_cpp.cmake."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Examination:
    """What came of a trial made now.

    Attributes:
        verdict: None where there is none.
        reason: why there is none.
        kept: the verdict's file; None where it could not be written.
    """

    verdict: Verdict | None
    reason: str = ""
    kept: Path | None = None


_passed = False
_refused: Verdict | None = None


def require_sound_build(progress: Say | None = None) -> None:
    """Make sure, once in this process, that llama.cpp works here; call it before llama.cpp computes.

    A trial without a verdict (no child process can be started, no library found) does not stop anything.

    Args:
        progress: told before the trial, which takes a second or two.

    Raises:
        BrokenBuildError: llama.cpp crashes or hangs on this processor.
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
    verdict = verdicts.read(path)
    if verdict is None:
        if progress is not None:
            progress("trying llama.cpp on this processor (once per build)")
        verdict = examine(path).verdict
    return verdict


def verdict_path() -> Path | None:
    """The file of the verdict on this library and this processor; None where there is no library."""
    return verdicts.place("preflight", PREFLIGHT_VERSION)


def examine(path: Path | None) -> Examination:
    """Try the library in a child process now, whether or not there is a verdict, and keep the new one in ``path``."""
    if path is None:
        return Examination(None, f"no library of llama.cpp was found in {library.folder() or 'any package'}")
    try:
        with tempfile.TemporaryDirectory(prefix="aded-preflight-") as folder:
            outcome = trial.run(PREFLIGHT_MODULE, [folder], limit=PREFLIGHT_SECONDS)
    except OSError as error:
        return Examination(None, f"no folder for temporary files: {error}")
    verdict = verdicts.of(outcome, PREFLIGHT_SECONDS, (NOT_FINITE,))
    if verdict is None:
        return Examination(None, outcome.cause)
    return Examination(verdict, kept=verdicts.keep(path, verdict))


def complaint(verdict: Verdict) -> str:
    """A bad verdict as one line: what happened, where, and what to do about it."""
    when = f" while {verdict.step}" if verdict.step else " before its first step"
    return (
        f"llama.cpp, as it was built, does not work on this processor ({verdict.processor}): tried in a child process, "
        f"it {verdict.what}{when}; {remedy()}; then aded-doctor checks again"
    )


def remedy() -> str:
    """What to do about a library that does not work, as a clause."""
    override = os.environ.get(library.OVERRIDE)
    if override is None:
        return f"build it anew with: {reinstall_command()}"
    also = f" (and unset {library.OVERRIDE}, which names the library in {override})"
    return f"build it anew with: {reinstall_command()}{also}"


def reinstall_command() -> str:
    """The command that builds the installed version of llama-cpp-python again, for this machine."""
    try:
        version = f"=={importlib.metadata.version(library.DISTRIBUTION)}"
    except importlib.metadata.PackageNotFoundError:
        version = ""
    name = library.DISTRIBUTION
    pip = f"-m pip install --force-reinstall --no-cache-dir --no-deps --no-binary {name} {name}{version}"
    if sys.platform == "win32":
        # Compilers there keep those stores, and the shells set variables in other ways.
        python = f'"{sys.executable}"' if " " in sys.executable else sys.executable
        return f"{python} {pip}"
    return f"{REBUILD_FLAGS} {shlex.quote(sys.executable)} {pip}"
