"""The table: bounded whatever is added, exact while there is room, forgetting the least useful first."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aded_local.ngrams.table import (
    BUCKET,
    CHECK_MASK,
    CHECK_SHIFT,
    CLOCK_SHIFT,
    COUNT_MASK,
    COUNT_SHIFT,
    LAST,
    LINE,
    MOST_COUNT,
    ORDERS,
    SEED_KEY,
    STAMP_MASK,
    STAMP_SHIFT,
    TOKEN_MASK,
    UNIT,
    WIDE_ORDERS,
    Table,
    add,
    check_of,
    claim_pages,
    count_text,
    extend_hash,
    first_entry,
    halve,
    new_table,
)

LARGEST = (1 << 24) - 1
tokens = st.integers(0, LARGEST)


def key_of(*newest_first: int) -> np.uint64:
    key = SEED_KEY
    for token in newest_first:
        key = np.uint64(int(extend_hash(key, token)) % 2**64)  # called from Python, a kernel returns an int
    return key


def check(key: np.uint64) -> int:
    return int(check_of(key)) & CHECK_MASK


def entries_of(table: Table, key: np.uint64, wide: bool) -> list[int]:
    first = first_entry(table, key, wide)
    found: list[int] = table[first : first + (2 * BUCKET if wide else BUCKET)].tolist()
    return [entry for entry in found if entry and (entry >> CHECK_SHIFT) & CHECK_MASK == check(key)]


def count_in(entry: int) -> int:
    return (entry >> COUNT_SHIFT) & COUNT_MASK


def units(table: Table, key: np.uint64, wide: bool = False) -> dict[int, int]:
    found = entries_of(table, key, wide)
    counted = {entry & TOKEN_MASK: count_in(entry) for entry in found}
    assert len(counted) == len(found)  # a successor has one entry
    return counted


def newest(table: Table, key: np.uint64, wide: bool = False) -> list[int]:
    return [entry & TOKEN_MASK for entry in entries_of(table, key, wide) if entry & LAST]


def at_bucket(table: Table, bucket: int, n: int) -> list[np.uint64]:
    """Keys of contexts of one bucket, with different checks."""
    found: dict[int, np.uint64] = {}
    token = 0
    while len(found) < n:
        key = key_of(token)
        token += 1
        if first_entry(table, key, False) == bucket * BUCKET:
            found.setdefault(check(key), key)
    return list(found.values())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0, 1, LARGEST]), max_size=300))
def test_what_followed_each_context_is_counted_as_a_dictionary_would(text: list[int]) -> None:
    table = new_table(18)
    count_text(table, np.array(text, np.int32), 0)
    expected: dict[tuple[int, ...], dict[int, int]] = defaultdict(lambda: defaultdict(int))
    latest: dict[tuple[int, ...], int] = {}
    for i, token in enumerate(text):
        for k in range(min(ORDERS, i) + 1):
            context = tuple(reversed(text[i - k : i]))
            expected[context][token] += UNIT
            latest[context] = token
    for context, wanted in expected.items():
        wide = len(context) <= WIDE_ORDERS
        assert units(table, key_of(*context), wide) == wanted
        assert newest(table, key_of(*context), wide) == [latest[context]]


@settings(max_examples=60, deadline=None)
@given(token=tokens, amount=st.integers(1, MOST_COUNT), clock=st.integers(0, 1 << 40), wide=st.booleans())
def test_an_entry_holds_all_of_a_successor(token: int, amount: int, clock: int, wide: bool) -> None:
    table = new_table(6)
    assert add(table, key_of(9), wide, token, amount, clock) == 0
    assert np.count_nonzero(table) == 1
    entry = int(table[table != 0][0])
    assert entry & TOKEN_MASK == token
    assert count_in(entry) == amount
    assert (entry >> STAMP_SHIFT) & STAMP_MASK == (clock >> CLOCK_SHIFT) % (STAMP_MASK + 1)
    assert (entry >> CHECK_SHIFT) & CHECK_MASK == check(key_of(9))
    assert entry & LAST


@settings(max_examples=60, deadline=None)
@given(
    bits=st.integers(4, 8),
    added=st.lists(
        st.tuples(
            st.integers(0, 60), st.booleans(), tokens, st.integers(1, MOST_COUNT), st.integers(0, 1 << 33)
        ),
        max_size=250,
    ),
)
def test_a_full_table_never_fails_and_entries_never_leave_their_bucket(
    bits: int, added: list[tuple[int, bool, int, int, int]]
) -> None:
    table = new_table(bits)
    places: dict[int, set[int]] = defaultdict(set)  # of each check, where it may lie
    for context, wide, token, amount, clock in added:
        key = key_of(context) if not wide else key_of(context, context)
        add(table, key, wide, token, amount, clock)
        first = first_entry(table, key, wide)
        assert first % (2 * BUCKET if wide else BUCKET) == 0
        places[check(key)].update(range(first, first + (2 * BUCKET if wide else BUCKET)))
        assert units(table, key, wide)[token] > 0  # the newest is always kept
        assert newest(table, key, wide) == [token]
    assert table.shape == (1 << bits,)
    for place in np.flatnonzero(table).tolist():
        entry = int(table[place])
        assert place in places[(entry >> CHECK_SHIFT) & CHECK_MASK]
        assert count_in(entry) > 0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 600)), min_size=1, max_size=200))
def test_what_was_counted_before_is_told(added: list[tuple[int, int]]) -> None:
    table = new_table(8)
    for token, amount in added:
        before = sum(units(table, key_of(3)).values())
        assert add(table, key_of(3), False, token, amount, 0) == before


def test_counts_beyond_the_limit_are_halved_and_keep_their_proportion() -> None:
    table = new_table(8)
    for clock in range(3000):
        add(table, key_of(3), False, 1 if clock % 4 else 2, UNIT, clock)
        assert all(0 < count <= MOST_COUNT for count in units(table, key_of(3)).values())
    counted = units(table, key_of(3))
    assert counted[1] / counted[2] == pytest.approx(3.0, rel=0.05)


def test_halving_forgets_what_was_counted_least_and_leaves_other_contexts_alone() -> None:
    table = new_table(4)
    one, other = at_bucket(table, 0, 2)
    for token, amount in ((1, 1), (2, 2), (3, 3), (4, MOST_COUNT)):
        add(table, one, False, token, amount, 0)
    add(table, other, False, 1, 1, 0)
    halve(table, first_entry(table, one, False), False, check_of(one))
    assert units(table, one) == {2: 1, 3: 1, 4: MOST_COUNT // 2}
    assert newest(table, one) == [4]
    assert units(table, other) == {1: 1}


@pytest.mark.parametrize(("wide", "room"), [(False, 8), (True, 16)])
def test_a_context_keeps_so_many_successors_and_the_rarest_leaves(wide: bool, room: int) -> None:
    table = new_table(10)
    for token in range(room):
        add(table, key_of(3), wide, token, UNIT * (1 if token == 5 else 2), 0)
    assert set(units(table, key_of(3), wide)) == set(range(room))
    add(table, key_of(3), wide, 100, UNIT, 0)
    assert set(units(table, key_of(3), wide)) == {*range(room), 100} - {5}


def test_an_often_seen_successor_outlives_rare_ones() -> None:
    table = new_table(4)
    often, *rare = at_bucket(table, 0, 30)
    for clock in range(50):
        add(table, often, False, 7, UNIT, clock)
    for clock, key in enumerate(rare, 50):
        add(table, key, False, 7, UNIT, clock)
    assert units(table, often) == {7: 50 * UNIT}


def test_of_equals_the_one_not_seen_for_longest_leaves_even_when_stamps_wrap() -> None:
    table = new_table(4)
    contexts = at_bucket(table, 0, BUCKET + 1)
    wrap = (STAMP_MASK + 1) << CLOCK_SHIFT
    for i, key in enumerate(contexts[:BUCKET]):  # the later half is stamped 0, 1, 2 … again
        add(table, key, False, 7, UNIT, wrap + ((i - BUCKET // 2) << CLOCK_SHIFT))
    add(table, contexts[BUCKET], False, 7, UNIT, wrap + (BUCKET << CLOCK_SHIFT))
    assert [bool(units(table, key)) for key in contexts] == [False] + [True] * BUCKET


def test_old_counts_give_way_to_new_ones_in_the_end() -> None:
    table = new_table(4)
    contexts = at_bucket(table, 0, 2 * BUCKET)
    for key in contexts[:BUCKET]:
        add(table, key, False, 7, 3 * UNIT, 0)
    late = 1000 << CLOCK_SHIFT
    for key in contexts[BUCKET:]:
        add(table, key, False, 7, UNIT, late)
    assert not any(units(table, key) for key in contexts[:BUCKET])
    assert all(units(table, key) for key in contexts[BUCKET:])


def test_the_order_is_part_of_the_key() -> None:
    assert len({int(key_of(*[3] * k)) for k in range(ORDERS + 1)}) == ORDERS + 1


def test_token_0_is_a_token_like_any_other() -> None:
    table = new_table(6)
    add(table, key_of(0), False, 0, UNIT, 0)
    assert units(table, key_of(0)) == {0: UNIT}
    assert units(table, key_of(0, 0)) == {}


@pytest.mark.parametrize("bits", range(4, 19))
def test_buckets_fill_cache_lines(bits: int) -> None:
    table = new_table(bits)
    claim_pages(table)
    assert table.ctypes.data % LINE == 0
    assert table.nbytes == 8 << bits
    assert BUCKET * table.itemsize == LINE
    assert table.flags.c_contiguous and not table.any()
