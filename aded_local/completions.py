"""Answers in OpenAI's shapes, as plain dicts: whole, or chunk by chunk. The keys and their order of events are those of
llama-cpp-python, which programs already read; what it has no key for (``reasoning_content``, ``timings``) is added.

Everything here is made of pieces (``result.Piece``) and, for chats, of what a parser finds in their text. Each chunk is
a dict of its own, so whoever reads it may keep or change it.
"""

from __future__ import annotations

import codecs
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aded_local.chat.parsing import AnswerDelta, AnswerParser, CallDelta
from aded_local.decode import FINISHED_LENGTH, FINISHED_STOP
from aded_local.result import Piece, Stats, TokenLogprob
from aded_local.spelling import Spelling, chat_logprobs

FINISHED_CALLS: Final = "tool_calls"
"""``finish_reason`` of an answer that calls functions."""

Shape = dict[str, Any]
"""A result or a chunk, ready for JSON."""


@dataclass(frozen=True, slots=True)
class Heading:
    """What the result of an answer, or all of its chunks, begin with.

    Attributes:
        id: ``cmpl-…`` or ``chatcmpl-…``.
        created: seconds since 1970.
        model: the name that the caller gave the model.
    """

    id: str
    created: int
    model: str

    @classmethod
    def of_completion(cls, model: str) -> Heading:
        """A new one for a completion."""
        return cls(f"cmpl-{uuid.uuid4()}", int(time.time()), model)

    @classmethod
    def of_chat(cls, model: str) -> Heading:
        """A new one for a chat's answer."""
        return cls(f"chatcmpl-{uuid.uuid4()}", int(time.time()), model)


# --- completions ---------------------------------------------------------------------------------


def completion(
    pieces: Iterable[Piece],
    heading: Heading,
    *,
    before: str = "",
    after: str = "",
    spelling: Spelling | None = None,
    index: int = 0,
    timed: bool = False,
) -> Shape:
    """The whole of a completion, ``text_completion`` with ``usage``.

    Args:
        pieces: of the answer, to its end.
        heading: see ``Heading``.
        before, after: texts put around the answer's (``echo``, ``suffix``).
        spelling: writes the pieces' logprobs; None leaves ``logprobs`` None.
        index: of the choice.
        timed: add ``timings``.
    """
    answer = _Whole(pieces)
    choice = {
        "text": before + answer.text + after,
        "index": index,
        "logprobs": None if spelling is None else spelling.of(answer.logprobs),
        "finish_reason": answer.finish_reason,
    }
    return _result("text_completion", heading, choice, answer.stats, timed=timed)


def completion_chunks(
    pieces: Iterable[Piece],
    heading: Heading,
    *,
    spelling: Spelling | None = None,
    index: int = 0,
    usage: bool = False,
    timed: bool = False,
) -> Iterator[Shape]:
    """A completion chunk by chunk: one for each piece with text, and a last one with the ``finish_reason``.

    Args:
        pieces, heading, spelling, index: see ``completion``.
        usage: end with a chunk that holds ``usage`` and no choice (``stream_options.include_usage``).
        timed: add ``timings`` to the last chunk.
    """
    for piece in pieces:
        if piece.text or piece.tokens:
            logprobs = None if spelling is None else spelling.of(piece.logprobs or ())
            yield _completion_chunk(heading, piece.text, index, logprobs, None)
        if piece.finish_reason is not None:
            last = _completion_chunk(heading, "", index, None, _finished(piece.finish_reason))
            yield from _ending(last, piece.stats, usage=usage, timed=timed)


def _completion_chunk(
    heading: Heading, text: str, index: int, logprobs: Shape | None, finish_reason: str | None
) -> Shape:
    return {
        "id": heading.id,
        "object": "text_completion",
        "created": heading.created,
        "model": heading.model,
        "choices": [{"text": text, "index": index, "logprobs": logprobs, "finish_reason": finish_reason}],
    }


# --- chats ---------------------------------------------------------------------------------------


def chat_completion(
    pieces: Iterable[Piece],
    heading: Heading,
    *,
    parser: AnswerParser | None = None,
    spelling: Spelling | None = None,
    index: int = 0,
    timed: bool = False,
) -> Shape:
    """The whole answer of a chat, ``chat.completion`` with ``usage``.

    The message has ``reasoning_content`` and ``tool_calls`` only where the parser found such; beside calls a content
    without text is None.

    Args:
        pieces, heading, spelling, index, timed: see ``completion``.
        parser: tells content, reasoning and calls apart; without one all text is content.
    """
    answer = _Whole(pieces)
    message: Shape = {"role": "assistant", "content": answer.text}
    finish_reason = answer.finish_reason
    if parser is not None:
        content: list[str] = []
        reasoning: list[str] = []
        calls: list[Shape] = []
        for delta in (parser.feed(answer.text), parser.finish()):
            content.append(delta.content)
            reasoning.append(delta.reasoning)
            for call in delta.calls:
                _gather(calls, call)
        message["content"] = "".join(content)
        if any(reasoning):
            message["reasoning_content"] = "".join(reasoning)
        if calls:
            message["content"] = message["content"] or None
            message["tool_calls"] = calls
            finish_reason = _with_calls(finish_reason)
    choice = {
        "index": index,
        "message": message,
        "logprobs": None if spelling is None else chat_logprobs(spelling.of(answer.logprobs)),
        "finish_reason": finish_reason,
    }
    return _result("chat.completion", heading, choice, answer.stats, timed=timed)


def chat_chunks(
    pieces: Iterable[Piece],
    heading: Heading,
    *,
    parser: AnswerParser | None = None,
    spelling: Spelling | None = None,
    index: int = 0,
    usage: bool = False,
    timed: bool = False,
) -> Iterator[Shape]:
    """A chat's answer chunk by chunk: the role, then what each piece adds, then the ``finish_reason``.

    The first chunk comes with the first piece, so that an answer that fails before has none.

    Args:
        pieces, heading, parser, spelling, index: see ``chat_completion``.
        usage, timed: see ``completion_chunks``.
    """
    is_first, called = True, False
    for piece in pieces:
        if is_first:
            yield _chat_chunk(heading, {"role": "assistant"}, index)
            is_first = False
        is_last = piece.finish_reason is not None
        logprobs = None
        if spelling is not None and piece.logprobs:
            logprobs = chat_logprobs(spelling.of(piece.logprobs))
        if parser is None:
            if piece.text or piece.tokens:
                yield _chat_chunk(heading, {"content": piece.text}, index, logprobs)
        else:
            found = [parser.feed(piece.text)] if piece.text else []
            found += [parser.finish()] if is_last else []
            for content in (each for delta in found for each in _contents(delta)):
                called = called or "tool_calls" in content
                yield _chat_chunk(heading, content, index, logprobs)
                logprobs = None  # the piece's, so they come once
            if logprobs is not None:
                yield _chat_chunk(heading, {}, index, logprobs)
        if piece.finish_reason is not None:
            reason = _finished(piece.finish_reason)
            last = _chat_chunk(heading, {}, index, None, _with_calls(reason) if called else reason)
            yield from _ending(last, piece.stats, usage=usage, timed=timed)


def _contents(delta: AnswerDelta) -> Iterator[Shape]:
    """The deltas of one step, in OpenAI's shape."""
    if delta.reasoning:
        yield {"reasoning_content": delta.reasoning}
    if delta.content:
        yield {"content": delta.content}
    for call in delta.calls:
        function = (
            {"name": call.name, "arguments": call.arguments} if call.name else {"arguments": call.arguments}
        )
        named = {"id": call.id, "type": "function"} if call.name else {}
        yield {"tool_calls": [{"index": call.index, **named, "function": function}]}


def _gather(calls: list[Shape], delta: CallDelta) -> None:
    """Add to the calls what became known of one."""
    if delta.index == len(calls):
        calls.append({"id": delta.id, "type": "function", "function": {"name": delta.name, "arguments": ""}})
    calls[delta.index]["function"]["arguments"] += delta.arguments


def _chat_chunk(
    heading: Heading,
    delta: Shape,
    index: int,
    logprobs: Shape | None = None,
    finish_reason: str | None = None,
) -> Shape:
    return {
        "id": heading.id,
        "model": heading.model,
        "created": heading.created,
        "object": "chat.completion.chunk",
        "choices": [{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}],
    }


# --- embeddings ----------------------------------------------------------------------------------


def embeddings(found: Sequence[Any], n_tokens: int, model: str) -> Shape:
    """A list of embeddings.

    Args:
        found: one for each text: a list of numbers, or of one such list for each token.
        n_tokens: of all texts.
        model: the name that the caller gave the model.
    """
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "embedding": each, "index": index} for index, each in enumerate(found)
        ],
        "model": model,
        "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
    }


# --- what they have in common --------------------------------------------------------------------


def by_token(pieces: Iterable[Piece], piece_of: Callable[[int], bytes]) -> Iterator[Piece]:
    """The same answer with a piece for each token, or for the few tokens that make up one character.

    Args:
        pieces: of the answer.
        piece_of: the bytes of a token id.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    held, length = "", 0  # text of which not all tokens are told yet; characters of the tokens that wait
    waiting: tuple[int, ...] = ()
    likely: tuple[TokenLogprob, ...] | None = None
    for piece in pieces:
        held += piece.text
        for at, token in enumerate(piece.tokens):
            length += len(decoder.decode(piece_of(token)))
            waiting += (token,)
            if piece.logprobs is not None:
                likely = (*(likely or ()), piece.logprobs[at])
            if not decoder.getstate()[0]:
                yield Piece(held[:length], waiting, logprobs=likely)
                held, length, waiting, likely = held[length:], 0, (), None
        if piece.finish_reason is not None:
            yield Piece(held, waiting, piece.finish_reason, piece.stats, likely)


def usage_of(stats: Stats) -> Shape:
    """Tokens of prompt and answer. The end token does not count, those of a stop text do."""
    return {
        "prompt_tokens": stats.prompt_tokens,
        "completion_tokens": stats.answer_tokens,
        "total_tokens": stats.prompt_tokens + stats.answer_tokens,
    }


def timings_of(stats: Stats) -> Shape:
    """What an answer took, as far as a client may care."""
    return {
        "tokens_per_pass": stats.tokens_per_pass,
        "drafted": stats.drafted,
        "accepted": stats.accepted,
        "tokens_per_second": stats.tokens_per_second,
        "time_to_first_token": stats.time_to_first_token,
        "reused_tokens": stats.reused_tokens,
        "same_words": stats.same_words,
    }


class _Whole:
    """All pieces of an answer put together."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        texts: list[str] = []
        self.logprobs: list[TokenLogprob] = []
        self.finish_reason = FINISHED_STOP
        self.stats: Stats | None = None
        for piece in pieces:
            texts.append(piece.text)
            self.logprobs += piece.logprobs or ()
            if piece.finish_reason is not None:
                self.finish_reason, self.stats = _finished(piece.finish_reason), piece.stats
        self.text = "".join(texts)


def _finished(reason: str) -> str:
    """OpenAI has no word for a cancelled answer: whoever cancelled it knows."""
    return FINISHED_LENGTH if reason == FINISHED_LENGTH else FINISHED_STOP


def _with_calls(reason: str) -> str:
    return FINISHED_CALLS if reason == FINISHED_STOP else reason


def _result(kind: str, heading: Heading, choice: Shape, stats: Stats | None, *, timed: bool) -> Shape:
    assert stats is not None  # the last piece has them
    found: Shape = {
        "id": heading.id,
        "object": kind,
        "created": heading.created,
        "model": heading.model,
        "choices": [choice],
        "usage": usage_of(stats),
    }
    if timed:
        found["timings"] = timings_of(stats)
    return found


def _ending(last: Shape, stats: Stats | None, *, usage: bool, timed: bool) -> Iterator[Shape]:
    """The chunk with the finish reason, and the one with the usage."""
    if stats is not None and timed:
        last["timings"] = timings_of(stats)
    yield last
    if stats is not None and usage:
        yield {**last, "choices": [], "usage": usage_of(stats)}
