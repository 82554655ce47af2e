"""Phrases of up to five words and how often they were counted: what a drafter knows before it has seen anything.

A word is what the pre-tokenizers of GPT-like models do not cut (see ``phrases_count.WORD``), so that phrases serve any
vocabulary. ``models/README.md`` says where they were counted, and what was left out.

The file is one ``.xz`` stream of sections, integers little-endian. It is a trie, written one order after the other:
a phrase of k words is a phrase of k - 1 words, its parent, and one more word.

======================  ==============================================================================
``ADEDPHR1``            8 bytes
sizes                   uint32 ``(1 + PHRASE_ORDERS)``: bytes of the next section, phrases of each order
words                   UTF-8, joined by NUL, most frequent level first, in alphabetical order within it
order 1: levels         uint8 a word, its place in the list is its id
order k: children       uint8 a phrase of order k - 1; 255 adds to the next byte of the same phrase
order k: lowest bytes   uint8 a phrase, of the id of its last word
order k: highest bytes  uint8 a phrase, of the same
order k: levels         uint8 a phrase
======================  ==============================================================================

A level is a count on a logarithmic scale: ``2 ** (level / LEVELS_PER_OCTAVE)``, rounded.
"""

from __future__ import annotations

import lzma
import struct
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

PHRASES_MAGIC: Final = b"ADEDPHR1"
PHRASE_ORDERS: Final = 5
"""Words of the longest phrase."""
MOST_WORDS: Final = 1 << 16
"""Ids are stored in two bytes."""
LEVELS_PER_OCTAVE: Final = 4
"""A count is off by 9% at most."""
LARGEST_UNPACKED: Final = 64 << 20
"""Bytes unpacked; a larger file is refused."""
PHRASES_FILE: Final = "phrases.xz"
_MORE: Final = 255

Integers = npt.NDArray[np.int32]
Counts = npt.NDArray[np.float32]


class PhrasesError(ValueError):
    """A file holds no phrases, or damaged ones."""


@dataclass(frozen=True)
class Phrases:
    """Phrases by length.

    Attributes:
        words: texts, each with the space it begins with, if any; a place in the list is a word's id.
        grams: for k = 1 … ``PHRASE_ORDERS``, word ids, int32 ``(n, k)``, in rising order. Phrases of one word are all
            the words; a longer phrase without its last word is a phrase too.
        counts: for each k, float32 ``(n,)``, about how often.
    """

    words: list[str]
    grams: tuple[Integers, ...]
    counts: tuple[Counts, ...]

    @property
    def total(self) -> int:
        """Phrases of two words or more."""
        return sum(len(counts) for counts in self.counts[1:])


def phrases_path() -> Path:
    """The packaged file."""
    return Path(str(files("aded_models") / "data" / PHRASES_FILE))


def read_phrases(path: Path | None = None) -> Phrases:
    """Read phrases, by default the packaged ones.

    Raises:
        FileNotFoundError: there is no such file.
        PhrasesError: it holds no phrases.
    """
    path = phrases_path() if path is None else path
    packed = path.read_bytes()
    try:
        unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ)
        raw = unpacker.decompress(packed, LARGEST_UNPACKED)
        if not unpacker.eof:
            raise PhrasesError("it ends too early, or is larger than any such file")
        return _parse(raw)
    except (lzma.LZMAError, struct.error, ValueError, IndexError) as error:
        raise PhrasesError(f"{path} holds no phrases: {error}") from None


def _parse(raw: bytes) -> Phrases:
    if raw[:8] != PHRASES_MAGIC:
        raise PhrasesError("it does not begin as such a file does")
    text_bytes, *sizes = struct.unpack_from(f"<{1 + PHRASE_ORDERS}I", raw, 8)
    at = 8 + 4 * (1 + PHRASE_ORDERS)
    words = raw[at : at + text_bytes].decode("utf-8").split("\0")
    if len(words) != sizes[0] or len(words) > MOST_WORDS or not all(words):
        raise PhrasesError("the list of words is not as long as it says")
    body = np.frombuffer(raw, np.uint8, offset=at + text_bytes)
    if len(body) < sizes[0]:
        raise PhrasesError("levels are missing")
    grams: list[Integers] = [np.arange(sizes[0], dtype=np.int32)[:, None]]
    counts = [from_levels(body[: sizes[0]])]
    at = sizes[0]
    for n in sizes[1:]:
        children, used = _read_runs(body[at:], len(grams[-1]))
        at += used
        if int(children.sum()) != n or at + 3 * n > len(body):
            raise PhrasesError("phrases are missing")
        last = body[at : at + n].astype(np.int32) + (body[at + n : at + 2 * n].astype(np.int32) << 8)
        if n and int(last.max()) >= len(words):
            raise PhrasesError("a phrase has a word that is not in the list")
        parents = np.repeat(np.arange(len(children)), children)
        grams.append(np.concatenate([grams[-1][parents], last[:, None]], axis=1))
        counts.append(from_levels(body[at + 2 * n : at + 3 * n]))
        at += 3 * n
    return Phrases(words, tuple(grams), tuple(counts))


def write_phrases(phrases: Phrases, path: Path) -> int:
    """Write phrases; the words must be in the file's order (see ``word_order``). Returns bytes written."""
    text = "\0".join(phrases.words).encode("utf-8")
    sizes = [len(grams) for grams in phrases.grams]
    parts = [PHRASES_MAGIC, struct.pack(f"<{1 + PHRASE_ORDERS}I", len(text), *sizes), text]
    parts.append(to_levels(phrases.counts[0]).tobytes())
    for (shorter, longer), counts in zip(pairwise(phrases.grams), phrases.counts[1:], strict=True):
        parents = _places(shorter, longer[:, :-1], len(phrases.words))
        children = np.bincount(parents, minlength=len(shorter))
        parts.append(_write_runs(children))
        last = longer[:, -1]
        parts += [(last & 255).astype(np.uint8).tobytes(), (last >> 8).astype(np.uint8).tobytes()]
        parts.append(to_levels(counts).tobytes())
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 4, "lp": 0, "pb": 0}]
    packed = lzma.compress(b"".join(parts), lzma.FORMAT_XZ, filters=filters)
    path.write_bytes(packed)
    return len(packed)


def word_order(words: list[str], counts: Counts) -> npt.NDArray[np.int64]:
    """Permutation that puts words into the file's order: falling level, then alphabetical. int64 ``(n,)``."""
    levels = to_levels(counts).astype(np.int64)
    return np.array(sorted(range(len(words)), key=lambda i: (-levels[i], words[i])), np.int64)


def to_levels(counts: Counts) -> npt.NDArray[np.uint8]:
    """Counts of 1 or more on the logarithmic scale, uint8."""
    levels = np.rint(np.log2(np.maximum(counts, 1)) * LEVELS_PER_OCTAVE)
    found: npt.NDArray[np.uint8] = np.minimum(levels, 255).astype(np.uint8)
    return found


def from_levels(levels: npt.NDArray[np.uint8]) -> Counts:
    """Counts a level stands for, float32."""
    return np.rint(np.exp2(levels.astype(np.float32) / LEVELS_PER_OCTAVE)).astype(np.float32)


def _places(shorter: Integers, wanted: Integers, n_words: int) -> npt.NDArray[np.int64]:
    """Rows of ``shorter``, sorted, that equal the rows of ``wanted``; ValueError where there is none."""
    known = np.zeros(len(shorter), np.int64)
    found = np.zeros(len(wanted), np.int64)
    for column in range(shorter.shape[1]):
        # Ranks instead of ids keep the pairs small at any order.
        pairs = np.concatenate([known, found]) * n_words
        pairs += np.concatenate([shorter[:, column], wanted[:, column]])
        ranks = np.unique(pairs, return_inverse=True)[1]
        known, found = ranks[: len(shorter)], ranks[len(shorter) :]
    places = np.searchsorted(known, found)
    if len(wanted) and (len(known) == 0 or (known[np.minimum(places, len(known) - 1)] != found).any()):
        raise ValueError("a phrase without its beginning")
    return places


def _write_runs(children: npt.NDArray[np.int64]) -> bytes:
    out = bytearray()
    for n in children.tolist():
        out += bytes([_MORE]) * (n // _MORE) + bytes([n % _MORE])
    return bytes(out)


def _read_runs(body: npt.NDArray[np.uint8], n: int) -> tuple[npt.NDArray[np.int64], int]:
    """``n`` numbers of one or more bytes, and the bytes they took."""
    ends = np.flatnonzero(body != _MORE)[:n]  # every number ends with a byte below 255
    if len(ends) < n:
        raise PhrasesError("phrases are missing")
    starts = np.concatenate([[0], ends[:-1] + 1])[:n]
    used = int(ends[-1]) + 1 if n else 0
    return (ends - starts) * _MORE + body[ends].astype(np.int64), used
