"""Where the drafter starts: hit rates, weights and calibration learnt from recorded answers before shipping.

So the first conversations need not learn what holds for every text: how much a count of two is worth, or a passage of
ten tokens. `aded-bench priors` makes the file; docs/benchmarks.md says from what.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from aded_local.drafters.ngram.calibration import identity
from aded_local.drafters.ngram.candidates import CELLS, SOURCES
from aded_local.drafters.ngram.mixing import start_weights

SHIPPED: Final = Path(__file__).parent / "data" / "priors.npz"


class Priors(NamedTuple):
    """A start for the arrays of the same names in ``state.Predictor``; each caller's own copy."""

    rates: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32]
    finals: npt.NDArray[np.float32]


def blank_priors() -> Priors:
    """Nothing learnt: no candidate was ever judged, all sources weigh the same, calibration changes nothing."""
    return Priors(np.zeros((3, SOURCES, CELLS), np.float32), start_weights(), identity())


@lru_cache(maxsize=1)
def _read() -> dict[str, npt.NDArray[Any]]:
    with np.load(SHIPPED, allow_pickle=False) as file:
        return {name: file[name] for name in Priors._fields}


def shipped_priors() -> Priors:
    """What is shipped.

    Raises:
        FileNotFoundError: the installation is incomplete.
    """
    return Priors(**{name: array.astype(np.float32) for name, array in _read().items()})
