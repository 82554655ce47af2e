"""What drafting starts with: earlier conversations, a static store, and the shipped phrases."""

from __future__ import annotations

from pathlib import Path

from aded_local.engine_options import Say
from aded_local.errors import StoreError
from aded_local.files import data_problem
from aded_local.llama import Model
from aded_local.memory import ConversationMemory
from aded_local.ngrams.phrases import kept_phrase_table
from aded_local.ngrams.static import open_static
from aded_local.ngrams.table import Table
from aded_local.tree import IntArray


def open_memory(model: Model, notice: Say) -> ConversationMemory | None:
    """The memory of a model; it may be one that can be read only, and then ``complaint`` has told that."""
    try:
        identity = model.identity
    except StoreError as error:
        notice(f"conversations are not remembered: {error}")
        return None
    return ConversationMemory.open(identity, _quiet if data_problem() is not None else notice)


def _quiet(_line: str) -> None:
    return


def static_table(path: Path, model: Model) -> Table:
    """The counts of a static store made for the model's tokenizer; StoreError says why not."""
    return open_static(path, model.identity.tokenizer).table


def phrases(model: Model, notice: Say) -> Table | None:
    """The shipped phrases in the model's tokens; drafts only start worse without."""
    from aded_models.phrases import PhrasesError

    try:
        tokenizer = model.identity.tokenizer
    except StoreError:
        tokenizer = ""
    try:
        return kept_phrase_table(
            lambda text: model.tokenize(text, add_special=False, parse_special=False), tokenizer
        )
    except (OSError, PhrasesError) as error:
        notice(f"drafting starts without the shipped phrases: {error}; install aded-local again")
        return None


Exchanges = list[tuple[IntArray, IntArray, bool]]
"""What was said earlier, as ``Drafter.recall`` takes it."""


def earlier_exchanges(memory: ConversationMemory | None, n_vocab: int, notice: Say) -> Exchanges | None:
    """What was said before this start, so that this start's answers are not learnt twice; None without a memory."""
    if memory is None:
        return None
    try:
        exchanges = memory.exchanges()
    except StoreError as error:
        notice(f"earlier conversations are not recalled: {error}")
        return None
    # Kernels look ids up without asking whether they are in the vocabulary, and a file can be put together by hand.
    known = (
        each for each in exchanges if max(each.prompt.max(initial=0), each.answer.max(initial=0)) < n_vocab
    )
    return [(each.prompt, each.answer, each.continues) for each in known]
