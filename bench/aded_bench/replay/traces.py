"""Recorded answers, tokenized: what a real model wrote, to be replayed against a drafter.

A trace is a file of JSON lines, gzipped or not: ``id``, ``category``, ``vocab`` (which tokenizer), ``prompt``
(already in the model's chat template) and ``output``.
"""

from __future__ import annotations

import gzip
import itertools
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aded_local.errors import ModelNotFoundError, OptionError, StoreError

Tokens = npt.NDArray[np.int32]
VOCAB_FOLDER = "vocab"
"""Beside the folder of traces, files ``ggml-vocab-NAME.gguf``, named as in llama.cpp's repository."""


@dataclass(frozen=True)
class Recorded:
    """One answer.

    Attributes:
        prompt: token ids, int32 ``(n,)``, n >= 1.
        answer: token ids, int32 ``(m,)``, m >= 1.
    """

    id: str
    category: str
    prompt: Tokens
    answer: Tokens


@dataclass(frozen=True)
class Trace:
    """The answers of one model to one set of prompts.

    Attributes:
        path: the file.
        n_vocab: token ids lie below it.
        vocab: GGUF of the tokenizer, which decides the ids as the file does; None where ids were made without one.
    """

    name: str
    path: Path
    n_vocab: int
    answers: tuple[Recorded, ...]
    vocab: Path | None = None

    @property
    def tokens(self) -> int:
        """Tokens of all answers."""
        return sum(len(recorded.answer) for recorded in self.answers)

    def describe(self) -> dict[str, Any]:
        """Plain data: name, answers, tokens, answers per category."""
        categories = Counter(recorded.category for recorded in self.answers)
        return {
            "name": self.name,
            "answers": len(self.answers),
            "tokens": self.tokens,
            "categories": dict(categories),
        }


def read_trace(
    path: Path, *, vocab: Path | None = None, limit: int | None = None, longest: int | None = None
) -> Trace:
    """Read and tokenize a trace.

    Args:
        path: ``.jsonl`` or ``.jsonl.gz``.
        vocab: a GGUF with the tokenizer; by default the one the trace names, looked for beside its folder.
        limit: the first so many answers.
        longest: of each answer the first so many tokens.

    Raises:
        StoreError: the file cannot be read, or a line is no recorded answer.
        OptionError: the trace names several tokenizers, or none and ``vocab`` is not given.
        ModelNotFoundError, ModelFormatError: of the tokenizer.
    """
    rows = list(itertools.islice(_rows(path), limit))
    if not rows:
        raise StoreError(f"{path} holds no recorded answer")
    found = vocab if vocab is not None else _named_vocab(path, rows)
    tokenizer = Tokenizer(found)
    answers = []
    for row in rows:
        prompt = tokenizer.tokenize(row["prompt"], is_prompt=True)
        answer = tokenizer.tokenize(row["output"], is_prompt=False)[:longest]
        if len(prompt) and len(answer):  # nothing is drafted after nothing, or for nothing
            answers.append(Recorded(row["id"], row["category"], prompt, answer))
    if not answers:
        raise StoreError(f"{path} holds no answer with a token")
    return Trace(path.name.split(".jsonl")[0], path, tokenizer.n_vocab, tuple(answers), found)


def _rows(path: Path) -> Iterator[dict[str, str]]:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _row(path, number, json.loads(line))
    except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
        raise StoreError(f"{path} is no trace of JSON lines: {error}") from None


def _row(path: Path, number: int, found: Any) -> dict[str, str]:
    row = {"category": "all", "vocab": "", "id": str(number)}
    if isinstance(found, dict):
        row |= {key: value for key, value in found.items() if isinstance(value, str)}
    if "prompt" not in row or "output" not in row:
        raise StoreError(f"line {number} of {path} lacks prompt or output")
    return row


def _named_vocab(path: Path, rows: list[dict[str, str]]) -> Path:
    names = {row["vocab"] for row in rows}
    if len(names) != 1 or "" in names:
        raise OptionError(f"{path} does not name one tokenizer for all its answers; give a GGUF with --vocab")
    name = Path(names.pop()).name
    found = path.resolve().parent.parent / VOCAB_FOLDER / f"ggml-vocab-{name}.gguf"
    if not found.is_file():
        raise ModelNotFoundError(f"{path} wants the tokenizer {found}; give one with --vocab")
    return found


class Tokenizer:
    """The vocabulary of a GGUF, without weights."""

    def __init__(self, path: Path) -> None:
        """Load it.

        Raises:
            ModelNotFoundError: no such file.
            ModelFormatError: llama.cpp cannot read it.
        """
        from aded_local.llama.vocabulary import Vocabulary

        if not path.is_file():
            raise ModelNotFoundError(f"there is no tokenizer {path}")
        self._vocabulary = Vocabulary(path)
        self.n_vocab = self._vocabulary.n_vocab

    def tokenize(self, text: str, *, is_prompt: bool) -> Tokens:
        """Token ids, int32 ``(n,)``; a prompt begins as the model wants it, its template's tokens are parsed."""
        tokens = self._vocabulary.tokenize(text, add_special=is_prompt, parse_special=is_prompt)
        return np.array(tokens, np.int32)
