"""Whose turn it is on one loaded model: answers first, measurements between them.

An answer waits for a measurement at most until the current pass has been timed. A measurement begins only when no
answer was computed for a while.
"""

from __future__ import annotations

import contextlib
import math
import threading
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


class Closed(Exception):
    """The model is being closed; measuring stops."""


class Scheduler:
    """Lets answers begin at once and measurements wait. It is also the ``Gate`` of a probe."""

    def __init__(self, rest: Callable[[], None] = lambda: None) -> None:
        """No answer and no measurement yet.

        Args:
            rest: called in a thread that has decoded, when its turn ends.
        """
        self._rest = rest
        self._changed = threading.Condition()
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

    def begin_answer(self) -> None:
        """An answer begins; waits while a context is being replaced (``exchanging``)."""
        with self._changed:
            self._answering = True
            self._began = time.perf_counter()
            self._changed.notify_all()
            try:
                self._changed.wait_for(lambda: not self._exchanging)
            except BaseException:  # Ctrl-C while an exchange is under way
                self._answering = False
                raise

    def end_answer(self) -> None:
        """The answer has ended; nothing happens if it had ended before."""
        self._rest()
        with self._changed:
            if self._answering:
                self._answering = False
                self._answered = True
                self._quiet_since = time.perf_counter()
                self._credit += MEASURING_SHARE * (self._quiet_since - self._began)
                self._changed.notify_all()

    def leave_a_moment(self) -> None:
        """Hold the caller up for a moment if measurements are due and answers follow each other at once."""
        with self._changed:
            if self._measuring and self._generous and self._credit >= SHORTEST_SLICE:
                until = min(self._credit, LONGEST_SLICE)
                self._credit = 0.0
                self._changed.wait_for(lambda: self._closing or self._answering or not self._measuring, until)

    def hold_nobody_up(self) -> None:
        """From here on hold no answer up: beside other programs, measurements are not worth keeping."""
        self._generous = False

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        """Within the block a measurement is due, and answers leave it a moment at their ends."""
        with self._changed:
            self._measuring = True
        try:
            yield
        finally:
            with self._changed:
                self._measuring = False
                self._changed.notify_all()

    @contextlib.contextmanager
    def exchanging(self) -> Iterator[None]:
        """Within the block, which replaces the context, no answer runs. Long work in it should look at ``wanted``.

        Raises:
            Closed: the model is being closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closing or not self._answering)
            if self._closing:
                raise Closed
            self._exchanging = True
        try:
            yield
        finally:
            with self._changed:
                self._exchanging = False
                self._changed.notify_all()

    def wait(self) -> bool:
        """Return when no answer was computed for a while; tells whether it had to wait.

        Raises:
            Closed: the model is being closed.
        """
        waited = False
        if self._answering:
            self._rest()
        with self._changed:
            while True:
                if self._closing:
                    raise Closed
                rest = QUIET_SECONDS - (time.perf_counter() - self._quiet_since)
                if not self._answering and rest <= 0.0:
                    return waited
                waited = True
                self._changed.wait(None if self._answering else rest)

    def wait_for_a_first_answer(self, seconds: float) -> None:
        """Return when the first answer has ended, or after ``seconds`` without one.

        Raises:
            Closed: the model is being closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._answering or self._answered, seconds)
            self._changed.wait_for(lambda: self._closing or not self._answering)
            if self._closing:
                raise Closed

    def undisturbed(self) -> bool:
        """Whether no answer has begun since ``wait`` returned."""
        return not self._answering

    def close(self) -> None:
        """Make measurements stop."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    @property
    def closing(self) -> bool:
        """Whether ``close`` was called."""
        return self._closing
