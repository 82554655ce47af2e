"""One line of requests for one model, and the thread that answers them one after the other.

The event loop puts requests in and reads what they yield; it never waits for the model. The thread opens the model,
answers, first come first served, and closes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .refusals import TOO_MANY, Refusal, unavailable
from .sessions import Pool
from .turn import Job, Turn, Work

if TYPE_CHECKING:
    from aded_local.api import LocalADED, Stats
    from aded_local.embedding import TextEmbedder

LOADING: Final = "loading"
READY: Final = "ready"
CLOSING: Final = "closing"
FAILED: Final = "failed"

LOADING_SECONDS: Final = 5
"""After how long a client is told to try again while the model is loaded. Chosen."""

MOST_RETRY_SECONDS: Final = 600
"""What a client is told to wait at most, however long the line is. Chosen."""

NEW_SHARE: Final = 0.2
"""Weight of the last answer in the mean time that one takes. Chosen."""

POOLING: Final = "mean"
"""How the vectors of a text's tokens become one: models that write have no way of their own."""

LONGEST_TEXT: Final = 2048
"""Tokens of a text to embed at most: its context is computed in one pass, which takes memory. Chosen."""


class Line:
    """See this module's first lines.

    Args:
        open_model: loads the model; given a function to call with what takes long.
        most_waiting: requests that may wait besides the one that is answered.
        most_bytes: see ``Pool``.
        on_answer: told what each answer took, in the answering thread.

    Attributes:
        state: ``loading``, ``ready``, ``closing`` or ``failed``.
        reason: what takes long while loading.
        on_state: told when the state changes, in the thread that changes it.
        failure: why the model could not be loaded, or why answering ended.
        model: once it is loaded.
        pool: likewise.
        name: of the model: its file's, likewise.
        n_sessions: conversations that are kept.
        session_bytes: memory that they take.
    """

    def __init__(
        self,
        open_model: Callable[[Callable[[str], None]], LocalADED],
        *,
        most_waiting: int,
        most_bytes: int,
        on_answer: Callable[[Stats, float], None] = lambda stats, waited: None,
    ) -> None:
        self._open_model = open_model
        self._most_waiting = most_waiting
        self._most_bytes = most_bytes
        self.on_state: Callable[[str], None] = lambda state: None
        self._on_answer = on_answer
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._answer_seconds = 0.0
        self._embedder: TextEmbedder | None = None
        self._thread = threading.Thread(target=self._run, name="aded-serve answers", daemon=True)
        self.state = LOADING
        self.reason = "loading the model"
        self.failure: BaseException | None = None
        self.model: LocalADED | None = None
        self.pool: Pool | None = None
        self.name = ""
        self.n_sessions = self.session_bytes = 0

    # --- asking ----------------------------------------------------------------------------------

    def require_ready(self) -> tuple[LocalADED, Pool]:
        """The model and its sessions.

        Raises:
            Refusal: it is not loaded, or the server closes.
        """
        if self.state == LOADING:
            raise unavailable(f"the model is not ready yet: {self.reason}", LOADING_SECONDS)
        if self.state != READY:
            raise unavailable("the server is closing", LOADING_SECONDS)
        assert self.model is not None and self.pool is not None
        return self.model, self.pool

    def ask(self, work: Work, *, eager: bool) -> Job:
        """Join the line; called in the event loop.

        Raises:
            Refusal: the line is full, or see ``require_ready``.
        """
        job = Job(work, asyncio.get_running_loop(), eager=eager)
        with self._changed:
            self.require_ready()
            if len(self._waiting) >= self._most_waiting and (self._running is not None or self._waiting):
                raise self._full()
            self._waiting.append(job)
            self._changed.notify_all()
        return job

    def _full(self) -> Refusal:
        ahead = 1 + len(self._waiting)
        seconds = min(MOST_RETRY_SECONDS, max(1, math.ceil(ahead * self._answer_seconds)))
        return Refusal(
            TOO_MANY,
            f"{len(self._waiting)} requests wait already, which is as many as may (--queue); try again later",
            code="queue_full",
            headers={"Retry-After": str(seconds)},
        )

    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    def running(self) -> int:
        """Requests that are answered now."""
        return int(self._running is not None)

    # --- beginning and ending ----------------------------------------------------------------------

    def start(self) -> None:
        """Load the model, and answer from then on."""
        self._thread.start()

    def close(self) -> None:
        """Take no more requests; those that wait are refused, the one that is answered goes on. Any thread may call."""
        with self._changed:
            if self.state in (LOADING, READY):
                self._set_state(CLOSING)
            while self._waiting:
                self._waiting.popleft().end(unavailable("the server is closing", LOADING_SECONDS))
            self._changed.notify_all()

    def cancel(self) -> None:
        """End the answer that goes on, after its present step."""
        job = self._running
        if job is not None:
            job.cancel()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the model is freed; tells whether it is."""
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    # --- in the thread -----------------------------------------------------------------------------

    def _set_state(self, state: str) -> None:
        self.state = state
        self.on_state(state)

    def _says(self, reason: str) -> None:
        self.reason = reason

    def _run(self) -> None:
        try:
            with self._open_model(self._says) as model:
                self.model, self.pool = model, Pool(model, self._most_bytes)
                self.name = Path(model.description()["model"]).stem
                model.longest_token()  # found now, requests do not wait for it
                with self._changed:
                    if self.state == LOADING:
                        self._set_state(READY)
                for job in iter(self._next, None):
                    self._answer(job)
                if self._embedder is not None:
                    self._embedder.close()
        except BaseException as error:
            self.failure = error
            self.close()
            self._set_state(FAILED)

    def _next(self) -> Job | None:
        """The request whose turn it is; None when there will be no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self.state != READY)
            job = self._waiting.popleft() if self._waiting else None
            self._running = job
            return job

    def _answer(self, job: Job) -> None:
        assert self.pool is not None
        began = time.monotonic()
        turn = Turn(self.pool, job, self._opened_embedder)
        error: Exception | None = None
        try:
            try:
                job.require_wanted()
                with contextlib.closing(_generator(job.work(turn))) as items:
                    for item in items:
                        job.put(item)
            finally:
                self._count(turn, began - job.asked, time.monotonic() - began)
        except Exception as failure:
            error = failure
        finally:
            with self._changed:
                self._running = None
            job.end(error)

    def _count(self, turn: Turn, waited: float, took: float) -> None:
        assert self.pool is not None
        self._answer_seconds += NEW_SHARE * (took - self._answer_seconds) if self._answer_seconds else took
        for stats in turn.stats:
            self._on_answer(stats, waited)
        self.n_sessions, self.session_bytes = len(self.pool), self.pool.kept_bytes()

    def _opened_embedder(self) -> TextEmbedder:
        """Embeds; made when first asked for, since it takes memory for a context of its own."""
        if self._embedder is None:
            assert self.model is not None
            longest = min(LONGEST_TEXT, self.model.n_ctx)
            self._embedder = self.model.embedder(longest=longest, pooling=POOLING)
        return self._embedder


def _generator(items: Iterator[Any]) -> Any:
    """The items as a generator, which can be closed."""
    yield from items
