"""The chat loop: read a line, obey or answer it, until /quit."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aded_local.errors import ADEDError, DeviceError

from . import display
from .answer import relay
from .session import Conversation

if TYPE_CHECKING:
    from aded_local.api import LocalADED

HELP = """\
/help    this list
/reset   begin a new conversation
/stats   what holds for the loaded model, and the figures of the answers
/quit    leave (or Ctrl-D)
//text   send "/text" as a message
Ctrl-C   stop the answer"""


class Repl:
    """A conversation at a terminal.

    Args:
        llm: the engine.
        conversation: the turns so far.
        sampling: keyword arguments of every generation.
        read_line: gives one line; raises EOFError to leave, KeyboardInterrupt for Ctrl-C at an empty prompt.
    """

    def __init__(
        self,
        llm: LocalADED,
        conversation: Conversation,
        sampling: dict[str, Any],
        read_line: Callable[[], str],
    ) -> None:
        self._llm = llm
        self._conversation = conversation
        self._sampling = sampling
        self._read_line = read_line
        self._figures: list[dict[str, Any]] = []
        self._commands: dict[str, Callable[[], None]] = {
            "/help": lambda: display.note(HELP),
            "/reset": self._reset,
            "/stats": self._show_stats,
        }

    def run(self) -> None:
        """Talk until the user leaves. What goes wrong with one message is said, and the chat goes on."""
        display.note("/help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves")
        while True:
            try:
                line = self._read_line().strip()
            except EOFError:
                return
            except KeyboardInterrupt:
                display.note("/quit or Ctrl-D leaves")
                continue
            if line == "/quit":
                return
            if line.startswith("/") and not line.startswith("//"):
                self._obey(line)
            elif line:
                self._answer(line[1:] if line.startswith("//") else line)

    def _obey(self, line: str) -> None:
        command = self._commands.get(line)
        if command is None:
            name = line.split()[0]
            display.error(
                f"unknown command {name}: /help lists them, a leading // sends the line as a message"
            )
        else:
            command()

    def _reset(self) -> None:
        self._conversation.clear()
        self._llm.reset()
        display.note("a new conversation begins")

    def _show_stats(self) -> None:
        with display.loading("probing which batch sizes are exact (once per model)…", quiet=False):
            try:
                self._llm.measure_exactness()
            except DeviceError as failure:
                display.note(f"exactness not probed: {failure}")
        display.show_stats(self._llm.description(), self._figures)

    def _answer(self, text: str) -> None:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
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
            display.note(f"the context of {llm.n_ctx:,} tokens is full: {what} dropped")
        messages = conversation.messages(text)
        answer = relay(llm, lambda: llm.stream_chat(messages, **self._sampling), display.write_answer)
        sys.stdout.write("\n")
        sys.stdout.flush()
        conversation.record(text, answer.text, stopped=answer.stopped)
        if answer.stats is not None:
            self._figures.append(answer.stats.to_dict())
        display.note(display.closing_line(answer))
