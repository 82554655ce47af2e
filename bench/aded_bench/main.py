"""The command line `aded-bench`. Heavy imports stay inside the commands, so that --help is quick."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

import click

from aded_bench.commands import body, curve, lossless, priors, replay, report, run
from aded_bench.options import EXIT_BAD_INPUT, EXIT_BROKEN_PIPE, EXIT_STOPPED, PROGRAM
from aded_local.errors import ADEDError
from aded_local.shown import one_line


class _Group(click.Group):
    """A group whose errors are one line, like the chat's."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["standalone_mode"] = False
        if sys.stdout is None:
            _fail("standard output is closed, so there is nowhere to print results; leave it open")
        try:
            return super().main(*args, **kwargs)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
            sys.exit(EXIT_BAD_INPUT)
        except click.ClickException as error:
            _fail(error.format_message())
        except click.exceptions.Exit as error:
            sys.exit(error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            click.echo(f"{PROGRAM}: stopped", err=True)
            sys.exit(EXIT_STOPPED)
        except ADEDError as error:
            _fail(str(error))
        except OSError as error:
            _silence_stdout()
            _fail(f"{error.filename or 'standard output'}: {error.strerror or error}")

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; here, since click itself ends with 1 where a reader has left."""
        try:
            found = super().invoke(ctx)
            sys.stdout.flush()
            return found
        except BrokenPipeError:
            _silence_stdout()
            sys.exit(EXIT_BROKEN_PIPE)


def _silence_stdout() -> None:
    """Send what is still buffered nowhere: Python would complain at exit."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _fail(message: str) -> None:
    click.echo(f"{PROGRAM}: {one_line(message)}", err=True)
    sys.exit(EXIT_BAD_INPUT)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def main() -> None:
    """Measure speculative decoding on this machine: is the output unchanged, what does it gain, and why?"""


for module in (curve, replay, run, lossless, body, priors, report):
    main.add_command(module.command)


if __name__ == "__main__":
    main()
