"""Logit counts: what the target found likely, counted as if it had said it.

ADED approximates the target's output distribution, not only its output (arXiv 2407.12021). After a verification the
likeliest tokens at every verified node, accepted or not, are kept for the contexts that end there, in a table of
their own. A token's share of the probability takes the place of its count. When a context is met again, its former
counts are halved, so the latest counts for most. (Token Recycling, arXiv 2408.08696, drafts from such a table of
order 1 alone.)
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from aded_local.drafters.ngram.candidates import SOFT_ORDERS
from aded_local.drafters.ngram.state import Predictor, Tables, latest_tokens
from aded_local.kernels.compiling import kernel
from aded_local.ngrams.table import SEED_KEY, add, check_of, extend_hash, first_entry, halve

WHOLE: Final = 256
"""Units of the whole probability: halved and added, a certain token's count tends to 512."""


@kernel
def list_contexts(
    model: Predictor,
    parents: npt.NDArray[np.int32],
    drafted: npt.NDArray[np.int32],
    keys: npt.NDArray[np.uint64],
) -> None:
    """Hashes of the contexts that end at the last token and at every node of a draft.

    Args:
        parents, drafted: the draft's tree, int32 ``(n,)``.
        keys: written, zeros before, uint64 ``(n + 1, SOFT_ORDERS)``: row 0 for the last token, row i + 1 for node i.
            It stays 0 where the text is too short.
    """
    before = model.evidence.latest
    n_before = latest_tokens(model, 0)
    for row in range(keys.shape[0]):
        key = SEED_KEY
        node = row - 1
        back = 0
        for k in range(SOFT_ORDERS):
            if node >= 0:
                key = extend_hash(key, drafted[node])
                node = parents[node]
            elif back < n_before:
                key = extend_hash(key, before[back])
                back += 1
            else:
                break
            keys[row, k] = key


@kernel
def soften(
    model: Predictor,
    tables: Tables,
    keys: npt.NDArray[np.uint64],
    tokens: npt.NDArray[np.int32],
    shares: npt.NDArray[np.float32],
) -> None:
    """Keep the target's likeliest tokens in each context.

    Call it after the step's tokens were learnt. Otherwise this source would already hold the tokens by which it is
    judged, and its hit rates would become far too high.

    Args:
        keys: of ``list_contexts``.
        tokens: likeliest first, -1 for none, int32 ``(n + 1, k)``.
        shares: of their probability, float32 ``(n + 1, k)``.
    """
    for row in range(tokens.shape[0]):
        if tokens[row, 0] < 0:
            continue
        for k in range(SOFT_ORDERS):
            key = keys[row, k]
            if key == 0:
                break
            halve(tables.soft, first_entry(tables.soft, key, True), True, check_of(key))
            # The likeliest comes last and bears the mark of what came last.
            for i in range(tokens.shape[1] - 1, -1, -1):
                units = int(shares[row, i] * WHOLE + 0.5)
                if tokens[row, i] >= 0 and units > 0:
                    add(tables.soft, key, True, tokens[row, i], units, model.state.head)
