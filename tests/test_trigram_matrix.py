"""The paper's matrix: bounded whatever is added, exact while there is room, forgetting the least useful first."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from aded_local.drafters.paper.matrix import (
    SLOT,
    SUCCESSORS,
    WINDOW,
    Table,
    add,
    find,
    new_table,
    normalise,
)
from aded_local.ngrams.table import SEED_KEY, extend_hash

FOREVER = float("inf")


def key_of(*newest_first: int) -> np.uint64:
    key = SEED_KEY
    for token in newest_first:
        key = np.uint64(int(extend_hash(key, token)) % 2**64)  # called from Python, a kernel returns an int
    return key


def counts(table: Table, key: np.uint64) -> dict[int, float]:
    index = find(table, key)
    if index < 0:
        return {}
    slot = table[index]
    return {int(t): float(c) for t, c in zip(slot["tokens"], slot["counts"], strict=True) if c > 0}


def test_a_slot_fills_two_cache_lines() -> None:
    assert SLOT.itemsize == 128


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 255_999)), max_size=200))
def test_counts_are_exact_up_to_twelve_successors(pairs: list[tuple[int, int]]) -> None:
    table = new_table(14)
    expected: dict[int, dict[int, float]] = {}
    for clock, (context, token) in enumerate(pairs):
        add(table, key_of(context), token, 1.0, FOREVER, clock)
        of_context = expected.setdefault(context, {})
        of_context[token] = of_context.get(token, 0.0) + 1.0
    for context, wanted in expected.items():
        if len(wanted) <= SUCCESSORS:
            assert counts(table, key_of(context)) == wanted
        slot = table[find(table, key_of(context))]
        assert slot["total"] == sum(wanted.values())
        assert (slot["counts"] > 0).sum() == min(len(wanted), SUCCESSORS)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 10_000), min_size=50, max_size=300))
def test_a_full_table_forgets_and_never_fails(contexts: list[int]) -> None:
    table = new_table(4)
    for clock, context in enumerate(contexts):
        add(table, key_of(context), 5, 1.0, FOREVER, clock)
        assert counts(table, key_of(context)) != {}  # the newest is always kept
    assert table.shape == (16,)


def test_an_often_seen_context_outlives_rare_ones() -> None:
    table = new_table(3)
    for clock in range(50):
        add(table, key_of(1), 7, 1.0, FOREVER, clock)
    for clock in range(50, 50 + 20 * WINDOW):
        add(table, key_of(clock), 7, 1.0, FOREVER, clock)
    assert counts(table, key_of(1)) == {7: 50.0}


def test_a_count_stops_at_its_limit() -> None:
    table = new_table(4)
    for clock in range(100):
        add(table, key_of(1), 2, 0.04, 3.0, clock)
    assert counts(table, key_of(1)) == {2: 3.0}


def test_normalising_turns_counts_into_shares() -> None:
    table = new_table(6)
    for token in (1, 1, 1, 2):
        add(table, key_of(5), token, 1.0, FOREVER, 0)
    normalise(table)
    assert counts(table, key_of(5)) == {1: 0.75, 2: 0.25}
