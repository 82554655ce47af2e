"""What a setting is worth follows from its costs; which one suits, from what is asked of the words."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aded_local.speed.pricing import (
    CHAINS,
    CHEAP,
    DRAFTS,
    REOPEN_SECONDS,
    SAMES,
    WIDEST,
    Setting,
    Trial,
    choose,
    rate,
    saving,
)

OFF, ON = Setting(False, "f16"), Setting(True, "bf16")
ALL = range(1, WIDEST + 1)

costs = st.lists(st.floats(0.2, 3.0), min_size=WIDEST, max_size=WIDEST).map(
    lambda steps: np.concatenate([[0.0], np.cumsum(steps)])
)


def linear(one: float, more: float, cell: float = 0.0) -> Trial:
    """A setting in which a pass takes ``one`` milliseconds, ``more`` for each further token, ``cell`` for each cell."""
    return Trial(
        {
            fill: {n: 1e-3 * (one + more * (n - 1) + cell * fill * n) for n in (1, 2, 4, 8, 16)}
            for fill in (256, 1024)
        },
        prompt_token=1e-3,
    )


def test_the_shares_of_drafts_add_up_and_their_nodes_fall() -> None:
    for drafts in (DRAFTS, CHAINS):
        assert sum(share for share, _ in drafts) == pytest.approx(1.0, abs=0.01)
        for _, nodes in drafts:
            assert len(nodes) == WIDEST - 1 and list(nodes) == sorted(nodes, reverse=True)


@given(costs)
def test_drafting_is_worth_plain_decoding_at_least_and_a_free_pass_at_most(seconds: np.ndarray) -> None:
    most = max(1.0 + sum(nodes) for _, nodes in DRAFTS)
    assert 1.0 / seconds[1] - 1e-9 <= rate(seconds) <= most / seconds[1] + 1e-9


@given(costs, st.sets(st.integers(2, WIDEST)))
def test_fewer_sizes_are_never_worth_more(seconds: np.ndarray, sizes: set[int]) -> None:
    assert rate(seconds, sizes) <= rate(seconds, set(ALL)) + 1e-9
    assert rate(seconds, ()) == pytest.approx(1.0 / seconds[1])


@given(costs)
def test_the_rate_is_what_the_best_sizes_reach(seconds: np.ndarray) -> None:
    """No other size for any one kind of draft would be faster."""
    best = rate(seconds)
    for _, nodes in DRAFTS:
        for n in ALL:
            # A deviation that gained would bring more tokens than its seconds are worth.
            chosen = max(1.0 + sum(nodes[: k - 1]) - best * seconds[k] for k in ALL)
            assert 1.0 + sum(nodes[: n - 1]) - best * seconds[n] <= chosen + 1e-9
    gains = sum(
        share * max(1.0 + sum(nodes[: k - 1]) - best * seconds[k] for k in ALL) for share, nodes in DRAFTS
    )
    assert gains == pytest.approx(0.0, abs=1e-6 * seconds[WIDEST]) or gains < 1e-3


def test_a_trial_says_what_was_measured_and_what_lies_between() -> None:
    trial = linear(10.0, 5.0, 0.01)
    assert trial.at(256)[1] == pytest.approx(1e-3 * (10.0 + 2.56))
    assert trial.at(1024)[4] == pytest.approx(1e-3 * (10.0 + 15.0 + 4 * 10.24))
    assert trial.at(640)[2] == pytest.approx(1e-3 * (10.0 + 5.0 + 2 * 6.4))
    assert trial.at(2048)[1] == pytest.approx(1e-3 * (10.0 + 20.48)), "attention goes on as it did"
    assert trial.at(16)[1] == trial.at(256)[1], "fewer cells are padded"


def test_sizes_that_were_not_timed_far_cost_in_proportion() -> None:
    trial = Trial({256: {1: 1.0, 2: 1.5, 4: 2.0}, 1024: {1: 2.0}}, 1.0)
    assert trial.at(1024)[:5] == pytest.approx([0.0, 2.0, 3.5, 4.75, 6.0])
    assert trial.at(256)[8] == pytest.approx(4.0)


def test_two_trials_keep_the_shorter_times() -> None:
    both = Trial({256: {1: 1.0, 2: 3.0}}, 0.2).and_again(Trial({256: {1: 2.0}}, 0.1))
    assert both == Trial({256: {1: 1.0, 2: 3.0}}, 0.1, rounds=2)


def test_exactness_is_taken_where_it_is_cheap() -> None:
    slightly = {OFF: linear(10.0, 9.0), ON: linear(10.0 * (1.0 + CHEAP / 2), 9.0)}
    far = {OFF: linear(10.0, 9.0), ON: linear(13.0, 9.0)}
    exact = {OFF: [1], ON: ALL}
    assert choose(far, exact, "cheap", 256).setting == OFF
    assert choose(slightly, exact, "cheap", 256).exact
    assert not choose(slightly, exact, "off", 256).exact


def test_exact_takes_the_fastest_that_keeps_the_words() -> None:
    """Plain decoding in the fast setting keeps them too."""
    trials = {OFF: linear(10.0, 2.0), ON: linear(30.0, 2.0)}
    chosen = choose(trials, {OFF: [1], ON: ALL}, "exact", 256)
    assert chosen.setting == OFF and chosen.exact and chosen.rate == pytest.approx(100.0)
    assert chosen.loss > CHEAP


def test_the_length_of_the_text_decides() -> None:
    trials = {OFF: linear(10.0, 3.0, 0.002), ON: linear(5.0, 3.0, 0.02)}
    exact = {OFF: [1], ON: ALL}
    assert choose(trials, exact, "cheap", 128).setting == ON
    assert choose(trials, exact, "cheap", 4096).setting == OFF


@pytest.mark.parametrize("same", SAMES)
def test_a_single_setting_is_chosen(same: str) -> None:
    assert choose({ON: linear(1.0, 1.0)}, {}, same, 256).setting == ON  # type: ignore[arg-type]


def test_a_change_has_to_pay_within_the_turn() -> None:
    old, new = linear(20.0, 1.0), linear(10.0, 1.0)
    fresh = saving(old, new, (50.0, 100.0), (100, 0), 200)
    assert fresh == pytest.approx(200 * 0.01 - REOPEN_SECONDS)
    assert saving(old, new, (50.0, 100.0), (3000, 3000), 200) < 0.0, "3,000 tokens would be read again"
    assert saving(old, new, (50.0, 100.0), (100, 100), 5) < 0.0, "for five tokens"
