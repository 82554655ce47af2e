"""Fits what the drafter starts from, on recorded answers: hit rates, mixing weights and final calibration.

`auto` reads traces one after the other, each with an empty memory and its own phrases, as in a replay. What it
learnt about evidence is carried over from trace to trace, what it learnt of the texts is not. Afterwards the counts
are cut, so that what is shipped is quickly overruled by what a conversation shows.
"""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from aded_bench.replay.drafter_settings import Table, phrases_of, start_from
from aded_bench.replay.sweep import replay_answer
from aded_bench.replay.traces import Trace
from aded_bench.results import sha256, source_hash
from aded_local.drafters.ngram.candidates import ODDS, RATE, SEEN
from aded_local.drafters.ngram.drafter import NgramDrafter
from aded_local.drafters.ngram.pretrained import Priors, blank_priors
from aded_local.speed.planner import Limits, WholePlanner

DRAFTED_NODES: Final = 32
"""Of each draft, all taken as verified, so that calibration meets paths of many depths. Chosen, not tuned."""

MOST_SEEN: Final = 60.0
"""Observations that a shipped hit rate counts for at most. Fitted ones rest on up to hundreds of thousands, and would
hardly move any more."""

MOST_JUDGED: Final = 12.0
"""The same for points of the calibration curves, which differ more from text to text: on edits of code, with a start
fitted on other traces, 12 against 60 lowers the calibration error from 0.10 to 0.08, and changes nothing elsewhere."""

LARGEST_FILE: Final = 100_000
"""Bytes; it is part of every installation."""


@dataclass(frozen=True)
class Lesson:
    """A trace to learn from, and a file of phrases that were counted without it; None for none."""

    trace: Trace
    phrases: Path | None

    def table(self) -> Table | None:
        """The phrases in the trace's tokens."""
        if self.phrases is None or self.trace.vocab is None:
            return None
        return phrases_of(self.phrases, self.trace.vocab)


def fit(lessons: Sequence[Lesson], step: Callable[[str], None] = lambda note: None) -> Priors:
    """Learn from all lessons in order, beginning with nothing; ``step`` is told after each answer.

    Raises:
        StoreError: of a file of phrases.
    """
    learnt = blank_priors()
    limits = Limits(nodes=DRAFTED_NODES, leaves=DRAFTED_NODES)
    for lesson in lessons:
        drafter = NgramDrafter(n_vocab=lesson.trace.n_vocab, phrases=lesson.table(), without=("priors",))
        start_from(drafter, learnt)
        planner = WholePlanner(drafter, limits)
        for recorded in lesson.trace.answers:
            for _ in replay_answer(planner, recorded, lambda n_tokens, n_cells: 0.0, DRAFTED_NODES):
                pass
            step(lesson.trace.name)
        model = drafter.model
        learnt = Priors(model.rates.copy(), model.weights.copy(), model.finals.copy())
    return _open_to_change(learnt)


def _open_to_change(priors: Priors) -> Priors:
    """Counts cut."""
    rates, finals = priors.rates.copy(), priors.finals.copy()
    rates[SEEN] = np.minimum(rates[SEEN], MOST_SEEN)
    finals[1] = np.minimum(finals[1], MOST_JUDGED)
    assert {RATE, SEEN, ODDS} == set(range(len(rates)))
    return Priors(rates, priors.weights, finals)


def packed(priors: Priors, lessons: Sequence[Lesson]) -> bytes:
    """The file: compressed ``.npz`` of float16 arrays, and ``origin``, a JSON text of what they were fitted on.

    The same arrays and origin give the same bytes.
    """
    arrays: dict[str, Any] = {name: array.astype(np.float16) for name, array in priors._asdict().items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, origin=np.array(json.dumps(origin(lessons), sort_keys=True)), **arrays)
    return buffer.getvalue()


def origin(lessons: Sequence[Lesson]) -> dict[str, Any]:
    """What must be known to fit the same again."""
    traces = []
    for lesson in lessons:
        phrases = lesson.phrases
        traces.append(
            {
                "trace": lesson.trace.name,
                "sha256": sha256(lesson.trace.path),
                "answers": len(lesson.trace.answers),
                "tokens": lesson.trace.tokens,
                "phrases": None if phrases is None else {"file": phrases.name, "sha256": sha256(phrases)},
            }
        )
    return {"traces": traces, "commit": _commit(), "source": source_hash()}


def _commit() -> str | None:
    """Of the sources, with ``-dirty`` where files differ from it; None outside of a clone."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
