"""Who may use one loaded model: one answer at a time, readers beside it, and nobody once it is closed.

Only one answer, or other use that changes the cache, goes on at a time; measurements wait for it (``scheduler``). Calls
that only read (tokenizing, describing) go on beside it, and closing waits for them. Answers that may wait for another
one stand in a queue: first come, first served.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from aded_local.errors import BusyError
from aded_local.llama.loading import is_forked, require_not_forked
from aded_local.scheduler import Scheduler

WAITING_POLL = 0.1
"""Seconds between two looks of whoever waits for something of which nobody may tell."""

CLOSING_POLL = 0.005
"""Seconds between two looks of closing at those who still read."""

CLOSED = "this LocalADED is closed; make a new one"

ENDED = (
    "this answer was ended before all of it was read, because its LocalADED was closed or another call needed it; "
    "read an answer to its end first, or use one object for each"
)

BUSY = (
    "this LocalADED is already generating; let that answer end, close() or cancel() it first, or ask from another "
    "thread with wait=True"
)

BUSY_CLOSING = "an answer is computed in another thread; cancel() it or let it end, then close()"


HALF_READ = (
    "an answer is half read here, and nothing is measured before it ends; read it to its end or close() it, then call "
    "prepare()"
)


class Use:
    """A use of the model that changes its cache; there is one at a time.

    Attributes:
        steps: the generator that computes an answer; None for other uses, which do not pause.
        owner: the session whose answer it is.
        is_cancelled: whether the answer was cancelled.
        turn: taken; given back to wake whoever waits for this use to begin.
    """

    def __init__(
        self,
        steps: Generator[Any, None, None] | None,
        owner: object = None,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self.steps = steps
        self.owner = owner
        self.is_cancelled = is_cancelled
        self.turn = threading.Lock()
        self.turn.acquire()
        self.is_read_here()

    def is_read_here(self) -> None:
        """Remember which thread and task read the answer now.

        Raises:
            ForkedError: it was begun in another process.
        """
        require_not_forked()
        self._thread = threading.current_thread()
        task = _task()
        self._task: weakref.ref[Any] | None = None if task is None else weakref.ref(task)

    @property
    def is_of_this_thread(self) -> bool:
        """Whether this thread read it last."""
        return self._thread is threading.current_thread()

    @property
    def is_abandoned(self) -> bool:
        """Whether the reader of the answer has left it half read and calls something else now.

        Known in the main thread only: in a pool, one thread may serve many readers in turn. In asyncio, false while the
        reader's task goes on and another task calls.
        """
        here = threading.current_thread()
        if self.steps is None or not self._thread is here is threading.main_thread():
            return False
        reader = None if self._task is None else self._task()
        return reader is None or reader.done() or reader is _task()

    def ends_by_itself_for(self, owner: object, *, wait: bool) -> bool:
        """Whether this thread can wait for it to end: another one reads it, and it is another session's answer, or
        whatever it is, ``wait`` was asked for."""
        if self.is_of_this_thread:
            return False
        return wait or (owner is not None and self.owner not in (None, owner))


def _task() -> Any:
    """The asyncio task that runs; None outside one."""
    asyncio = sys.modules.get("asyncio")
    # ``current_task`` raises where no loop runs, which takes a microsecond with each piece of an answer.
    if asyncio is None or asyncio._get_running_loop() is None:
        return None
    return asyncio.current_task()


class Access:
    """See this module's first lines.

    A thread that holds its lock can take it again, as a signal handler may. A forked child never takes it: a thread of
    its parent may have held it. A Ctrl-C, which may come after any call, leaves no lock held and no use behind:
    ``with`` takes and leaves a lock of the interpreter's in one go, which is not so for a ``Condition``, and what ends
    a use is done twice.

    Args:
        scheduler: whose turn it is, an answer's or a measurement's.

    Attributes:
        closed: nobody may use the model any more.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._lock = threading.RLock()
        self._use: Use | None = None
        self._queue: deque[Use] = deque()
        self._readers: dict[object, int] = {}  # their threads
        self.closed = False

    def require_open(self) -> None:
        """Refuse to go on after closing, or in a forked child.

        Raises:
            BusyError, ForkedError
        """
        require_not_forked()
        if self.closed:
            raise BusyError(CLOSED)

    def require_measurable(self) -> None:
        """Refuse to wait for measurements that cannot have their turn meanwhile: the answer that has it is read by this
        thread, or may be read by a task of its event loop.

        Raises:
            BusyError
        """
        use = self._use
        if use is not None and use.steps is not None and (use.is_of_this_thread or _task() is not None):
            raise BusyError(HALF_READ)

    # --- reading -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Within the block, which should be short, the model is not freed: closing waits for it.

        Raises:
            BusyError: it is closed.
            ForkedError: see ``require_open``.
        """
        require_not_forked()
        claim = object()
        try:
            # First: closing looks here when nobody can come any more.
            self._readers[claim] = threading.get_ident()
            self.require_open()
            yield
        finally:
            self._readers.pop(claim, None)

    # --- one use at a time -------------------------------------------------------------------------

    def begin(
        self,
        steps: Generator[Any, None, None] | None = None,
        *,
        owner: object = None,
        is_cancelled: Callable[[], bool] = lambda: False,
        wait: bool = False,
        closing: bool = False,
    ) -> Use | None:
        """Begin to use the model alone. An answer that was left half read, or cancelled there, is ended.

        Args:
            steps: the generator that computes the answer.
            owner: the session whose answer it is. It waits for answers of other sessions in other threads.
            is_cancelled: whether the answer was cancelled.
            wait: wait for any use that another thread makes of it.
            closing: no other use may begin from here on.

        Returns:
            The use; None if the answer was cancelled while it waited, and did not begin.

        Raises:
            BusyError: another use goes on, or it is closed.
            ForkedError: see ``require_open``.
        """
        self.require_open()
        use = Use(steps, owner, is_cancelled)
        try:
            while not self._took(use, wait, closing):
                if is_cancelled():
                    self._leave_queue(use)
                    return None
                use.turn.acquire(timeout=WAITING_POLL)
            self._scheduler.begin_answer()
        except BaseException:
            with self._lock:
                self._leave_queue(use)
                if self._use is use:
                    self.closed = False
                    self.end(use)
            raise
        return use

    def _took(self, use: Use, wait: bool, closing: bool) -> bool:
        """Take the model for ``use``; False if that has to wait a moment longer.

        Raises:
            BusyError: see ``begin``.
        """
        before = self._use
        if before is not None and (before.is_abandoned or before.is_cancelled()):
            self._end_early(before)
        with self._lock:
            self.require_open()
            is_next = not self._queue or self._queue[0] is use
            if self._use is None and is_next:
                self._use = use
                self.closed = closing
                self._leave_queue(use)
                return True
            if self._use is None:
                can_wait = wait or use.owner is not None  # the first of the queue takes it in a moment
            else:
                can_wait = self._use.ends_by_itself_for(use.owner, wait=wait)
            if not can_wait:
                raise BusyError(BUSY_CLOSING if closing else BUSY)
            if use not in self._queue:
                self._queue.append(use)
            return False

    def _leave_queue(self, use: Use) -> None:
        with self._lock:
            if use in self._queue:
                self._queue.remove(use)
                self._wake_next()

    def _wake_next(self) -> None:
        if self._use is None and self._queue and self._queue[0].turn.locked():
            self._queue[0].turn.release()

    def end(self, use: Use) -> None:
        """The use has ended. Nothing happens if it had ended before, or began in another process.

        It may be interrupted; call it again then.
        """
        if is_forked():
            return
        with self._lock:
            if self._use is use:
                self._scheduler.end_answer()
                self._use = None
                self._wake_next()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Use the model alone within the block.

        Raises:
            BusyError, ForkedError: see ``begin``.
        """
        use = self.begin()
        assert use is not None  # nobody cancels it
        try:
            try:
                yield
            finally:
                self.end(use)
        finally:
            self.end(use)

    def end_half_read(self) -> None:
        """End an answer that has begun and is paused, in whatever thread it is read."""
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
        """Within the block and after it the model is not used; tells whether the caller is to free it now.

        Raises:
            BusyError: an answer runs.
        """
        if is_forked() or self.closed:
            yield False
            return
        use = self.begin(closing=True)
        assert use is not None
        try:
            try:
                self._await_readers()
                yield True
            finally:
                self.end(use)
        finally:
            self.end(use)

    def _await_readers(self) -> None:
        try:
            if threading.get_ident() in self._readers.values():
                raise BusyError("this LocalADED cannot be closed within a call of its own")
            while self._readers:
                time.sleep(CLOSING_POLL)
        except BaseException:
            self.closed = False
            raise


class Guarded(Protocol):
    """What is used through an ``Access``."""

    _access: Access


P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound=Guarded)


def reads(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """A method that reads the model and leaves its cache alone: beside an answer, and never beside closing."""

    @functools.wraps(method)
    def read(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._access.reading():
            return method(self, *args, **kwargs)

    return read


class Cancelling:
    """Which of a session's answers are cancelled: all that were asked for so far, or single ones.

    Cancelling takes no lock: a signal handler may do it at any moment.

    Attributes:
        reached: the number of the last answer, in the order of asking, that was cancelled with all before it.
    """

    def __init__(self) -> None:
        self._asking = threading.Lock()
        self._asked = 0
        self.reached = 0

    def ask(self) -> Asked:
        """An answer is being asked for."""
        with self._asking:
            self._asked += 1
            return Asked(self, self._asked)

    def cancel(self) -> None:
        """Cancel every answer that was asked for so far."""
        if not is_forked():
            self.reached = self._asked


class Asked:
    """An answer that was asked for."""

    def __init__(self, session: Cancelling, number: int) -> None:
        self._session = session
        self._number = number
        self._is_cancelled = False

    def cancel(self) -> None:
        """Cancel this answer alone."""
        if not is_forked():
            self._is_cancelled = True

    def is_cancelled(self) -> bool:
        """Whether it was cancelled, alone or with all others of its session."""
        return self._is_cancelled or self._number <= self._session.reached
