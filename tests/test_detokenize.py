"""Text leaves in whole characters, stops where it is told to, and knows its tokens."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from aded_local.chat.detokenize import TextStream

PIECES = st.lists(st.binary(max_size=5), max_size=20)
MIXED = st.lists(st.one_of(st.binary(max_size=3), st.text(max_size=3).map(str.encode)), max_size=20)
TEXTS = st.lists(st.text(alphabet="abé日🙂", max_size=3), max_size=20)


def stream(pieces: list[bytes], stop: tuple[str, ...] = ()) -> TextStream:
    return TextStream(lambda token: pieces[token], stop)


def written(pieces: list[bytes], stop: tuple[str, ...] = ()) -> tuple[list[str], TextStream]:
    text = stream(pieces, stop)
    return [text.feed([token]) for token in range(len(pieces))] + [text.flush()], text


def cut_bytes(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in pairwise(edges)]


@given(MIXED)
def test_pieces_join_to_the_bytes_decoded_as_a_whole(pieces: list[bytes]) -> None:
    assert "".join(written(pieces)[0]) == b"".join(pieces).decode("utf-8", errors="replace")


@given(st.text(), st.lists(st.integers(0, 1000)))
def test_a_character_cut_anywhere_is_never_emitted_in_half(text: str, cuts: list[int]) -> None:
    data = text.encode()
    emitted, _ = written(cut_bytes(data, cuts))
    assert "".join(emitted) == text
    assert "\ufffd" not in "".join(emitted) or "\ufffd" in text


def test_half_a_character_at_the_end_is_shown_as_such() -> None:
    assert written([b"a", "é".encode()[:1]])[0] == ["a", "", "\ufffd"]


def test_invalid_bytes_are_replaced_as_soon_as_they_are_certain() -> None:
    assert written([b"\xffa", b"\xe2", b"b"])[0] == ["\ufffda", "", "\ufffdb", ""]


@given(TEXTS, st.lists(st.text(alphabet="abé", min_size=1, max_size=3), max_size=3))
def test_nothing_from_a_stop_string_on_is_emitted(pieces: list[str], stop: list[str]) -> None:
    whole = "".join(pieces)
    emitted, text = written([piece.encode() for piece in pieces], tuple(stop))
    found = [whole.find(one) for one in stop if one in whole]
    if not found:
        assert not text.stopped
        assert "".join(emitted) == whole
        return
    assert text.stopped
    # The stop string that is complete first ends the answer, so the text is a part of what stands before it.
    said = "".join(emitted)
    assert whole.startswith(said)
    assert not any(one in said for one in stop)
    assert any(whole.startswith(one, len(said)) for one in stop)


def test_a_stop_string_over_several_tokens_is_held_back_until_it_is_none() -> None:
    emitted, text = written([b"one E", b"N", b"d two EN", b"D three"], ("END",))
    assert emitted == ["one ", "", "ENd two ", "", ""]
    assert text.stopped


def test_nothing_comes_after_a_stop() -> None:
    text = stream([b"a.b", b"c"], (".",))
    assert text.feed([0, 1]) == "a"
    assert text.feed([1]) == ""
    assert text.flush() == ""


def test_tokens_are_settled_with_the_last_of_their_text() -> None:
    text = stream([b"a", b"\xc3", b"\xa9 E", b"N", b"x"], ("END",))
    assert text.feed([0, 1]) == "a"
    assert text.take_tokens() == (0,)
    assert text.feed([2, 3]) == "é "
    assert text.take_tokens() == (1,)
    assert text.feed([4]) == "ENx"
    assert text.take_tokens() == (2, 3, 4)


@given(PIECES)
def test_every_token_is_settled_once_and_in_order(pieces: list[bytes]) -> None:
    text = stream(pieces)
    settled: list[int] = []
    for token in range(len(pieces)):
        text.feed([token])
        settled += text.take_tokens()
    text.flush()
    assert settled + list(text.take_tokens()) == list(range(len(pieces)))


def test_tokens_from_a_stop_string_on_are_not_settled() -> None:
    text = stream([b"a", b"b", b"STOP", b"c"], ("STOP",))
    text.feed([0, 1, 2, 3])
    assert text.take_tokens() == (0, 1)
