"""Count the phrases of ``data/phrases.xz``: how assistants write English, and how Python is written.

    python -m aded_models.phrases_count --traces ../shared/traces/alpaca_eval-*.jsonl.gz --python-library \
        --leave-out vicuna -o OUT

Counted are the answers of recorded chats, never the prompts, and the modules of Python's standard library. The first
``HELD_BACK`` prompts of every trace, on which ADED Local is measured, are refused: no answer of any model to one of
them is counted. A phrase is kept when answers to two different prompts have it, or two modules; then the most useful
ones up to a number, which is how often a phrase's last word would be drafted rightly where its shorter context
would not have said so.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from .phrases import (
    MOST_WORDS,
    PHRASE_ORDERS,
    Counts,
    Integers,
    Phrases,
    phrases_path,
    word_order,
    write_phrases,
)

HELD_BACK: Final = 150
"""The first prompts of every trace are used for measurements, and not counted."""
PHRASES_KEPT: Final = 200_000
"""Phrases of two words or more in the packaged file."""
PYTHON_SHARE: Final = 0.3
"""Share of the phrases, and of their counts, that come from Python. Answers do not fill the other 70%: 112,000 of their
phrases were useful."""
LEAST: Final = 2
"""A phrase of answers needs this many occurrences, and as many prompts whose answers have it."""
LEAST_PYTHON: Final = 4
"""A phrase of Python needs this many occurrences, in two modules at least: a library repeats itself."""
DISCOUNT: Final = 0.75
"""Subtracted from a phrase's count to estimate its use: rare phrases look more predictive than they are."""
LONGEST_WORD: Final = 40
"""Characters; longer words are rules of dashes and data."""

LEFT_OUT_FOLDERS: Final = frozenset(
    {"site-packages", "test", "tests", "idle_test", "idlelib", "encodings", "pydoc_data", "turtledemo"}
    | {"lib2to3", "__phello__", "ensurepip"}
)
"""Of the standard library: tests, tables and texts."""

WORD: Final = re.compile(
    r"""
      (?:[^\r\n\w]|_)?[^\W\d_]+(?:['’](?:s|t|re|ve|m|ll|d)(?![^\W\d_]))?  # letters after any one sign
    | \ ?\d{1,3}
    | \ ?(?:[^\s\w]|_)+[\r\n]*
    | \s*[\r\n]+
    | \s+(?!\S)
    | \s+
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""Llama 3's pre-tokenizer, with whole contractions as in GPT-4o's and digits after their space as in GPT-2's. No token
of these vocabularies reaches across the end of such a word."""


@dataclass(frozen=True)
class Text:
    """One text to count.

    Attributes:
        origin: the prompt, whichever model answered it, or the module; a phrase needs several origins.
        is_code: a module.
    """

    origin: str
    is_code: bool
    text: str


def read_answers(traces: Iterable[Path], leave_out: Sequence[str] = ()) -> list[Text]:
    """Answers of recorded chats to prompts that are not held back.

    Args:
        traces: files of JSON lines, gzipped, with ``id``, ``model``, ``prompt`` and ``output``.
        leave_out: models whose name contains one of these, or whose file's name does, are not counted. What they
            hold back is still held back from the others.

    Raises:
        ValueError: the traces do not begin with the same prompts, so that the split would not hold; or
            ``leave_out`` names a model that is not there.
    """
    kept: list[Text] = []
    held: list[list[str]] = []
    unknown = set(leave_out)
    for path in sorted(traces):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        held.append([row["id"] for row in rows[:HELD_BACK]])
        if held[-1] != held[0]:
            raise ValueError(f"{path} does not begin with the same prompts as the other traces")
        prompts = {row["prompt"] for row in rows[:HELD_BACK]}
        left = {name for name in leave_out if name in path.name or name in str(rows[0]["model"])}
        unknown -= left
        if not left:
            kept += [
                Text(row["id"], False, row["output"])
                for row in rows[HELD_BACK:]
                if row["id"] not in held[0] and row["prompt"] not in prompts
            ]
    if unknown:
        raise ValueError(f"no trace is of the model {', '.join(sorted(unknown))}")
    return kept


def read_python_library(folder: Path | None = None) -> list[Text]:
    """Modules of the standard library, without tests and tables, in the order of their paths."""
    if folder is None:
        folder = Path(sys.base_prefix) / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    modules = []
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).parts
        if LEFT_OUT_FOLDERS.isdisjoint(parts) and not path.name.startswith("_sysconfigdata"):
            text = path.read_text(encoding="utf-8", errors="replace")
            modules.append(Text("/".join(parts), True, text))
    return modules


@dataclass(frozen=True)
class _Corpus:
    """Texts as word ids. A word that is too long, and what separates two texts, is -1.

    Attributes:
        ids: int32 ``(n,)``.
        origins: which witness each word is of, int32 ``(n,)``.
        is_code: bool ``(n,)``.
    """

    words: list[str]
    ids: Integers
    origins: Integers
    is_code: npt.NDArray[np.bool_]


def _read_words(texts: Sequence[Text]) -> _Corpus:
    known: dict[str, int] = {}
    origins: dict[str, int] = {}
    ids: list[Integers] = []
    whose: list[Integers] = []
    code: list[npt.NDArray[np.bool_]] = []
    for text in texts:
        words = [w if len(w) <= LONGEST_WORD and "\0" not in w else None for w in WORD.findall(text.text)]
        row = [-1 if w is None else known.setdefault(w, len(known)) for w in words] + [-1]
        ids.append(np.array(row, np.int32))
        whose.append(np.full(len(row), origins.setdefault(text.origin, len(origins)), np.int32))
        code.append(np.full(len(row), text.is_code))
    return _Corpus(list(known), np.concatenate(ids), np.concatenate(whose), np.concatenate(code))


@dataclass(frozen=True)
class _Order:
    """Phrases of one length with enough origins.

    Attributes:
        last: the last word, of order 1 its id in the corpus, else its place in order 1, int32 ``(n,)``.
        prefix, suffix: places of the phrase without its last, first word, in the order below, int64 ``(n,)``.
        counts: in answers and in code, float64 ``(2, n)``.
    """

    last: Integers
    prefix: npt.NDArray[np.int64]
    suffix: npt.NDArray[np.int64]
    counts: npt.NDArray[np.float64]


def _count(corpus: _Corpus) -> list[_Order]:
    """Count orders 1 … ``PHRASE_ORDERS``. Phrases whose beginning is rare are not counted, since they are rare too."""
    orders: list[_Order] = []
    n_words, n_origins = len(corpus.words), int(corpus.origins.max()) + 1
    ids = corpus.ids
    ending = np.zeros(len(corpus.ids), np.int64)  # the phrase of the order below that ends here, -1: none
    for k in range(1, PHRASE_ORDERS + 1):
        before = np.concatenate([[-1 if k > 1 else 0], ending[:-1]])
        where = np.flatnonzero((before >= 0) & (ids >= 0) & (ending >= 0))
        pairs = before[where] * n_words + ids[where]
        found, first, inverse = np.unique(pairs, return_index=True, return_inverse=True)
        counts = np.stack(
            [np.bincount(inverse[corpus.is_code[where] == code], minlength=len(found)) for code in (0, 1)]
        )
        witnesses = np.unique(inverse * n_origins + corpus.origins[where])
        is_code = np.zeros(n_origins, bool)
        is_code[corpus.origins] = corpus.is_code
        of, by = witnesses // n_origins, is_code[witnesses % n_origins]
        seen = [np.bincount(of[by == code], minlength=len(found)) for code in (0, 1)]
        kept = (counts[0] >= LEAST) & (seen[0] >= 2) | (counts[1] >= LEAST_PYTHON) & (seen[1] >= 2)
        rank = np.where(kept, np.cumsum(kept) - 1, -1)
        orders.append(
            _Order(
                (found[kept] % n_words).astype(np.int32),
                found[kept] // n_words,
                ending[where][first][kept],
                counts[:, kept].astype(np.float64),
            )
        )
        ending = np.full(len(corpus.ids), -1, np.int64)
        ending[where] = rank[inverse]
        if k == 1:
            ids = ending.astype(np.int32)
    return orders


def _usefulness(orders: list[_Order], k: int, code: int) -> npt.NDArray[np.float64]:
    """How much is gained by keeping each phrase of ``k`` >= 2 words, for answers (0) or code (1).

    Of the occurrences of a phrase, how many more are foretold from its whole context than from the one that
    is a word shorter: the count, times the difference of the two probabilities. A back-off model is pruned so (Stolcke,
    "Entropy-based pruning of backoff language models", 1998), with the gain in bits instead: that keeps rare words
    that were rarer still, which is of no use for drafting.
    """
    order, below = orders[k - 1], orders[k - 2]
    count = order.counts[code]
    judged = np.maximum(count - DISCOUNT, 0.0)
    longer = judged / np.maximum(below.counts[code][order.prefix], 1.0)
    shorter_total = (
        orders[k - 3].counts[code][below.prefix[order.suffix]] if k > 2 else below.counts[code].sum()
    )
    shorter = below.counts[code][order.suffix] / np.maximum(shorter_total, 1.0)
    gain: npt.NDArray[np.float64] = judged * (longer - shorter)
    return gain


def _choose(orders: list[_Order], sizes: tuple[int, int]) -> list[npt.NDArray[np.bool_]]:
    """Which phrases to keep, by order: the most useful of answers and of code, and what they begin with."""
    kept = [np.zeros(len(order.last), bool) for order in orders]
    for code, size in enumerate(sizes):
        gains = [_usefulness(orders, k, code) for k in range(2, PHRASE_ORDERS + 1)]
        falling = np.sort(np.concatenate(gains))[::-1]
        least = max(0.0, float(falling[size])) if size < len(falling) else 0.0
        for keep, gain in zip(kept[1:], gains, strict=True):
            keep |= gain > least
    for k in range(PHRASE_ORDERS - 1, 0, -1):
        kept[k - 1][orders[k].prefix[kept[k]]] = True
        kept[0][orders[k].last[kept[k]]] = True
    return kept


def count_phrases(
    texts: Sequence[Text], *, kept: int = PHRASES_KEPT, python_share: float = PYTHON_SHARE
) -> Phrases:
    """Count texts.

    Args:
        texts: answers and modules.
        kept: phrases of two words or more, about: what they begin with is kept too.
        python_share: how many of them for code, and how much of the counts code makes up, however large it is.
    """
    corpus = _read_words(texts)
    orders = _count(corpus)
    has_code, has_answers = bool(corpus.is_code.any()), not bool(corpus.is_code.all())
    share = python_share if has_code and has_answers else float(has_code)
    chosen = _choose(orders, (round(kept * (1 - share)), round(kept * share)))
    totals = orders[0].counts.sum(axis=1)
    weight = share / (1 - share) * totals[0] / totals[1] if has_code and has_answers else 1.0
    return _gather(corpus, orders, chosen, weight)


def _gather(
    corpus: _Corpus, orders: list[_Order], chosen: list[npt.NDArray[np.bool_]], weight: float
) -> Phrases:
    """The chosen phrases, words in the file's order and rows sorted."""
    counts = [
        np.maximum(order.counts[0][keep] + weight * order.counts[1][keep], 1.0).astype(np.float32)
        for order, keep in zip(orders, chosen, strict=True)
    ]
    texts = [corpus.words[i] for i in orders[0].last[chosen[0]]]
    permutation = word_order(texts, counts[0])
    if len(permutation) > MOST_WORDS:
        raise ValueError(f"{len(permutation):,} words are more than a file holds; keep fewer phrases")
    new_ids = np.full(len(chosen[0]), -1, np.int32)
    new_ids[np.flatnonzero(chosen[0])[permutation]] = np.arange(len(permutation), dtype=np.int32)
    words = [texts[i] for i in permutation]
    grams: list[Integers] = [np.arange(len(words), dtype=np.int32)[:, None]]
    sorted_counts: list[Counts] = [counts[0][permutation]]
    full = new_ids[:, None]
    for k in range(1, PHRASE_ORDERS):
        full = np.concatenate([full[orders[k].prefix], new_ids[orders[k].last][:, None]], axis=1)
        rows = full[chosen[k]]
        by_row = np.lexsort(rows.T[::-1])
        grams.append(rows[by_row])
        sorted_counts.append(counts[k][by_row])
    return Phrases(words, tuple(grams), tuple(sorted_counts))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="aded_models.phrases_count")
    parser.add_argument("--traces", type=Path, nargs="*", default=[], help="recorded answers, .jsonl.gz")
    parser.add_argument("--python-library", action="store_true", help="count this Python's library too")
    parser.add_argument("--leave-out", action="append", default=[], metavar="MODEL")
    parser.add_argument("--kept", type=int, default=PHRASES_KEPT, help="phrases of two words or more")
    parser.add_argument("-o", "--out", type=Path, default=phrases_path())
    arguments = parser.parse_args()
    texts = read_answers(arguments.traces, arguments.leave_out)
    print(f"{len(texts):,} answers", file=sys.stderr)
    if arguments.python_library:
        modules = read_python_library()
        print(f"{len(modules):,} modules", file=sys.stderr)
        texts += modules
    if not texts:
        parser.error("nothing to count")
    phrases = count_phrases(texts, kept=arguments.kept)
    size = write_phrases(phrases, arguments.out)
    by_order = " ".join(f"{len(grams):,}" for grams in phrases.grams)
    print(
        f"{arguments.out}: {size:,} bytes, phrases of 1 to {PHRASE_ORDERS} words: {by_order}", file=sys.stderr
    )


if __name__ == "__main__":
    main()
