"""`aded-bench sameness`: the same words, by quantization?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from aded_bench.options import (
    CONTEXT,
    DATA,
    JSON,
    MODEL,
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

TYPES = "q4_0,q4_1,q4_k_m,q5_k_m,q6_k,q8_0,bf16"


@click.command("sameness")
@MODEL
@SUITE
@DATA
@click.option(
    "--types", default=TYPES, show_default=True, callback=listed, metavar="LIST", help="File types."
)
@click.option(
    "--prompts", "count", type=click.IntRange(1), help="How many, evenly over categories.  [default: all]"
)
@SAME
@click.option("--draft", "presets", default="auto", show_default=True, callback=listed, metavar="LIST",
              help="Draft presets to compare with off.")  # fmt: skip
@TEMPERATURES
@click.option("--look-at", "looked_at", default=20, show_default=True, type=click.IntRange(0),
              help="Of each comparison's partings, how many are decoded again.")  # fmt: skip
@click.option("-n", "--predict", "max_tokens", default=40, show_default=True, type=click.IntRange(1),
              help="Tokens per answer.")  # fmt: skip
@THREADS
@CONTEXT
@SEED
@JSON
def command(
    model: Path | None,
    suite: str | None,
    data: Path | None,
    types: tuple[str, ...],
    count: int | None,
    same: tuple[str, ...] | None,
    presets: tuple[str, ...],
    threads: int | None,
    json_path: Path | None,
    **planned: Any,
) -> None:
    """Compare drafting with plain decoding in versions of a model that llama.cpp's quantizer makes of it.

    Each version is made in a temporary folder by way of BF16, and measured as by lossless (see there for the exit
    codes). --same is all three without a list. An interrupted run with --json goes on where it stopped.
    """
    from aded_bench.lossless_tables import broken, print_sameness
    from aded_bench.run import sameness as bench
    from aded_bench.run import suites
    from aded_bench.run.methods import check_methods, check_same
    from aded_local.speed.pricing import SAMES

    suites.check_data(data, suite)
    presets, types = check_methods(presets, ("auto", "paper")), bench.check_types(types)
    modes = check_same(same or SAMES, exact=False)
    model = model_path(model)
    asked = suites.find(suite, data, model)
    plan = bench.Plan(
        model=model,
        suite=asked.name,
        conversations=suites.load(asked, count, 0, planned["seed"])[0],
        presets=presets,
        same=modes,
        types=types,
        peer=False,
        inputs=(asked.path,),
        n_threads=threads,
        **planned,
    )
    end_where_broken(broken(measure("sameness", bench, plan, json_path, print_sameness)))
