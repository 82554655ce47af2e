"""`aded-store build`: a static store from texts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aded_cli import display
from aded_local.errors import StoreError
from aded_local.shown import visible

from .shared import FORCE, MEMORY, OUTPUT, open_vocabulary, plural, size_text, tokens_progress

if TYPE_CHECKING:
    from aded_local.llama.vocabulary import Vocabulary
    from aded_local.ngrams.static_build import Origin
    from aded_local.tree import IntArray

    from .corpus import Corpus


@click.command("build")
@click.argument("model", metavar="MODEL")
@click.argument("corpus", nargs=-1, required=True, metavar="CORPUS...")
@OUTPUT
@click.option(
    "--field",
    metavar="NAME",
    help="Of JSON objects, the field with the text; a string, a list of strings, or messages."
    "  [default: the first there is of text, output, answer, content, messages]",
)
@click.option(
    "--jsonl", "as_jsonl", is_flag=True, help="Every CORPUS is JSONL, whatever its name; for standard input."
)
@MEMORY
@FORCE
def command(
    model: str,
    corpus: tuple[str, ...],
    out: Path,
    field: str | None,
    as_jsonl: bool,
    memory: int,
    force: bool,
) -> None:
    """Count what follows what in texts of yours.

    MODEL is a GGUF that has the tokenizer, with or without weights, or a name, builtin or smollm2. Every
    model with the same tokenizer can use the store. CORPUS is a file, a folder with all below it that is not
    hidden, or - for standard input. A name that ends in .jsonl holds a JSON object (or string) a line; all else
    is plain text. Both may be packed with gzip. Files that are no text are left out, and it is said how many.

    The store holds the texts too, as token ids, so that it can be merged, pruned and exported.
    """
    from aded_local.ngrams.static_build import build_static, check_output

    from .corpus import Corpus

    check_output(out, replaces=force)
    files = Corpus.at(corpus, field=field, as_jsonl=as_jsonl)
    vocabulary = open_vocabulary(model)
    try:
        origin = _origin(vocabulary)
        started = time.perf_counter()
        with tokens_progress("counting", files.total, is_bytes=True) as (files.tell, counted):
            texts = _tokenized(files, vocabulary, origin)
            try:
                facts = build_static(texts, out, origin, memory=memory, replaces=force, progress=counted)
            except StoreError as error:
                if files.read or "nothing to count" not in str(error):
                    raise
                raise StoreError(_why_nothing(files)) from None
        seconds = time.perf_counter() - started
    finally:
        vocabulary.close()
    for line in _notices(files):
        display.note(line)
    rate = facts.tokens / max(seconds, 1e-3)
    display.say(
        f"{out}: {plural(facts.tokens, 'token')} of {plural(facts.texts, 'text')} for {facts.tokenizer_name},"
        f" {size_text(out.stat().st_size)}, in {seconds:.1f} s ({rate:,.0f} tokens/s)"
    )


def _origin(vocabulary: Vocabulary) -> Origin:
    from aded_local.llama.identity import identity_of
    from aded_local.ngrams.static_build import Origin

    identity = identity_of(vocabulary.header)
    return Origin(identity.tokenizer, identity.name, vocabulary.n_vocab)


def _tokenized(files: Corpus, vocabulary: Vocabulary, origin: Origin) -> Iterator[IntArray]:
    """Token ids of all texts; fills in the origin's sources as files end."""
    from aded_local.ngrams.static import Source
    from aded_local.ngrams.static_build import MOST_SOURCES

    for text in files.texts():
        yield from vocabulary.encode(text)
    origin.sources = [Source(visible(name), size) for name, size in files.read[:MOST_SOURCES]]
    origin.more_sources = max(0, len(files.read) - MOST_SOURCES)


def _notices(files: Corpus) -> list[str]:
    """What was left out or changed, a line each."""
    lines = []
    if files.binary:
        lines.append(f"{plural(files.binary, 'file')} left out: no text (a zero byte near the beginning)")
    if files.unreadable:
        lines.append(f"{plural(files.unreadable, 'file')} left out: could not be read")
    if files.not_utf8:
        lines.append(f"{plural(files.not_utf8, 'file')} with bytes that are not UTF-8: replaced by U+FFFD")
    if files.without_field:
        wanted = files.wanted or "a text in a known field"
        lines.append(f"{plural(files.without_field, 'line')} of JSONL left out: without {wanted}")
    return lines


def _why_nothing(files: Corpus) -> str:
    reasons = _notices(files)
    if files.without_field:
        reasons.append("name the field with --field")
    if not reasons:
        reasons.append("the files are empty" if files.files else "no file is there")
    return f"the corpus holds no text: {'; '.join(reasons)}"
