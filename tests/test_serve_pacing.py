"""A streamed answer arrives as it comes, but in no more pieces than a screen can show."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from aded_cli.serve.pacing import PACE, paced
from aded_local.logprobs import TokenLogprob
from aded_local.result import Piece


def answer(times: list[float], *, finished: bool = True) -> tuple[list[Piece], list[float]]:
    """Pieces of one token each, and when the paced ones were told, where they come after such pauses."""
    now = 0.0
    told: list[float] = []

    def pieces() -> list[Piece]:
        nonlocal now
        for n, pause in enumerate(times):
            now += pause
            reason = "stop" if finished and n == len(times) - 1 else None
            yield Piece(f"w{n} ", (n,), reason, None, (TokenLogprob(n, -1.0, ()),))

    found = []
    for piece in paced(iter(pieces()), lambda: now):
        found.append(piece)
        told.append(now)
    return found, told


@given(st.lists(st.floats(0.0, 0.1), min_size=1, max_size=30), st.booleans())
def test_nothing_is_lost_and_the_first_goes_on_at_once(times: list[float], finished: bool) -> None:
    found, told = answer(times, finished=finished)
    assert "".join(piece.text for piece in found) == "".join(f"w{n} " for n in range(len(times)))
    assert [token for piece in found for token in piece.tokens] == list(range(len(times)))
    assert [each.token for piece in found for each in piece.logprobs or ()] == list(range(len(times)))
    assert found[0].tokens == (0,) and told[0] == times[0]
    assert [piece.finish_reason for piece in found][-1] == ("stop" if finished else None)
    assert all(after - before >= PACE * 0.999 for before, after in pairwise(told[:-1]))


def test_an_answer_that_comes_slowly_is_passed_on_token_by_token() -> None:
    found, _ = answer([2 * PACE] * 8)
    assert [piece.tokens for piece in found] == [(n,) for n in range(8)]


def test_a_quick_answer_comes_in_fewer_pieces() -> None:
    found, _ = answer([PACE / 4] * 41)
    assert 10 <= len(found) <= 12
