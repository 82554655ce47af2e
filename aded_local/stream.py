"""An answer that is read piece by piece: in a loop, or in asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

from aded_local.access import Asked
from aded_local.errors import BusyError
from aded_local.result import Piece, Reply, joined

R = TypeVar("R")

CLOSED = "this answer was closed; ask again to read it"


class Stream(Iterator[Piece]):
    """An answer, computed as it is read; the last piece has a ``finish_reason``.

    It has the model until its last piece was read, or it is closed. Leaving a ``with`` block closes it, and so does
    dropping it::

        with llm.stream_chat(messages, max_tokens=200) as pieces:
            for piece in pieces:
                print(piece.text, end="")

    Reading on after ``close`` is a BusyError.
    """

    def __init__(self, pieces: Generator[Piece, None, None], asked: Asked) -> None:
        """An answer that nothing has been read of.

        Args:
            pieces: computes it.
            asked: cancels it.
        """
        self._pieces = pieces
        self._asked = asked
        self._is_closed = False

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Piece:
        if self._is_closed:
            raise BusyError(CLOSED)
        return next(self._pieces)

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def cancel(self) -> None:
        """Stop this answer after the current step, from any thread or a signal handler; its last piece says
        ``cancelled``."""
        self._asked.cancel()

    def close(self) -> None:
        """Leave the rest of the answer and free the model. Where another thread computes a step of it just then, it is
        cancelled, and that thread reads its last piece."""
        try:
            self._pieces.close()
        except ValueError:  # it runs
            self._asked.cancel()
        else:
            self._is_closed = True


class AsyncStream(AsyncIterator[Piece]):
    """An answer for asyncio. All of it, from reading the prompt on, is computed in a thread of its own as it is read.

    Cancelling the task that reads it stops it within one step; the task ends when the model is free. So does leaving an
    ``async with`` block::

        async with llm.astream_chat(messages, wait=True) as pieces:
            async for piece in pieces:
                print(piece.text, end="")

    Dropped without either, it frees the model a moment later. Reading on after ``aclose`` is a BusyError. What is wrong
    with prompt or options is raised when it is first read.
    """

    def __init__(self, start: Callable[[], Stream]) -> None:
        """An answer that is not asked for before it is read.

        Args:
            start: asks for it.
        """
        self._start = start
        self._worker = ThreadPoolExecutor(1, "aded-answer")
        self._stream: Stream | None = None
        self._is_cancelled = False
        self._is_closed = False
        self._is_over = False

    def __aiter__(self) -> AsyncStream:
        return self

    async def __anext__(self) -> Piece:
        piece = None if self._is_over else await self._in_worker(self._next)
        if piece is None:
            raise StopAsyncIteration
        if piece.finish_reason is not None:
            self._is_over = True
        return piece

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def reply(self) -> Reply:
        """The whole answer, or what of it was not read yet."""
        return await self._in_worker(self._rest)

    def cancel(self) -> None:
        """Stop this answer after the current step; its last piece says ``cancelled``. From any thread."""
        self._is_cancelled = True
        if self._stream is not None:
            self._stream.cancel()

    async def aclose(self) -> None:
        """Leave the rest of the answer; returns when the model is free."""
        if not self._is_closed:
            self._is_closed = True
            self.cancel()
            closing = asyncio.get_running_loop().run_in_executor(self._worker, self._end)
            self._worker.shutdown(wait=False)
            await asyncio.shield(closing)

    # --- in the event loop's thread ------------------------------------------------------------------

    async def _in_worker(self, work: Callable[[], R]) -> R:
        if self._is_closed:
            raise BusyError(CLOSED)
        working = asyncio.get_running_loop().run_in_executor(self._worker, work)
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            working.add_done_callback(_forget)
            await self.aclose()
            raise

    # --- in the worker -------------------------------------------------------------------------------

    def _begun(self) -> Stream:
        if self._stream is None:
            self._stream = self._start()
            if self._is_cancelled:
                self._stream.cancel()
        return self._stream

    def _next(self) -> Piece | None:
        return next(self._begun(), None)

    def _rest(self) -> Reply:
        return joined(self._begun())

    def _end(self) -> None:
        if self._stream is not None:
            self._stream.close()


def _forget(done: asyncio.Future[Any]) -> None:
    """Whoever waited is gone: asyncio is not to complain that nobody asked for an error."""
    if not done.cancelled():
        done.exception()
