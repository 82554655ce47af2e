"""Answers in OpenAI's shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aded_local.chat.detokenize import TextStream
from aded_local.completions import (
    Heading,
    Spelling,
    by_token,
    chat_chunks,
    chat_completion,
    completion,
    completion_chunks,
    embeddings,
)
from aded_local.decode import Tally
from aded_local.result import Piece, Stats, TokenLogprob, stats_of

HEADING = Heading("cmpl-1", 5, "m")


def stats(prompt: int = 3, answer: int = 2) -> Stats:
    found = stats_of(Tally(), 0.0, "", same_words=True, answer_tokens=answer)
    return replace(found, prompt_tokens=prompt)


def answer(*texts: str, reason: str = "stop") -> list[Piece]:
    """Pieces with a token each, and the last one without."""
    pieces = [Piece(text, (index,)) for index, text in enumerate(texts)]
    return [*pieces, Piece("", (), reason, stats())]


def test_a_completion_has_the_text_the_reason_and_the_usage() -> None:
    found = completion(answer("a", "b", reason="length"), HEADING, before="<", after=">")
    assert found == {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 5,
        "model": "m",
        "choices": [{"text": "<ab>", "index": 0, "logprobs": None, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }


def test_a_completions_last_chunk_alone_has_the_reason() -> None:
    chunks = list(completion_chunks(answer("a", "b"), HEADING))
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["a", "b", ""]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, "stop"]


def test_text_of_the_last_piece_comes_before_the_reason() -> None:
    chunks = list(completion_chunks([Piece("rest", (1,), "stop", stats())], HEADING))
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["rest", ""]


def test_usage_comes_in_a_chunk_of_its_own_and_timings_in_the_last() -> None:
    *_, last, usage = completion_chunks(answer("a"), HEADING, usage=True, timed=True)
    assert last["timings"]["tokens_per_pass"] == 0.0
    assert (usage["choices"], usage["usage"]["total_tokens"]) == ([], 5)


def test_a_cancelled_answer_ends_with_a_reason_that_clients_know() -> None:
    assert completion(answer("a", reason="cancelled"), HEADING)["choices"][0]["finish_reason"] == "stop"


def test_a_chats_first_chunk_has_the_role_and_its_last_nothing() -> None:
    chunks = list(chat_chunks(answer("a", "b"), HEADING))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas == [{"role": "assistant"}, {"content": "a"}, {"content": "b"}, {}]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_an_answer_that_fails_before_its_first_piece_has_no_chunk() -> None:
    def fails() -> Any:
        raise RuntimeError("no memory")
        yield

    with pytest.raises(RuntimeError):
        next(chat_chunks(fails(), HEADING))


def test_chunks_are_dicts_of_their_own() -> None:
    chunks = list(chat_chunks(answer("a", "b"), HEADING))
    chunks[1]["choices"][0]["delta"]["content"] = "changed"
    assert chunks[2]["choices"][0]["delta"]["content"] == "b"


# --- content, reasoning and calls ------------------------------------------------------------------


@dataclass
class Call:
    index: int
    id: str
    name: str
    arguments: str


@dataclass
class Delta:
    content: str = ""
    reasoning: str = ""
    calls: Sequence[Call] = ()


class Marked:
    """A parser for tests: ``r`` begins reasoning, ``c`` a content, ``f`` calls a function."""

    def feed(self, text: str) -> Delta:
        delta = Delta()
        calls = []
        for word in text.split():
            if word[0] == "r":
                delta.reasoning += word[1:]
            elif word[0] == "f":
                calls.append(Call(int(word[1]), f"call_{word[1]}", word[2:], "{}"))
            else:
                delta.content += word[1:]
        delta.calls = tuple(calls)
        return delta

    def finish(self) -> Delta:
        return Delta(content="!")


def test_reasoning_and_calls_are_told_apart_from_the_content() -> None:
    found = chat_completion(answer("rwhy ", "chi ", "f0add ", "f1mul "), HEADING, parser=Marked())
    choice = found["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": "hi!",
        "reasoning_content": "why",
        "tool_calls": [
            {"id": "call_0", "type": "function", "function": {"name": "add", "arguments": "{}"}},
            {"id": "call_1", "type": "function", "function": {"name": "mul", "arguments": "{}"}},
        ],
    }


def test_an_answer_that_is_cut_short_after_a_call_says_length() -> None:
    pieces = answer("f0add ", reason="length")
    assert chat_completion(pieces, HEADING, parser=Marked())["choices"][0]["finish_reason"] == "length"
    assert list(chat_chunks(pieces, HEADING, parser=Marked()))[-1]["choices"][0]["finish_reason"] == "length"


def test_chunks_bring_reasoning_content_and_calls_as_they_come() -> None:
    chunks = list(chat_chunks(answer("rwhy ", "chi ", "f0add "), HEADING, parser=Marked()))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    function = {"name": "add", "arguments": "{}"}
    assert deltas == [
        {"role": "assistant"},
        {"reasoning_content": "why"},
        {"content": "hi"},
        {"tool_calls": [{"index": 0, "id": "call_0", "type": "function", "function": function}]},
        {"content": "!"},
        {},
    ]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


# --- logprobs --------------------------------------------------------------------------------------

BYTES = {0: b"He", 1: b"llo", 2: "é".encode()[:1], 3: "é".encode()[1:], 4: b"He"}


def test_logprobs_say_where_each_token_begins_and_what_else_was_likely() -> None:
    spelling = Spelling(BYTES.__getitem__, 10)
    first = spelling.of([TokenLogprob(0, -0.1, ((0, -0.1), (1, -2.0))), TokenLogprob(1, -3.0, ((0, -0.5),))])
    assert first == {
        "tokens": ["He", "llo"],
        "text_offset": [10, 12],
        "token_logprobs": [-0.1, -3.0],
        "top_logprobs": [{"He": -0.1, "llo": -2.0}, {"He": -0.5, "llo": -3.0}],
    }
    halves = spelling.of([TokenLogprob(2, -1.0, ()), TokenLogprob(3, -1.0, ()), TokenLogprob(0, -1.0, ())])
    assert halves["text_offset"] == [15, 15, 16]


def test_chats_have_logprobs_with_the_piece_they_belong_to() -> None:
    pieces = [
        Piece("He", (0,), logprobs=(TokenLogprob(0, -0.1, ()),)),
        Piece("", (), "stop", stats(), ()),
    ]
    chunks = list(chat_chunks(pieces, HEADING, spelling=Spelling(BYTES.__getitem__)))
    found = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    expected = {"token": "He", "logprob": -0.1, "bytes": None}
    assert found == [None, {"content": [{**expected, "top_logprobs": [expected]}], "refusal": None}, None]


# --- token by token --------------------------------------------------------------------------------

TEXT = st.text(alphabet="abé🙂 ", max_size=24)


@given(
    TEXT, st.lists(st.integers(1, 5)), st.lists(st.integers(1, 5)), st.sampled_from(["", "a", "b é", "🙂"])
)
def test_an_answer_by_token_says_the_same_in_its_tokens_own_words(
    text: str, cuts: list[int], steps: list[int], stop: str
) -> None:
    """However the bytes are cut into tokens, and the tokens into steps."""
    raw = text.encode()
    pieces_of_bytes: list[bytes] = []
    for cut in [*cuts, len(raw)]:
        pieces_of_bytes.append(raw[:cut])
        raw = raw[cut:]
    table = dict(enumerate(each for each in pieces_of_bytes if each))
    stream = TextStream(table.__getitem__, [stop] if stop else [])
    tokens = list(table)
    pieces = []
    for step in [*steps, len(tokens)]:
        said = stream.feed(tokens[:step])
        pieces.append(Piece(said, stream.take_tokens()))
        tokens = tokens[step:]
    said = stream.flush()
    pieces.append(Piece(said, stream.take_tokens(), "stop", stats()))

    found = list(by_token(pieces, table.__getitem__))
    assert "".join(piece.text for piece in found) == "".join(piece.text for piece in pieces)
    assert [token for piece in found for token in piece.tokens] == [
        token for piece in pieces for token in piece.tokens
    ]
    for piece in found[:-1]:
        assert b"".join(table[token] for token in piece.tokens).decode() == piece.text
    assert found[-1].finish_reason == "stop"


def test_tokens_of_a_stop_text_count_and_those_behind_it_do_not() -> None:
    stream = TextStream({0: b"a", 1: b"st", 2: b"op", 3: b"b"}.__getitem__, ["stop"])
    assert stream.feed([0, 1, 2, 3]) == "a"
    assert stream.n_read == 3


def test_embeddings_are_numbered() -> None:
    found = embeddings([[1.0], [2.0]], 7, "m")
    assert [each["index"] for each in found["data"]] == [0, 1]
    assert found["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
