"""Which exchanges to keep where there is no room for all: those that would have helped to draft later answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from aded_local.memory.exchange import Exchange

YOUNG_SHARE = 0.25
"""Share of the room kept for the newest exchanges, whatever their use: it could not show yet."""

GRAM = 4
"""Tokens in a row that must come again to count as a use: the shortest run worth drafting."""


def most_useful(exchanges: Sequence[Exchange], tokens: int) -> list[Exchange]:
    """The exchanges to keep where there is room for ``tokens``, in their order.

    The newest stay; of the others the least useful go first, the oldest first where none was of use. Use is
    counted per token kept: room is what they compete for.
    """
    sizes = np.array([exchange.tokens for exchange in exchanges], np.int64)
    total = int(sizes.sum())
    if total <= tokens:
        return list(exchanges)
    upto = np.cumsum(sizes[::-1])[::-1]  # tokens from here to the newest
    young = (upto - sizes < YOUNG_SHARE * tokens) & (upto <= tokens)
    keep = np.ones(len(exchanges), np.bool_)
    for i in np.argsort(usefulness(exchanges) / np.maximum(sizes, 1), kind="stable"):
        if total <= tokens:
            break
        if not young[i]:
            keep[i] = False
            total -= int(sizes[i])
    return [exchange for exchange, kept in zip(exchanges, keep, strict=True) if kept]


def usefulness(exchanges: Sequence[Exchange]) -> npt.NDArray[np.float64]:
    """How often each answer would have helped to draft a later one, float64 ``(n,)``.

    A run of ``GRAM`` tokens that comes again in a later answer counts for the newest earlier answer that holds it,
    once per later answer. An exchange said again word for word has no use (-1); what it earned counts for the last
    time it was said.
    """
    n = len(exchanges)
    answers = [exchange.answer for exchange in exchanges]
    tokens = np.concatenate([np.zeros(0, np.int32), *answers]).astype(np.uint64)
    owners = np.repeat(np.arange(n), [len(answer) for answer in answers])
    n_runs = max(0, len(tokens) - GRAM + 1)
    runs = np.zeros(n_runs, np.uint64)
    for k in range(GRAM):
        runs = (runs ^ tokens[k : k + n_runs]) * np.uint64(0x9E3779B97F4A7C15)
        runs ^= runs >> np.uint64(29)
    inside = owners[:n_runs] == owners[GRAM - 1 :][:n_runs]  # not across two answers
    runs, owners = runs[inside], owners[:n_runs][inside]
    order = np.argsort(runs, kind="stable")  # equal runs stay oldest first
    runs, owners = runs[order], owners[order]
    again = (runs[1:] == runs[:-1]) & (owners[1:] != owners[:-1])
    use = np.bincount(owners[:-1][again], minlength=n).astype(np.float64)
    last: dict[tuple[bytes, bytes], int] = {}
    for i in range(n - 1, -1, -1):
        twin = last.setdefault((exchanges[i].prompt.tobytes(), exchanges[i].answer.tobytes()), i)
        if twin != i:
            use[twin] += use[i]
            use[i] = -1.0
    return use
