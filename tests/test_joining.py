"""Drafting that becomes ready later takes over at the next step, and knows all that was said."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aded_local.speed.joining import JoiningPlanner
from aded_local.tree import EMPTY_TREE, DraftTree, FloatArray, IntArray, chain


class Recorder:
    """Drafts one token and records what it is told."""

    def __init__(self) -> None:
        self.known: list[int] = []

    def begin(self, context: IntArray) -> None:
        self.known = context.tolist()

    def plan(self, n_cells: int, limit: int) -> DraftTree:
        return chain(np.array([7], np.int32), np.array([0.9], np.float32))

    def see(self, tree: DraftTree, row_of: list[int], logits: Callable[[], FloatArray]) -> None:
        pass

    def observe(
        self, tokens: list[int], *, n_nodes: int, n_cells: int, verify_seconds: float, step_seconds: float
    ) -> None:
        self.known += tokens

    def reset_context(self) -> None:
        self.known = []

    def reset(self) -> None:
        self.known = []


def told(planner: JoiningPlanner, tokens: list[int]) -> None:
    planner.observe(tokens, n_nodes=0, n_cells=10, verify_seconds=0.01, step_seconds=0.01)


@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=3), max_size=8), st.integers(0, 8))
def test_whenever_it_joins_it_knows_the_whole_context(steps: list[list[int]], at: int) -> None:
    planner, joined = JoiningPlanner(), Recorder()
    planner.begin(np.array([1, 2, 3], np.int32))
    for i, tokens in enumerate(steps):
        if i == at:
            planner.join(joined)
        tree = planner.plan(10, 4)
        assert (len(tree) > 0) == (i >= at)
        told(planner, tokens)
    if at < len(steps):
        assert joined.known == [1, 2, 3, *(token for tokens in steps for token in tokens)]


def test_it_is_plain_until_then() -> None:
    planner = JoiningPlanner()
    planner.begin(np.array([1], np.int32))
    assert planner.plan(10, 4) is EMPTY_TREE
    assert not planner.joined
    planner.join(Recorder())
    assert planner.joined


def test_what_was_said_before_a_reset_is_not_handed_over() -> None:
    planner, joined = JoiningPlanner(), Recorder()
    planner.begin(np.array([1, 2], np.int32))
    told(planner, [3])
    planner.reset_context()
    planner.join(joined)
    planner.begin(np.array([8, 9], np.int32))
    told(planner, [4])
    assert joined.known == [8, 9, 4]
