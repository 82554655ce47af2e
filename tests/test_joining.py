"""Drafting that becomes ready later takes over at the next step, and knows all that was said."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from steps import beginning

from aded_local.speed.joining import JoiningPlanner
from aded_local.speed.planner import PlainPlanner
from aded_local.step import Beginning, StepResult, said
from aded_local.tree import EMPTY_TREE, DraftTree, chain


class Recorder(PlainPlanner):
    """Drafts one token and records what it is told."""

    def __init__(self) -> None:
        self.known: list[int] = []

    def begin(self, beginning: Beginning) -> None:
        self.known = [*beginning.past.tolist(), *beginning.new.tolist()]

    def plan(self, n_cells: int, most: int) -> DraftTree:
        return chain(np.array([7], np.int32), np.array([0.9], np.float32))

    def observe(self, result: StepResult) -> None:
        self.known += result.tokens


@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=3), max_size=8), st.integers(0, 8))
def test_whenever_it_joins_it_knows_the_whole_context(steps: list[list[int]], at: int) -> None:
    planner, joined = JoiningPlanner(), Recorder()
    planner.begin(beginning(1, 2, 3))
    for i, tokens in enumerate(steps):
        if i == at:
            planner.join(joined)
        tree = planner.plan(10, 4)
        assert (len(tree) > 0) == (i >= at)
        planner.observe(said(tokens))
    if at < len(steps):
        assert joined.known == [1, 2, 3, *(token for tokens in steps for token in tokens)]


def test_it_is_plain_until_then() -> None:
    planner = JoiningPlanner()
    planner.begin(beginning(1))
    assert planner.plan(10, 4) is EMPTY_TREE
    assert not planner.joined
    planner.join(Recorder())
    assert planner.joined


def test_what_was_said_before_the_turn_is_handed_over_with_it() -> None:
    planner, joined = JoiningPlanner(), Recorder()
    planner.begin(beginning(1, 2))
    planner.observe(said([3]))
    past = np.array([1, 2, 3], np.int32)
    planner.begin(Beginning(0, past, np.array([8, 9], np.int32)))
    planner.join(joined)
    planner.plan(10, 4)
    planner.observe(said([4]))
    assert joined.known == [1, 2, 3, 8, 9, 4]


def test_what_was_said_before_a_reset_is_not_handed_over() -> None:
    planner, joined = JoiningPlanner(), Recorder()
    planner.begin(beginning(1, 2))
    planner.observe(said([3]))
    planner.reset()
    planner.join(joined)
    planner.begin(beginning(8, 9))
    planner.observe(said([4]))
    assert joined.known == [8, 9, 4]
