"""Tries in a child process whether a GGUF crashes the process that loads it.

llama.cpp ends the process where a file breaks one of its assertions. The rules in ``llama/soundness.py`` refuse the
known cases. For the others a child loads the file and decodes a token, once for each header, library and processor, and
the verdict is kept.

This module imports neither llama_cpp nor NumPy.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from aded_local.errors import ModelFormatError
from aded_local.trials import trial, verdicts
from aded_local.trials.trial import Ending
from aded_local.trials.verdicts import Verdict

VETTING_VERSION = 1
"""Version of the trial; verdicts of other versions do not count."""

VETTING_FILE = Path(__file__).parent.parent / "llama" / "vetting_trial.py"
"""The child's program, as a file: importing its package, with NumPy and more, would take longer than the trial."""

VETTING_SECONDS = 15.0
"""Seconds for a step of the child, beside the time to read the file, after which it counts as hung. SmolLM2 (98 MB)
takes 0.4 s of a core in all, the built-in draft model 0.13, a file of 1.5 GB one second."""

SLOWEST_DISK = 20e6
"""Bytes per second of the slowest disk allowed for: less than a worn hard disk or a wireless network share gives."""

VETTING_MEMORY, MEMORY_SHARE = 2 << 30, 4
"""Bytes that the child may take besides the mapped weights; and one part in so many of the file's size on top, since
running states grow with a model. SmolLM2 takes 90 MB, 24 layers of width 2,048 under 300."""

LARGE = 1 << 30
"""Bytes. The trial of a larger file may take seconds, so that the user is told."""

PASSING = ("SIGBUS",)
"""Signals that also come where a file is cut short or a disk fails meanwhile: the error is raised, and not kept."""

_passed: set[tuple[str, bool]] = set()


def require_harmless(
    path: Path,
    digest: str,
    n_bytes: int,
    *,
    vocabulary_only: bool = False,
    progress: Callable[[str], None] | None = None,
) -> None:
    """Make sure, once for each header, that llama.cpp does not crash on a file; call it before the file is loaded.

    A trial without a verdict (no child process can be started, somebody killed it) does not stop anything.

    Args:
        path: the file.
        digest: of all that llama.cpp reads besides weights.
        n_bytes: of the file, or of all its parts.
        vocabulary_only: only its vocabulary will be loaded.
        progress: told before a trial that may take seconds.

    Raises:
        ModelFormatError: llama.cpp crashed on it, hung, or took more memory than any header needs.
    """
    if (digest, vocabulary_only) in _passed or trial.is_child():
        return
    what = "vocabulary" if vocabulary_only else "model"
    kept = verdicts.place("vetted", VETTING_VERSION, what, digest)
    verdict = None if kept is None else verdicts.read(kept)
    if verdict is None:
        if progress is not None and n_bytes >= LARGE:
            progress(f"trying the {what} in a child process (once per file)")
        verdict = _tried(path, what, n_bytes, kept)
    if verdict is None:
        return
    if not verdict.sound:
        raise ModelFormatError(complaint(path, verdict))
    _passed.add((digest, vocabulary_only))


def _tried(path: Path, what: str, n_bytes: int, kept: Path | None) -> Verdict | None:
    limit = VETTING_SECONDS + n_bytes / SLOWEST_DISK
    memory = VETTING_MEMORY + n_bytes // MEMORY_SHARE
    outcome = trial.run(VETTING_FILE, [str(path), what], limit=limit, memory=memory)
    verdict = verdicts.of(outcome, limit, (trial.OUT_OF_MEMORY,))
    # A child also hangs where the machine was suspended.
    passing = outcome.ending is Ending.HUNG or outcome.cause in PASSING
    if verdict is not None and kept is not None and not passing:
        verdicts.keep(kept, verdict)
    return verdict


def complaint(path: Path, verdict: Verdict) -> str:
    """A bad verdict as one line: what happened, and what to do about it."""
    when = f" while {verdict.step}" if verdict.step else ""
    words = f": {verdict.words}" if verdict.words else ""
    return (
        f"{path} cannot be used: tried in a child process, llama.cpp {verdict.what}{when}{words}; "
        "download or convert it again, or update llama-cpp-python"
    )
