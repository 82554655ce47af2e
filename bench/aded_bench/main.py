"""The command line `aded-bench`. Heavy imports stay inside the commands, so that --help is quick."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

import click

from aded_bench.commands import (
    body,
    branch,
    curve,
    drafters,
    lossless,
    priors,
    replay,
    report,
    run,
    sameness,
    schemas,
)
from aded_bench.options import PROGRAM
from aded_cli.program import OneLine, ending_tidily


class _Group(OneLine, click.Group):
    """A group whose errors are one line."""

    program = PROGRAM

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command. A closed terminal and a request to end are to it what Ctrl-C is: results are kept."""
        with ending_tidily(_as_ctrl_c):
            return super().invoke(ctx)


def _as_ctrl_c(_number: int, frame: FrameType | None) -> None:
    handler = signal.getsignal(signal.SIGINT)  # which may put it off while a model loads
    (handler if callable(handler) else signal.default_int_handler)(signal.SIGINT, frame)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def main() -> None:
    """Measure speculative decoding on this machine: is the output unchanged, what does it gain, and why?"""


for module in (curve, replay, drafters, run, lossless, sameness, schemas, branch, body, priors, report):
    main.add_command(module.command)


if __name__ == "__main__":
    main()
