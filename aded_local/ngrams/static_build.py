"""Making static stores: from texts, from other stores, from a part of one. Bounded memory, whole files or none."""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Final

import numpy as np

from aded_local.errors import StoreError
from aded_local.files import failure, replacing
from aded_local.llama.identity import SUFFIX
from aded_local.ngrams.static import (
    LARGEST_TOKEN,
    LONGEST_FACTS,
    LONGEST_TEXT,
    PAGE,
    RECORD,
    Places,
    Source,
    StaticFacts,
    is_static,
    open_static,
)
from aded_local.ngrams.static_count import DEFAULT_MEMORY, Counting
from aded_local.tree import IntArray

COMPRESSION: Final = 1
"""zlib's level: token ids shrink to a quarter at 150 MB/s; level 6 makes them a fifth, six times slower."""

MOST_SOURCES: Final = 1000
"""Files of a corpus that are named in the facts; others are counted."""

LONGEST_NAME: Final = 255
"""Characters of a name that are kept."""

Progress = Callable[[int], None]
"""Told the tokens of each text as it is counted."""


@dataclass
class Origin:
    """What the texts are, known before they are counted.

    Attributes:
        tokenizer_key, tokenizer_name, n_vocab: as in ``StaticFacts``.
        sources: read after the last text, so whoever yields the texts may fill it as it goes.
        more_sources, pruned_texts: as in ``StaticFacts``.
    """

    tokenizer_key: str
    tokenizer_name: str
    n_vocab: int
    sources: list[Source] = field(default_factory=list)
    more_sources: int = 0
    pruned_texts: int = 0


def build_static(
    texts: Iterable[IntArray],
    out: Path,
    origin: Origin,
    *,
    memory: int = DEFAULT_MEMORY,
    replaces: bool = False,
    progress: Progress | None = None,
) -> StaticFacts:
    """Count texts into a new static store.

    Args:
        texts: token ids, int32 ``(n,)`` each, read once; empty ones are left out.
        out: the file; made whole or not at all, readable by its owner only.
        origin: what the texts are.
        memory: MiB for counting. Less makes a smaller table, which forgets what was met least often.
        replaces: a file that is there already is replaced.
        progress: see ``Progress``.

    Raises:
        StoreError: nothing to count, a token outside the vocabulary, a file already there, or it cannot be written.
    """
    out = Path(out)
    check_output(out, replaces=replaces)
    counting = Counting(memory)
    with new_file(out) as file:
        file.write(bytes(PAGE))
        n_tokens = n_texts = 0
        for text in _pieces(texts):
            _require_known(text, origin.n_vocab)
            _write_text(file, text)
            counting.add(text)
            n_tokens += len(text)
            n_texts += 1
            if progress is not None:
                progress(len(text))
        if n_texts == 0:
            raise StoreError("there is nothing to count: the corpus holds no text")
        table, entries, forgotten = counting.finish()
        facts = StaticFacts(
            tokenizer_key=origin.tokenizer_key,
            tokenizer_name=origin.tokenizer_name,
            n_vocab=origin.n_vocab,
            tokens=n_tokens,
            texts=n_texts,
            entries=entries,
            forgotten=forgotten,
            created=int(time.time()),
            sources=tuple(origin.sources),
            more_sources=origin.more_sources,
            pruned_texts=origin.pruned_texts,
        )
        facts = _shortened(facts)
        raw = facts.to_json()
        facts_at = file.tell()
        table_at = -(-(facts_at + len(raw)) // PAGE) * PAGE
        file.write(raw.ljust(table_at - facts_at, b"\0"))
        data = table.astype("<i8", copy=False).data.cast("B")
        file.write(data)
        places = Places(facts_at, facts_at, len(raw), table_at, len(table), zlib.crc32(raw), zlib.crc32(data))
        file.seek(0)
        file.write(places.to_page())
    return facts


def merge(
    paths: Sequence[Path],
    out: Path,
    *,
    memory: int = DEFAULT_MEMORY,
    replaces: bool = False,
    progress: Progress | None = None,
) -> StaticFacts:
    """Count the texts of several stores, in the order given, into one: as if built from all their corpora.

    A single store is counted anew, which brings one of an older layout up to date.

    Raises:
        StoreError: as ``open_static`` and ``build_static``; stores of different tokenizers; a store given twice.
    """
    stores = [open_static(path) for path in paths]
    for store in stores[1:]:
        if store.facts.tokenizer_key != stores[0].facts.tokenizer_key:
            raise StoreError(
                f"{stores[0].path} and {store.path} are for different tokenizers"
                f" ({stores[0].facts.tokenizer_name}, {store.facts.tokenizer_name}); merge those of one"
            )
    for one, other in itertools.combinations(paths, 2):
        with contextlib.suppress(OSError):
            if os.path.samefile(one, other):
                raise StoreError(f"{one} and {other} are the same file; name each store once")
    origin = _origin(stores[0].facts)
    origin.sources = [source for store in stores for source in store.facts.sources]
    origin.more_sources = sum(store.facts.more_sources for store in stores)
    origin.pruned_texts = sum(store.facts.pruned_texts for store in stores)
    texts = itertools.chain.from_iterable(store.texts() for store in stores)
    return build_static(texts, out, origin, memory=memory, replaces=replaces, progress=progress)


def prune(
    path: Path, tokens: int, *, memory: int = DEFAULT_MEMORY, progress: Progress | None = None
) -> tuple[StaticFacts, int]:
    """Drop the oldest texts of a store, those counted first, until ``tokens`` are left at most; count anew.

    Returns:
        What it holds then, and how many texts were dropped. With none to drop the file is left alone.

    Raises:
        StoreError: as ``open_static`` and ``build_static``; or the newest text alone has more tokens.
    """
    store = open_static(path)
    lengths = store.lengths()
    left, dropped = sum(lengths), 0
    while left > tokens:
        left -= lengths[dropped]
        dropped += 1
    if dropped == 0:
        return store.facts, 0
    if left == 0:
        raise StoreError(
            f"the newest text of {path} alone has {lengths[-1]:,} tokens: keep at least so many, or erase the store"
        )
    origin = _origin(store.facts)
    origin.sources = list(store.facts.sources)
    origin.pruned_texts += dropped
    facts = build_static(store.texts(dropped), path, origin, memory=memory, replaces=True, progress=progress)
    return facts, dropped


def check_output(out: Path, *, replaces: bool, stores: bool = True) -> None:
    """Refuse a place where no store can be put, before hours are spent on it.

    Args:
        out: the file to write.
        replaces: a file there may be replaced, if it is of the kind that is written.
        stores: static stores are written; else texts, which never replace a store.

    Raises:
        StoreError: a folder, something that is no file, a file already there, no such folder.
    """
    try:
        mode = os.stat(out).st_mode
    except FileNotFoundError:
        if not out.parent.is_dir():
            raise StoreError(
                f"there is no folder {out.parent} to write {out.name} to; make it first"
            ) from None
        if out.is_symlink():
            raise StoreError(f"{out} is a link to a file that is not there; name that file") from None
        return
    except ValueError as error:
        raise StoreError(f"{str(out)!r} is no path: {error}") from error
    except OSError as error:
        raise failure("write", out, error) from error
    if stat.S_ISDIR(mode):
        raise StoreError(f"{out} is a folder; give the name of a file in it")
    if not stat.S_ISREG(mode):
        raise StoreError(f"{out} is no regular file, and a store must be one; give another name")
    if not replaces:
        raise StoreError(f"{out} is there already; give another name, or --force to replace it")
    if stores and not is_static(out):
        raise StoreError(
            f"{out} is there already and no static store, so nothing replaces it; give another name"
        )
    if not stores and (is_static(out) or SUFFIX in out.name):
        raise StoreError(f"{out} holds what is stored, so no text replaces it; give another name")


@contextlib.contextmanager
def new_file(out: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes the place of ``out`` when the block ends well, and vanishes when it does not.

    Raises:
        StoreError: it cannot be written.
    """
    of_others: OSError | None = None
    try:
        with replacing(
            Path(os.path.realpath(out)), lasting=True
        ) as file:  # through a link, the file it means
            try:
                yield file
            except OSError as error:
                if error.filename is not None:  # the corpus, not this file
                    of_others = error
                raise
    except OSError as error:
        if error is of_others:
            raise
        raise failure("write", out, error) from error


def _pieces(texts: Iterable[IntArray]) -> Iterator[IntArray]:
    for text in texts:
        for start in range(0, len(text), LONGEST_TEXT):
            yield np.ascontiguousarray(text[start : start + LONGEST_TEXT], np.int32)


def _require_known(text: IntArray, n_vocab: int) -> None:
    if not 0 <= int(text.min()) <= int(text.max()) < min(n_vocab, LARGEST_TOKEN):
        raise StoreError(f"a text has a token outside the vocabulary of {n_vocab:,}; build the store anew")


def _write_text(file: IO[bytes], text: IntArray) -> None:
    payload = zlib.compress(text.astype("<i4", copy=False).tobytes(), COMPRESSION)
    file.write(RECORD.pack(len(payload), len(text), zlib.crc32(payload)) + payload)


def _origin(facts: StaticFacts) -> Origin:
    return Origin(
        tokenizer_key=facts.tokenizer_key,
        tokenizer_name=facts.tokenizer_name,
        n_vocab=facts.n_vocab,
        more_sources=facts.more_sources,
        pruned_texts=facts.pruned_texts,
    )


def _shortened(facts: StaticFacts) -> StaticFacts:
    """The facts without what would make them too long for the file."""
    named = facts.sources[:MOST_SOURCES]
    named = tuple(Source(source.name[:LONGEST_NAME], source.bytes) for source in named)
    facts = replace(
        facts,
        sources=named,
        more_sources=facts.more_sources + len(facts.sources) - len(named),
        tokenizer_name=facts.tokenizer_name[:LONGEST_NAME],
    )
    if len(facts.to_json()) > LONGEST_FACTS:  # a name takes at most 6 bytes a character
        facts = replace(facts, sources=(), more_sources=facts.more_sources + len(named))
    return facts
