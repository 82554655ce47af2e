"""The chat loop: read a message, obey or answer it, until somebody leaves."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Final

import click

from aded_local.errors import ADEDError, DeviceError, ModelNotFoundError, OptionError
from aded_local.shown import brief

from . import display
from .answer import Answer, relay
from .attachments import Attachment, with_files
from .command_line import utf8
from .commands import command_in, similar
from .conversation import Conversation, Turn
from .keeping import Keeper, show_past

if TYPE_CHECKING:
    from aded_local.api import LocalADED, Stats

LIKE_A_COMMAND: Final = re.compile(r"/[\w?-]*")
"""A line that was meant as a command, and is none. ``/etc/hosts`` and ``// a comment`` are messages."""

LEAVING: Final = ("exit", "quit")
"""Alone in a message, they may be meant for the chat or for the model."""

YES: Final = ("", "y", "yes", *LEAVING, "/quit", "/exit", "/bye")

NEARLY_FULL: Final = 0.7
"""Of the context: a little before the oldest turns have to go (see ``Conversation.make_room``)."""


class Repl:
    """A conversation at a terminal.

    Attributes:
        llm: the engine.
        conversation: the turns so far.
        sampling: keyword arguments of every generation.
        keeper: keeps the conversation.
        attached: files that go with the next message.
        figures: of each answer so far.
        last: the last answer.
        drafts: whether answers are drafted, as far as that was changed.
        is_over: somebody leaves, or wants another model.
        plain: answers are written as they come.
        apart: gives the terminal to another program.
    """

    def __init__(
        self,
        llm: LocalADED,
        conversation: Conversation,
        sampling: dict[str, Any],
        read_line: Callable[[], str],
        keeper: Keeper,
    ) -> None:
        """Nothing is said yet.

        Args:
            llm, conversation, sampling, keeper: see the attributes.
            read_line: gives one message; raises EOFError to leave, KeyboardInterrupt for Ctrl-C at an empty prompt.
        """
        self.conversation = conversation
        self.sampling = sampling
        self.plain = False
        self.apart: Callable[[], AbstractContextManager[Any]] = nullcontext
        self.attached: list[Attachment] = []
        self.figures: list[dict[str, Any]] = []
        self.last: Answer | None = None
        self._read_line = read_line
        self.go_on_with(llm, keeper)

    def go_on_with(self, llm: LocalADED, keeper: Keeper) -> None:
        """Let another model answer from now on."""
        self.llm, self.keeper = llm, keeper
        self.drafts = True
        self.is_over = False
        self._next_model: str | None = None
        self._before: Stats | None = None
        self._is_nearly_full = False

    def run(self, first: str | None = None) -> str | None:
        """Talk until the user leaves. What goes wrong with one message is said, and the chat goes on.

        Args:
            first: a message that is answered before any is read.

        Returns:
            The model that is to go on with the conversation; None where the user leaves.
        """
        with display.notices.kept():
            if first is not None:
                self._attempt(self.ask, first)
            while not self.is_over and (line := self._next_line()) is not None:
                self._attempt(self._take, line)
        return self._next_model

    def _next_line(self) -> str | None:
        """What is typed next; None where somebody leaves."""
        while True:
            display.notices.show()
            try:
                return self._read_line()
            except EOFError:
                return None
            except KeyboardInterrupt:
                display.note("/quit or Ctrl-D leaves")

    def _attempt(self, act: Callable[[str], None], line: str) -> None:
        """Ctrl-C ends what the chat is at, and what goes wrong is one line; neither ends the chat."""
        try:
            act(line)
        except KeyboardInterrupt:
            display.note("stopped")
        except DeviceError:
            raise  # the engine cannot go on, and neither can the chat
        except click.ClickException as failure:
            display.error(failure.format_message())
        except ADEDError as failure:
            display.error(str(failure))

    def _take(self, line: str) -> None:
        """Obey or answer a line. Only what begins with a command's name is one."""
        found = command_in(line)
        typed = line.strip()
        if found is not None:
            name, command, rest = found
            if rest and not command.takes:
                raise OptionError(
                    f"{name} takes nothing after it; a space before it sends the line as a message"
                )
            command.act(self, rest)
        elif LIKE_A_COMMAND.fullmatch(line.rstrip()):
            meant = similar(line.rstrip())
            raise OptionError(
                f"unknown command {brief(line)}: "
                + (f"was {meant} meant? " if meant else "")
                + "/help lists them, a space before it sends it as a message"
            )
        elif line.rstrip() in LEAVING:
            self._ask_to_leave(typed)
        elif typed:
            self.ask(line)

    def _ask_to_leave(self, typed: str) -> None:
        display.note(f"leave the chat? Enter leaves; n stays (a space before {typed} sends it as a message)")
        answer = self._next_line()
        self.is_over = answer is None or answer.strip().lower() in YES

    # --- what commands do --------------------------------------------------------------------------

    def clear(self) -> None:
        """Begin a new conversation."""
        self.keeper.begin_anew()
        self.conversation.clear()
        self.attached.clear()
        self.llm.reset()
        self.last = None
        self._is_nearly_full = False

    def ask(self, typed: str) -> None:
        """Answer a message, with the files that wait for it."""
        text = utf8(typed)
        if text is None:
            raise OptionError("the message is not valid UTF-8 text")
        self._say_and_record(with_files(text, self.attached))
        self.attached.clear()

    def take_back(self) -> Turn:
        """Remove the last turn.

        Raises:
            OptionError: there is none.
        """
        if not self.conversation.turns:
            raise OptionError("nothing was said yet")
        turn = self.conversation.turns.pop()
        self.last = None
        self.keeper.turn_ended()
        return turn

    def ask_again(self) -> None:
        """Ask the last question again; where that fails, the last answer stays.

        Raises:
            OptionError: there is none.
        """
        last = self.last
        turn = self.take_back()
        before = len(self.conversation.turns)
        try:
            self._say_and_record(turn.user)
        finally:
            if len(self.conversation.turns) == before:
                self.conversation.turns.append(turn)
                self.last = last

    def load(self, name: str) -> None:
        """Go on with a conversation that was kept."""
        with display.loading("reading the conversation…", quiet=False):
            resumed = self.keeper.load(name)
        self.attached.clear()
        self.last = None
        self._is_nearly_full = False
        show_past(self.conversation, resumed.conversation)

    def switch_to(self, model: str) -> None:
        """Let another model go on with the conversation.

        Raises:
            ModelNotFoundError: there is none of this name; the present one stays.
        """
        from aded_models import find

        with display.loading(f"looking for {model}", quiet=False) as say:
            path = find(model, say).path
        if not path.exists():
            raise ModelNotFoundError(f"there is no model {brief(model)}: /model takes a path or a name")
        self._next_model = model
        self.is_over = True

    def context_used(self) -> int:
        """Tokens of the conversation so far."""
        if self.last is not None and self.last.stats is not None:
            return self.last.stats.prompt_tokens + self.last.stats.generated_tokens
        if not (self.conversation.turns or self.conversation.system):
            return 0
        return self.llm.count_chat_tokens(self.conversation.messages(""))

    @property
    def last_text(self) -> str | None:
        """The last answer without its thoughts; None before the first."""
        if not self.conversation.turns:
            return None
        answer = self.conversation.turns[-1].answer
        from aded_local.chat.parsing import parsed

        return parsed(answer, self.llm.answer_style(self.conversation.messages(""))).content

    # --- an answer ---------------------------------------------------------------------------------

    def _say_and_record(self, text: str) -> None:
        llm, conversation = self.llm, self.conversation
        llm.require_short(text)
        dropped = conversation.make_room(
            text, llm.count_chat_tokens, n_ctx=llm.n_ctx, max_tokens=self.sampling.get("max_tokens")
        )
        if dropped:
            what = "the oldest turn" if dropped == 1 else f"the {dropped} oldest turns"
            display.note(
                f"the context of {llm.n_ctx:,} tokens is full: {what} dropped, and the rest is read again"
            )
        messages = conversation.messages(text)
        with display.answering(llm.answer_style(messages), plain=self.plain) as write:
            answer = relay(llm, lambda: llm.stream_chat(messages, **self.sampling), write)
        conversation.record(text, answer.text, stopped=answer.stopped)
        if answer.stats is not None:
            self.figures.append(answer.stats.to_dict())
        self.last = answer
        self.keeper.turn_ended()
        display.note(display.closing_line(answer, self._before))
        self._before = answer.stats or self._before
        self._tell_when_nearly_full(self.context_used())

    def _tell_when_nearly_full(self, used: int) -> None:
        share = used / self.llm.n_ctx
        if share >= NEARLY_FULL and not self._is_nearly_full:
            display.note(
                f"the context is {share:.0%} full: soon the oldest turns are left out; /clear begins anew,"
                " and -c starts the chat with a larger one"
            )
        self._is_nearly_full = share >= NEARLY_FULL
