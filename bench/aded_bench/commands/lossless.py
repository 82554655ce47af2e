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
    SAME,
    SEED,
    SUITE,
    TEMPERATURES,
    THREADS,
    end_where_broken,
    listed,
    measure,
    model_path,
)

SHELL_PROMPTS = 200  # where no number is given: short ones, and few that cross from one kernel to another


@click.command("lossless")
@MODEL
@SUITE
@DATA
@click.option("--prompts", "count", type=click.IntRange(1),
              help=f"How many, evenly over categories.  [default: {SHELL_PROMPTS} of shell, else all]")  # fmt: skip
@SAME
@click.option("--exact", is_flag=True, help="Another word for --same exact.")
@click.option("--draft", "presets", default="auto,paper", show_default=True, callback=listed, metavar="LIST",
              help="Draft presets to compare with off.")  # fmt: skip
@TEMPERATURES
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
    same: tuple[str, ...] | None,
    exact: bool,
    presets: tuple[str, ...],
    threads: int | None,
    json_path: Path | None,
    **planned: Any,
) -> None:
    """Compare token sequences: each draft preset with plain decoding, and that with llama_cpp.Llama.

    Ends with exit code 1 where answers part and rounding does not explain it, or where exact says other words. An
    interrupted run with --json goes on where it stopped.
    """
    from aded_bench.lossless_tables import broken, print_lossless
    from aded_bench.run import lossless as bench
    from aded_bench.run import suites
    from aded_bench.run.methods import check_methods, check_same

    suites.check_data(data, suite)
    presets, modes = check_methods(presets, ("auto", "paper")), check_same(same, exact)
    model = model_path(model)
    asked = suites.find(suite, data, model)
    if count is None and asked.mixed:
        count = SHELL_PROMPTS
    plan = bench.Plan(
        model=model,
        suite=asked.name,
        conversations=suites.load(asked, count, 0, planned["seed"])[0],
        presets=presets,
        same=modes,
        inputs=(asked.path,),
        n_threads=threads,
        **planned,
    )
    end_where_broken(broken(measure("lossless", bench, plan, json_path, print_lossless)))
