"""A tree's place in a batch keeps to what llama.cpp demands."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import draft_trees

from aded_local.llama.layout import lay_out
from aded_local.tree import ROOT, DraftTree, chain


def leaves_of(tree: DraftTree) -> list[int]:
    return [node for node in range(len(tree)) if node not in set(tree.parents.tolist())]


@given(draft_trees(), st.integers(2, 8))
def test_limited_trees_keep_to_the_leaves_and_stay_trees(tree: DraftTree, most: int) -> None:
    limited = tree.with_leaves(most)
    assert len(leaves_of(limited)) <= most
    assert all(parent < node for node, parent in enumerate(limited.parents.tolist()))
    paths = {tuple(tree.tokens[tree.path_to(n)].tolist()) for n in range(len(tree))}
    assert {tuple(limited.tokens[limited.path_to(n)].tolist()) for n in range(len(limited))} <= paths
    if len(leaves_of(tree)) <= most:
        assert limited is tree


@given(draft_trees(), st.integers(2, 8))
def test_a_node_carries_the_sequences_of_its_leaves_and_ancestors_carry_its_first(
    tree: DraftTree, n: int
) -> None:
    tree = tree.with_leaves(n)
    layout = lay_out(tree, n)
    for node in range(len(tree)):
        assert layout.sequences[node], "every node needs a sequence"
        for ancestor in tree.path_to(node):
            assert set(layout.sequences[node]) <= set(layout.sequences[ancestor])
    if not layout.is_chain:
        first = [layout.sequences[leaf] for leaf in leaves_of(tree)]
        assert sum(map(len, first)) == len(set().union(*first)), "branches do not share sequences"


@given(draft_trees(), st.integers(2, 8))
def test_parents_come_first_and_the_likeliest_chain_leads(tree: DraftTree, n: int) -> None:
    tree = tree.with_leaves(n)
    layout = lay_out(tree, n)
    assert sorted(layout.order) == list(range(len(tree)))
    for node in range(len(tree)):
        parent = int(tree.parents[node])
        assert parent == ROOT or layout.row_of[parent] < layout.row_of[node]
    node = ROOT
    for row in range(len(tree)):
        children = [c for c in range(len(tree)) if tree.parents[c] == node]
        if not children:
            break
        assert layout.order[row] == children[0]
        node = children[0]


def test_a_chain_carries_every_sequence_so_that_nothing_is_copied() -> None:
    layout = lay_out(chain(np.array([5, 6, 7], np.int32), np.ones(3, np.float32)), 4)
    assert layout.is_chain
    assert layout.sequences == [[0, 1, 2, 3]] * 3


def test_more_leaves_than_sequences_are_refused() -> None:
    star = DraftTree(
        np.arange(3, dtype=np.int32), np.full(3, ROOT, np.int32), np.ones(3, np.int32), np.ones(3, np.float32)
    )
    with pytest.raises(ValueError, match="3 leaves"):
        lay_out(star, 2)
