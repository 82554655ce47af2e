"""`aded-bench lossless`: do all ways of generating write the same tokens?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from aded_bench.options import (
    CONTEXT,
    DATA,
    JSON,
    MODEL,
    N_PREDICT,
    SEED,
    SUITE,
    THREADS,
    listed,
    measure,
    model_path,
)

SHELL_PROMPTS = 200  # where no number is given: short ones, and few that cross from one kernel to another


def _temperatures(_: click.Context, __: click.Parameter, value: str) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of numbers such as 0,0.8") from None
    if not all(0 <= temperature <= 10 for temperature in found):
        raise click.BadParameter("temperatures lie between 0 and 10")
    return tuple(dict.fromkeys(found))


@click.command("lossless")
@MODEL
@SUITE
@DATA
@click.option("--prompts", "count", type=click.IntRange(1),
              help=f"How many, evenly over categories.  [default: {SHELL_PROMPTS} of shell, else all]")  # fmt: skip
@click.option("--exact", is_flag=True, help="Compare auto --exact with off --exact.")
@click.option("--draft", "presets", default="auto,paper", show_default=True, callback=listed, metavar="LIST",
              help="Draft presets to compare with off.")  # fmt: skip
@click.option("--temps", "temperatures", default="0,0.8", show_default=True, callback=_temperatures,
              metavar="LIST", help="Temperatures; 0 is greedy.")  # fmt: skip
@click.option("--peer/--no-peer", default=True, help="Compare greedy off with llama_cpp.Llama too.")
@N_PREDICT
@THREADS
@CONTEXT
@SEED
@JSON
def command(
    model: Path | None,
    suite: str | None,
    data: Path | None,
    count: int | None,
    presets: tuple[str, ...],
    threads: int | None,
    json_path: Path | None,
    **planned: Any,
) -> None:
    """Compare token sequences: each draft preset with plain decoding, and that with llama_cpp.Llama.

    An interrupted run with --json goes on where it stopped.
    """
    from aded_bench.run import lossless as bench
    from aded_bench.run import suites
    from aded_bench.run.arms import check_methods
    from aded_bench.tables import print_lossless

    suites.check_data(data, suite)
    presets = check_methods(presets, ("auto", "paper"))
    model = model_path(model)
    asked = suites.find(suite, data, model)
    if count is None and asked.mixed:
        count = SHELL_PROMPTS
    plan = bench.Plan(
        model=model,
        suite=asked.name,
        conversations=suites.load(asked, count, 0, planned["seed"])[0],
        presets=presets,
        inputs=(asked.path,),
        n_threads=threads,
        **planned,
    )
    measure("lossless", bench, plan, json_path, print_lossless)
