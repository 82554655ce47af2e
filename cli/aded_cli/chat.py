"""aded-chat: a chat in the terminal, or one answer for a pipe."""

from __future__ import annotations

import _thread
import contextlib
import dataclasses
import functools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from aded_local.errors import ADEDError, EmptyPromptError, ModelNotFoundError
from aded_local.shown import json_text
from aded_local.starting import EXIT_INTERRUPTED

from . import display, texts
from .command_line import STDIN, Settings
from .keyboard import Keyboard
from .options import chat_options, help_for_missing
from .pacing import paced
from .program import CONTEXT, OneLine

if TYPE_CHECKING:
    from pathlib import Path

    from aded_local.api import LocalADED
    from aded_local.chat.style import AnswerStyle
    from aded_local.conversations import KeptConversation

    from .answer import Answer
    from .conversation import Conversation
    from .keeping import Keeper

MEASURING = "answered; measuring what a pass costs here, once per model (Ctrl-C leaves it for next time)…"
MEASURING_SECONDS = 15.0
"""How long a program that has answered may stay to measure: twice what SmolLM2 takes on two cores."""
MEASURING_SECONDS_UNSEEN = 6.0
"""The same where nobody sees why: what was measured so far is kept, and the next answers add to it."""
LOOK_SECONDS = 0.1
"""How often it looks whether the machine is busy."""


@click.command(cls=OneLine, context_settings=CONTEXT)
@chat_options
def main(**given: Any) -> int:
    """Chat with a GGUF model, faster where drafts pay. The model decides every token: each is the one that
    it would have said without drafts, or (see --same) one that is as likely but for rounding.

    MODEL is the path of a GGUF file, or a name: smollm2, a small general model, where it is installed,
    builtin, which answers questions about shell commands, or one that `aded-models pull` fetched. Without
    MODEL, smollm2 answers where it is installed, else builtin. In the chat, /help lists the commands. With
    -p, -f, or text on standard input, one answer is printed, and nothing else goes to standard output.
    """
    settings = Settings.from_options(**given)
    try:
        return _run(settings)
    except ModelNotFoundError as failure:
        if settings.model is not None:
            raise ModelNotFoundError(f"{failure}{help_for_missing(settings.model)}") from failure
        from aded_local.config import config_path, read_config

        usual = read_config().model
        if usual is None or usual not in str(failure):
            raise
        where = f"{config_path()} has model = {usual!r}"
        raise ModelNotFoundError(
            f"{failure}{help_for_missing(usual)}; {where}: mend it, or name a MODEL"
        ) from failure


def _run(settings: Settings) -> int:
    last = _last_conversation() if settings.goes_on else None
    settings = dataclasses.replace(settings, model=_model_to_open(settings, last))
    at_terminal = display.is_terminal(sys.stdin)
    has_prompt = bool(settings.prompt or settings.files)
    if settings.conversation and not at_terminal:
        raise click.UsageError(
            "-cnv reads messages from a terminal, and standard input is none: leave it out"
        )
    if not settings.conversation and (has_prompt or not at_terminal):
        return _answer_once(settings, read_prompt(settings), last)
    for name, given in (("--json", settings.as_json), ("--raw", settings.raw)):
        if given:
            raise click.UsageError(f"{name} answers once: give a prompt with -p, -f or on standard input")
    return _converse(settings, read_prompt(settings) if has_prompt else None, last)


def read_prompt(settings: Settings) -> str:
    """The prompt: the parts of -p and the texts of -f, joined by line ends; standard input where neither is given.

    With --raw every text stays as it is, else the line end that closes a file goes.

    Raises:
        click.UsageError: a file cannot be read, is not valid UTF-8, or is larger than any prompt.
        EmptyPromptError: nothing, or without --raw nothing but white space.
    """
    parts = settings.prompt or (() if settings.files else (STDIN,))
    raw = settings.raw
    read = [_standard_input(raw) if part == STDIN else part for part in parts]
    prompt = "\n".join([*read, *(texts.read_text(path, f"-f {path}", raw=raw) for path in settings.files)])
    if not (prompt if settings.raw else prompt.strip()):
        raise EmptyPromptError("the prompt is empty: give some text with -p, -f or on standard input")
    return prompt


def _standard_input(raw: bool) -> str:
    if sys.stdin is None or sys.stdin.closed:
        return ""
    return texts.decoded("standard input", sys.stdin.buffer.read(texts.LARGEST_PROMPT + 1), raw=raw)


def _last_conversation() -> tuple[Path, KeptConversation]:
    """The conversation that goes on. Where one that was changed after it cannot be read, that is said.

    Raises:
        StoreError: there is none that can be read.
    """
    from aded_local.conversations import newest_readable

    path, kept, damaged = newest_readable()
    for error in damaged:
        display.note(str(error))
    if damaged:
        display.note(f"{path.stem} goes on instead: “{kept.title}”")
    return path, kept


def _model_to_open(settings: Settings, last: tuple[Path, KeptConversation] | None) -> str | None:
    """The model that was named; else that of the conversation that goes on; else the usual one of the person's own
    configuration; None leaves it to the engine."""
    if settings.model is not None:
        return settings.model
    if last is not None:
        model = last[1].model
        if model is not None and os.path.exists(model.file):
            return model.file
    from aded_local.config import read_config

    return read_config().model


def open_model(settings: Settings, on_progress: Callable[[str], None]) -> LocalADED:
    """Load the model that the command line names; ``on_progress`` is told what takes seconds."""
    from aded_local import LocalADED

    return LocalADED(settings.model, **settings.engine, on_progress=on_progress, on_notice=display.notices)


def _converse(settings: Settings, first: str | None, last: tuple[Path, KeptConversation] | None) -> int:
    from aded_local.files import data_problem

    from .conversation import Conversation
    from .repl import Repl

    conversation = Conversation(settings.system)
    edited = not display.is_dumb()
    if not settings.plain and display.is_styled(sys.stdout):
        from .rendering.code import warm_up

        _thread.start_new_thread(
            warm_up, ()
        )  # while the model loads; a Ctrl-C in Thread.start could stop it for ever
    with Keyboard(edited=edited) as keyboard:
        read_line = _line_reader(settings, keyboard, edited=edited)
        repl: Repl | None = None
        keeper: Keeper | None = None
        before: Settings | None = None
        keeps = settings.remember and data_problem() is None  # which the engine tells
        while True:
            with contextlib.ExitStack() as opened:
                try:
                    llm = opened.enter_context(_opened(settings))
                except ADEDError as failure:
                    if before is None:
                        raise
                    display.error(str(failure))
                    settings, before = before, None
                    continue
                keeper = opened.enter_context(_keeper(llm, conversation, settings, keeps, keeper))
                if repl is None:
                    repl = Repl(llm, conversation, settings.sampling, read_line, keeper)
                    repl.plain, repl.apart = settings.plain, keyboard.given_back
                    if last is not None:
                        _go_on(keeper, conversation, last[0])
                    display.note("/help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves")
                else:
                    repl.go_on_with(llm, keeper)
                    display.note(_loaded(llm))
                wanted = repl.run(first)
            if wanted is None:
                return 0
            first, before, settings = None, settings, dataclasses.replace(settings, model=wanted)


def _loaded(llm: LocalADED) -> str:
    """What answers from now on."""
    about = llm.description()
    said = [str(about[name]) for name in ("architecture", "quantization") if about.get(name)]
    name = os.path.basename(str(about["model"]))
    return f"{name} answers from now on ({', '.join(said)}, {llm.n_ctx:,} tokens of context)"


def _line_reader(settings: Settings, keyboard: Keyboard, *, edited: bool) -> Callable[[], str]:
    from . import editing
    from .commands import completions
    from .history import PROMPT

    if edited:
        return editing.line_reader(remember=settings.remember, warn=display.note, words=completions)
    return editing.unquoting(
        functools.partial(keyboard.read_line, PROMPT),
        functools.partial(keyboard.read_line, editing.CONTINUED),
    )


@contextlib.contextmanager
def _opened(settings: Settings) -> Iterator[LocalADED]:
    with display.loading("loading the model…", quiet=settings.verbose) as say:
        llm = open_model(settings, say)
    with llm:
        yield llm


def _keeper(
    llm: LocalADED, conversation: Conversation, settings: Settings, keeps: bool, before: Keeper | None = None
) -> Keeper:
    from .keeping import Keeper

    return Keeper(llm, conversation, settings.sampling, keeps=keeps, warn=display.notices, before=before)


def _go_on(keeper: Keeper, conversation: Conversation, last: Path) -> None:
    """Bring the last conversation back, and show how it ended."""
    from .keeping import show_past

    with display.loading("going on with the last conversation…", quiet=False):
        resumed = keeper.load(str(last))
    show_past(conversation, resumed.conversation)
    if resumed.refusal is None:
        display.note(f"it goes on at once: {resumed.cached:,} tokens need not be read again")


def _answer_once(settings: Settings, prompt: str, last: tuple[Path, KeptConversation] | None) -> int:
    from .answer import relay
    from .conversation import Conversation

    conversation = Conversation(settings.system)

    def start() -> Any:
        if settings.raw:
            return llm.stream(prompt, **settings.sampling)
        return llm.stream_chat(messages, **settings.sampling)

    with Keyboard(edited=False), contextlib.ExitStack() as at_last:
        with display.loading("loading the model…", quiet=settings.verbose) as say:
            # What --exact waits for takes a minute with a large model, and whoever reads a log wants to know.
            llm = open_model(settings, say if display.is_terminal(sys.stderr) else _note_if_exact(settings))
        with llm, _keeper(llm, conversation, settings, settings.goes_on) as keeper:
            llm.require_short(prompt)
            if last is not None:
                keeper.load(str(last[0]))
                limit = settings.sampling.get("max_tokens")
                conversation.make_room(prompt, llm.count_chat_tokens, n_ctx=llm.n_ctx, max_tokens=limit)
            messages = conversation.messages(prompt)
            with display.notices.kept():
                style = None if settings.raw else llm.answer_style(messages)
                if settings.as_json:
                    answer = relay(llm, start, _keep_silent)
                    _print_json(answer, style)
                else:
                    with display.answering(style, plain=settings.plain or settings.raw) as write:
                        answer = relay(llm, start, write)
            if not settings.as_json and display.is_terminal(sys.stderr):
                display.note(display.closing_line(answer))
            conversation.record(prompt, answer.text, stopped=answer.stopped)
            keeper.turn_ended()
            if not answer.stopped:
                _measure_after_answer(llm, at_last.enter_context(_interrupts_noted()))
    return EXIT_INTERRUPTED if answer.stopped else 0


@contextlib.contextmanager
def _interrupts_noted() -> Iterator[list[int]]:
    """Ctrl-C within the block adds to a list: the answer is out, and the program ends well whatever is left undone."""
    came: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if not callable(before):  # it is ignored
        yield came
        return
    signal.signal(signal.SIGINT, lambda number, _frame: came.append(number))
    try:
        yield came
    finally:
        signal.signal(signal.SIGINT, before)


def _measure_after_answer(llm: LocalADED, interrupts: Sequence[int]) -> None:
    """Use the moment after a single answer: a program that only ever answers once would never be measured."""
    if llm.preparing != "measuring":
        return
    limit = MEASURING_SECONDS if display.is_terminal(sys.stderr) else MEASURING_SECONDS_UNSEEN
    until = time.monotonic() + limit
    with display.loading(MEASURING, quiet=False):
        # Beside other programs nothing is found that lasts, so nobody is kept waiting for it.
        while not (llm.machine_is_busy or interrupts or time.monotonic() > until):
            if llm.prepare(timeout=LOOK_SECONDS):
                break


def _note_if_exact(settings: Settings) -> Callable[[str], None]:
    return paced(display.note) if settings.engine["same"] == "exact" else _keep_silent


def _keep_silent(_text: str) -> None:
    """The writer of an answer that is printed whole at its end."""


def _print_json(answer: Answer, style: AnswerStyle | None) -> None:
    from aded_local.chat.parsing import parsed
    from aded_local.chat.style import PLAIN

    parts = parsed(answer.text, style or PLAIN)
    fields = {
        "text": parts.content,
        "reasoning": parts.reasoning or None,
        "token_ids": answer.tokens,
        "finish_reason": answer.finish_reason,
        "stats": answer.stats.to_dict() if answer.stats is not None else None,
    }
    sys.stdout.write(json_text(fields, sys.stdout.encoding) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
