"""Phrases as entries of a table: listed with their contexts, weighed, put in. ``phrases`` says what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from aded_local.kernels.compiling import entry
from aded_local.ngrams.table import (
    BUCKET,
    CHECK_SHIFT,
    COUNT_SHIFT,
    LAST,
    ORDERS,
    SEED_KEY,
    UNIT,
    WIDE_ORDERS,
    Table,
    check_of,
    extend_hash,
    first_entry,
    new_table,
)

Integers = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]

MOST_PER_OCTAVE: Final = 6.0
"""Whole counts a frequent context gets each time its occurrences double. Of 17 scales tried, the one whose buckets
of counts (``drafters.ngram.candidates``) told most about what came next."""
LONGEST_PHRASE: Final = 64
"""Tokens; phrases of more, in scripts a tokenizer spells byte by byte, are left out."""
CONTEXT: Final = -1
"""In place of a successor: how often the context occurs, whatever follows."""
LEAST_BITS: Final = 4
"""Of the table that only warms up: two buckets."""


def table_of(
    grams: Sequence[Integers],
    gram_counts: Sequence[npt.NDArray[np.float32]],
    tokens: Integers,
    starts: Longs,
    bits: int,
) -> Table:
    """The table of successors that phrases make.

    Args:
        grams: for k = 1, 2 …, phrases of k words, ids int32 ``(n, k)``.
        gram_counts: how often each came, float32 ``(n,)``.
        tokens, starts: of the words: word i has the tokens from ``starts[i]`` to before ``starts[i + 1]``.
        bits: logarithm of the number of entries; the least frequent successors fall out of a small table.
    """
    lengths = np.diff(starts)
    room = sum(_room(phrases, lengths) for phrases in grams)
    keys, successors = np.zeros(room, np.uint64), np.zeros(room, np.int32)
    orders, counts = np.zeros(room, np.int8), np.zeros(room, np.float64)
    phrase = np.zeros(LONGEST_PHRASE, np.int32)
    n = 0
    for phrases, came in zip(grams, gram_counts, strict=True):
        n = list_successors(phrases, came, tokens, starts, phrase, keys, successors, orders, counts, n)
    keys, successors, orders, counts = keys[:n], successors[:n], orders[:n], counts[:n]
    by_key = np.lexsort((successors, keys))
    units, hits, likely = np.zeros(n, np.int64), np.zeros(n, np.float64), np.zeros(n, np.bool_)
    weigh(by_key, keys, successors, counts, units, hits, likely)
    table = new_table(bits)
    fill(table, np.argsort(-hits, kind="stable"), keys, successors, orders, units, likely)
    return table


def warm_up() -> None:
    """Compile the kernels, or load them from the cache."""
    words, counts = np.zeros((1, 1), np.int32), np.ones(1, np.float32)
    table_of((words,), (counts,), np.zeros(1, np.int32), np.array([0, 1], np.int64), LEAST_BITS)


def _room(grams: Integers, lengths: Longs) -> int:
    """At most so many entries ``list_successors`` makes of phrases int32 ``(n, k)``."""
    reaching = np.minimum(lengths[grams[:, 0]], ORDERS) + 1
    return int((reaching * (lengths[grams[:, -1]] + 1)).sum())


@entry
def list_successors(
    grams: Integers,
    gram_counts: npt.NDArray[np.float32],
    tokens: Integers,
    starts: Longs,
    phrase: Integers,
    keys: Keys,
    successors: Integers,
    orders: npt.NDArray[np.int8],
    counts: Floats,
    n: int,
) -> int:
    """Append what phrases of one length say to parallel arrays of ``n`` entries; returns the new number.

    An entry is a context's key, its order, a successor or ``CONTEXT``, and a count. One context and successor may
    come several times. ``phrase`` is room for one, int32 ``(LONGEST_PHRASE,)``.
    """
    words = grams.shape[1]
    for g in range(grams.shape[0]):
        length = 0
        first_end = 0  # of the first word
        last_start = 0
        whole = True
        for w in range(words):
            start, end = starts[grams[g, w]], starts[grams[g, w] + 1]
            if start == end or length + end - start > LONGEST_PHRASE:
                whole = False
                break
            last_start = length
            for i in range(start, end):
                phrase[length] = tokens[i]
                length += 1
            if w == 0:
                first_end = length
        if not whole:
            continue
        if words == 1:  # of the empty context, only beginnings of words are counted
            keys[n], successors[n], orders[n], counts[n] = SEED_KEY, phrase[0], 0, gram_counts[g]
            n += 1
        for at in range(last_start, length + 1):
            successor = phrase[at] if at < length else CONTEXT
            key = SEED_KEY
            for k in range(1, min(ORDERS, at) + 1):
                key = extend_hash(key, phrase[at - k])
                if at - k < first_end:
                    keys[n], successors[n], orders[n], counts[n] = key, successor, k, gram_counts[g]
                    n += 1
    return n


@entry
def weigh(
    by_key: Longs,
    keys: Keys,
    successors: Integers,
    counts: Floats,
    units: Longs,
    hits: Floats,
    likely: Flags,
) -> None:
    """Add up the entries of each context and successor, and turn counts into units of the table.

    A context of C occurrences gets ``min(C, MOST_PER_OCTAVE * log2(1 + C))`` whole counts, shared by its successors
    as their counts are, and by those not listed: the more is not listed, the less a context weighs. So two occurrences
    count 2, a thousand 60 and a million 120.

    Args:
        by_key: permutation that sorts by key, then successor.
        units: written, zeros before, int64 ``(n,)``; they stay 0 for all entries of a context and successor but one,
            and for unlikely successors.
        hits: likewise, float64 ``(n,)``: how often the successor would be drafted rightly, its count times its
            probability.
        likely: likewise, bool ``(n,)``: whether it is as likely as all others together.
    """
    n = by_key.shape[0]
    start = 0
    while start < n:
        key = keys[by_key[start]]
        end = start
        occurrences = 0.0
        listed = 0.0
        while end < n and keys[by_key[end]] == key:
            if successors[by_key[end]] == CONTEXT:
                occurrences += counts[by_key[end]]
            else:
                listed += counts[by_key[end]]
            end += 1
        occurrences = max(occurrences, listed)
        scale = UNIT * min(1.0, MOST_PER_OCTAVE * np.log2(1.0 + occurrences) / occurrences)
        i = start
        while i < end:
            successor = successors[by_key[i]]
            count = 0.0
            first = by_key[i]
            while i < end and successors[by_key[i]] == successor:
                count += counts[by_key[i]]
                i += 1
            if successor != CONTEXT:
                units[first] = int(np.rint(count * scale))
                hits[first] = count * count / occurrences
                likely[first] = count * 2 >= occurrences
        start = end


@entry
def fill(
    table: Table,
    falling: Longs,
    keys: Keys,
    successors: Integers,
    orders: npt.NDArray[np.int8],
    units: Longs,
    likely: Flags,
) -> None:
    """Write entries of at least one unit, most useful first; what finds its bucket full is left out.

    Unlike ``statistics.add``, which makes room for the newest. Nothing came last here: a likely successor is marked so,
    which tells it from the only one listed of many.
    """
    for k in range(falling.shape[0]):
        i = falling[k]
        if units[i] == 0:
            continue
        wide = orders[i] <= WIDE_ORDERS
        first = first_entry(table, keys[i], wide)
        check = check_of(keys[i])
        mark = LAST if likely[i] else 0
        for place in range(first, first + (2 * BUCKET if wide else BUCKET)):
            if table[place] == 0:
                table[place] = (check << CHECK_SHIFT) | mark | (units[i] << COUNT_SHIFT) | successors[i]
                break
