"""Who may use one loaded model: one answer at a time, readers beside it, and nobody once it is closed.

Answers and whatever else moves the cache exclude each other, and the measurements between them (``turns``). What only
reads (tokenizing, describing) goes on beside them; closing waits for it.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import threading
import weakref
from collections.abc import Generator, Iterator
from typing import Any

from aded_local.errors import BusyError
from aded_local.llama.loading import is_forked, require_not_forked
from aded_local.scheduler import Turns

CLOSED = "this LocalADED is closed; make a new one"

ENDED = (
    "this answer was ended before all of it was read, because its LocalADED was closed or another call needed it; "
    "read an answer to its end first, or use one object for each"
)


class Use:
    """The one use of a model that moves its cache.

    Attributes:
        steps: what computes an answer; None for other uses, which do not pause.
    """

    def __init__(self, steps: Generator[Any, None, None] | None) -> None:
        self.steps = steps
        self.is_read_here()

    def is_read_here(self) -> None:
        """Remember who reads the answer now.

        Raises:
            ForkedError: it was begun in another process.
        """
        require_not_forked()
        self._thread = threading.get_ident()
        task = _task()
        self._task: weakref.ref[Any] | None = None if task is None else weakref.ref(task)

    @property
    def is_abandoned(self) -> bool:
        """Whether whoever read the answer has come here instead, and left it half read.

        In the main thread only: in a pool, one thread may serve many readers in turn. Nor in a task of asyncio's while
        the reader's own is not done.
        """
        here = threading.get_ident()
        if self.steps is None or not self._thread == here == threading.main_thread().ident:
            return False
        reader = None if self._task is None else self._task()
        return reader is None or reader.done() or reader is _task()


def _task() -> Any:
    """The task of asyncio's that runs; None outside one."""
    asyncio = sys.modules.get("asyncio")
    try:
        return None if asyncio is None else asyncio.current_task()
    except RuntimeError:  # no loop
        return None


class Access:
    """See this module's first lines.

    Its lock may be asked for again by the thread that has it: a signal's handler may come in anywhere. A forked child
    never asks for it, since a thread that is not there any more may have it.

    Args:
        turns: whose turn it is, an answer's or a measurement's.

    Attributes:
        closed: nobody may use the model any more.
    """

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._changed = threading.Condition(threading.RLock())
        self._use: Use | None = None
        self._readers: dict[object, int] = {}
        self._asked = 0
        self._cancelled = 0
        self.closed = False

    def require_open(self) -> None:
        """Refuse what comes after closing, or in a forked child.

        Raises:
            BusyError, ForkedError
        """
        require_not_forked()
        if self.closed:
            raise BusyError(CLOSED)

    # --- reading -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Nobody frees the model within the block, which should be short: closing waits for it.

        Raises:
            BusyError: it is closed.
            ForkedError: see ``require_open``.
        """
        require_not_forked()
        claim = object()
        try:
            with self._changed:
                self.require_open()
                self._readers[claim] = threading.get_ident()
            yield
        finally:
            with self._changed:
                self._readers.pop(claim, None)
                self._changed.notify_all()

    # --- one use at a time -------------------------------------------------------------------------

    def begin(self, steps: Generator[Any, None, None] | None = None, *, closing: bool = False) -> Use:
        """Begin to use the model alone; ends an answer that was abandoned half read.

        Args:
            steps: what computes the answer.
            closing: nobody else may begin from here on.

        Raises:
            BusyError: somebody else uses it, or it is closed.
            ForkedError: see ``require_open``.
        """
        self.require_open()
        use = self._use
        if use is not None and use.is_abandoned:
            self._end_early(use)
        use = Use(steps)
        with self._changed:
            self.require_open()
            if self._use is not None:
                raise BusyError(
                    "this LocalADED is already generating; let that answer end, close it or cancel() it first, "
                    "or use one object per thread"
                )
            self._use = use
            self.closed = closing
        try:
            self._turns.begin_answer()
        except BaseException:
            with self._changed:
                self._use, self.closed = None, False
            raise
        return use

    def end(self, use: Use) -> None:
        """The use has ended; nothing happens where it had already, or began in another process."""
        if is_forked():
            return
        with self._changed:
            if self._use is use:
                self._turns.end_answer()
                self._use = None

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Use the model alone within the block.

        Raises:
            BusyError, ForkedError: see ``begin``.
        """
        use = self.begin()
        try:
            yield
        finally:
            self.end(use)

    def end_half_read(self) -> None:
        """End an answer that is under way and paused, whoever reads it."""
        use = self._use
        if use is not None and use.steps is not None and not is_forked():
            self._end_early(use)

    def _end_early(self, use: Use) -> None:
        assert use.steps is not None
        try:
            # It runs, in another thread or below this very call.
            with contextlib.suppress(ValueError):
                use.steps.close()
        finally:
            if inspect.getgeneratorstate(use.steps) == inspect.GEN_CLOSED:
                self.end(use)

    # --- closing -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def closing(self) -> Iterator[bool]:
        """Nobody uses the model within the block and after it; tells whether it is to be freed now, by the caller.

        Raises:
            BusyError: an answer runs.
        """
        if is_forked() or self.closed:
            yield False
            return
        use = self.begin(closing=True)
        try:
            self._await_readers()
            yield True
        finally:
            self.end(use)

    def _await_readers(self) -> None:
        try:
            with self._changed:
                if threading.get_ident() in self._readers.values():
                    raise BusyError("this LocalADED cannot be closed within a call of its own")
                self._changed.wait_for(lambda: not self._readers)
        except BaseException:
            self.closed = False
            raise

    # --- cancelling --------------------------------------------------------------------------------

    def ask(self) -> int:
        """The number of an answer that is being asked for.

        Raises:
            BusyError, ForkedError: see ``require_open``.
        """
        self.require_open()
        with self._changed:
            self._asked += 1
            return self._asked

    def cancel(self) -> None:
        """Cancel every answer that was asked for so far."""
        if not is_forked():
            with self._changed:
                self._cancelled = self._asked

    def is_cancelled(self, number: int) -> bool:
        """Whether the answer of that number was cancelled."""
        return number <= self._cancelled
