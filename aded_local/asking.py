"""The ways to ask for an answer, all of them from two: ``stream`` and ``stream_chat``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from typing_extensions import Unpack

from aded_local.chat.calling import ToolChoice
from aded_local.chat.messages import Message
from aded_local.chat.style import PLAIN, AnswerStyle
from aded_local.request import Options
from aded_local.result import Reply, joined
from aded_local.stream import AsyncStream, Stream

Tools = Sequence[Mapping[str, Any]] | None
"""Functions that may be called, in OpenAI's shape: ``type`` is function, ``function`` has ``name``, ``description`` and
``parameters``, a JSON schema."""


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation, ready to be answered by any session of the model that made it.

    Attributes:
        tokens: the whole prompt.
        style: what to look for in the answer's text.
        grammar: what the answer keeps to where it must be a call; None where the model is free.
    """

    tokens: list[int]
    style: AnswerStyle = PLAIN
    grammar: str | None = None


class Asking(ABC):
    """What a session can be asked, and a ``LocalADED``, which asks its first session."""

    @abstractmethod
    def stream(self, prompt: str | Sequence[int], **options: Unpack[Options]) -> Stream:
        """Continue ``prompt``, piece by piece.

        An answer is computed as it is read, and has the model until it is read to its end or closed: leaving a ``with``
        block closes it, and so does dropping it. One that is left half read and kept ends when the main thread, having
        read it, calls something else that needs the model; whoever reads on then meets a BusyError. In other threads it
        has to be closed or cancelled. Answers of two sessions wait for each other in threads of their own, those of one
        session with ``wait=True``; in a pool, read an answer to its end in one call.

        Args:
            prompt: text, in which control-token texts stay text; or token ids, which may be anything.
            options: see ``request.Options``.

        Raises:
            PromptError, EmptyPromptError, ContextOverflowError, OptionError, GrammarError, BusyError, DeviceError; and
            what a function among the options raises, as it is.
        """

    @abstractmethod
    def stream_chat(
        self,
        messages: Sequence[Message] | ChatPrompt,
        *,
        tools: Tools = None,
        tool_choice: ToolChoice | None = None,
        **options: Unpack[Options],
    ) -> Stream:
        """Answer a conversation, piece by piece, through the model's own chat template.

        The pieces are the answer's text as the model wrote it, with its thoughts and calls;
        ``chat.parsing.AnswerParser`` tells them apart, by ``answer_style`` of the same arguments.

        Args:
            messages: ``role`` (system, user, assistant, tool) and ``content`` of each turn, oldest first; a content
                is text, or a list of OpenAI's text parts, which become lines. An assistant turn with the text of an
                earlier answer is fed as the very tokens of that answer. Where the last turn is the assistant's, the
                answer goes on right behind its content, trailing white space included. Calls are OpenAI's
                ``tool_calls``, and their results messages of the role tool. Or what ``chat_prompt`` made of them.
            tools: functions that may be called, in OpenAI's shape.
            tool_choice: ``auto``, ``none`` (they stay out of the prompt), ``required``, or a function that must be
                called; a grammar sees to the last two.
            options: see ``request.Options``.

        Raises:
            As ``stream``; and TemplateError.
        """

    @abstractmethod
    def chat_prompt(
        self, messages: Sequence[Message], *, tools: Tools = None, tool_choice: ToolChoice | None = None
    ) -> ChatPrompt:
        """The prompt a conversation becomes, up to where the answer begins or goes on; arguments as in ``stream_chat``.

        Raises:
            PromptError, OptionError, TemplateError, BusyError
        """

    def chat_tokens(self, messages: Sequence[Message], tools: Tools = None) -> list[int]:
        """The token ids of ``chat_prompt``."""
        return self.chat_prompt(messages, tools=tools).tokens

    def answer_style(
        self, messages: Sequence[Message], *, tools: Tools = None, tool_choice: ToolChoice | None = None
    ) -> AnswerStyle:
        """What to look for in the text of the answer to a conversation; arguments and errors as in ``chat_prompt``."""
        return self.chat_prompt(messages, tools=tools, tool_choice=tool_choice).style

    def count_chat_tokens(self, messages: Sequence[Message], tools: Tools = None) -> int:
        """Tokens a conversation takes as a prompt; errors as in ``chat_tokens``."""
        return len(self.chat_tokens(messages, tools))

    def generate(self, prompt: str | Sequence[int], **options: Unpack[Options]) -> Reply:
        """Continue ``prompt``; see ``stream``, and ``request.Options`` for the options."""
        return joined(self.stream(prompt, **options))

    def chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Tools = None,
        tool_choice: ToolChoice | None = None,
        **options: Unpack[Options],
    ) -> Reply:
        """Answer a conversation; see ``stream_chat``, and ``request.Options`` for the options."""
        return joined(self.stream_chat(messages, tools=tools, tool_choice=tool_choice, **options))

    # --- in asyncio ----------------------------------------------------------------------------------

    def astream(self, prompt: str | Sequence[int], **options: Unpack[Options]) -> AsyncStream:
        """``stream`` for asyncio; see ``AsyncStream``."""
        return AsyncStream(lambda: self.stream(prompt, **options))

    def astream_chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Tools = None,
        tool_choice: ToolChoice | None = None,
        **options: Unpack[Options],
    ) -> AsyncStream:
        """``stream_chat`` for asyncio; see ``AsyncStream``."""
        return AsyncStream(
            lambda: self.stream_chat(messages, tools=tools, tool_choice=tool_choice, **options)
        )

    async def agenerate(self, prompt: str | Sequence[int], **options: Unpack[Options]) -> Reply:
        """``generate`` for asyncio: cancelling the task ends the answer within one step."""
        async with self.astream(prompt, **options) as pieces:
            return await pieces.reply()

    async def achat(
        self,
        messages: Sequence[Message],
        *,
        tools: Tools = None,
        tool_choice: ToolChoice | None = None,
        **options: Unpack[Options],
    ) -> Reply:
        """``chat`` for asyncio: cancelling the task ends the answer within one step."""
        async with self.astream_chat(messages, tools=tools, tool_choice=tool_choice, **options) as pieces:
            return await pieces.reply()
