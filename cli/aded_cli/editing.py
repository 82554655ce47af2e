"""Typing at the prompt: several lines, completion of commands, and what was typed ahead."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final

from .history import PROMPT, open_history

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import CompleteEvent, Completer
    from prompt_toolkit.key_binding import KeyBindings

QUOTES: Final = '"""'
"""Opens and closes a message of several lines."""

CONTINUED: Final = ". "
"""Before the further lines of a message."""

Words = Callable[[str], Sequence[tuple[str, str]] | None]
"""Completions of the beginning of a line, each with what it means; None for paths."""


def is_open(text: str) -> bool:
    """Whether a message opened with three quotes is not closed yet."""
    return text.startswith(QUOTES) and not (len(text.rstrip()) >= 6 and text.rstrip().endswith(QUOTES))


def unquoted(text: str) -> str:
    """A message without the three quotes around it, and without the line ends next to them."""
    if not text.startswith(QUOTES) or is_open(text):
        return text
    return text.rstrip()[3:-3].removeprefix("\n").removesuffix("\n")


def unquoting(read: Callable[[], str], read_on: Callable[[], str]) -> Callable[[], str]:
    """The same for terminals without line editing: lines are read until the three quotes are closed.

    Args:
        read: gives a line.
        read_on: gives a further one.
    """

    def read_message() -> str:
        text = read()
        while is_open(text):
            text += "\n" + read_on()
        return unquoted(text)

    return read_message


def line_reader(
    *, remember: bool, warn: Callable[[str], None], words: Words = lambda _text: ()
) -> Callable[[], str]:
    """A function that reads one message from the terminal with editing and history.

    It raises EOFError on Ctrl-D and KeyboardInterrupt on Ctrl-C at an empty prompt; Ctrl-C over typed text
    clears that text and gives "".

    Args:
        remember: keep the history on disk.
        warn: told where that cannot be done.
        words: completions of a command.
    """
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import ThreadedCompleter

    pasted: list[bool] = [False]
    session: PromptSession[str] = PromptSession(
        PROMPT,
        history=open_history(remember=remember, warn=warn),
        enable_suspend=True,
        enable_open_in_editor=True,
        multiline=True,
        prompt_continuation=CONTINUED,
        key_bindings=_bindings(pasted),
        completer=ThreadedCompleter(_completer(words)),
        complete_while_typing=False,
    )
    is_first = True

    def read_line() -> str:
        nonlocal is_first
        if is_first:
            is_first = False
            _take_typed_ahead(session)
        pasted[0] = False
        try:
            text = session.prompt()
        except KeyboardInterrupt:
            if session.default_buffer.text:
                return ""
            raise
        return text if pasted[0] else unquoted(text)

    return read_line


def _bindings(pasted: list[bool]) -> KeyBindings:
    """Enter sends, unless three quotes are open; Alt-Enter and Ctrl-J begin another line.

    Args:
        pasted: whether the message begins with pasted text, in which three quotes mean nothing.
    """
    from prompt_toolkit.enums import DEFAULT_BUFFER
    from prompt_toolkit.filters import Condition, has_focus, is_done
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
    from prompt_toolkit.keys import Keys

    bindings = KeyBindings()

    is_typing = has_focus(DEFAULT_BUFFER) & ~is_done

    @bindings.add("enter", filter=is_typing)
    def _enter(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.complete_state is not None and buffer.complete_state.current_completion is not None:
            buffer.complete_state = None
        elif is_open(buffer.text) and not pasted[0]:
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    @bindings.add("escape", "enter", filter=is_typing)
    @bindings.add("c-j", filter=is_typing)
    def _line(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    @bindings.add(Keys.BracketedPaste)
    def _paste(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if not buffer.document.text_before_cursor:
            pasted[0] = True
        buffer.insert_text(event.data.replace("\r\n", "\n").replace("\r", "\n"))

    @bindings.add(Keys.Vt100MouseEvent)
    def _no_mouse(event: KeyPressEvent) -> None:
        """The mouse is not listened to. prompt_toolkit takes a colour in text that is not bracketed as pasted
        (``ESC [31m``) for one, and fails on it."""

    @Condition
    def is_message() -> bool:
        from prompt_toolkit.application import get_app

        return not get_app().current_buffer.document.text_before_cursor.startswith("/")

    @bindings.add("tab", filter=is_typing & is_message)
    def _tab(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\t")

    return bindings


def _completer(words: Words) -> Completer:
    from prompt_toolkit.completion import Completer, Completion, PathCompleter
    from prompt_toolkit.document import Document

    class CommandCompleter(Completer):
        """Completes a command and what it takes."""

        def get_completions(self, document: Document, event: CompleteEvent) -> Iterable[Completion]:
            text = document.text_before_cursor
            if not text.startswith("/") or "\n" in text:
                return
            found = words(text)
            last = text[text.rfind(" ") + 1 :]
            if found is None:
                yield from PathCompleter(expanduser=True).get_completions(
                    Document(text.partition(" ")[2]), event
                )
                return
            for word, meaning in found:
                yield Completion(word, -len(last), display_meta=meaning)

    return CommandCompleter()


def _take_typed_ahead(session: PromptSession[str]) -> None:
    """Give the editor what was typed before the first prompt. The terminal itself turned Enter into a line end then,
    which the editor would take for Ctrl-J."""
    if sys.platform == "win32":
        return
    from prompt_toolkit.input.typeahead import store_typeahead
    from prompt_toolkit.input.vt100_parser import Vt100Parser
    from prompt_toolkit.key_binding import KeyPress

    typed = b""
    try:
        handle = sys.stdin.fileno()
        while select.select([handle], [], [], 0)[0]:
            more = os.read(handle, 1 << 16)
            if not more:
                break
            typed += more
    except (OSError, ValueError):
        return
    if typed:
        keys: list[KeyPress] = []
        parser = Vt100Parser(keys.append)
        parser.feed_and_flush(typed.decode("utf-8", "surrogateescape").replace("\n", "\r"))
        store_typeahead(session.input, keys)
