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

from aded_local.drafters.ngram.calibration import UNTOLD_CLASSES, identity
from aded_local.drafters.ngram.candidates import CELLS, MODEL, SOURCES
from aded_local.drafters.ngram.mixing import MODEL_FIRST_SETS, start_weights
from aded_local.drafters.ngram.statements import start_rates

SHIPPED: Final = Path(__file__).parent / "data" / "priors.npz"


class Priors(NamedTuple):
    """A start for the arrays of the same names in ``state.Predictor``; each caller's own copy."""

    rates: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32]
    finals: npt.NDArray[np.float32]


def blank_priors() -> Priors:
    """Nothing learnt: no candidate was ever judged, all sources weigh the same, calibration changes nothing.

    A draft model alone is believed: what it says are probabilities.
    """
    rates = np.zeros((3, SOURCES, CELLS), np.float32)
    start_rates(rates)
    return Priors(rates, start_weights(), identity())


@lru_cache(maxsize=1)
def _read() -> dict[str, npt.NDArray[Any]]:
    with np.load(SHIPPED, allow_pickle=False) as file:
        return {name: file[name] for name in Priors._fields}


def shipped_priors() -> Priors:
    """What is shipped; nothing of a draft model, whose part is as in ``blank_priors``.

    Raises:
        FileNotFoundError: the installation is incomplete.
    """
    priors, shipped = blank_priors(), _read()
    priors.rates[:, :MODEL] = shipped["rates"][:, :MODEL]
    priors.weights[:MODEL_FIRST_SETS, :MODEL] = shipped["weights"][:MODEL_FIRST_SETS, :MODEL]
    priors.finals[:, :UNTOLD_CLASSES] = shipped["finals"][:, :UNTOLD_CLASSES]
    return priors
