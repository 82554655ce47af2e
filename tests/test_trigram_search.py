"""The paper's draft trees have the shape that the authors' package gives them; expectations were read off it."""

from __future__ import annotations

import numpy as np
import pytest
from drafters import begin

from aded_local.drafters.paper.drafter import PaperDrafter
from aded_local.tree import DraftTree


@pytest.fixture(scope="module")
def drafter() -> PaperDrafter:
    return PaperDrafter(n_vocab=1000)


def drafted(drafter: PaperDrafter, texts: list[list[int]], after: list[int]) -> DraftTree:
    drafter.feed([np.array(text, np.int32) for text in texts])
    begin(drafter, np.array(after, np.int32))
    return drafter.draft(64)


def leaves(tree: DraftTree) -> set[tuple[int, ...]]:
    parents = set(tree.parents.tolist())
    ends = (node for node in range(len(tree)) if node not in parents)
    return {tuple(int(tree.tokens[n]) for n in tree.path_to(end)) for end in ends}


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([[1, 2, 3]], {(3,)}),
        ([[1, 2, 3, 4]], {(3, 4)}),
        ([[1, 2, 3], [1, 2, 5, 6, 7, 8, 9, 10]], {(3,), (5, 6, 7, 8)}),
        ([[1, 2, 3, 4, 5], [1, 2, 6, 7, 8, 9, 10]], {(3, 4, 5), (6, 7, 8, 9)}),
        ([[1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 8, 9, 10, 11, 12]], {(3, 4, 5, 6), (3, 8, 9, 10)}),
        ([[1, 2, 3 + i] for i in range(8)], {(3 + i,) for i in range(8)}),
        ([[7, 8, 9]], set()),
    ],
)
def test_prefixes_of_three_are_extended_by_one(
    drafter: PaperDrafter, texts: list[list[int]], expected: set[tuple[int, ...]]
) -> None:
    assert leaves(drafted(drafter, texts, [1, 2])) == expected


def test_the_lengths_of_all_paths_add_up_to_64_at_most(drafter: PaperDrafter) -> None:
    """Each separate branch holds paths of 2, 3 and 4 tokens; seven of them 63 in all."""
    for branches, nodes in ((7, 28), (8, 30)):
        texts = [[1, 2, *range(100 * i, 100 * i + 6)] for i in range(1, branches + 1)]
        tree = drafted(drafter, texts, [1, 2])
        # Eight branches have 24 prefixes, of which 23 are taken: 8 x 2 + 8 x 3 + 7 x 4 = 68, so one path of 4 goes.
        assert len(tree) == nodes


def test_the_last_sixteen_tokens_are_learnt_before_they_are_searched(drafter: PaperDrafter) -> None:
    drafter.reset()
    begin(drafter, np.array([10, 11, 12, 13, 10, 11], np.int32))
    assert leaves(drafter.draft(64)) == {(12, 13, 10, 11)}
    drafter.reset()
    begin(drafter, np.array([10, 11, 12, *range(100, 112), 10, 11], np.int32))
    assert len(drafter.draft(64)) == 0
