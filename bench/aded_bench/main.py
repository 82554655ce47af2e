"""The command line `aded-bench`. Heavy imports stay inside the commands, so that --help is quick."""

from __future__ import annotations

import sys
from typing import Any

import click

from aded_bench.commands import body, curve, lossless, replay, report, run
from aded_bench.options import EXIT_BAD_INPUT, EXIT_STOPPED, PROGRAM
from aded_local.errors import ADEDError


class _Group(click.Group):
    """A group whose errors are one line, like the chat's."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["standalone_mode"] = False
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


def _fail(message: str) -> None:
    click.echo(f"{PROGRAM}: {' '.join(message.split())}", err=True)
    sys.exit(EXIT_BAD_INPUT)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def main() -> None:
    """Measure speculative decoding on this machine: is the output unchanged, what does it gain, and why?"""


for module in (curve, replay, run, lossless, body, report):
    main.add_command(module.command)


if __name__ == "__main__":
    main()
