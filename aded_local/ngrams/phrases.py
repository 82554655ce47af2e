"""A table of successors made from shipped phrases, in the tokens of a model: what to draft from an empty memory.

A phrase of k words says how often its last word follows the others. In tokens: what is counted are the tokens of the
last word, as successors of the contexts that reach back into the first word. Shorter contexts are the business of
shorter phrases, which carry their own counts. So ``" as a result"`` of the tokens ``7 8 9`` counts 9 after ``7 8``,
and ``" a result"`` counts 9 after ``8``.

Keys and entries are those of ``ngrams.table``, and look-ups are the same; all stamps are 0, and the mark of what
came last means what is likely.
"""

from __future__ import annotations

import contextlib
import hashlib
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from aded_local.files import cache_folder, read_private, write_privately
from aded_local.ngrams.phrase_entries import Integers, Longs, table_of
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
    new_table,
)

if TYPE_CHECKING:
    from aded_models.phrases import Phrases

LAYOUT: Final = f"{CHECK_SHIFT} {COUNT_SHIFT} {LAST} {ORDERS} {UNIT} {WIDE_ORDERS} {BUCKET} {int(SEED_KEY)} 1"
"""Of the entries: a kept table of another layout is made anew. The last number is raised when ``weigh`` changes."""

PHRASE_BITS: Final = 18
"""Of the table: 2 MB, three quarters full of the packaged phrases with a vocabulary of 32,000 tokens, half full with
128,000. Twice as large changed the hit rate on held-out answers by less than 0.001, half as large lost 0.001."""

CHECKSUM_BYTES: Final = 4

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
    return table_of(phrases.grams, phrases.counts, tokens, starts, bits)


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
    path = cache_folder() / "phrases" / f"{tokenizer[:16]}-{version[:16]}.table"
    kept = _kept(path)
    if kept is not None:
        return kept
    table = phrase_table(tokenize)
    if tokenizer:
        data = table.tobytes()
        with contextlib.suppress(
            OSError
        ):  # where it cannot be kept, the next start takes half a second longer
            write_privately(path, data + _checksum(data))
    return table


def _kept(path: Path) -> Table | None:
    """The table in a file: its entries and their CRC-32; None where there is none, or not what it should be."""
    table = new_table(PHRASE_BITS)
    try:
        data = read_private(path, table.nbytes + CHECKSUM_BYTES)
    except OSError:
        return None
    entries = data[: table.nbytes]
    if len(entries) != table.nbytes or data[table.nbytes :] != _checksum(entries):
        return None
    table[:] = np.frombuffer(entries, table.dtype)
    return table


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(CHECKSUM_BYTES, "little")


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
