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
from collections.abc import Callable, Generator, Iterator
from typing import Any

from aded_local.errors import BusyError
from aded_local.llama.loading import is_forked, require_not_forked
from aded_local.scheduler import Scheduler

WAITING_POLL = 0.1
"""Seconds after which a session that waits for another's answer looks whether its own was cancelled."""

CLOSED = "this LocalADED is closed; make a new one"

ENDED = (
    "this answer was ended before all of it was read, because its LocalADED was closed or another call needed it; "
    "read an answer to its end first, or use one object for each"
)


class Use:
    """The one use of a model that moves its cache.

    Attributes:
        steps: what computes an answer; None for other uses, which do not pause.
        owner: the session whose answer it is.
    """

    def __init__(self, steps: Generator[Any, None, None] | None, owner: object = None) -> None:
        self.steps = steps
        self.owner = owner
        self.is_read_here()

    def is_read_here(self) -> None:
        """Remember who reads the answer now.

        Raises:
            ForkedError: it was begun in another process.
        """
        require_not_forked()
        self._thread = threading.current_thread()
        task = _task()
        self._task: weakref.ref[Any] | None = None if task is None else weakref.ref(task)

    @property
    def is_abandoned(self) -> bool:
        """Whether whoever read the answer has come here instead, and left it half read.

        In the main thread only: in a pool, one thread may serve many readers in turn. Nor in a task of asyncio's while
        the reader's own is not done.
        """
        here = threading.current_thread()
        if self.steps is None or not self._thread is here is threading.main_thread():
            return False
        reader = None if self._task is None else self._task()
        return reader is None or reader.done() or reader is _task()

    def ends_by_itself_for(self, owner: object) -> bool:
        """Whether ``owner`` may wait for its end: another session's answer, which another thread reads."""
        return (
            owner is not None
            and self.owner not in (None, owner)
            and self._thread is not threading.current_thread()
        )


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
        scheduler: whose turn it is, an answer's or a measurement's.

    Attributes:
        closed: nobody may use the model any more.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._changed = threading.Condition(threading.RLock())
        self._use: Use | None = None
        self._readers: dict[object, int] = {}
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

    def begin(
        self,
        steps: Generator[Any, None, None] | None = None,
        *,
        owner: object = None,
        give_up: Callable[[], bool] = lambda: False,
        closing: bool = False,
    ) -> Use:
        """Begin to use the model alone; ends an answer that was abandoned half read.

        Args:
            steps: what computes the answer.
            owner: the session whose answer it is; it waits for those of other sessions in other threads.
            give_up: asked while it waits; where it says so, the answer begins no more.
            closing: nobody else may begin from here on.

        Raises:
            BusyError: somebody else uses it, it is closed, or the answer was given up.
            ForkedError: see ``require_open``.
        """
        self.require_open()
        use = self._use
        if use is not None and use.is_abandoned:
            self._end_early(use)
        use = Use(steps, owner)
        with self._changed:
            while self._use is not None and self._use.ends_by_itself_for(owner):
                if give_up():
                    raise BusyError("this answer was cancelled while it waited for another session's")
                self._changed.wait(WAITING_POLL)
            self.require_open()
            if self._use is not None:
                raise BusyError(
                    "this LocalADED is already generating; let that answer end, close it or cancel() it first, "
                    "or use one object per thread"
                )
            self._use = use
            self.closed = closing
        try:
            self._scheduler.begin_answer()
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
                self._scheduler.end_answer()
                self._use = None
                self._changed.notify_all()

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


class Cancelling:
    """Which of the answers asked for one after the other were cancelled; for one session.

    ``cancel`` takes no lock: it may come from a signal's handler, in the midst of anything.
    """

    def __init__(self) -> None:
        self._asking = threading.Lock()
        self._asked = 0
        self._cancelled = 0

    def ask(self) -> int:
        """The number of an answer that is being asked for."""
        with self._asking:
            self._asked += 1
            return self._asked

    def cancel(self) -> None:
        """Cancel every answer that was asked for so far."""
        if not is_forked():
            self._cancelled = self._asked

    def is_cancelled(self, number: int) -> bool:
        """Whether the answer of that number was cancelled."""
        return number <= self._cancelled
