"""Preset ``auto``: n-grams of several orders and long repetitions, weighed by what they have been worth."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from aded_local.drafters import Drafter, Search


def make(
    *,
    n_vocab: int,
    seed: int,
    search: Search,
    static: npt.NDArray[np.int64] | None,
    phrases: npt.NDArray[np.int64] | None,
    without: Iterable[str],
) -> Drafter:
    """See ``make_drafter``."""
    from aded_local.drafters.ngram.ahead import compile_all
    from aded_local.drafters.ngram.drafter import NgramDrafter

    compile_all(search)
    return NgramDrafter(
        n_vocab=n_vocab, seed=seed, search=search, static=static, phrases=phrases, without=without
    )
