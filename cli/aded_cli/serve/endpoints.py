"""What is answered on each path."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from aded_local.errors import ContextOverflowError, EmptyPromptError

from . import openapi
from .asking import messages_of, options_of, prompts_of, require_few, seeds
from .fields import Asked, ChatRequest, CompletionRequest, EmbeddingRequest
from .limits import body_of
from .metrics import CONTENT_TYPE, Metrics
from .queue import LOADING, READY, Job, Line, Turn, Work
from .refusals import BROKEN, NOT_FOUND, UNAVAILABLE, Refusal, refusal_of

if TYPE_CHECKING:
    from aded_local.api import LocalADED
    from aded_local.completions import Shape

LEFT: Final = 499
"""nginx's status for a client that did not wait; nobody sees it but whoever counts."""

END_OF_STREAM: Final = b"data: [DONE]\n\n"

OFF: Final = "off"

Handler = Callable[[Request, "Serving"], Awaitable[Response]]


@dataclass(slots=True)
class Serving:
    """What the handlers work with.

    Attributes:
        line: of requests.
        metrics: counts.
        drafts: the model was opened to draft.
        complain: takes a line on what nobody foresaw.
        created: when the server began, in seconds since 1970.
    """

    line: Line
    metrics: Metrics
    drafts: bool = True
    complain: Callable[[str], None] = lambda line: None
    created: int = field(default_factory=lambda: int(time.time()))
    _name: str | None = None

    def __post_init__(self) -> None:
        """Show how the line stands."""
        line, watch = self.line, self.metrics.watch
        watch("aded_ready", "1 while requests are answered.", lambda: float(line.state == READY))
        watch("aded_drafting", "1 once drafting is ready.", lambda: float(self.drafting() == READY))
        watch("aded_waiting", "Requests in the line.", line.waiting)
        watch("aded_running", "Requests that are answered now.", line.running)
        watch("aded_sessions", "Conversations that are kept.", lambda: line.n_sessions)
        watch("aded_session_bytes", "Memory that they take.", lambda: line.session_bytes)

    def drafting(self) -> str:
        """Whether drafts are made: ``off``, ``ready``, or what is still prepared for them."""
        model = self.line.model
        if model is None or not self.drafts:
            return OFF if not self.drafts else LOADING
        return model.preparing

    def name(self, model: LocalADED) -> str:
        """The model's name: its file's."""
        if self._name is None:
            self._name = Path(model.description()["model"]).stem
        return self._name


def answering(route: str, handler: Handler, serving: Serving) -> Callable[[Request], Awaitable[Response]]:
    """The handler with its errors as responses, counted."""

    async def answer(request: Request) -> Response:
        try:
            response = await handler(request, serving)
        except ClientDisconnect:
            response = Response(status_code=LEFT)
        except Exception as error:
            refusal = refusal_of(error)
            if refusal.status == BROKEN:
                serving.complain(f"{route}: {refusal.message}")
            response = JSONResponse(refusal.body(), refusal.status, refusal.headers)
        serving.metrics.requested(route, response.status_code)
        return response

    return answer


# --- answers -------------------------------------------------------------------------------------


async def chat(request: Request, serving: Serving) -> Response:
    """/v1/chat/completions."""
    asked = await body_of(request, ChatRequest)
    model, pool = serving.line.require_ready()
    name = serving.name(model)
    options = options_of(asked)
    prompt = await run_in_threadpool(pool.chat_tokens, messages_of(asked))
    _require_room(prompt, model)
    return await _answer(request, serving, asked, [(prompt, each) for each in seeds(options, asked.n or 1)], Chats(name))


async def complete(request: Request, serving: Serving) -> Response:
    """/v1/completions."""
    asked = await body_of(request, CompletionRequest)
    model, pool = serving.line.require_ready()
    options = options_of(asked)
    raise NotImplementedError
