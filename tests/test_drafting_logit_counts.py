"""What the target found likely is kept for the contexts where it did, and the latest counts for most."""

from __future__ import annotations

import numpy as np
import pytest
from drafters import assert_is_a_tree, auto, begin, chances, ids, observe

from aded_local.drafters.ngram.candidates import SEEN, SOFT, SOFT_ORDERS
from aded_local.drafters.ngram.drafter import NgramDrafter
from aded_local.ngrams.table import COUNT_MASK, COUNT_SHIFT
from aded_local.step import Likely
from aded_local.tree import EMPTY_TREE, DraftTree, FloatArray, IntArray, chain

NEVER = 777


def row(*pairs: tuple[int, float]) -> tuple[IntArray, FloatArray]:
    return (
        np.array([[token for token, _ in pairs]], np.int32),
        np.array([[share for _, share in pairs]], np.float32),
    )


def show(drafter: NgramDrafter, tree: DraftTree, tokens: IntArray, shares: FloatArray) -> None:
    """What a step shows, without its tokens, which would move the text on."""
    observe(drafter, ids(), tree, Likely(tokens, shares))


def said(drafter: NgramDrafter) -> set[int]:
    """What the soft counts propose next."""
    drafter.predict()
    evidence = drafter.model.evidence
    n = evidence.n_entries
    soft = (evidence.source[:n] >= SOFT) & (evidence.source[:n] < SOFT + SOFT_ORDERS)
    return set(evidence.tokens[evidence.candidate[:n][soft]].tolist())


def pair(*tokens: int) -> DraftTree:
    return chain(ids(*tokens), np.full(len(tokens), 0.5, np.float32))


def test_a_token_never_emitted_is_proposed_where_the_target_nearly_said_it() -> None:
    drafter = NgramDrafter(n_vocab=1000)
    begin(drafter, ids(1, 2, 3))
    assert NEVER not in chances(drafter)
    show(drafter, EMPTY_TREE, *row((5, 0.6), (NEVER, 0.4)))
    begin(drafter, ids(60, 61, 3))
    known = said(drafter)
    assert {5, NEVER} <= known
    observe(drafter, ids(5))
    assert NEVER not in said(drafter)  # after 5 it did not say so
    observe(drafter, ids(1, 2, 3))
    assert {5, NEVER} <= said(drafter)


def test_what_it_nearly_said_comes_true_and_is_believed() -> None:
    drafter = auto(without=("conversation", "memory", "gaps", "longest", "unigram", "passages"))
    rng = np.random.default_rng(0)
    for _ in range(200):
        tokens = rng.integers(10, 900, 2)
        begin(drafter, tokens.astype(np.int32))
        show(drafter, EMPTY_TREE, *row((int(tokens[0]) + 50, 0.9), (NEVER, 0.1)))
        begin(drafter, tokens.astype(np.int32))
        known = chances(drafter)
        observe(drafter, ids(int(tokens[0]) + 50))
    assert known[int(tokens[0]) + 50] > 0.8
    assert known.get(NEVER, 0.0) < 0.1


def test_the_tokens_of_a_step_are_judged_before_its_logits_are_counted() -> None:
    """Otherwise this source would be right at every token it was judged by, and wrong where it drafts."""
    drafter = auto()
    begin(drafter, ids(1, 2, 3))
    for token in (4, 5, 6):
        observe(drafter, ids(token), likely=Likely(*row((token, 1.0))))
    assert not drafter.model.rates[SEEN, SOFT : SOFT + SOFT_ORDERS].any()
    assert drafter.tables.soft.any()


def test_every_verified_node_is_learnt_from_accepted_or_not() -> None:
    drafter = auto()
    begin(drafter, ids(1, 2, 3))
    rows = ids(4, 6, 8).reshape(3, 1)
    show(drafter, pair(4, 5), rows, np.ones((3, 1), np.float32))
    observe(drafter, ids(9))  # not what was drafted
    begin(drafter, ids(7, 7, 7, 4))
    assert 6 in said(drafter)
    observe(drafter, ids(5))
    assert 8 in said(drafter)


def test_branches_are_told_apart_by_their_own_path() -> None:
    drafter = auto()
    begin(drafter, ids(1))
    tree = DraftTree(ids(2, 3, 4, 4), ids(-1, -1, 0, 1), ids(1, 1, 2, 2), np.full(4, 0.25, np.float32))
    rows = ids(2, 4, 4, 50, 60).reshape(5, 1)
    show(drafter, tree, rows, np.ones((5, 1), np.float32))
    begin(drafter, ids(9, 2, 4))
    assert {50, 60} <= said(drafter)  # both followed 4, one of them 2 and 4
    drafter.predict()
    evidence = drafter.model.evidence
    n = evidence.n_entries
    longer = evidence.source[:n] == SOFT + 1
    assert evidence.tokens[evidence.candidate[:n][longer]].tolist() == [50]


def test_rows_without_tokens_are_skipped() -> None:
    drafter = auto()
    begin(drafter, ids(1, 2, 3))
    nothing = np.full((3, 4), -1, np.int32)
    show(drafter, pair(4, 5), nothing, np.zeros((3, 4), np.float32))
    assert not drafter.tables.soft.any()
    some = nothing.copy()
    some[1] = [6, 7, -1, -1]
    show(drafter, pair(4, 5), some, np.full((3, 4), 0.5, np.float32))
    begin(drafter, ids(9, 9, 4))
    assert said(drafter) == {6, 7}


def test_the_latest_word_counts_for_most_and_an_old_one_fades_away() -> None:
    drafter = auto()
    begin(drafter, ids(1, 2))
    show(drafter, EMPTY_TREE, *row((5, 1.0)))
    for _ in range(3):
        show(drafter, EMPTY_TREE, *row((6, 1.0)))
    counts = (drafter.tables.soft[drafter.tables.soft != 0] >> COUNT_SHIFT) & COUNT_MASK
    assert sorted(set(counts.tolist())) == [32, 448]  # of 256: halved thrice; 256 + 128 + 64
    for _ in range(12):
        show(drafter, EMPTY_TREE, *row((6, 1.0)))
    assert said(drafter) == {6}


def test_the_table_stays_bounded_however_long_it_is_taught() -> None:
    drafter = auto(5000)
    rng = np.random.default_rng(0)
    soft = drafter.tables.soft
    begin(drafter, ids(1, 2))
    for _ in range(3000):
        rows = rng.integers(0, 5000, (9, 8)).astype(np.int32)
        shares = rng.dirichlet(np.ones(8), 9).astype(np.float32)
        show(drafter, pair(*rng.integers(0, 5000, 8).tolist()), rows, shares)
    assert drafter.tables.soft is soft
    assert np.count_nonzero(soft) > len(soft) // 2
    assert_is_a_tree(drafter.draft(64), 64, 5000)


@pytest.mark.parametrize("share", [0.0, 1e-9, 1.0, 7.0, float("inf"), float("nan"), -1.0])
def test_odd_shares_do_no_harm(share: float) -> None:
    drafter = auto()
    begin(drafter, ids(1, 2))
    show(drafter, EMPTY_TREE, *row((5, share), (999_999, share), (6, 0.5)))
    assert_is_a_tree(drafter.draft(64), 64, 1000)
    assert all(0 <= token < 1000 for token in chances(drafter))


def test_before_anything_was_said_there_is_nothing_to_learn_it_for() -> None:
    drafter = auto()
    show(drafter, EMPTY_TREE, *row((5, 1.0)))
    assert not drafter.tables.soft.any()
