"""Verdicts of trials in child processes, kept in the cache folder so that each trial is made once.

A verdict holds for one library of llama.cpp on one processor, and for the other facts that the trial depends on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aded_local.files import cache_folder, read_private, write_privately
from aded_local.shown import one_line
from aded_local.trials import library
from aded_local.trials.processor import processor
from aded_local.trials.trial import Ending, Outcome

FAULTS = {
    "SIGILL": "illegal instruction",
    "SIGSEGV": "bad memory access",
    "SIGBUS": "bad memory access",
    "SIGFPE": "arithmetic fault",
    "SIGABRT": "abort",
    "SIGTRAP": "trap",
    "SIGSYS": "bad system call",
}
"""Signals that a process causes itself. Any other comes from outside (out of memory, a person) and gives no verdict."""

LAST_LINES = 3
LAST_CHARACTERS = 200
"""How much of a child's last output is kept: an assertion of ggml is one line, a C++ exception two."""

_FOLDERS = re.compile(r"^.*/(?=[^/]+:\d+: )")
"""The folders before ``ggml.c:123: ``, which are those of the machine that built the library."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one trial.

    Attributes:
        sound: it works.
        what: what went wrong, e.g. ``died of SIGILL (illegal instruction)``; empty where it is sound.
        step: the child's step at that time; empty where it is sound, or before the first step.
        processor: the processor's name.
        library: the folder llama.cpp was found in.
        seconds: how long the trial took.
        when: Unix time of its end.
        words: the child's last output before it died, in one line that is safe to show; mostly empty.
    """

    sound: bool
    what: str
    step: str
    processor: str
    library: str
    seconds: float
    when: float
    words: str = ""


def place(folder: str, *facts: object) -> Path | None:
    """The file of a verdict on this library and this processor; None where there is no library.

    Args:
        folder: within the cache folder.
        facts: what else the verdict depends on; their ``repr`` is part of the file's name.
    """
    try:
        paths = library.files()
        found = library.fingerprint(paths) if paths else None
    except OSError:
        return None
    if found is None:
        return None
    here = processor()
    key = hashlib.sha256(repr((*facts, found, here.name, here.flags)).encode()).hexdigest()[:24]
    return cache_folder() / folder / f"{key}.json"


def read(path: Path) -> Verdict | None:
    """A kept verdict; None where there is none, or its file is damaged."""
    try:
        found: dict[str, Any] = json.loads(read_private(path))
        verdict = Verdict(**found)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    texts = (verdict.what, verdict.step, verdict.processor, verdict.library, verdict.words)
    numbers = (verdict.seconds, verdict.when)
    is_right = (
        isinstance(verdict.sound, bool)
        and all(isinstance(text, str) for text in texts)
        and all(isinstance(number, (int, float)) for number in numbers)
    )
    return verdict if is_right else None


def keep(path: Path, verdict: Verdict) -> Path | None:
    """Keep a verdict; returns its file, None where it could not be written."""
    with contextlib.suppress(OSError):
        write_privately(path, json.dumps(asdict(verdict)))
        return path
    return None


def of(outcome: Outcome, limit: float, admitted: Collection[str] = ()) -> Verdict | None:
    """The verdict that follows from an outcome; None where none does.

    Args:
        outcome: of the trial.
        limit: seconds it had for a step.
        admitted: lines by which the child itself reports a fault.
    """
    what = _fault(outcome, limit, admitted)
    if what is None:
        return None
    return Verdict(
        sound=not what,
        what=what,
        step=outcome.step if what else "",
        processor=processor().name,
        library=str(library.folder()),
        seconds=round(outcome.seconds, 3),
        when=round(time.time(), 3),
        words=_words(outcome.complained) if what else "",
    )


def _fault(outcome: Outcome, limit: float, admitted: Collection[str]) -> str | None:
    """What went wrong; empty for nothing, None where the outcome does not show it."""
    if outcome.ending is Ending.FINE:
        return ""
    if outcome.ending is Ending.HUNG:
        return f"hung for {limit:.0f} s"
    if outcome.ending is Ending.DIED:
        meaning = FAULTS.get(outcome.cause)
        if meaning is not None:
            return f"died of {outcome.cause} ({meaning})"
        return f"died of an {outcome.cause}" if sys.platform == "win32" else None
    return next((line for line in outcome.said if line in admitted), None)


def _words(lines: Sequence[str]) -> str:
    """The first error lines of a process that died. They say why; later ones may be a backtrace."""
    told = [_FOLDERS.sub("", line.strip()) for line in lines if line.strip()][:LAST_LINES]
    shown = one_line("; ".join(told))
    return shown if len(shown) <= LAST_CHARACTERS else shown[: LAST_CHARACTERS - 3] + "..."
