"""How often a streamed answer's client is told something."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from aded_local.api import Piece

PACE: Final = 0.02
"""Seconds between two chunks at least: a screen shows no more. Origin: OpenAI's client beside SmolLM2 on the same two
cores spends 0.45 ms of processor time a token with it and 0.84 without; the answer takes 15.0 and 16.5 ms."""


def paced(pieces: Iterator[Piece], clock: Callable[[], float] = time.perf_counter) -> Iterator[Piece]:
    """The same answer in fewer pieces: one that comes too soon after the one before waits for the next.

    The first goes on at once, and so does every piece of an answer that comes more slowly than ``PACE``.
    """
    held: Piece | None = None
    told = -PACE
    for piece in pieces:
        piece = piece if held is None else _joined(held, piece)
        held = None
        now = clock()
        if piece.finish_reason is None and now - told < PACE:
            held = piece
            continue
        told = now
        yield piece
    if held is not None:
        yield held


def _joined(first: Piece, second: Piece) -> Piece:
    logprobs = None if second.logprobs is None else (first.logprobs or ()) + second.logprobs
    return replace(
        second, text=first.text + second.text, tokens=first.tokens + second.tokens, logprobs=logprobs
    )
