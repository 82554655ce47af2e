"""The ways to ask for an answer, all of them from two: ``stream`` and ``stream_chat``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from typing_extensions import Unpack

from aded_local.chat.template import Message
from aded_local.request import Options
from aded_local.result import Reply, joined
from aded_local.stream import AsyncStream, Stream


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
    def stream_chat(self, messages: Sequence[Message] | Sequence[int], **options: Unpack[Options]) -> Stream:
        """Answer a conversation, piece by piece, through the model's own chat template.

        Args:
            messages: ``role`` (system, user, assistant) and ``content`` of each turn, oldest first; a content
                is text, or a list of OpenAI's text parts, which become lines. An assistant turn with the text of an
                earlier answer is fed as the very tokens of that answer. Where the last turn is the assistant's, the
                answer goes on right behind its content, trailing white space included. Or the token ids that
                ``chat_tokens`` made of them.
            options: see ``request.Options``.

        Raises:
            As ``stream``; and TemplateError.
        """

    @abstractmethod
    def chat_tokens(self, messages: Sequence[Message]) -> list[int]:
        """The prompt a conversation becomes, as token ids, up to where the answer begins or goes on.

        Raises:
            PromptError, TemplateError, BusyError
        """

    def count_chat_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens a conversation takes as a prompt; errors as in ``chat_tokens``."""
        return len(self.chat_tokens(messages))

    def generate(self, prompt: str | Sequence[int], **options: Unpack[Options]) -> Reply:
        """Continue ``prompt``; see ``stream``, and ``request.Options`` for the options."""
        return joined(self.stream(prompt, **options))

    def chat(self, messages: Sequence[Message], **options: Unpack[Options]) -> Reply:
        """Answer a conversation; see ``stream_chat``, and ``request.Options`` for the options."""
        return joined(self.stream_chat(messages, **options))

    # --- in asyncio ----------------------------------------------------------------------------------

    def astream(self, prompt: str | Sequence[int], **options: Unpack[Options]) -> AsyncStream:
        """``stream`` for asyncio; see ``AsyncStream``."""
        return AsyncStream(lambda: self.stream(prompt, **options))

    def astream_chat(self, messages: Sequence[Message], **options: Unpack[Options]) -> AsyncStream:
        """``stream_chat`` for asyncio; see ``AsyncStream``."""
        return AsyncStream(lambda: self.stream_chat(messages, **options))

    async def agenerate(self, prompt: str | Sequence[int], **options: Unpack[Options]) -> Reply:
        """``generate`` for asyncio: cancelling the task ends the answer within one step."""
        async with self.astream(prompt, **options) as pieces:
            return await pieces.reply()

    async def achat(self, messages: Sequence[Message], **options: Unpack[Options]) -> Reply:
        """``chat`` for asyncio: cancelling the task ends the answer within one step."""
        async with self.astream_chat(messages, **options) as pieces:
            return await pieces.reply()
