"""aded-chat: a chat in the terminal, or one answer for a pipe."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from aded_local.errors import ADEDError, EmptyPromptError

from . import display
from .options import STDIN, Settings, chat_options

if TYPE_CHECKING:
    from aded_local.api import LocalADED

    from .answer import Answer

EXIT_ERROR = 2
EXIT_UNEXPECTED = 1
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE

MEASURING = "answered; measuring what a pass costs here, once per model (Ctrl-C leaves it for next time)…"
MEASURING_SECONDS = 15.0
"""How long a program that has answered may stay to measure: twice what SmolLM2 takes on two cores."""
MEASURING_SECONDS_UNSEEN = 6.0
"""The same where nobody sees why: what was measured so far is kept, and the next answers add to it."""
LOOK_SECONDS = 0.1
"""How often it looks whether the machine is busy."""


class OneLineCommand(click.Command):
    """A command whose errors are one line on standard error and exit code 2, without click's usage block.

    Attributes:
        program: what that line begins with.
    """

    program = display.PROGRAM

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run and exit the process, as click's own ``main`` does in standalone mode."""
        kwargs["standalone_mode"] = False
        try:
            sys.exit(super().main(*args, **kwargs) or 0)
        except click.ClickException as failure:
            display.error(failure.format_message(), program=self.program)
            sys.exit(EXIT_ERROR)
        except click.Abort:
            sys.exit(EXIT_INTERRUPTED)


@click.command(
    cls=OneLineCommand, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@chat_options
def main(**given: Any) -> int:
    """Chat with a GGUF model, faster where drafts pay and never different in what is said.

    MODEL is the path of a GGUF file, or a name: smollm2, a small general model, where it is installed, or
    builtin, which answers questions about shell commands. Without MODEL, smollm2 answers where it is
    installed, else builtin. In the chat, /help lists the commands. With -p, or text on standard input, one
    answer is printed, and nothing else goes to standard output.
    """
    if sys.stdout is None:
        display.error("standard output is closed, so there is nowhere to write an answer; leave it open")
        return EXIT_ERROR
    display.tolerate_narrow_encodings()
    settings = Settings.from_options(**given)
    try:
        return _run(settings)
    except click.ClickException:
        raise
    except ADEDError as failure:
        display.error(str(failure))
        return EXIT_ERROR
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        silence_stdout()
        return EXIT_BROKEN_PIPE
    except OSError as failure:
        display.error(
            f"cannot write the answer: {failure.strerror or failure}; free some space or write elsewhere"
        )
        silence_stdout()
        return EXIT_ERROR
    except Exception as failure:
        if settings.verbose:
            traceback.print_exc()
        what = f"unexpected {type(failure).__name__}" + (f": {failure}" if str(failure) else "")
        display.error(what if settings.verbose else f"{what}; --verbose shows where")
        return EXIT_UNEXPECTED


def _run(settings: Settings) -> int:
    one_shot = bool(settings.prompt) or not display.is_terminal(sys.stdin)
    if not one_shot:
        for name, given in (("--json", settings.as_json), ("--raw", settings.raw)):
            if given:
                raise click.UsageError(f"{name} answers once: give a prompt with -p or on standard input")
        return _converse(settings)
    return _answer_once(settings, read_prompt(settings.prompt))


def read_prompt(parts: Sequence[str]) -> str:
    """The prompt of a single answer: the parts joined by line ends; standard input where none is given.

    Raises:
        click.UsageError: standard input is not valid UTF-8.
        EmptyPromptError: nothing but white space.
    """
    prompt = "\n".join(_read_stdin() if part == STDIN else part for part in (parts or (STDIN,)))
    if not prompt.strip():
        raise EmptyPromptError("the prompt is empty: give some text with -p or on standard input")
    return prompt


def _read_stdin() -> str:
    """All of standard input as text, without the line end that closes it."""
    if sys.stdin is None or sys.stdin.closed:
        return ""
    try:
        text = sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        raise click.UsageError(f"standard input is not valid UTF-8 text (byte {failure.start:,})") from None
    return text.removesuffix("\n").removesuffix("\r")


def open_model(settings: Settings, on_progress: Callable[[str], None]) -> LocalADED:
    """Load the model that the command line names; ``on_progress`` is told what takes seconds."""
    from aded_local import LocalADED

    return LocalADED(settings.model, **settings.engine, on_progress=on_progress, on_notice=display.note)


def _converse(settings: Settings) -> int:
    from .history import line_reader
    from .repl import Repl
    from .session import Conversation

    with display.loading("loading the model…", quiet=settings.verbose) as say:
        llm = open_model(settings, say)
    with llm:
        read_line = line_reader(remember=settings.remember, warn=display.note)
        Repl(llm, Conversation(settings.system), settings.sampling, read_line).run()
    return 0


def _answer_once(settings: Settings, prompt: str) -> int:
    from .answer import relay
    from .session import Conversation

    def start() -> Any:
        if settings.raw:
            return llm.stream(prompt, **settings.sampling)
        return llm.stream_chat(Conversation(settings.system).messages(prompt), **settings.sampling)

    with display.loading("loading the model…", quiet=settings.verbose) as say:
        llm = open_model(settings, say)
    with llm:
        answer = relay(llm, start, _keep_silent if settings.as_json else display.write_answer)
        if settings.as_json:
            _print_json(answer)
        else:
            _close_text(answer)
        if not answer.stopped:
            _measure_after_answer(llm)
    return EXIT_INTERRUPTED if answer.stopped else 0


def _measure_after_answer(llm: LocalADED) -> None:
    """Use the moment after a single answer: a program that only ever answers once would never be measured."""
    if llm.preparing != "measuring":
        return
    limit = MEASURING_SECONDS if display.is_terminal(sys.stderr) else MEASURING_SECONDS_UNSEEN
    until = time.monotonic() + limit
    with contextlib.suppress(KeyboardInterrupt), display.loading(MEASURING, quiet=False):
        # Beside other programs nothing is found that lasts, so nobody is kept waiting for it.
        while not llm.machine_is_busy and time.monotonic() < until and not llm.prepare(timeout=LOOK_SECONDS):
            pass


def _keep_silent(_text: str) -> None:
    """The writer of an answer that is printed whole at its end."""


def _close_text(answer: Answer) -> None:
    """End the streamed text with a line end, and show the figures where a person is looking."""
    if not answer.text.endswith("\n"):
        sys.stdout.write("\n")
    sys.stdout.flush()
    if display.is_terminal(sys.stderr):
        display.note(display.closing_line(answer))


def _print_json(answer: Answer) -> None:
    readable = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    fields = {
        "text": answer.text,
        "token_ids": answer.tokens,
        "finish_reason": answer.finish_reason,
        "stats": answer.stats.to_dict() if answer.stats is not None else None,
    }
    sys.stdout.write(json.dumps(fields, ensure_ascii=not readable) + "\n")
    sys.stdout.flush()


def silence_stdout() -> None:
    """Send what is still buffered nowhere: the reader has left, and Python would complain at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


if __name__ == "__main__":
    main()
