"""What is learnt of a target and its draft model, kept for the next start: numbers, and no word of any text.

How often the draft model is right, what asking it takes, which mode was fastest, and what its statements weigh in the
mixture.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

from aded_local.drafters.model import numbers
from aded_local.drafters.model.costs import AskingCosts
from aded_local.drafters.model.modes import Chooser
from aded_local.drafters.ngram.drafter import NgramDrafter

FORMAT: Final = 1

FOLDER: Final = "pairs"
"""In the cache folder."""


class Pair:
    """See this module's first line.

    Args:
        path: of the file; what is wrong with it means a new beginning.
        costs, chooser, ngrams: go on from what is in it.
    """

    def __init__(self, path: Path, costs: AskingCosts, chooser: Chooser, ngrams: NgramDrafter) -> None:
        self._path, self._costs, self._chooser, self._ngrams = path, costs, chooser, ngrams
        found = numbers.load(path)
        if found.get("format") != FORMAT:
            return
        learnt = numbers.fitting(found, ngrams.learnt_of_model())
        if learnt is not None and ngrams.take_of_model(learnt):
            costs.take(found.get("costs"))
            chooser.take(found.get("ways"))

    def save(self) -> None:
        """Keep what was learnt, where it can be written."""
        found = {
            "format": FORMAT,
            "costs": self._costs.kept(),
            "ways": self._chooser.kept(),
            **self._ngrams.learnt_of_model(),
        }
        with contextlib.suppress(OSError):
            numbers.save(self._path, found)
