"""How the programs begin and end: one line on standard error for what goes wrong, an exit code, never a traceback."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import click

from aded_local.errors import ADEDError
from aded_local.shown import visible
from aded_local.starting import EXIT_INTERRUPTED

from . import display

EXIT_UNEXPECTED = 1
EXIT_ERROR = 2
EXIT_BROKEN_PIPE = 141
"""128 + SIGPIPE, as a shell reports it."""

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def _leave(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


@contextlib.contextmanager
def ending_tidily(leave: Callable[[int, FrameType | None], None] = _leave) -> Iterator[None]:
    """Let a closed terminal and a request to end remove unfinished files, as Ctrl-C does.

    Args:
        leave: handles either signal; by default it ends the program with the code a shell reports.
    """
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


class OneLine(click.Command):
    """A command whose errors are one line, without click's usage block; ``main`` ends the process.

    Attributes:
        program: what that line begins with.
    """

    program = display.PROGRAM

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run and exit, as click's own ``main`` does in standalone mode."""
        kwargs["standalone_mode"] = False
        if sys.stdout is None:
            self._end("standard output is closed, so there is nowhere to write; leave it open")
        display.tolerate_narrow_encodings()
        try:
            sys.exit(super().main(*args, **kwargs) or 0)
        except click.exceptions.NoArgsIsHelpError as failure:
            click.echo(failure.format_message())
            sys.exit(EXIT_ERROR)
        except click.ClickException as failure:
            self._end(failure.format_message())
        except click.exceptions.Exit as failure:
            sys.exit(failure.exit_code)
        except click.Abort:
            sys.exit(EXIT_INTERRUPTED)
        except OSError as error:  # of --help and --version, which come before any command
            self._end_unwritten(error)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command. Its errors end here, since click itself ends with 1 where a reader has left."""
        try:
            code = super().invoke(ctx)
            sys.stdout.flush()
            return code
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            sys.exit(EXIT_INTERRUPTED)
        except BrokenPipeError:
            silence_stdout()
            sys.exit(EXIT_BROKEN_PIPE)
        except ADEDError as error:
            self._end(str(error))
        except OSError as error:
            self._end_unwritten(error)
        except MemoryError:
            self._end("there is not enough memory; close other programs, or ask for less")
        except Exception as surprise:
            verbose = ctx.params.get("verbose")
            if verbose:
                click.echo(visible(traceback.format_exc()), err=True, nl=False)
            what = f"unexpected {type(surprise).__name__}" + (f": {surprise}" if str(surprise) else "")
            advice = {None: "; please report it", False: "; --verbose shows where", True: ""}[verbose]
            self._end(what + advice, EXIT_UNEXPECTED)

    def _end_unwritten(self, error: OSError) -> None:
        from aded_local.files import failure

        silence_stdout()
        self._end(str(failure("write", error.filename or "standard output", error)))

    def _end(self, message: str, code: int = EXIT_ERROR) -> None:
        display.error(message, program=self.program)
        sys.exit(code)


def silence_stdout() -> None:
    """Send what is still buffered nowhere: Python would complain at exit."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
