"""What is answered on each path."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from aded_local import completions
from aded_local.chat.parsing import AnswerParser
from aded_local.completions import Heading, Shape
from aded_local.errors import ContextOverflowError, EmptyPromptError
from aded_local.spelling import Spelling

from . import openapi
from .asking import messages_of, options_of, prompts_of, refused, require_few, seeds, tools_of
from .fields import Asked, ChatRequest, CompletionRequest, EmbeddingRequest
from .limits import body_of
from .metrics import CONTENT_TYPE, Metrics
from .pacing import paced
from .queue import LOADING, READY, Line
from .refusals import BROKEN, NOT_FOUND, UNAVAILABLE, Cancelled, Refusal, refusal_of
from .turn import Job, Turn, tokens_of

if TYPE_CHECKING:
    from aded_local.api import LocalADED, Piece

    from .turn import Prompt

LEFT: Final = 499
"""nginx's status for a client that did not wait; nobody sees it but whoever counts."""

END_OF_STREAM: Final = b"data: [DONE]\n\n"

STREAMED: Final = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""A proxy passes each event on at once."""

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
        reading: prompts are made one at a time, in the order in which they came: so they come into the line in that
            order, and large ones leave a core to the answers.
    """

    line: Line
    metrics: Metrics
    drafts: bool = True
    complain: Callable[[str], None] = lambda line: None
    created: int = field(default_factory=lambda: int(time.time()))
    reading: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))

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

    @property
    def name(self) -> str:
        """The model's name: its file's. It is loaded."""
        return self.line.name


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
            if isinstance(error, Cancelled) and serving.line.state == READY:
                refusal.status = LEFT
            response = JSONResponse(refusal.body(), refusal.status, refusal.headers)
        serving.metrics.requested(route, response.status_code)
        return response

    return answer


# --- answers -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answers:
    """What a request wants: answers, one after the other.

    Attributes:
        wanted: prompt and options of each, and the text that it begins with (``echo``).
        whole: makes a result of pieces and a choice's index.
        chunks: makes chunks of them.
    """

    wanted: Sequence[tuple[Prompt, dict[str, Any], str]]
    whole: Callable[[Iterator[Piece], int], Shape]
    chunks: Callable[[Iterator[Piece], int], Iterator[Shape]]

    def at_once(self, turn: Turn) -> Iterator[Shape]:
        """Yields one result."""
        results = [self.whole(pieces, index) for index, pieces in self._pieces(turn)]
        yield {
            **results[0],
            "choices": [choice for result in results for choice in result["choices"]],
            "usage": self._usage(turn),
        }

    def step_by_step(self, turn: Turn, *, usage: bool) -> Iterator[Shape]:
        """Yields chunks, and at the end one with the usage and no choice, where that is wanted."""
        last: Shape = {}
        for index, pieces in self._pieces(turn):
            for last in self.chunks(paced(pieces), index):
                yield last
        if usage:
            heading = {name: last[name] for name in ("id", "object", "created", "model")}
            yield {**heading, "choices": [], "usage": self._usage(turn)}

    def _pieces(self, turn: Turn) -> Iterator[tuple[int, Iterator[Piece]]]:
        for index, (prompt, options, echoed) in enumerate(self.wanted):
            pieces = turn.stream(prompt, **options)
            yield index, _after(echoed, pieces) if echoed else pieces

    def _usage(self, turn: Turn) -> Shape:
        """A prompt counts once, however many answers it gets."""
        prompts = {id(prompt): tokens_of(prompt) for prompt, _, _ in self.wanted}
        read = sum(map(len, prompts.values()))
        written = sum(stats.answer_tokens for stats in turn.stats)
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


async def chat(request: Request, serving: Serving) -> Response:
    """/v1/chat/completions."""
    asked = await body_of(request, ChatRequest)
    model, pool = serving.line.require_ready()
    options = options_of(asked)
    messages, (tools, choice) = messages_of(asked), tools_of(asked)
    model.require_short([messages, tools])
    async with serving.reading:
        prompt = await run_in_threadpool(pool.chat_prompt, messages, tools, choice)
    _require_room(prompt.tokens, model)
    heading = Heading.of_chat(serving.name)

    def reading() -> dict[str, Any]:
        """What reads one answer."""
        spelling = Spelling(model.piece) if "logprobs" in options else None
        return {"parser": AnswerParser(prompt.style), "spelling": spelling, "timed": True}

    def whole(pieces: Iterator[Piece], index: int) -> Shape:
        return completions.chat_completion(pieces, heading, index=index, **reading())

    def chunks(pieces: Iterator[Piece], index: int) -> Iterator[Shape]:
        return completions.chat_chunks(pieces, heading, index=index, **reading())

    wanted = [(prompt, each, "") for each in seeds(options, asked.n or 1)]
    return await _answer(request, serving, asked, Answers(wanted, whole, chunks))


async def complete(request: Request, serving: Serving) -> Response:
    """/v1/completions."""
    asked = await body_of(request, CompletionRequest)
    model, pool = serving.line.require_ready()
    given = prompts_of(asked.prompt)
    require_few(len(given), asked.n or 1)
    options = options_of(asked)
    if asked.echo and "logprobs" in options:
        raise refused("echo", "the prompt's own tokens have no logprobs; leave one out")
    for each in given:
        model.require_short(each)
    async with serving.reading:
        prompts = [
            await run_in_threadpool(pool.text_tokens, each) if isinstance(each, str) else each
            for each in given
        ]
    for prompt in prompts:
        _require_room(prompt, model)
    heading = Heading.of_completion(serving.name)

    def spelling() -> Spelling | None:
        return Spelling(model.piece) if "logprobs" in options else None

    def whole(pieces: Iterator[Piece], index: int) -> Shape:
        return completions.completion(pieces, heading, index=index, spelling=spelling(), timed=True)

    def chunks(pieces: Iterator[Piece], index: int) -> Iterator[Shape]:
        return completions.completion_chunks(pieces, heading, index=index, spelling=spelling(), timed=True)

    echoed = [_text_of(each, model) if asked.echo else "" for each in given]
    wanted = [
        (prompt, each, text)
        for prompt, text in zip(prompts, echoed, strict=True)
        for each in seeds(options, asked.n or 1)
    ]
    return await _answer(request, serving, asked, Answers(wanted, whole, chunks))


def _text_of(prompt: str | list[int], model: LocalADED) -> str:
    if isinstance(prompt, str):
        return prompt
    return b"".join(map(model.piece, prompt)).decode("utf-8", errors="replace")


def _after(text: str, pieces: Iterator[Piece]) -> Iterator[Piece]:
    """The pieces, the first of which begins with a text."""
    for piece in pieces:
        yield replace(piece, text=text + piece.text)
        text = ""


def _require_room(prompt: Sequence[int], model: LocalADED) -> None:
    """Refuse a prompt at once that would be refused at its turn."""
    if not prompt:
        raise EmptyPromptError("the prompt is empty; write something to answer")
    if len(prompt) >= model.n_ctx:
        raise ContextOverflowError(
            f"the prompt has {len(prompt)} tokens and the context of this server holds {model.n_ctx}; shorten it"
        )


async def _answer(request: Request, serving: Serving, asked: Asked, answers: Answers) -> Response:
    if not asked.stream:
        if asked.stream_options is not None:
            raise refused("stream_options", "they are for stream=true")
        return await _whole(request, serving, serving.line.ask(answers.at_once, eager=False))
    usage = asked.stream_options is not None and bool(asked.stream_options.include_usage)
    job = serving.line.ask(functools.partial(answers.step_by_step, usage=usage), eager=True)
    batches = job.batches()
    async with _while_connected(request, serving, job):
        first = await anext(batches)  # what is wrong with the request is told with a status of its own
    return StreamingResponse(
        _events(serving, job, first, batches),
        media_type="text/event-stream",
        headers=STREAMED,
    )


async def _whole(request: Request, serving: Serving, job: Job) -> Response:
    """The one thing that a request yields."""
    async with _while_connected(request, serving, job):
        found = [item async for batch in job.batches() for item in batch]
    return JSONBytes(msgspec.json.encode(found[0]))


class JSONBytes(Response):
    """JSON that is encoded already."""

    media_type = "application/json"


@contextlib.asynccontextmanager
async def _while_connected(request: Request, serving: Serving, job: Job) -> AsyncIterator[None]:
    """Within the block, a client that leaves cancels its request."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        serving.metrics.hung_up()
        job.cancel()

    watching = asyncio.create_task(watch())
    try:
        yield
    except BaseException:
        job.cancel()
        raise
    finally:
        watching.cancel()


async def _events(
    serving: Serving, job: Job, first: list[Shape], batches: AsyncIterator[list[Shape]]
) -> AsyncIterator[bytes]:
    """Server-sent events. Starlette closes this where the client leaves, at whatever line it waits then."""
    is_over = False
    try:
        yield _written(first)
        async for batch in batches:
            yield _written(batch)
        is_over = True
        yield END_OF_STREAM
    except Exception as error:
        is_over = True
        refusal = refusal_of(error)
        if refusal.status == BROKEN:
            serving.complain(refusal.message)
        yield _written([refusal.body()])
    finally:
        if not is_over:
            serving.metrics.hung_up()
            job.cancel()


def _written(items: Sequence[Shape]) -> bytes:
    return b"".join(b"data: " + msgspec.json.encode(item) + b"\n\n" for item in items)


async def embed(request: Request, serving: Serving) -> Response:
    """/v1/embeddings."""
    asked = await body_of(request, EmbeddingRequest)
    serving.line.require_ready()
    texts = [asked.input] if isinstance(asked.input, str) else asked.input

    def work(turn: Turn) -> Iterator[Shape]:
        found, n_tokens = turn.embed(texts)
        vectors = [_base64(each) for each in found] if asked.encoding_format == "base64" else found
        yield completions.embeddings(vectors, n_tokens, serving.name)

    return await _whole(request, serving, serving.line.ask(work, eager=False))


def _base64(vector: Sequence[float]) -> str:
    """A vector as OpenAI's clients like to get it."""
    return base64.b64encode(np.array(vector, "<f4").tobytes()).decode()


# --- the others ----------------------------------------------------------------------------------


async def models(request: Request, serving: Serving) -> Response:
    """/v1/models."""
    model, _ = serving.line.require_ready()
    return JSONResponse({"object": "list", "data": [_described(serving, model)]})


async def model(request: Request, serving: Serving) -> Response:
    """/v1/models/{model}."""
    found, _ = serving.line.require_ready()
    wanted = request.path_params["model"]
    if wanted != serving.name:
        raise Refusal(
            NOT_FOUND, "there is no such model; /v1/models lists the one there is", code="model_not_found"
        )
    return JSONResponse(_described(serving, found))


def _described(serving: Serving, model: LocalADED) -> dict[str, Any]:
    return {
        "id": serving.name,
        "object": "model",
        "created": serving.created,
        "owned_by": "aded-serve",
        "context_window": model.n_ctx,
    }


async def health(request: Request, serving: Serving) -> Response:
    """/health: 200 where requests are answered, else 503, and why."""
    line = serving.line
    found = {
        "status": "ok" if line.state == READY else line.state,
        "drafting": serving.drafting(),
        "waiting": line.waiting(),
        "running": line.running(),
    }
    if line.state == LOADING:
        found["reason"] = line.reason
    return JSONResponse(found, 200 if line.state == READY else UNAVAILABLE)


async def metrics(request: Request, serving: Serving) -> Response:
    """/metrics."""
    return Response(serving.metrics.text(), media_type=CONTENT_TYPE)


async def description(request: Request, serving: Serving) -> Response:
    """/openapi.json."""
    return JSONResponse(openapi.description())
