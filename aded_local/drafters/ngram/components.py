"""What the drafter of ``auto`` is made of, by name, so that each part can be left out and measured.

Leaving a part out changes speed, never the text.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

from aded_local.drafters.ngram.candidates import (
    CONTEXT,
    COPY,
    LONGEST,
    MEMORY,
    MODEL,
    SEEN_ORDERS,
    SOFT,
    SOFT_ORDERS,
    SOURCES,
    SPARSE,
    SPARSES,
    STATIC,
    UNIGRAM,
)
from aded_local.errors import OptionError
from aded_local.ngrams.table import ORDERS
from aded_local.tree import ByteArray, Source

MIXING: Final = SOURCES
RATES: Final = SOURCES + 1
CALIBRATION: Final = SOURCES + 2
PARTS: Final = SOURCES + 3
"""Places of the switches: a source each, then what is learnt."""

COMPONENTS: Final[dict[str, tuple[int, ...]]] = {
    "conversation": tuple(range(CONTEXT, CONTEXT + SEEN_ORDERS)),
    "memory": tuple(range(MEMORY, MEMORY + SEEN_ORDERS)),
    "static": tuple(range(STATIC, STATIC + ORDERS)),
    "soft": tuple(range(SOFT, SOFT + SOFT_ORDERS)),
    "long-contexts": (
        *(first + k for first in (CONTEXT, MEMORY) for k in range(3, SEEN_ORDERS)),
        *range(STATIC + 3, STATIC + ORDERS),
    ),
    "longest": (LONGEST,),
    "gaps": tuple(range(SPARSE, SPARSE + SPARSES)),
    "unigram": (UNIGRAM,),
    "passages": (COPY,),
    "mixing": (MIXING,),
    "rates": (RATES,),
    "calibration": (CALIBRATION,),
    "priors": (),
}
"""Sources first; then what is learnt as the text goes on: weights, hit rates of the evidence, final calibration;
``priors`` is what was learnt of them before shipping. ``static`` is shipped phrases and a store of one's own;
``long-contexts`` those of four to six tokens."""

FORCED: Final = SOURCES
"""In place of a source: a token that has to come, see ``step.Forced``."""


def _kinds() -> ByteArray:
    kinds = np.full(SOURCES + 1, Source.UNKNOWN, np.uint8)
    for part, kind in (
        ("conversation", Source.CONVERSATION),
        ("memory", Source.MEMORY),
        ("static", Source.PHRASES),
        ("soft", Source.LIKELY),
        ("longest", Source.MEMORY),
        ("gaps", Source.GAPS),
        ("unigram", Source.FREQUENT),
        ("passages", Source.PASSAGE),
    ):
        kinds[list(COMPONENTS[part])] = kind
    kinds[MODEL], kinds[FORCED] = Source.MODEL, Source.FORCED
    return kinds


KIND_OF_SOURCE: Final = _kinds()
"""What each source is to those who ask what foresaw a token, of ``tree.Source``, uint8 ``(SOURCES + 1,)``."""


def switches(without: Iterable[str]) -> npt.NDArray[np.uint8]:
    """1 for each part that is used, uint8 ``(PARTS,)``; a draft model is none before one is there.

    Raises:
        OptionError: an unknown name.
    """
    used = np.ones(PARTS, np.uint8)
    used[MODEL] = 0
    for name in without:
        if name not in COMPONENTS:
            raise OptionError(f"the drafter has no part {name!r}; its parts are {', '.join(COMPONENTS)}")
        used[list(COMPONENTS[name])] = 0
    return used
