"""A table of successors made from shipped phrases, in the tokens of a model: what to draft from an empty memory.

A phrase of k words says how often its last word follows the others. In tokens: what is counted are the tokens of the
last word, as successors of the contexts that reach back into the first word. Shorter contexts are the business of
shorter phrases, which carry their own counts. So ``" as a result"`` of the tokens ``7 8 9`` counts 9 after ``7 8``,
and ``" a result"`` counts 9 after ``8``.

Keys and entries are those of ``drafting.statistics``, and look-ups are the same; all stamps are 0, and the mark of what
came last means what is likely.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from aded_local.drafting.compiling import kernel
from aded_local.drafting.statistics import (
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
from aded_local.folders import cache_folder

if TYPE_CHECKING:
    from aded_models.phrases import Phrases

Integers = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]

LAYOUT: Final = f"{CHECK_SHIFT} {COUNT_SHIFT} {LAST} {ORDERS} {UNIT} {WIDE_ORDERS} {BUCKET} {int(SEED_KEY)} 1"
"""Of the entries: a kept table of another layout is made anew. The last number is raised when ``_weigh`` changes."""

PHRASE_BITS: Final = 18
"""Of the table: 2 MB, three quarters full of the packaged phrases with a vocabulary of 32,000 tokens, half full with
128,000. Twice as large changed the hit rate on held-out answers by less than 0.001, half as large lost 0.001."""
MOST_PER_OCTAVE: Final = 6.0
"""Whole counts a frequent context gets each time its occurrences double. Of 17 scales tried, the one whose buckets
of counts (``drafting.evidence``) told most about what came next."""
LONGEST_PHRASE: Final = 64
"""Tokens; phrases of more, in scripts a tokenizer spells byte by byte, are left out."""
CONTEXT: Final = -1
"""In place of a successor: how often the context occurs, whatever follows."""

_BATCH: Final = 128
_STEMS: Final = ("\n", "a", ")", "1", '"')
"""Texts a word may follow without being merged with them, tried in turn."""


def phrase_table(
    tokenize: Callable[[str], list[int]], phrases: Phrases | None = None, *, bits: int = PHRASE_BITS
) -> Table:
    """Make the table.

    Args:
        tokenize: token ids of a text, nothing added before or after, nothing parsed as a control token.
        phrases: by default the packaged ones.
        bits: logarithm of the number of entries; the least frequent successors fall out of a small table.

    Raises:
        FileNotFoundError, PhrasesError: of the packaged phrases.
    """
    from aded_models.phrases import read_phrases

    if phrases is None:
        phrases = read_phrases()
    tokens, starts = word_tokens(tokenize, phrases.words)
    lengths = np.diff(starts)
    room = sum(_room(grams, lengths) for grams in phrases.grams)
    keys, successors = np.zeros(room, np.uint64), np.zeros(room, np.int32)
    orders, counts = np.zeros(room, np.int8), np.zeros(room, np.float64)
    n = 0
    for grams, gram_counts in zip(phrases.grams, phrases.counts, strict=True):
        n = _list_successors(grams, gram_counts, tokens, starts, keys, successors, orders, counts, n)
    keys, successors, orders, counts = keys[:n], successors[:n], orders[:n], counts[:n]
    by_key = np.lexsort((successors, keys))
    units, hits, likely = _weigh(by_key, keys, successors, counts)
    table = new_table(bits)
    _fill(table, np.argsort(-hits, kind="stable"), keys, successors, orders, units, likely)
    return table


def kept_phrase_table(tokenize: Callable[[str], list[int]], tokenizer: str) -> Table:
    """The table of the packaged phrases, from the cache folder where it lies there already; else it is put there.

    Args:
        tokenize: as for ``phrase_table``.
        tokenizer: what tells the vocabulary from others, ``Identity.tokenizer``; empty to keep nothing.

    Raises:
        FileNotFoundError, PhrasesError: of the packaged phrases.
    """
    from aded_models.phrases import phrases_path

    version = hashlib.sha256(phrases_path().read_bytes() + LAYOUT.encode()).hexdigest()
    path = cache_folder() / "phrases" / f"{tokenizer[:16]}-{version[:16]}.npy"
    try:
        kept = np.load(path, mmap_mode="c", allow_pickle=False)
        if kept.shape == (1 << PHRASE_BITS,) and kept.dtype == np.int64:
            return np.asarray(kept)
    except (OSError, ValueError):
        pass  # not there, or not what it should be: made anew
    table = phrase_table(tokenize)
    if tokenizer:
        _keep(table, path)
    return table


def _keep(table: Table, path: Path) -> None:
    """Write a table for the next start; where that is impossible, the next start takes half a second longer."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                np.save(file, table, allow_pickle=False)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError:
        pass


def word_tokens(tokenize: Callable[[str], list[int]], words: Sequence[str]) -> tuple[Integers, Longs]:
    """The tokens words have in the middle of a text.

    A tokenizer may treat the beginning of a text differently (SentencePiece puts a space there), so that a word is
    tokenized after a stem, whose tokens are cut off.

    Returns:
        Tokens of all words, int32 ``(n,)``, and where each word's begin, int64 ``(len(words) + 1,)``. A word that
        merges with every stem has no tokens.
    """
    found: dict[str, list[int]] = {}
    plain = [word for word in words if word[-1].isalpha() and "\n" not in word and "\r" not in word]
    for start in range(0, len(plain), _BATCH):
        found |= _tokens_of_lines(tokenize, plain[start : start + _BATCH])
    stems = {stem: tokenize(stem) for stem in _STEMS}
    for word in words:
        if word not in found:
            found[word] = _tokens_after_stem(tokenize, stems, word)
    flat = [token for word in words for token in found[word]]
    starts = np.cumsum([0, *(len(found[word]) for word in words)], dtype=np.int64)
    return np.array(flat, np.int32), starts


def _tokens_of_lines(tokenize: Callable[[str], list[int]], words: Sequence[str]) -> dict[str, list[int]]:
    """Tokens of words that a newline ends, all tokenized at once; empty where lines cannot be told apart.

    Some tokenizers of llama.cpp take half a millisecond for any text, however short.
    """
    head = tokenize("\n")
    tokens = tokenize("\n" + "\n".join(words))
    if not head or tokens[: len(head)] != head:
        return {}
    lines: list[list[int]] = [[]]
    for token in tokens[len(head) :]:
        if token == head[-1]:
            lines.append([])
        else:
            lines[-1].append(token)
    return dict(zip(words, lines, strict=True)) if len(lines) == len(words) else {}


def _tokens_after_stem(
    tokenize: Callable[[str], list[int]], stems: dict[str, list[int]], word: str
) -> list[int]:
    for stem, known in stems.items():
        if word[0] in "\r\n" and stem == "\n":
            continue  # runs of newlines merge
        tokens = tokenize(stem + word)
        if tokens[: len(known)] == known:
            return tokens[len(known) :]
    return []


def _room(grams: Integers, lengths: Longs) -> int:
    """At most so many entries ``_list_successors`` makes of phrases int32 ``(n, k)``."""
    reaching = np.minimum(lengths[grams[:, 0]], ORDERS) + 1
    return int((reaching * (lengths[grams[:, -1]] + 1)).sum())


@kernel
def _list_successors(
    grams: Integers,
    gram_counts: npt.NDArray[np.float32],
    tokens: Integers,
    starts: Longs,
    keys: Keys,
    successors: Integers,
    orders: npt.NDArray[np.int8],
    counts: Floats,
    n: int,
) -> int:
    """Append what phrases of one length say to parallel arrays of ``n`` entries; returns the new number.

    An entry is a context's key, its order, a successor or ``CONTEXT``, and a count. One context and successor may
    come several times.
    """
    phrase = np.zeros(LONGEST_PHRASE, np.int32)
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


@kernel
def _weigh(by_key: Longs, keys: Keys, successors: Integers, counts: Floats) -> tuple[Longs, Floats, Flags]:
    """Add up the entries of each context and successor, and turn counts into units of the table.

    A context of C occurrences gets ``min(C, MOST_PER_OCTAVE * log2(1 + C))`` whole counts, shared by its successors
    as their counts are, and by those not listed: the more is not listed, the less a context weighs. So two occurrences
    count 2, a thousand 60 and a million 120.

    Args:
        by_key: permutation that sorts by key, then successor.

    Returns:
        Units, int64 ``(n,)``: 0 for all entries of a context and successor but one, and for unlikely successors;
        how often the successor would be drafted rightly, float64 ``(n,)``: its count times its probability; and
        whether it is as likely as all others together, bool ``(n,)``.
    """
    n = by_key.shape[0]
    units = np.zeros(n, np.int64)
    hits = np.zeros(n, np.float64)
    likely = np.zeros(n, np.bool_)
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
    return units, hits, likely


@kernel
def _fill(
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
    for i in falling:
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
