"""Sample and match draws what plain decoding draws, once per token."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from trees import draft_trees

from aded_local.tree import DraftTree
from aded_local.tree_sampling import sample_and_match

END = 0


@given(draft_trees(n_tokens=4), st.lists(st.integers(0, 3), min_size=30, max_size=30), st.integers(1, 12))
def test_the_walk_returns_the_targets_own_tokens(tree: DraftTree, spoken: list[int], limit: int) -> None:
    """Whatever the tree holds, the tokens are what the sampler said, up to where the tree ends."""
    rows: list[int] = []

    def sample(row: int) -> int:
        rows.append(row)
        return spoken[len(rows) - 1]

    row_of = [node + 1 for node in range(len(tree))]
    match = sample_and_match(tree, row_of, sample, lambda token: token == END, limit)
    assert match.tokens == spoken[: len(match.tokens)]
    assert len(rows) == len(match.tokens) <= limit
    assert len(match.path) == len(match.tokens) - 1
    assert tree.tokens[match.path].tolist() == match.tokens[:-1]
    assert match.path == (tree.path_to(match.path[-1]) if match.path else [])
    assert rows == [0, *(row_of[node] for node in match.path)]
    assert END not in match.tokens[:-1]


@given(draft_trees(n_tokens=4), st.lists(st.integers(1, 3), min_size=30, max_size=30))
def test_the_walk_only_stops_where_the_tree_does(tree: DraftTree, spoken: list[int]) -> None:
    draws = iter(spoken)
    match = sample_and_match(
        tree, [n + 1 for n in range(len(tree))], lambda _row: next(draws), lambda _t: False, 99
    )
    last = match.path[-1] if match.path else -1
    children = [int(tree.tokens[n]) for n in range(len(tree)) if tree.parents[n] == last]
    assert match.tokens[-1] not in children
