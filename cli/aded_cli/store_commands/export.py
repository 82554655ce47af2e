"""`aded-store export`: what is stored, as text."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aded_cli import display
from aded_local.errors import StoreError
from aded_local.shown import json_text

from .shared import FORCE, PATH, open_any, open_vocabulary, plural

if TYPE_CHECKING:
    from aded_local.llama.vocabulary import Vocabulary
    from aded_local.memory import ConversationMemory
    from aded_local.ngrams.static import StaticStore
    from aded_local.tree import IntArray


@click.command("export")
@click.argument("file", type=PATH, metavar="FILE")
@click.option(
    "-m",
    "--model",
    required=True,
    metavar="MODEL",
    help="A GGUF with the store's tokenizer, builtin or smollm2: a store holds token ids and no vocabulary.",
)
@click.option(
    "-o",
    "--output",
    "out",
    type=PATH,
    metavar="OUT.jsonl",
    help="The file to write, readable by you alone.  [default: standard output]",
)
@FORCE
def command(file: Path, model: str, out: Path | None, force: bool) -> None:
    """Write what a store holds as JSONL, oldest first.

    A static store gives {"text": …} for each text, in pieces where a text was long; a conversation memory
    {"prompt": …, "answer": …, "continues": …, "when": …} for each exchange. A prompt that continues the
    exchange before it holds only what is new.
    """
    from aded_local.memory import ConversationMemory
    from aded_local.ngrams.static_build import check_output, new_file

    if out is not None and str(out) != "-":
        check_output(out, replaces=force, stores=False)
    found = open_any(file)
    vocabulary = open_vocabulary(model)
    try:
        if isinstance(found, ConversationMemory):
            _require_same(file, found.identity.tokenizer, found.identity.name, vocabulary)
            lines = _exchanges(found, vocabulary)
        else:
            _require_same(file, found.facts.tokenizer_key, found.facts.tokenizer_name, vocabulary)
            lines = _texts(found, vocabulary)
        if out is None or str(out) == "-":
            _write(lines, sys.stdout.write, sys.stdout.encoding)
            return
        with new_file(out) as target:
            count = _write(lines, lambda line: target.write(line.encode("utf-8")), "utf-8")
    finally:
        vocabulary.close()
    display.say(f"{out}: {plural(count, 'line')}")


def _write(lines: Iterator[dict[str, Any]], write: Callable[[str], Any], encoding: str | None) -> int:
    count = 0
    for line in lines:
        write(json_text(line, encoding) + "\n")
        count += 1
    return count


def _require_same(file: Path, tokenizer: str, name: str, vocabulary: Vocabulary) -> None:
    """Refuse a vocabulary in which the ids mean something else."""
    from aded_local.llama.identity import identity_of

    if not tokenizer:  # the header is damaged, the exchanges need not be
        display.note(f"{file} no longer says for which tokenizer it is; {vocabulary.path.name} is taken")
    elif identity_of(vocabulary.header).tokenizer != tokenizer:
        raise StoreError(
            f"{file} is for another tokenizer ({name}) than {vocabulary.path}; give a GGUF of that model"
        )


def _texts(store: StaticStore, vocabulary: Vocabulary) -> Iterator[dict[str, Any]]:
    for text in store.texts():
        yield {"text": vocabulary.decode(text)}


def _exchanges(memory: ConversationMemory, vocabulary: Vocabulary) -> Iterator[dict[str, Any]]:
    for exchange in memory.exchanges():
        yield {
            "prompt": _with_control(exchange.prompt, vocabulary),
            "answer": vocabulary.decode(exchange.answer, is_start=False),
            "continues": exchange.continues,
            "when": exchange.when,
        }


def _with_control(tokens: IntArray, vocabulary: Vocabulary) -> str:
    """A prompt as text, its control tokens spelled as the vocabulary does: they tell who speaks."""
    parts = []
    for token in tokens.tolist():
        spelled = vocabulary.piece(token)
        parts.append(spelled or vocabulary.token_text(token).encode())
    return b"".join(parts).decode("utf-8", errors="replace")
