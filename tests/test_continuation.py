"""How a prompt goes on from what was said before."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aded_local.continuation import ENDING, RESUMED, Continuation, common_prefix, continuation
from aded_local.tree import IntArray

NOBODY = np.zeros(0, np.int32)


def ids(*tokens: int) -> IntArray:
    return np.array(tokens, np.int32)


def span(first: int, n: int) -> IntArray:
    """``n`` tokens that occur nowhere else, save in spans that overlap."""
    return np.arange(first, first + n, dtype=np.int32)


def test_the_first_prompt_goes_on_from_nothing() -> None:
    assert continuation(NOBODY, span(0, 5)) == Continuation(0, 0, 0, False)


def test_a_prompt_behind_the_last_answer_follows_it() -> None:
    said = span(0, 40)
    assert continuation(said, np.concatenate((said, span(100, 9)))) == Continuation(40, 40, 40, True)


@pytest.mark.parametrize("lacking", [1, ENDING])
def test_the_end_token_of_an_answer_may_be_another_in_the_next_prompt(lacking: int) -> None:
    said = span(0, 40)
    prompt = np.concatenate((said[:-lacking], span(100, 9)))
    assert continuation(said, prompt) == Continuation(40 - lacking, 40 - lacking, 40 - lacking, True)


def test_where_the_oldest_turns_were_dropped_the_rest_is_known() -> None:
    system, dropped, kept, new = span(0, 10), span(100, 30), span(200, 50), span(300, 7)
    said = np.concatenate((system, dropped, kept))
    found = continuation(said, np.concatenate((system, kept, new)))
    assert found == Continuation(shared=10, past=len(said), known=60, follows=True)


def test_dropped_and_kept_turns_may_begin_alike() -> None:
    turn = span(50, 5)
    system, dropped, kept = (
        span(0, 10),
        np.concatenate((turn, span(100, 30))),
        np.concatenate((turn, span(200, 50))),
    )
    said = np.concatenate((system, dropped, kept))
    found = continuation(said, np.concatenate((system, kept, span(300, 7))))
    assert found == Continuation(shared=15, past=len(said), known=65, follows=True)


def test_an_answer_asked_for_again_goes_on_from_its_question() -> None:
    question, answer = span(0, 90), span(100, 20)
    said = np.concatenate((question, answer))
    assert continuation(said, question) == Continuation(90, 90, 90, False)


def test_another_question_under_one_system_prompt_is_another_conversation() -> None:
    system = span(0, 40)
    said = np.concatenate((system, span(100, 60)))
    assert continuation(said, np.concatenate((system, span(300, 60)))) == Continuation(40, 0, 0, False)


def test_a_few_tokens_that_come_again_are_no_conversation() -> None:
    said = np.concatenate((span(0, 10), span(100, 40), span(200, RESUMED - 1)))
    prompt = np.concatenate((span(0, 10), span(200, RESUMED - 1), span(300, 30)))
    assert not continuation(said, prompt).follows


@given(
    st.lists(st.integers(0, 3), max_size=60).map(lambda tokens: ids(*tokens)),
    st.lists(st.integers(0, 3), min_size=1, max_size=60).map(lambda tokens: ids(*tokens)),
)
def test_what_is_known_was_said(said: IntArray, prompt: IntArray) -> None:
    found = continuation(said, prompt)
    assert found.shared == common_prefix(said, prompt) <= len(prompt)
    assert 0 <= found.known <= found.past <= len(said) and found.known <= len(prompt)
    # The known part is the shared beginning and then the end of the past.
    rest = found.known - found.shared
    if rest > 0:
        assert prompt[found.shared : found.known].tolist() == said[found.past - rest : found.past].tolist()
    if found.follows:
        assert found.past + ENDING >= len(said) and found.known < len(prompt)


@given(st.lists(st.integers(0, 9), max_size=40), st.lists(st.integers(0, 9), max_size=40))
def test_a_common_prefix_is_the_longest(a: list[int], b: list[int]) -> None:
    n = common_prefix(ids(*a), ids(*b))
    assert a[:n] == b[:n]
    assert n == min(len(a), len(b)) or a[n] != b[n]
