"""Whose turn it is on one loaded model: answers first, measurements between them.

An answer waits for a measurement at most until the current pass has been timed. A measurement begins only when no
answer was computed for a while.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Final

QUIET_SECONDS: Final = 0.05
"""A pass is timed when no answer was computed for so many seconds: answers in quick succession are not delayed."""

MEASURING_SHARE: Final = 0.25
"""Where answers follow each other at once, measuring may take this share of their time, at their ends: otherwise a
program that asks without a pause would never have its costs measured. It happens once per model, and half a minute of
answers is enough."""

SHORTEST_SLICE: Final = 0.3
"""Seconds that are worth holding an answer up for: some twenty passes of a small model."""

LONGEST_SLICE: Final = 1.0
"""Seconds that the end of one answer is held up at most."""

LOOK_SECONDS: Final = 0.01
"""Seconds between two looks of whoever waits. A look takes some ten microseconds."""


class Closed(Exception):
    """The model is being closed; measuring stops."""


class Scheduler:
    """Lets answers begin at once and measurements wait. It is also the ``Gate`` of a probe.

    It has no lock. A Ctrl-C may come between any two calls of the thread that answers; it would leave a condition's
    lock held, or come as a RuntimeError. So each attribute is set by one side, the one answer or the one measuring
    thread, and whoever waits looks again and again.
    """

    def __init__(self, rest: Callable[[], None] = lambda: None) -> None:
        """No answer and no measurement yet.

        Args:
            rest: called in a thread that has decoded, when its turn ends.
        """
        self._rest = rest
        self._exchanging = False
        self._answering = False
        self._answered = False
        self._closing = False
        self._measuring = False
        self._quiet_since = -math.inf
        self._began = 0.0
        self._credit = 0.0
        self._generous = True

    @property
    def wanted(self) -> bool:
        """Whether an answer is running or waits to begin."""
        return self._answering

    @property
    def measures(self) -> bool:
        """Whether the time between two answers is for a measurement, so that nothing else should compute."""
        return self._measuring and not self._answering

    # --- for the thread that answers -----------------------------------------------------------------

    def begin_answer(self) -> None:
        """An answer begins; waits while a context is being replaced (``exchanging``)."""
        self._began = time.perf_counter()
        self._answering = True  # before it looks: ``exchanging`` does it the other way round
        try:
            _look_until(lambda: not self._exchanging)
        except BaseException:  # Ctrl-C while an exchange is under way
            self._answering = False
            raise

    def end_answer(self) -> None:
        """The answer has ended; nothing happens if it had ended before. After a Ctrl-C in it, call it again."""
        self._rest()
        now = time.perf_counter()
        if self._answering:
            self._answered = True
            self._quiet_since = now
            self._credit += MEASURING_SHARE * (now - self._began)
            self._answering = False

    def leave_a_moment(self) -> None:
        """Hold the caller up for a moment if measurements are due and answers follow each other at once."""
        if self._measuring and self._generous and self._credit >= SHORTEST_SLICE:
            until = min(self._credit, LONGEST_SLICE)
            self._credit = 0.0
            _look_until(lambda: self._closing or self._answering or not self._measuring, until)

    # --- for the thread that measures ----------------------------------------------------------------

    def hold_nobody_up(self) -> None:
        """From here on hold no answer up: beside other programs, measurements are not worth keeping."""
        self._generous = False

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        """Within the block a measurement is due, and answers leave it a moment at their ends."""
        self._measuring = True
        try:
            yield
        finally:
            self._measuring = False

    @contextlib.contextmanager
    def exchanging(self) -> Iterator[None]:
        """Within the block, which replaces the context, no answer runs. Long work in it should look at ``wanted``.

        Raises:
            Closed: the model is being closed.
        """
        try:
            while not self._exchanging:
                self._await_no_answer()
                self._exchanging = True
                if self._answering:  # it began just then, and goes first
                    self._exchanging = False
            yield
        finally:
            self._exchanging = False

    def wait(self) -> bool:
        """Return when no answer was computed for a while; tells whether it had to wait.

        Raises:
            Closed: the model is being closed.
        """
        waited = False
        if self._answering:
            self._rest()
        while True:
            self._require_open()
            rest = QUIET_SECONDS - (time.perf_counter() - self._quiet_since)
            if not self._answering and rest <= 0.0:
                return waited
            waited = True
            if self._answering:
                self._await_no_answer()
            else:
                _look_until(lambda: self._closing or self._answering, rest)

    def wait_for_a_first_answer(self, seconds: float) -> None:
        """Return when the first answer has ended, or after ``seconds`` without one.

        Raises:
            Closed: the model is being closed.
        """
        _look_until(lambda: self._closing or self._answering or self._answered, seconds)
        self._await_no_answer()

    def undisturbed(self) -> bool:
        """Whether no answer has begun since ``wait`` returned."""
        return not self._answering

    def _await_no_answer(self) -> None:
        _look_until(lambda: self._closing or not self._answering)
        self._require_open()

    def _require_open(self) -> None:
        if self._closing:
            raise Closed

    # --- ending --------------------------------------------------------------------------------------

    def close(self) -> None:
        """Make measurements stop."""
        self._closing = True

    @property
    def closing(self) -> bool:
        """Whether ``close`` was called."""
        return self._closing


def _look_until(holds: Callable[[], bool], seconds: float = math.inf) -> None:
    """Wait until something holds, at most ``seconds``."""
    until = time.perf_counter() + seconds
    while not holds() and (left := until - time.perf_counter()) > 0.0:
        time.sleep(min(LOOK_SECONDS, left))
