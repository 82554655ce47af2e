"""One answer on its way from the engine to a writer, and what Ctrl-C does to it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aded_local.api import LocalADED, Piece, Stats

CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Answer:
    """What was said. ``stats`` is None when a second Ctrl-C abandoned it before the engine could sum up."""

    text: str
    tokens: list[int]
    finish_reason: str
    stats: Stats | None

    @property
    def stopped(self) -> bool:
        """Whether Ctrl-C cut it short."""
        return self.finish_reason == CANCELLED


@contextmanager
def cancelling_on_interrupt(llm: LocalADED) -> Iterator[None]:
    """While inside, Ctrl-C asks the engine to stop at its next step; a second raises KeyboardInterrupt."""
    pressed = False

    def on_interrupt(_signal: int, _frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True
        llm.cancel()

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def relay(llm: LocalADED, start: Callable[[], Iterator[Piece]], write: Callable[[str], None]) -> Answer:
    """Run one generation to its end, passing each piece of text to ``write`` as it comes.

    Args:
        llm: the engine that ``start`` runs on.
        start: begins the generation.
        write: takes text; what it raises (a broken pipe) ends the generation and is passed on.

    Returns:
        The whole answer; after Ctrl-C as far as it got.
    """
    text: list[str] = []
    tokens: list[int] = []
    reason, stats = CANCELLED, None
    pieces: Iterator[Piece] | None = None
    with cancelling_on_interrupt(llm):
        try:
            pieces = start()
            for piece in pieces:
                text.append(piece.text)
                tokens.extend(piece.tokens)
                if piece.finish_reason is not None:
                    reason, stats = piece.finish_reason, piece.stats
                if piece.text:
                    write(piece.text)
        except KeyboardInterrupt:  # the second one: the answer is abandoned as it stands
            reason, stats = CANCELLED, None
        finally:
            close = getattr(pieces, "close", None)  # generators have it, other iterators need not
            if close is not None:
                close()
    return Answer("".join(text), tokens, reason, stats)
