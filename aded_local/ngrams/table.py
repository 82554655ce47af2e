"""What followed what: counts of (context, next token) in one bounded hash table.

A table is an array of 64-bit entries in buckets of eight, a cache line. An entry is one successor of one context
and holds all of it (see below), so that a context met once costs eight bytes, and a look-up one cache miss. The
context, the last k tokens, is only hashed: its lowest bits choose the bucket, its highest are the entry's check.
The order k is part of the hash: all orders share a table. Contexts of wide span own two neighbouring buckets. When
a bucket is full, an insertion replaces its least useful entry: a table never grows and never fails, it forgets.

Example, order 1, after the tokens ``5 7 5 8 5 7``: the context ``(5,)`` has two entries, token 7 with count 2 and
token 8 with count 1; that of 7 is marked as the last.

Bits of an entry, from the lowest: 24 token, 12 count in units of ``1 / UNIT``, 11 stamp (tokens learnt, in units of
1,024, when it was last updated), 1 last, 16 check. A free entry is 0.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from aded_local.kernels.compiling import entry, kernel

Table = npt.NDArray[np.int64]
"""Entries, int64 ``(2 ** bits,)``, aligned to a cache line."""

ORDERS: Final = 6
"""Longest context of a store, in tokens. Those of a running text are shorter, see ``candidates.SEEN_ORDERS``."""

WIDE_ORDERS: Final = 2
"""Contexts of so few tokens have many successors: sixteen are kept, of longer ones eight."""

BUCKET: Final = 8
UNIT: Final = 8
"""Units of a whole count: what the target says once counts 8, a soft count less."""
MOST_COUNT: Final = 4095
"""Where a count would exceed this, all of its context are halved: the newer counts for more."""

TOKEN_MASK: Final = (1 << 24) - 1
COUNT_SHIFT: Final = 24
COUNT_MASK: Final = (1 << 12) - 1
STAMP_SHIFT: Final = 36
STAMP_MASK: Final = (1 << 11) - 1
LAST: Final = 1 << 47
CHECK_SHIFT: Final = 48
CHECK_MASK: Final = (1 << 16) - 1

CLOCK_SHIFT: Final = 10
"""Stamps count 1,024 tokens; they wrap after two million, when an entry looks young for a while."""
YOUTH_PER_COUNT: Final = 4
"""An entry seen once more is as useful as one seen this many stamps later. Chosen, not tuned."""

SEED_KEY: Final = np.uint64(0x243F6A8885A308D3)
"""Hash of the empty context."""

LINE: Final = 64
PAGE: Final = 4096
"""Bytes the operating system hands out at a time, at least."""


def new_table(bits: int) -> Table:
    """An empty table of ``2 ** bits`` entries; its pages are claimed only when touched."""
    room = np.zeros((1 << bits) + LINE // 8, np.int64)
    start = (-room.ctypes.data % LINE) // 8
    return room[start : start + (1 << bits)]


def claim_pages(*arrays: npt.NDArray[np.generic]) -> None:
    """Touch every page of fresh arrays: claimed as they fill, they would cost the first answers some 20 ms."""
    for array in arrays:
        flat = array.reshape(-1)
        flat[:: max(1, PAGE // flat.itemsize)] = 0


@kernel
def extend_hash(key: np.uint64, token: int) -> np.uint64:
    """The hash of a context that reaches one token further back.

    Start from a seed, feed the newest token first: the value after k tokens is the key of order k.
    """
    mixed: np.uint64 = (key ^ np.uint64(token + 1)) * np.uint64(0x9E3779B97F4A7C15)
    scrambled: np.uint64 = mixed ^ (mixed >> np.uint64(29))
    return scrambled


@kernel
def first_entry(table: Table, key: np.uint64, wide: bool) -> int:
    """Index of the first entry of the bucket, or pair of buckets, of ``key``."""
    lowest = BUCKET * 2 - 1 if wide else BUCKET - 1
    return int(np.int64(key) & (table.shape[0] - 1) & ~lowest)


@kernel
def check_of(key: np.uint64) -> int:
    """What tells the contexts of a bucket apart. Scrambled once more: the bucket is chosen by the same hash."""
    return int(np.int64((key * np.uint64(0xD6E8FEB86659FD93)) >> np.uint64(CHECK_SHIFT)))


@kernel
def add(table: Table, key: np.uint64, wide: bool, token: int, units: int, clock: int) -> int:
    """Count ``token`` as a successor of the context ``key``.

    Args:
        table: changed in place.
        wide: the context owns two buckets.
        units: added to the successor's count, at least 1.
        clock: tokens learnt so far, for ageing.

    Returns:
        The units counted in this context before.
    """
    first = first_entry(table, key, wide)
    check = check_of(key)
    stamp = (clock >> CLOCK_SHIFT) & STAMP_MASK
    place = -1
    free = -1
    victim = first
    least = 1 << 40
    total = 0
    for i in range(first, first + (2 * BUCKET if wide else BUCKET)):
        entry = table[i]
        if entry == 0:
            if free < 0:
                free = i
            continue
        count = (entry >> COUNT_SHIFT) & COUNT_MASK
        if (entry >> CHECK_SHIFT) & CHECK_MASK == check:
            total += count
            if entry & TOKEN_MASK == token:
                place = i
            elif entry & LAST:
                table[i] = entry & ~LAST
        age = (stamp - (entry >> STAMP_SHIFT)) & STAMP_MASK
        usefulness = count * YOUTH_PER_COUNT - age * UNIT
        if usefulness < least:
            least = usefulness
            victim = i
    count = min(units, MOST_COUNT)
    if place >= 0:
        count += (table[place] >> COUNT_SHIFT) & COUNT_MASK
        if count > MOST_COUNT:
            halve(table, first, wide, check)
            count = (count + 1) >> 1
    elif free >= 0:
        place = free
    else:
        place = victim
    table[place] = (
        (check << CHECK_SHIFT) | LAST | (stamp << STAMP_SHIFT) | (count << COUNT_SHIFT) | (token & TOKEN_MASK)
    )
    return total


@kernel
def halve(table: Table, first: int, wide: bool, check: int) -> None:
    """Halve all counts of a context; those that vanish leave."""
    for i in range(first, first + (2 * BUCKET if wide else BUCKET)):
        entry = table[i]
        if (entry >> CHECK_SHIFT) & CHECK_MASK == check:
            count = (entry >> COUNT_SHIFT) & COUNT_MASK
            if count <= 1:
                table[i] = 0
            else:
                table[i] = entry - ((count - (count >> 1)) << COUNT_SHIFT)


@entry
def count_text(table: Table, tokens: npt.NDArray[np.int32], clock: int) -> None:
    """Count every token of a text, int32 ``(n,)``, as a successor of its contexts of up to ``ORDERS`` tokens.

    Args:
        table: changed in place.
        clock: tokens counted before this text.
    """
    for i in range(tokens.shape[0]):
        key = SEED_KEY
        for k in range(min(ORDERS, i) + 1):
            if k > 0:
                key = extend_hash(key, tokens[i - k])
            add(table, key, k <= WIDE_ORDERS, tokens[i], UNIT, clock + i)
