"""The budget never promises less than plain decoding, and the guard stops what loses."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from aded_local.speed.budget import LONGEST_PAUSE, Guard, choose, price

Q4_0 = np.array([0, 1.0, 1.517, 2.229, 1.692, 2.388, 3.075, 3.99, 3.174])
"""Milliseconds of 1 to 8 tokens relative to one, measured on a two-core CPU: three cost more than four."""

costs = st.lists(st.floats(0.5, 30.0), min_size=1, max_size=40).map(lambda c: np.array([0.0, *c]))
drafts = st.lists(st.floats(0.0, 1.0, width=32), max_size=40).map(
    lambda p: np.array(sorted(p, reverse=True), np.float32)
)


@settings(deadline=None)
@given(cost=costs, probabilities=drafts, overhead=st.floats(0.0, 5.0), extra=st.floats(0.0, 5.0))
def test_a_budget_is_predicted_to_beat_plain_decoding(
    cost: np.ndarray, probabilities: np.ndarray, overhead: float, extra: float
) -> None:
    prices = price(cost)
    n = choose(probabilities, prices, overhead, extra)
    assert 0 <= n <= min(len(probabilities), len(cost) - 2)
    if n:
        expected = 1.0 + float(probabilities[:n].sum(dtype=np.float64))
        assert expected / (prices.seconds[n + 1] + overhead + extra) > 1.0 / (cost[1] + overhead)


@settings(deadline=None)
@given(cost=costs, allowed=st.sets(st.integers(2, 45)))
def test_prices_are_of_allowed_passes_and_never_fall_with_size(cost: np.ndarray, allowed: set[int]) -> None:
    prices = price(cost, list(allowed))
    assert np.all(prices.seconds[2:-1] <= prices.seconds[3:])
    assert prices.seconds[1] == cost[1]
    for i in range(2, len(cost)):
        if np.isfinite(prices.seconds[i]):
            assert prices.batch[i] in allowed and prices.batch[i] >= i
            assert prices.seconds[i] == cost[prices.batch[i]]
    assert choose(np.ones(50, np.float32), prices) <= max(prices.most_nodes, 0)


def test_three_tokens_are_padded_to_four_when_four_are_cheaper() -> None:
    prices = price(Q4_0)
    assert prices.seconds[3] == Q4_0[4]
    assert prices.batch[3] == 4
    assert prices.batch[2] == 2


def test_nodes_that_cost_nothing_are_taken() -> None:
    assert choose(np.array([0.9, 0.8, 0.05], np.float32), price(Q4_0)) == 3


def test_nothing_is_verified_when_the_draft_is_poor_or_the_pass_costs_much() -> None:
    assert choose(np.array([0.4, 0.1], np.float32), price(Q4_0)) == 0
    assert choose(np.array([1.0, 1.0], np.float32), price(np.array([0, 1.0, 2.1, 3.2]))) == 0
    assert choose(np.array([], np.float32), price(Q4_0)) == 0


def test_time_outside_the_pass_counts() -> None:
    draft = np.array([0.7], np.float32)
    assert choose(draft, price(Q4_0)) == 1
    assert choose(draft, price(Q4_0), extra_seconds=0.3) == 0


def drafted(guard: Guard, tokens: int, seconds: float) -> None:
    guard.record(tokens=tokens, seconds=seconds, plain_seconds=1.0, nodes=3, draft_seconds=0.001)


def plain(guard: Guard, seconds: float = 1.0, draft_seconds: float = 0.0) -> None:
    guard.record(tokens=1, seconds=seconds, plain_seconds=1.0, draft_seconds=draft_seconds)


def test_drafting_that_gains_is_never_paused() -> None:
    guard = Guard()
    for _ in range(200):
        drafted(guard, 3, 1.7)
        drafted(guard, 1, 1.7)
        assert not guard.paused


def test_drafting_is_paused_within_a_few_steps_after_drafts_begin_to_fail() -> None:
    guard = Guard()
    for _ in range(100):
        drafted(guard, 3, 1.7)
    took = 0
    while not guard.paused:
        drafted(guard, 1, 1.7)
        took += 1
    assert took <= 4


def test_pauses_grow_up_to_a_bound_while_drafting_keeps_losing() -> None:
    guard = Guard()
    pauses, steps = [], 0
    for _ in range(2000):
        if guard.paused:
            plain(guard)
            steps += 1
        else:
            if steps:
                pauses.append(steps)
            steps = 0
            drafted(guard, 1, 3.0)
    assert pauses == sorted(pauses)
    assert pauses[0] < 10
    assert pauses[-1] == LONGEST_PAUSE


def test_drafting_recovers_when_it_gains_again() -> None:
    guard = Guard()
    for _ in range(12):
        plain(guard) if guard.paused else drafted(guard, 1, 3.0)
    searched = 0
    for _ in range(300):
        if guard.paused:
            plain(guard)
        else:
            drafted(guard, 3, 1.5)
            searched += 1
    assert searched > 200


def test_a_machine_that_slows_everything_does_not_pause_drafting() -> None:
    guard = Guard()
    for _ in range(9):
        plain(guard, 3.0)
    for _ in range(50):
        drafted(guard, 3, 5.1)
        assert not guard.paused


def test_one_slow_step_does_not_pause_drafting() -> None:
    guard = Guard()
    drafted(guard, 1, 50.0)
    assert not guard.paused


def test_a_search_that_costs_more_than_it_brings_is_paused_too() -> None:
    """The target is so cheap that looking for candidates is what makes it slow."""
    guard = Guard()
    searched = 0
    for _ in range(1000):
        if guard.paused:
            plain(guard)
        else:
            plain(guard, 1.1, draft_seconds=0.1)
            searched += 1
    assert searched < 200


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 8), st.floats(0.1, 20.0)), max_size=100))
def test_the_same_timings_give_the_same_decisions(steps: list[tuple[int, float]]) -> None:
    one, other = Guard(), Guard()
    for tokens, seconds in steps:
        drafted(one, tokens, seconds)
        drafted(other, tokens, seconds)
        assert one.paused == other.paused


def test_searching_that_never_pays_pauses_soon_where_passes_are_cheap() -> None:
    """A search of a tenth of a pass, never followed by a draft worth verifying, is given up within a few steps."""
    guard = Guard()
    searched = 0
    for _ in range(400):
        if guard.paused:
            guard.rest(1.0)
        else:
            searched += 1
            guard.record(tokens=1, seconds=1.1, plain_seconds=1.0, draft_seconds=0.1)
    assert searched < 40
