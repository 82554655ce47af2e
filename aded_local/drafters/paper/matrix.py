"""What followed what: counts of successors of token contexts, in one bounded hash table.

A table is a structured array of slots (``SLOT``, 128 bytes, two cache lines). A slot belongs to one
context, the last k tokens, and holds up to twelve successors with their counts. The order k is part
of the hash, so that all orders share a table. Lookups probe ``WINDOW`` slots linearly; when all
are taken by other contexts, an insertion replaces the least useful of them. A table therefore never
grows and never fails, it forgets.

Example, order 1, after the tokens ``5 7 5 8 5 7``: the slot of context ``(5,)`` holds successors 7
(count 2) and 8 (count 1), total 3, distinct 2, last 7.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from aded_local.kernels.compiling import entry, kernel

SUCCESSORS = 12
"""Successors kept per context: the pruning of the ADED paper (arXiv 2407.12021)."""

WINDOW = 8
"""Slots probed per context. At a load of one half, fewer than 1 in 100 contexts finds its window full."""

YOUTH_PER_COUNT = 4096
"""A context seen once more is as useful as one that was seen this many tokens later (ageing).
Chosen, not tuned: tables of the default size rarely fill within a session."""

SLOT = np.dtype(
    [
        ("key", np.uint64),  # hash of the context, 0 for a free slot
        ("stamp", np.int64),  # clock of the last update
        ("total", np.float32),  # sum of all counts ever added, of dropped successors too
        ("distinct", np.int32),  # how many different successors were met (Witten-Bell's T)
        ("last", np.int32),  # the successor met last
        ("unused", np.int32),
        ("tokens", np.int32, SUCCESSORS),
        ("counts", np.float32, SUCCESSORS),
    ],
    align=True,
)

Table = npt.NDArray[Any]
"""Structured array of ``SLOT``, ``(2 ** bits,)``."""


def new_table(bits: int) -> Table:
    """An empty table of ``2 ** bits`` slots; its pages are claimed only when touched."""
    return np.zeros(1 << bits, SLOT)


@kernel
def find(table: Table, key: np.uint64) -> int:
    """Index of the slot of ``key``, or -1."""
    mask = np.uint64(table.shape[0] - 1)
    for step in range(WINDOW):
        index = np.int64((key + np.uint64(step)) & mask)
        found = table[index].key
        if found == key:
            return int(index)
        if found == 0:
            return -1
    return -1


@kernel
def claim(table: Table, key: np.uint64) -> int:
    """Index of the slot of ``key``, taken from the least useful context of the window if need be."""
    mask = np.uint64(table.shape[0] - 1)
    victim = np.int64(-1)
    least = np.inf
    for step in range(WINDOW):
        index = np.int64((key + np.uint64(step)) & mask)
        slot = table[index]
        if slot.key == key:
            return int(index)
        if slot.key == 0:
            slot.key = key
            return int(index)
        usefulness = np.float64(slot.stamp) + YOUTH_PER_COUNT * np.float64(slot.total)
        if usefulness < least:
            least = usefulness
            victim = index
    slot = table[victim]
    slot.key = key
    slot.total = np.float32(0)
    slot.distinct = 0
    for i in range(SUCCESSORS):
        slot.counts[i] = np.float32(0)
    return int(victim)


@kernel
def add(table: Table, key: np.uint64, token: int, amount: float, limit: float, clock: int) -> None:
    """Count ``token`` as a successor of the context ``key``.

    Args:
        table: changed in place.
        amount: added to the successor's count.
        limit: a count stops growing here.
        clock: tokens learnt so far, for ageing.
    """
    slot = table[claim(table, key)]
    slot.stamp = clock
    slot.total += np.float32(amount)
    slot.last = token
    place = 0
    for i in range(SUCCESSORS):
        if slot.counts[i] == 0:
            place = i
            slot.distinct += 1
            break
        if slot.tokens[i] == token:
            slot.counts[i] = np.float32(min(limit, slot.counts[i] + amount))
            return
        if slot.counts[i] < slot.counts[place]:
            place = i
    else:  # all twelve are others: the rarest leaves
        slot.distinct += 1
    slot.tokens[place] = token
    slot.counts[place] = np.float32(amount)


@entry
def normalise(table: Table) -> None:
    """Divide every count by its context's total, so that counts become probabilities."""
    for i in range(table.shape[0]):
        slot = table[i]
        if slot.total > 0:
            for j in range(SUCCESSORS):
                slot.counts[j] /= slot.total
            slot.total = np.float32(1)
