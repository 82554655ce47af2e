"""The server from its start to its end: the line of requests, uvicorn, and signals."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import uvicorn

from .app import make_app
from .endpoints import Serving
from .metrics import Metrics
from .queue import FAILED, READY, Line

if TYPE_CHECKING:
    from aded_local.api import LocalADED

GRACE_SECONDS: Final = 30.0
"""How long the answer that is being written may go on after SIGTERM: as long as container engines and service managers
wait at least, by their defaults, less what ending takes. Chosen."""

LATE_SECONDS: Final = 5.0
"""What a cancelled answer's last step, and freeing the model, may take after that. Chosen."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the command line asks for.

    Attributes:
        open_model: loads the model; given a function to call with what takes long.
        key, origins: see ``Guard``.
        most_waiting, most_bytes: see ``Line``.
        drafts: the model is opened to draft.
    """

    open_model: Callable[[Callable[[str], None]], LocalADED]
    key: str | None
    origins: Sequence[str]
    most_waiting: int
    most_bytes: int
    drafts: bool


def serve(plan: Plan, listening: socket.socket, say: Callable[[str], None]) -> BaseException | None:
    """Answer until a signal comes, or the model cannot be loaded.

    Args:
        plan: see ``Plan``.
        listening: a socket that listens.
        say: takes a line for whoever started the server; none holds a request's text.

    Returns:
        Why there was no answering, if there was none.
    """
    metrics = Metrics()
    line = Line(
        plan.open_model,
        most_waiting=plan.most_waiting,
        most_bytes=plan.most_bytes,
        on_answer=metrics.answered,
    )
    serving = Serving(line, metrics, drafts=plan.drafts, complain=say)
    config = uvicorn.Config(
        make_app(serving, plan.key, plan.origins),
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=int(GRACE_SECONDS + LATE_SECONDS),
    )
    server = _Server(config, line, say)
    with _logging_to(say):
        asyncio.run(server.serve(sockets=[listening]))
    line.close()
    line.cancel()
    line.join(LATE_SECONDS)
    return line.failure


class _Server(uvicorn.Server):
    """uvicorn's server, which begins with the line, and lets an answer end.

    Args:
        config: see uvicorn.
        line: of requests.
        say: see ``serve``.
    """

    def __init__(self, config: uvicorn.Config, line: Line, say: Callable[[str], None]) -> None:
        super().__init__(config)
        self._line = line
        self._say = say
        self._is_leaving = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then begin to load the model."""
        await super().startup(sockets)
        loop = asyncio.get_running_loop()

        def changed(state: str) -> None:  # in the answering thread
            if state == READY:
                self._say("ready")
            elif state == FAILED:
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(self._leave)

        self._line.on_state = changed
        host, port = (sockets or [])[0].getsockname()[:2]
        self._say(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}, loading the model")
        self._line.start()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Within the block a signal lets the running answer end; uvicorn's own would be raised again behind it."""
        loop = asyncio.get_running_loop()
        before: dict[int, Any] = {}

        def heard(_number: int, _frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(self._leave)

        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores it
                with contextlib.suppress(ValueError):  # not in the main thread
                    before[number] = signal.signal(number, heard)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _leave(self) -> None:
        """Refuse what comes and what waits, and end when the running answer has; the second time, end that too."""
        if self._is_leaving:
            self._line.cancel()
            return
        self._is_leaving = True
        self._line.close()
        self.should_exit = True
        asyncio.get_running_loop().call_later(GRACE_SECONDS, self._line.cancel)


class _Lines(logging.Handler):
    """Says what uvicorn has to say in a line, without a traceback: an exception's text may quote a request."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        """Say a record."""
        kind = record.exc_info[0] if record.exc_info else None
        first = record.getMessage().strip().partition("\n")[0]
        self._say(first if kind is None else f"{first}: {kind.__name__}")


@contextlib.contextmanager
def _logging_to(say: Callable[[str], None]) -> Iterator[None]:
    logger, handler = logging.getLogger("uvicorn"), _Lines(say)
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before
