"""A draft model's branches: what it says of a place does not depend on how the tree came there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aded_local.errors import DeviceError
from aded_local.llama import Model
from aded_local.llama.branches import LEAD, READING_CHUNK, Branches

TOLERANCE = 2e-3
"""Of logits: batches of different shapes round differently."""


@pytest.fixture(scope="module")
def model(tiny: dict[str, Path]) -> Model:
    return Model(tiny["llama"])


@pytest.fixture(scope="module")
def fresh(model: Model) -> Branches:
    return Branches(model, n_ctx=512, n_threads=1, n_sequences=2)


def ids(*tokens: int) -> np.ndarray:
    return np.array(tokens, np.int32)


def expected(fresh: Branches, text: list[int], path: tuple[int, ...]) -> np.ndarray:
    """What follows a path, decoded alone."""
    fresh.clear()
    fresh.follow(ids(*text, *path))
    while fresh.unread > LEAD:
        fresh.read()
    [(_, row)], _ = fresh.ask([()])
    return fresh.logits(row).copy()


def read_all(branches: Branches) -> None:
    while branches.unread > LEAD:
        branches.read()


def assert_right(branches: Branches, fresh: Branches, rows: list[tuple[tuple[int, ...], int]]) -> None:
    found = [(path, branches.logits(row).copy()) for path, row in rows]
    for path, logits in found:
        np.testing.assert_allclose(logits, expected(fresh, branches.text, path), atol=TOLERANCE)


def test_what_follows_the_text_and_paths_below_it(model: Model, fresh: Branches) -> None:
    branches = Branches(model, n_ctx=256, n_threads=1)
    branches.follow(ids(5, 6, 7))
    rows, seconds = branches.ask([(), (8,), (9,), (8, 10), (8, 11)])
    assert [path for path, _ in rows] == [(), (8,), (9,), (8, 10), (8, 11)]
    assert seconds > 0.0
    assert_right(branches, fresh, rows)
    branches.close()


def test_places_on_the_way_are_told_of_too(model: Model, fresh: Branches) -> None:
    branches = Branches(model, n_ctx=256, n_threads=1)
    branches.follow(ids(5, 6, 7))
    rows, _ = branches.ask([(8, 9, 10)])
    assert [path for path, _ in rows] == [(), (8,), (8, 9), (8, 9, 10)]
    assert_right(branches, fresh, rows)
    branches.close()


def test_a_place_is_decoded_once(model: Model) -> None:
    branches = Branches(model, n_ctx=256, n_threads=1)
    branches.follow(ids(5, 6, 7))
    branches.ask([(8,)])
    assert branches.ask([(), (8,)]) == ([], 0.0)
    branches.close()


def test_long_texts_are_read_in_chunks(model: Model, fresh: Branches) -> None:
    branches = Branches(model, n_ctx=512, n_threads=1)
    text = [5 + i % 40 for i in range(READING_CHUNK + LEAD + 20)]
    branches.follow(ids(*text))
    assert branches.ask([()]) == ([], 0.0)  # too much is unread
    branches.read()
    assert branches.unread <= LEAD + 20
    read_all(branches)
    rows, _ = branches.ask([(), (7,)])
    assert_right(branches, fresh, rows)
    branches.close()


def test_what_lies_below_the_tokens_that_came_stays(model: Model, fresh: Branches) -> None:
    branches = Branches(model, n_ctx=256, n_threads=1)
    branches.follow(ids(5, 6, 7))
    branches.ask([(8, 9), (8, 10), (11,)])
    assert branches.advance([8]) == 1
    assert branches.text == [5, 6, 7, 8]
    rows, _ = branches.ask([(), (9,), (10, 12), (9, 13)])
    assert [path for path, _ in rows] == [(10, 12), (9, 13)]
    assert_right(branches, fresh, rows)
    branches.close()


def test_no_more_branches_than_sequences(model: Model, fresh: Branches) -> None:
    branches = Branches(model, n_ctx=256, n_threads=1, n_sequences=3)
    branches.follow(ids(5, 6, 7))
    rows, _ = branches.ask([(token,) for token in range(8, 16)])
    assert [path for path, _ in rows] == [(), (8,), (9,), (10,)]
    assert_right(branches, fresh, rows)
    branches.advance([9])
    rows, _ = branches.ask([(8,), (9,), (10,), (11,)])
    assert [path for path, _ in rows] == [(8,), (9,), (10,)]
    assert_right(branches, fresh, rows)
    branches.close()


def test_no_more_places_than_cells(model: Model) -> None:
    branches = Branches(model, n_ctx=256, n_threads=1)
    branches.follow(ids(*[5 + i % 40 for i in range(250)]))
    read_all(branches)
    rows, _ = branches.ask([(7, 8), tuple(range(10, 40))])
    assert [path for path, _ in rows] == [(), (7,), (7, 8)]
    branches.close()


def test_another_text_keeps_what_both_begin_with(model: Model, fresh: Branches) -> None:
    branches = Branches(model, n_ctx=256, n_threads=1)
    branches.follow(ids(*range(5, 45)))
    read_all(branches)
    branches.ask([(8,), (9, 10)])
    branches.follow(ids(*range(5, 35), 50, 51))
    assert branches.n_read == 30
    rows, _ = branches.ask([(), (8,), (9, 10)])
    assert_right(branches, fresh, rows)
    branches.close()


step = st.one_of(
    st.tuples(
        st.just("ask"), st.lists(st.lists(st.integers(5, 8), max_size=4).map(tuple), min_size=1, max_size=6)
    ),
    st.tuples(st.just("advance"), st.lists(st.integers(5, 8), min_size=1, max_size=3)),
    st.tuples(st.just("follow"), st.lists(st.integers(5, 8), min_size=1, max_size=40)),
)


@settings(deadline=None, max_examples=60)
@given(steps=st.lists(step, min_size=1, max_size=14), sequences=st.integers(2, 8))
def test_however_the_tree_grew_a_place_says_what_a_fresh_decode_says(
    model: Model, fresh: Branches, steps: list[tuple[str, list]], sequences: int
) -> None:
    branches = Branches(model, n_ctx=256, n_threads=1, n_sequences=sequences)
    branches.follow(ids(5, 6, 7))
    for what, argument in steps:
        if what == "follow":
            branches.follow(ids(*argument))
        elif what == "advance":
            below = branches.n_below
            gone = branches.advance(argument)
            assert 0 <= gone <= below
        else:
            read_all(branches)
            rows, _ = branches.ask(argument)
            assert_right(branches, fresh, rows)
        assert branches.n_read + branches.unread == len(branches.text)
    branches.close()


def test_a_refusal_leaves_an_empty_tree(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    branches = Branches(model, n_ctx=256, n_threads=1)
    branches.follow(ids(5, 6, 7))

    def refuse(*_: object) -> float:
        raise DeviceError("no room")

    monkeypatch.setattr(branches.context, "decode_placed", refuse)
    with pytest.raises(DeviceError):
        branches.ask([()])
    assert (branches.text, branches.n_read, branches.n_below) == ([], 0, 0)
    branches.close()
