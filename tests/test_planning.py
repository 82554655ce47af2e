"""What is verified follows the cost curve, the limits and what drafting gains; the text does not depend on it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from steps import FixedDrafter, beginning, take

from aded_local.speed.cost_curve import CostCurve, from_measurements
from aded_local.speed.planner import AutoPlanner, Limits, WholePlanner
from aded_local.tree import DraftTree, chain

STEEP = {1: 20e-3, 2: 30e-3, 3: 45e-3, 4: 34e-3, 8: 64e-3, 16: 107e-3}


def sure_chain(n: int, probability: float = 0.95) -> DraftTree:
    return chain(np.arange(n, dtype=np.int32), (probability ** np.arange(1, n + 1)).astype(np.float32))


def planner_for(
    tree: DraftTree, curve: CostCurve, *, sizes: Sequence[int] | None = None, leaves: int = 8
) -> tuple[AutoPlanner, FixedDrafter]:
    drafter = FixedDrafter(tree)
    limits = Limits(63, leaves, None if sizes is None else tuple(sizes))
    return AutoPlanner(drafter, lambda: curve, limits, clock=lambda: 0.0), drafter


def test_a_sure_draft_is_verified_and_an_unlikely_one_is_not() -> None:
    curve = from_measurements(STEEP, {}, 0)
    assert len(planner_for(sure_chain(16), curve)[0].plan(256, 60)) >= 3
    assert len(planner_for(sure_chain(16, 0.1), curve)[0].plan(256, 60)) == 0


def test_what_plain_passes_behind_a_draft_take_longer_is_part_of_its_price() -> None:
    curve = from_measurements(STEEP, {}, 0)
    tree = sure_chain(3)
    assert len(planner_for(tree, curve)[0].plan(256, 60)) == 3
    curve.waking = 60e-3
    assert len(planner_for(tree, curve)[0].plan(256, 60)) == 0
    assert curve.seconds(256)[4] < 60e-3, "a pass itself takes what it took"


def test_a_dear_size_is_padded_up_to_a_cheaper_one() -> None:
    """Two sure tokens are worth a pass; a batch of four is cheaper than one of three."""
    curve = from_measurements(STEEP, {}, 0)
    tree = planner_for(sure_chain(2), curve)[0].plan(256, 60)
    assert len(tree) == 3
    assert tree.probabilities[2] == 0.0
    assert tree.parents.tolist() == [-1, 0, 1]


@settings(max_examples=60, deadline=None)
@given(
    allowed=st.sets(st.integers(2, 12)),
    costs=st.lists(st.floats(1.0, 60.0), min_size=16, max_size=16),
    length=st.integers(1, 16),
    limit=st.integers(0, 15),
)
def test_only_allowed_sizes_are_verified_however_little_room_is_left(
    allowed: set[int], costs: list[float], length: int, limit: int
) -> None:
    sizes = [1, *sorted(allowed)]
    curve = from_measurements({n: 1e-3 * cost for n, cost in enumerate(costs, 1)}, {}, 0)
    planner, drafter = planner_for(sure_chain(length), curve, sizes=sizes, leaves=1)
    paper = WholePlanner(drafter, Limits(63, 1, tuple(sizes)))
    for each in (planner, paper):
        n = len(each.plan(256, limit))
        assert n <= limit and n + 1 in sizes


@pytest.mark.parametrize("limit", [0, 1, 2, 5])
def test_the_limit_holds_even_for_padding(limit: int) -> None:
    planner, _ = planner_for(sure_chain(16), from_measurements(STEEP, {}, 0))
    assert len(planner.plan(256, limit)) <= limit


def test_exact_sizes_are_kept_to() -> None:
    curve = from_measurements(STEEP, {}, 0)
    for length in range(1, 16):
        planner, _ = planner_for(sure_chain(length), curve, sizes=[1, 2, 4], leaves=1)
        assert len(planner.plan(256, 60)) + 1 in (1, 2, 4)
        paper = WholePlanner(FixedDrafter(sure_chain(length)), Limits(63, 1, (1, 2, 4)))
        assert len(paper.plan(256, 60)) + 1 in (1, 2, 4)


def test_memory_that_cannot_branch_gets_the_likeliest_chain() -> None:
    star = DraftTree(
        np.array([5, 6, 7, 8], np.int32),
        np.array([-1, -1, 0, 2], np.int32),
        np.array([1, 1, 2, 3], np.int32),
        np.array([0.9, 0.09, 0.85, 0.8], np.float32),
    )
    tree = planner_for(star, from_measurements(STEEP, {}, 0), leaves=1)[0].plan(256, 60)
    assert tree.is_chain
    assert tree.tokens[:3].tolist() == [5, 7, 8]


def test_drafting_pauses_when_it_loses_and_goes_on_learning() -> None:
    """A draft that is never right stops being verified within a few steps; the drafter still hears every token."""
    planner, drafter = planner_for(sure_chain(8), from_measurements(STEEP, {}, 0))
    curve = from_measurements(STEEP, {}, 0)
    passes = [len(take(planner, [99], lambda n: float(curve.seconds(256)[n]))) for _ in range(60)]
    assert passes[0] > 0
    assert sum(n > 0 for n in passes) < 12
    planner.begin(beginning(1))
    assert [token for seen in drafter.seen for token in seen] == [99] * 60


STAR = DraftTree(
    np.arange(12, dtype=np.int32),
    np.full(12, -1, np.int32),
    np.ones(12, np.int32),
    np.linspace(0.08, 0.07, 12).astype(np.float32),
)


@pytest.mark.parametrize("leaves", [1, 2, 3, 8])
def test_branches_that_the_target_has_no_room_for_are_not_priced(leaves: int) -> None:
    """Some sizes are cheap: the size that is verified is one that was priced, not one that was left over."""
    curve = from_measurements({1: 10e-3, 2: 40e-3, 3: 40e-3, 4: 40e-3, 8: 10.1e-3, 16: 10.2e-3}, {}, 0)
    planner, drafter = planner_for(STAR, curve, leaves=leaves)
    tree = planner.plan(256, 60)
    assert drafter.verified == [tree]
    assert len(tree) == 0 or curve.seconds(256)[len(tree) + 1] < 12e-3


def test_the_drafter_is_told_of_the_tree_that_is_verified() -> None:
    planner, drafter = planner_for(sure_chain(2), from_measurements(STEEP, {}, 0))
    tree = planner.plan(256, 60)
    assert drafter.verified == [tree] and tree.padding == 1
    whole = WholePlanner(drafter, Limits(63, 8))
    assert whole.plan(256, 1) is drafter.verified[-1]
    assert len(whole.plan(256, 0)) == len(drafter.verified[-1]) == 0
