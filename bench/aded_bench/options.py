"""Options that several commands share."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from aded_local.errors import StoreError

PROGRAM = "aded-bench"
EXIT_BAD_INPUT = 2
EXIT_STOPPED = 130
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE
PATH = click.Path(path_type=Path)


def model_path(given: Path | None) -> Path:
    """The model given, else the built-in one.

    Raises:
        ModelNotFoundError: that is not installed.
    """
    if given is not None:
        return given
    from aded_local.api import builtin_model

    return builtin_model()


def listed(_: click.Context, __: click.Parameter, value: str) -> tuple[str, ...]:
    """Callback: names separated by commas."""
    return tuple(part.strip() for part in value.split(",") if part.strip())


MODEL = click.argument("model", required=False, type=PATH, metavar="[MODEL.gguf]")
N_PREDICT = click.option(
    "-n",
    "--predict",
    "max_tokens",
    default=96,
    show_default=True,
    type=click.IntRange(1),
    help="Tokens per answer.",
)
THREADS = click.option(
    "-t", "--threads", type=click.IntRange(1), help="CPU threads.  [default: physical cores]"
)
CONTEXT = click.option("-c", "--ctx-size", "n_ctx", type=click.IntRange(256), help="Tokens of context.")
SEED = click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 2),
    default=0,
    show_default=True,
    help="Of the suite's prompts and of sampling.",
)
JSON = click.option("--json", "json_path", type=PATH, metavar="OUT", help="Result file.")


def finish(complete: bool, failure: str | None = None) -> None:
    """End a command whose results are printed.

    Args:
        complete: otherwise it was interrupted, and exits as an interrupted program does.
        failure: why the result file was not written.

    Raises:
        StoreError: there is a ``failure``.
    """
    if failure is not None:
        raise StoreError(f"{failure}; the results are printed above")
    if not complete:
        click.echo(f"{PROGRAM}: stopped; this is what there was", err=True)
        sys.exit(EXIT_STOPPED)
