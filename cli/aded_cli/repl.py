"""The chat loop: read a line, obey or answer it, until /quit."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aded_local.errors import ADEDError, DeviceError

from . import display
from .answer import relay
from .conversation import Conversation
from .keeping import Keeper
from .options import utf8

if TYPE_CHECKING:
    from aded_local.api import LocalADED, Stats

QUIT = "/quit"
HELP = """\
/help    this list
/reset   begin a new conversation
/stats   what holds for the loaded model, and the figures of the answers
/quit    leave (or Ctrl-D)
Ctrl-C   stop the answer
All else is a message, also a command's name behind a space."""

LIKE_A_COMMAND = re.compile(r"/[\w?-]*")
"""A line that was meant as a command, known or not. ``/etc/hosts`` and ``// a comment`` are messages."""


class Repl:
    """A conversation at a terminal.

    Args:
        llm: the engine.
        conversation: the turns so far.
        sampling: keyword arguments of every generation.
        read_line: gives one line; raises EOFError to leave, KeyboardInterrupt for Ctrl-C at an empty prompt.
        keeper: keeps the conversation on disk.
    """

    def __init__(
        self,
        llm: LocalADED,
        conversation: Conversation,
        sampling: dict[str, Any],
        read_line: Callable[[], str],
        keeper: Keeper,
    ) -> None:
        self._llm = llm
        self._conversation = conversation
        self._sampling = sampling
        self._read_line = read_line
        self._keeper = keeper
        self._figures: list[dict[str, Any]] = []
        self._last: Stats | None = None
        self._commands: dict[str, Callable[[], object]] = {
            "/help": lambda: display.note(HELP),
            "/reset": self._reset,
            "/stats": lambda: display.show_stats(self._llm.description(), self._figures),
            QUIT: lambda: None,
        }

    def run(self, first: str | None = None) -> None:
        """Talk until the user leaves. What goes wrong with one message is said, and the chat goes on.

        Args:
            first: a message that is answered before any is read.
        """
        display.note("/help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves")
        with display.notices.kept():
            if first is not None:
                self._attempt(self._answer, first)
            while (line := self._next_line()) != QUIT:
                self._attempt(self._take, line)

    def _next_line(self) -> str:
        """What is typed next, without white space at its end, which nobody sees."""
        while True:
            display.notices.show()
            try:
                return self._read_line().rstrip()
            except EOFError:
                return QUIT
            except KeyboardInterrupt:
                display.note("/quit or Ctrl-D leaves")

    def _attempt(self, act: Callable[[str], None], line: str) -> None:
        """Ctrl-C ends what the chat is at, never the chat."""
        try:
            act(line)
        except KeyboardInterrupt:
            display.note("stopped")

    def _take(self, line: str) -> None:
        """Obey or answer a line. Only what begins with a command's name is one."""
        name, _, rest = line.partition(" ")
        command = self._commands.get(name)
        if command is not None and rest:
            display.error(f"{name} takes nothing after it; a space before it sends the line as a message")
        elif command is not None:
            command()
        elif LIKE_A_COMMAND.fullmatch(line):
            display.error(
                f"unknown command {line}: /help lists them, a space before it sends it as a message"
            )
        elif line:
            self._answer(line)

    def _reset(self) -> None:
        self._keeper.begin_anew()
        self._conversation.clear()
        self._llm.reset()
        display.note("a new conversation begins")

    def _answer(self, typed: str) -> None:
        text = utf8(typed)
        if text is None:
            display.error("the message is not valid UTF-8 text")
            return
        try:
            self._say_and_record(text)
        except DeviceError:
            raise  # the engine cannot go on, and neither can the chat
        except ADEDError as failure:
            display.error(str(failure))

    def _say_and_record(self, text: str) -> None:
        llm, conversation = self._llm, self._conversation
        dropped = conversation.make_room(
            text, llm.count_chat_tokens, n_ctx=llm.n_ctx, max_tokens=self._sampling.get("max_tokens")
        )
        if dropped:
            what = "the oldest turn" if dropped == 1 else f"the {dropped} oldest turns"
            display.note(
                f"the context of {llm.n_ctx:,} tokens is full: {what} dropped, and the rest is read again"
            )
        messages = conversation.messages(text)
        with display.answering(llm.answer_style(messages)) as write:
            answer = relay(llm, lambda: llm.stream_chat(messages, **self._sampling), write)
        conversation.record(text, answer.text, stopped=answer.stopped)
        if answer.stats is not None:
            self._figures.append(answer.stats.to_dict())
        self._keeper.turn_ended()
        display.note(display.closing_line(answer, self._last))
        self._last = answer.stats or self._last
