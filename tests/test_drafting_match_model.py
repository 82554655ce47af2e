"""Long repetitions are proposed whole, found again after an edit, and followed into the draft itself."""

from __future__ import annotations

import numpy as np
import pytest
from drafters import assert_is_a_tree, auto, begin, ids, learn_copying, main_chain, observe

from aded_local.drafters.ngram.candidates import CELLS, COPY
from aded_local.drafters.ngram.drafter import MOST_NODES, NgramDrafter
from aded_local.drafters.ngram.match_model import (
    ANCHOR,
    LENGTH_EDGES,
    RECORD,
    copy_cell,
    length_class,
    misses_class,
)
from aded_local.tree import IntArray

NEVER = 990
"""A token that no passage holds."""
N_GRAMS = ("conversation", "memory", "static", "soft", "longest", "gaps", "unigram")
"""All that could know a repetition beside the passages."""


def random_passage(n: int = 300, seed: int = 0) -> IntArray:
    return np.random.default_rng(seed).integers(0, 900, n).astype(np.int32)


def proposals(drafter: NgramDrafter, source: int) -> list[int]:
    """What one source proposes next."""
    drafter.predict()
    evidence = drafter.model.evidence
    n = evidence.n_entries
    found: list[int] = evidence.tokens[evidence.candidate[:n][evidence.source[:n] == source]].tolist()
    return found


@pytest.fixture(scope="module")
def alone() -> NgramDrafter:
    """A drafter of passages alone that learnt to trust them."""
    drafter = auto(without=N_GRAMS)
    learn_copying(drafter)
    return drafter


def test_a_long_repetition_is_proposed_whole_and_believed(alone: NgramDrafter) -> None:
    passage = random_passage()
    begin(alone, np.concatenate((passage, ids(NEVER), passage[:20])))
    for at in range(20, 260, 40):
        tree = alone.draft(MOST_NODES)
        assert_is_a_tree(tree, MOST_NODES, 1000)
        assert main_chain(tree) == passage[at : at + min(MOST_NODES, len(passage) - at)].tolist()
        observe(alone, passage[at : at + 40])
    assert tree.probabilities[15] > 0.5


def test_all_parts_together_propose_it_too() -> None:
    drafter = auto()
    learn_copying(drafter)
    passage = random_passage(seed=1)
    begin(drafter, np.concatenate((passage, ids(NEVER), passage[:100])))
    for at in range(100, 200, 20):
        drafter.draft(8)
        observe(drafter, passage[at : at + 20])
    tree = drafter.draft(MOST_NODES)
    assert main_chain(tree)[:40] == passage[200:240].tolist()
    assert tree.probabilities[0] > 0.8


def test_a_loop_goes_on_beyond_the_end_of_the_history(alone: NgramDrafter) -> None:
    begin(alone, ids(*[901, 902, 903] * 5))
    for _ in range(3):
        alone.draft(8)
        observe(alone, ids(901, 902, 903))
    assert main_chain(alone.draft(32)) == ([901, 902, 903] * 11)[:32]


def test_without_passages_a_repetition_is_no_longer_proposed() -> None:
    drafter = auto(without=("passages", *N_GRAMS))
    learn_copying(drafter)
    passage = random_passage()
    begin(drafter, np.concatenate((passage, ids(NEVER), passage[:100])))
    assert len(drafter.draft(MOST_NODES)) == 0
    observe(drafter, passage[100:120])
    assert len(drafter.draft(MOST_NODES)) == 0


@pytest.mark.parametrize("edit", ["replaced", "left out", "two left out", "put in"])
def test_after_an_edit_the_passage_is_found_again(edit: str) -> None:
    drafter = auto()
    passage = random_passage(seed=2)
    begin(drafter, np.concatenate((passage, ids(NEVER), passage[:100])))
    assert proposals(drafter, COPY) == [passage[100]]
    at, emitted = {
        "replaced": (101, [NEVER]),
        "left out": (102, [int(passage[101])]),
        "two left out": (103, [int(passage[102])]),
        "put in": (100, [NEVER]),
    }[edit]
    observe(drafter, ids(*emitted))
    assert proposals(drafter, COPY) == []
    observe(drafter, passage[at : at + ANCHOR])
    assert proposals(drafter, COPY) == [passage[at + ANCHOR]]


def test_of_two_passages_the_later_is_followed_until_the_other_matches_longer() -> None:
    drafter = auto()
    shared = [1, 2, 3, 4, 5]
    begin(drafter, ids(11, *shared, 21, 12, *shared, 22, 13, *shared))
    assert proposals(drafter, COPY) == [22]
    begin(drafter, ids(30, 11, *shared, 21, 12, *shared, 22, 30, 11, *shared))
    assert proposals(drafter, COPY) == [21]
    assert drafter.model.state.copy_length == 7


def test_fewer_tokens_than_an_anchor_are_no_passage() -> None:
    drafter = auto()
    begin(drafter, ids(*range(10, 30), 50, *range(10, 10 + ANCHOR - 1)))
    assert proposals(drafter, COPY) == []
    observe(drafter, ids(10 + ANCHOR - 1))
    assert proposals(drafter, COPY) == [10 + ANCHOR]


def test_a_passage_of_an_earlier_conversation_is_followed() -> None:
    drafter = auto()
    passage = random_passage(seed=6)
    begin(drafter, passage)
    begin(drafter, np.concatenate((ids(NEVER), passage[100:110])))
    assert proposals(drafter, COPY) == [passage[110]]


def test_an_edited_prompt_leaves_no_passage_behind() -> None:
    """What followed the place of the edit is gone from the history; it is neither copied nor resumed."""
    drafter = auto()
    passage = random_passage(100, seed=7)
    begin(drafter, np.concatenate((passage, passage[:30])))
    begin(drafter, ids(NEVER), past=np.concatenate((passage, passage[:10])), undone=20)
    assert proposals(drafter, COPY) == []


def test_classes_of_evidence_stay_within_their_table() -> None:
    longest = range(2 * LENGTH_EDGES[-1])
    assert [length_class(n) for n in longest] == sorted(length_class(n) for n in longest)
    assert {length_class(n) for n in longest} == set(range(len(LENGTH_EDGES) + 1))
    records = [0, 1, 2, 3, 7, 1 << (RECORD - 1), (1 << RECORD) - 1]
    assert [misses_class(record) for record in records] == [0, 1, 1, 2, 2, 1, 3]
    assert all(
        0 <= copy_cell(n, local, record) < CELLS for n in longest for local in (0, 1) for record in records
    )
    assert len({copy_cell(n, local, r) for n in longest for local in (0, 1) for r in records}) == CELLS
