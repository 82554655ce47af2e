"""aded-store: statistics counted from a corpus, and conversations kept, to look at, change and erase."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import click

from aded_local.errors import ADEDError
from aded_local.shown import one_line

from . import display
from .store_commands import build, erase, export, inspect, merge, prune
from .store_commands.shared import (
    EXIT_BROKEN_PIPE,
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    EXIT_UNEXPECTED,
    PROGRAM,
)


class _Group(click.Group):
    """A group whose errors are one line on standard error, like the chat's."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command and exit the process, as click's own ``main`` does in standalone mode."""
        kwargs["standalone_mode"] = False
        if sys.stdout is None:
            _fail("standard output is closed, so there is nowhere to say what was done; leave it open")
        display.tolerate_narrow_encodings()
        try:
            with _ending_tidily():
                sys.exit(super().main(*args, **kwargs) or 0)
        except click.exceptions.NoArgsIsHelpError as failure:
            click.echo(failure.format_message())
            sys.exit(EXIT_ERROR)
        except click.ClickException as failure:
            _fail(failure.format_message())
        except click.exceptions.Exit as failure:
            sys.exit(failure.exit_code)
        except (click.Abort, KeyboardInterrupt):
            click.echo(f"{PROGRAM}: stopped", err=True)
            sys.exit(EXIT_INTERRUPTED)
        except ADEDError as failure:
            _fail(str(failure))
        except OSError as failure:
            _silence_stdout()
            _fail(f"cannot write {failure.filename or 'standard output'}: {failure.strerror or failure}")
        except MemoryError:
            _fail("there is not enough memory; give less with --memory, or close other programs")
        except Exception as failure:
            what = f": {failure}" if str(failure) else ""
            _fail(f"unexpected {type(failure).__name__}{what}; please report it", EXIT_UNEXPECTED)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; here, since click itself ends with 1 where a reader has left."""
        try:
            found = super().invoke(ctx)
            sys.stdout.flush()
            return found
        except BrokenPipeError:
            _silence_stdout()
            sys.exit(EXIT_BROKEN_PIPE)


@contextlib.contextmanager
def _ending_tidily() -> Iterator[None]:
    """Let a closed terminal and a request to end remove unfinished files, as Ctrl-C does."""

    def leave(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = {}
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores it
            with contextlib.suppress(ValueError):  # not in the main thread
                before[number] = signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _silence_stdout() -> None:
    """Send what is still buffered nowhere: Python would complain at exit."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _fail(message: str, code: int = EXIT_ERROR) -> None:
    click.echo(f"{PROGRAM}: {one_line(message)}", err=True)
    sys.exit(code)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Statistics for drafting: build them from a corpus, look at what is stored, change it, erase it.

    A static store is counted once from texts of yours, for one tokenizer. A conversation memory is what
    aded-chat keeps of your chats with one model. Both hold what was written, and are readable by you alone.
    """


for module in (build, inspect, merge, prune, export, erase):
    main.add_command(module.command)


if __name__ == "__main__":
    main()
