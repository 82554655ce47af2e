"""Counting a corpus: two working tables of bounded size, from which the table of a static store is made.

Short contexts (``WIDE_ORDERS`` tokens and fewer) own two buckets, long ones own one. An entry does not tell which, so
the two kinds are counted in tables of their own.

A table shrinks by folding: the lowest bits of a context's hash choose its bucket, so bucket ``b`` of a table becomes
bucket ``b mod n`` of one with ``n``, without knowing the hash.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from aded_local.kernels.compiling import entry
from aded_local.ngrams.static import LEAST_BITS, MOST_BITS
from aded_local.ngrams.table import (
    BUCKET,
    CHECK_MASK,
    CHECK_SHIFT,
    COUNT_MASK,
    COUNT_SHIFT,
    MOST_COUNT,
    ORDERS,
    SEED_KEY,
    TOKEN_MASK,
    UNIT,
    WIDE_ORDERS,
    Table,
    add,
    extend_hash,
    new_table,
)
from aded_local.tree import IntArray

LOAD: Final = 0.8
"""Share of a table's entries in use at most, where the largest table has room. Of 1.2 million tokens of Python and tldr
pages, tables of 2 ** 23, 2 ** 22 and 2 ** 21 entries (42%, 75%, 98% in use) wrote what was held out in 1.43, 1.43 and
1.43 tokens a pass, and changed versions of what was counted in 2.68, 2.67 and 2.56 (longest context first, 8 deep)."""

MEBIBYTE: Final = 1 << 20
LEAST_MEMORY, DEFAULT_MEMORY = 1, 512
"""MiB for the working tables and the final one; the default is enough for some ten million tokens."""

FEW_TOKENS: Final = 1 << 18
"""A corpus of fewer is counted when all of it is there, in tables of its size; until then it takes 4 bytes a token."""


@entry
def count_orders(table: Table, tokens: npt.NDArray[np.int32], lowest: int, highest: int) -> None:
    """Count every token of a text, int32 ``(n,)``, as a successor of its contexts of ``lowest`` … ``highest`` tokens.

    Stamps are 0: nothing in a corpus is old. So a full bucket forgets what was met least often.
    """
    for i in range(tokens.shape[0]):
        key = SEED_KEY
        for k in range(min(highest, i) + 1):
            if k > 0:
                key = extend_hash(key, tokens[i - k])
            if k >= lowest:
                add(table, key, k <= WIDE_ORDERS, tokens[i], UNIT, 0)


@entry
def used(table: Table) -> int:
    """Entries in use."""
    n = 0
    for i in range(table.shape[0]):
        if table[i] != 0:
            n += 1
    return n


@entry
def fold(source: Table, target: Table, wide: bool) -> int:
    """Put the entries of a table into one of its size or smaller, the most counted staying where room is short.

    Args:
        source: unchanged.
        target: changed in place; may hold entries already.
        wide: all contexts of ``source`` own two buckets.

    Returns:
        Entries that found no place.
    """
    lost = 0
    width = 2 * BUCKET if wide else BUCKET
    for at in range(source.shape[0]):
        entry = source[at]
        if entry == 0:
            continue
        count = (entry >> COUNT_SHIFT) & COUNT_MASK
        first = at & (target.shape[0] - 1) & ~(width - 1)
        place = -1
        least = count
        for i in range(first, first + width):
            other = target[i]
            if other == 0:
                place = i
                break
            found = (other >> COUNT_SHIFT) & COUNT_MASK
            # Of two contexts with one check: they count as one, as they would have in a table of this size.
            if (other ^ entry) >> CHECK_SHIFT & CHECK_MASK == 0 and (other ^ entry) & TOKEN_MASK == 0:
                entry += (min(count + found, MOST_COUNT) - count) << COUNT_SHIFT
                place = i
                lost -= 1
                break
            if found < least:
                least = found
                place = i
        if place < 0:
            lost += 1
            continue
        if target[place] != 0:
            lost += 1
        target[place] = entry
    return lost


class Counting:
    """Working tables of a bounded size, made when it is known how much there is to count, or that it is much.

    Attributes:
        bits: of both working tables and the final one together, at most; a power of two of the memory is used.
        short, long: statistics of contexts of up to ``WIDE_ORDERS`` tokens, and of longer ones.

    Args:
        memory: MiB that all tables may take.
    """

    def __init__(self, memory: int) -> None:
        self.bits = (max(memory, LEAST_MEMORY) * MEBIBYTE // 8).bit_length() - 1
        self.short: Table | None = None
        self.long: Table | None = None
        self._waiting: list[IntArray] = []
        self._waiting_tokens = 0

    @property
    def most_bits(self) -> int:
        """Of the final table: never larger than a working one, so that those fold into it."""
        return min(MOST_BITS, self.bits - 2)

    def add(self, text: IntArray) -> None:
        """Count a text, int32 ``(n,)``."""
        self._waiting.append(text)
        self._waiting_tokens += len(text)
        if self._waiting_tokens >= FEW_TOKENS:
            self._count_waiting()

    def _count_waiting(self) -> tuple[Table, Table]:
        if self.short is None or self.long is None:
            # Every token makes ORDERS + 1 entries at most; tables much larger than that take time for nothing.
            wanted = (2 * (ORDERS + 1) * self._waiting_tokens).bit_length()
            few = self._waiting_tokens < FEW_TOKENS
            bits = min(self.bits, max(wanted, LEAST_BITS) + 2) if few else self.bits
            self.short, self.long = new_table(bits - 2), new_table(bits - 1)
        for text in self._waiting:
            count_orders(self.short, text, 0, WIDE_ORDERS)
            count_orders(self.long, text, WIDE_ORDERS + 1, ORDERS)
        self._waiting, self._waiting_tokens = [], 0
        return self.short, self.long

    def finish(self) -> tuple[Table, int, int]:
        """The final table, entries in use, and entries that were counted and are not in it.

        Successors that were met once are not dropped first. Most entries are such, and a text that was counted is
        drafted again by them: with 3.2 million tokens, and none of them in long contexts, changed versions of the
        same files took 2.5 tokens a pass instead of 5.3. Where the largest table has no room, full buckets lose the
        least counted.
        """
        short, long = self._count_waiting()
        n_short, n_long = int(used(short)), int(used(long))
        least = int(np.ceil(np.log2(max(n_short + n_long, 1) / LOAD)))
        table = new_table(min(max(LEAST_BITS, least), self.most_bits))
        forgotten = int(fold(short, table, True)) + int(fold(long, table, False))
        return table, int(used(table)), forgotten
