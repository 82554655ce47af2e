"""One request on its way: what it may do when its turn comes, and how the event loop gets what it yields."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .refusals import Cancelled
from .sessions import Pool

if TYPE_CHECKING:
    from aded_local.api import Piece, Session, Stats, Stream
    from aded_local.asking import ChatPrompt
    from aded_local.embedding import TextEmbedder

    Prompt = list[int] | ChatPrompt
    """What an answer goes on from."""

Work = Callable[["Turn"], Iterator[Any]]
"""Answers a request when its turn comes; what it yields goes to the client."""


class Turn:
    """What a request may do when its turn comes.

    Attributes:
        stats: of the answers so far.
    """

    def __init__(self, pool: Pool, job: Job, embedder: Callable[[], TextEmbedder]) -> None:
        self._pool = pool
        self._embedder = embedder
        self._job = job
        self._prompt: Prompt | None = None
        self._session: Session | None = None
        self.stats: list[Stats] = []

    def stream(self, prompt: Prompt, **options: Any) -> Iterator[Piece]:
        """An answer, piece by piece. Answers to one and the same prompt, one after the other, are of one session.

        Args:
            prompt: token ids, or what ``chat_prompt`` made of a conversation.
            options: see ``request.Options``.

        Raises:
            Cancelled: nobody waits for it any more.
        """
        if self._session is None or self._prompt is not prompt:
            self._prompt, self._session = prompt, self._pool.take(tokens_of(prompt))
        session = self._session
        with self._job.answering(session), contextlib.closing(_started(session, prompt, options)) as pieces:
            # Cancelling a session stops what it was asked for, so one that came too early for that is met here.
            self._job.require_wanted()
            for piece in pieces:
                if piece.stats is not None:
                    self.stats.append(piece.stats)
                if not self._job.is_cancelled:
                    yield piece
            self._job.require_wanted()  # a cancelled answer was read to its end, which says what it took

    def embed(self, texts: Sequence[str]) -> tuple[list[list[float]], int]:
        """A vector for each text, as long as 1, and the tokens of all.

        Raises:
            PromptError, ContextOverflowError, DeviceError: see ``TextEmbedder.embed``.
        """
        vectors, n_tokens = [], 0
        for text in texts:
            self._job.require_wanted()
            found, n = self._embedder().embed([text], normalize=True, truncate=False)
            vectors += found
            n_tokens += n
        return vectors, n_tokens


def tokens_of(prompt: Prompt) -> list[int]:
    """The token ids of a prompt."""
    return prompt if isinstance(prompt, list) else prompt.tokens


def _started(session: Session, prompt: Prompt, options: Any) -> Stream:
    if isinstance(prompt, list):
        return session.stream(prompt, **options)
    return session.stream_chat(prompt, **options)


class Job:
    """One request on its way: the event loop reads what the answering thread yields.

    Args:
        work: answers it.
        loop: reads.
        eager: the reader is told of each thing at once; else it is told at the end, and the loop is left in peace.
    """

    def __init__(self, work: Work, loop: asyncio.AbstractEventLoop, *, eager: bool) -> None:
        self.work = work
        self.asked = time.monotonic()
        self.is_cancelled = False
        self._eager = eager
        self._loop = loop
        self._news = asyncio.Event()
        self._yielded: deque[Any] = deque()
        self._is_done = False
        self._error: Exception | None = None
        self._session: Session | None = None

    # --- in the answering thread -------------------------------------------------------------------

    @contextlib.contextmanager
    def answering(self, session: Session) -> Iterator[None]:
        """Within the block, cancelling the request cancels this session's answer."""
        self._session = session
        try:
            yield
        finally:
            self._session = None

    def require_wanted(self) -> None:
        """Raise ``Cancelled`` where nobody waits for the answer any more."""
        if self.is_cancelled:
            raise Cancelled

    def put(self, item: Any) -> None:
        """Give the reader something."""
        self._yielded.append(item)
        if self._eager:
            self._tell()

    def end(self, error: Exception | None = None) -> None:
        """Nothing more comes."""
        self._error, self._is_done = error, True
        self._tell()

    def _tell(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody reads
            self._loop.call_soon_threadsafe(self._news.set)

    # --- in the event loop -------------------------------------------------------------------------

    async def batches(self) -> AsyncIterator[list[Any]]:
        """What came, as much at a time as is there.

        Raises:
            Exception: what ended the request.
        """
        while True:
            await self._news.wait()
            self._news.clear()
            is_done = self._is_done  # asked first: what came before the end is taken below
            if self._yielded:
                yield [self._yielded.popleft() for _ in range(len(self._yielded))]
            if is_done:
                if self._error is not None:
                    raise self._error
                return

    def cancel(self) -> None:
        """Nobody reads any more: the answer ends after its present step. Any thread may call it."""
        self.is_cancelled = True
        session = self._session
        if session is not None:
            session.cancel()
