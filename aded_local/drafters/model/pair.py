"""What is learnt of a target and its draft model, kept for the next start: numbers, and no word of any text.

How often the draft model is right, what asking it takes, which mode was fastest, and what its statements weigh in the
mixture.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import zipfile
import zlib
from pathlib import Path
from typing import Any, Final

import numpy as np

from aded_local.drafters.model.costs import AskingCosts
from aded_local.drafters.model.modes import Chooser
from aded_local.drafters.ngram.drafter import NgramDrafter
from aded_local.files import cache_folder, make_private_folder, read_private, replacing

FORMAT: Final = 1
LONGEST_NAMES: Final = 16
"""Ways that a file may name."""


class Pair:
    """See this module's first line.

    Args:
        path: of the file; what is wrong with it means a new beginning.
        costs, chooser, ngrams: go on from what is in it.
    """

    def __init__(self, path: Path, costs: AskingCosts, chooser: Chooser, ngrams: NgramDrafter) -> None:
        self._path, self._costs, self._chooser, self._ngrams = path, costs, chooser, ngrams
        with contextlib.suppress(
            OSError, ValueError, LookupError, TypeError, EOFError, zipfile.BadZipFile, zlib.error
        ):
            self._take(path)

    def _take(self, path: Path) -> None:
        with np.load(io.BytesIO(read_private(path)), allow_pickle=False) as file:
            found: dict[str, Any] = {name: np.asarray(file[name]) for name in file.files}
        costs, ways = found["costs"], found["ways"]
        if int(found["format"]) != FORMAT or costs.dtype != np.float64 or costs.ndim != 2:
            return
        if costs.shape[1] != 3 or not np.all(np.isfinite(costs)) or not 0 < ways.size <= LONGEST_NAMES:
            return
        if self._ngrams.take_of_model(found):
            self._costs.take(costs)
            self._chooser.take([str(way) for way in ways.tolist()])

    def save(self) -> None:
        """Keep what was learnt, where something was and it can be written."""
        if not self._costs.n_judged:
            return
        found: dict[str, Any] = {
            "format": np.array(FORMAT),
            "costs": self._costs.kept(),
            "ways": np.array(self._chooser.kept()),
            **self._ngrams.learnt_of_model(),
        }
        with contextlib.suppress(OSError):
            make_private_folder(self._path.parent)
            with replacing(self._path) as file:
                np.savez(file, **found)


def path_of(target: str, draft: str, how: str) -> Path:
    """Where what was learnt of a pair is kept.

    Args:
        target, draft: digests of their files' headers.
        how: whatever else costs depend on.
    """
    name = hashlib.sha256(f"{target} {draft} {how}".encode()).hexdigest()[:24]
    return cache_folder() / "pairs" / f"{name}.npz"
