"""Which session a request gets, and which are given up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aded_cli.serve.sessions import LEAST_SHARED, MOST_SESSIONS, Pool
from aded_local import LocalADED
from aded_local.continuation import common_prefix

BYTES = 10
"""Of a fake session's cell."""


class FakeSession:
    """A conversation whose cells hold what was said but its last token, as a session's do."""

    def __init__(self, like: FakeSession | None) -> None:
        self.like = like
        self.held: list[int] = []

    def overlap(self, prompt: Any) -> tuple[int, int]:
        return common_prefix(np.array(self.held, np.int32), prompt), len(self.held)

    def kept_bytes(self) -> int:
        return BYTES * len(self.held)

    def answer(self, prompt: list[int], said: list[int]) -> list[int]:
        self.held = [*prompt, *said][:-1]
        return [*prompt, *said]


class FakeModel:
    def session(self, like: FakeSession | None = None) -> FakeSession:
        return FakeSession(like)


def pool(most_bytes: int = 1 << 30) -> Pool:
    return Pool(FakeModel(), most_bytes)


def test_a_prompt_that_goes_on_gets_its_session_back() -> None:
    sessions = pool()
    logs = {}
    for client in range(5):
        prompt = [client, *range(10, 20)]
        session = sessions.take(prompt)
        logs[client] = (session, session.answer(prompt, [1, 2, 3]))
    for _, said in logs.values():
        assert sessions.take([*said, 7, 8]) is next(s for s, log in logs.values() if log is said)
    assert len(sessions) == 5


def test_an_end_token_that_the_template_spells_otherwise_is_no_other_conversation() -> None:
    sessions = pool()
    prompt = list(range(10, 30))
    session = sessions.take(prompt)
    said = session.answer(prompt, [1, 2, 99])
    assert sessions.take([*said[:-1], 98, 5]) is session


def test_the_same_beginning_is_copied_and_whoever_was_there_keeps_the_rest() -> None:
    sessions = pool()
    system = list(range(100, 100 + LEAST_SHARED))
    first = sessions.take([*system, 1, 2, 3])
    said = first.answer([*system, 1, 2, 3], [4, 5, 6, 7])
    second = sessions.take([*system, 8, 9])
    assert second is not first and second.like is first
    second.answer([*system, 8, 9], [1, 1])
    assert sessions.take([*said, 5]) is first


def test_an_answer_that_is_asked_for_again_leaves_the_first_in_its_place() -> None:
    sessions = pool()
    prompt = list(range(50))
    first = sessions.take(prompt)
    said = first.answer(prompt, [7, 8, 9, 10, 11])
    again = sessions.take(prompt)
    assert again.like is first
    again.answer(prompt, [4, 4, 4])
    assert sessions.take([*said, 1]) is first


def test_of_two_that_share_as_much_the_one_that_ends_there_goes_on() -> None:
    sessions = pool()
    prompt = list(range(50))
    first = sessions.take(prompt)
    said = first.answer(prompt, [7, 8, 9, 10, 11])
    branch = [*said, 1, 2, 3]
    other = first.__class__(first)  # what another client made of the same beginning
    sessions._sessions.insert(0, other)
    other.answer(branch, [4, 4, 4])
    assert sessions.take([*said, 5, 6]) is first


def test_the_one_that_was_used_least_recently_is_given_up_first() -> None:
    sessions = pool(3 * 11 * BYTES)
    said = []
    for client in range(4):
        prompt = [client] * 10
        said.append(sessions.take(prompt).answer(prompt, [9, 9]))
    sessions.take([*said[1], 1]).answer([*said[1], 1], [2])
    fresh = sessions.take([77] * 10)
    fresh.answer([77] * 10, [1, 1])
    before = len(sessions)
    assert before <= 4
    assert sessions.take([*said[0], 1]).held == []


@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(1, 60)), min_size=1, max_size=40),
    st.integers(0, 3000),
)
def test_what_is_kept_never_takes_more_than_the_bound_beside_the_one_that_answers(
    requests: list[tuple[int, int]], most_bytes: int
) -> None:
    sessions = pool(most_bytes)
    for client, length in requests:
        prompt = [client] * length
        session = sessions.take(prompt)
        others = sessions.kept_bytes() - session.kept_bytes()
        like = 0 if session.like is None or session.held else session.like.kept_bytes()
        assert others <= most_bytes + like
        session.answer(prompt, [5, 6])
        assert len(sessions) <= MOST_SESSIONS


# With a model


@pytest.fixture
def llm(tiny: dict[str, Path]) -> Iterator[LocalADED]:
    with LocalADED(
        tiny["llama"], n_ctx=512, n_threads=1, draft="off", flash_attention=False, cache_type="f32"
    ) as found:
        yield found


def said_after(prompt: list[int], session: Any) -> tuple[list[int], int]:
    reply = session.generate(prompt, max_tokens=8, temperature=0.0)
    return reply.tokens, reply.stats.reused_tokens


def test_sessions_by_turns_say_what_they_say_alone_and_read_again_little(llm: LocalADED) -> None:
    system = [token % 40 + 5 for token in range(60)]
    prompts = [[*system, 9 + client] for client in range(4)]
    alone = [said_after(prompt, llm.session())[0] for prompt in prompts]
    sessions = Pool(llm, 1 << 30)
    found = [said_after(prompt, sessions.take(prompt)) for prompt in prompts]
    assert [tokens for tokens, _ in found] == alone
    assert [reused for _, reused in found] == [0, 60, 60, 60]
    for prompt, (tokens, _) in zip(prompts, found, strict=True):
        goes_on = [*prompt, *tokens, 7]
        assert said_after(goes_on, sessions.take(goes_on))[1] >= len(prompt) + len(tokens) - 1
    assert len(sessions) == 4
    assert sessions.kept_bytes() > 0


def test_sessions_that_were_given_up_are_only_slower(llm: LocalADED) -> None:
    prompts = [[token % 40 + 5 + client for token in range(60)] for client in range(3)]
    alone = [said_after(prompt, llm.session())[0] for prompt in prompts]
    sessions = Pool(llm, 0)
    for _ in range(2):
        found = [said_after(prompt, sessions.take(prompt)) for prompt in prompts]
        assert found == [(tokens, 0) for tokens in alone]
    assert len(sessions) == 1


def test_sessions_that_share_answers_make_the_same_tokens_of_a_conversation(llm: LocalADED) -> None:
    front = llm.session()
    first, second = llm.session(front), llm.session(front)
    messages = [{"role": "user", "content": "one two three"}]
    reply = first.chat(messages, max_tokens=8, temperature=0.0)
    messages += [{"role": "assistant", "content": reply.text}, {"role": "user", "content": "two"}]
    assert front.chat_tokens(messages) == first.chat_tokens(messages) == second.chat_tokens(messages)


def test_a_prompt_that_was_made_before_is_answered_as_its_conversation(llm: LocalADED) -> None:
    messages = [{"role": "user", "content": "one two three"}]
    one, two = llm.session(), llm.session()
    prompt = one.chat_prompt(messages)
    said = list(two.stream_chat(prompt, max_tokens=8, temperature=0.0))
    assert "".join(piece.text for piece in said) == one.chat(messages, max_tokens=8, temperature=0.0).text
