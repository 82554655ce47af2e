"""`aded-bench schemas`: answers bound to a JSON schema, with and without drafts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from aded_bench.options import (
    CONTEXT,
    JSON,
    MODEL,
    SEED,
    THREADS,
    end_where_broken,
    listed,
    measure,
    model_path,
)

DEFAULT = "forced,unforced,off"


@click.command("schemas")
@MODEL
@click.option("--arms", default=DEFAULT, show_default=True, callback=listed, metavar="LIST",
              help="Of forced, unforced (without forced text), blind (nor told what is forbidden), off.")  # fmt: skip
@click.option("--prompts", "count", type=click.IntRange(1), help="How many of the 100.  [default: all]")
@click.option("--same", default="cheap", show_default=True, help="How much drafting may change.")
@click.option("-n", "--predict", "max_tokens", default=512, show_default=True, type=click.IntRange(1),
              help="Tokens per answer.")  # fmt: skip
@THREADS
@CONTEXT
@SEED
@JSON
def command(
    model: Path | None,
    arms: tuple[str, ...],
    same: str,
    threads: int | None,
    json_path: Path | None,
    **planned: Any,
) -> None:
    """Answer 100 prompts, each bound to one of 25 JSON schemas.

    Are the answers valid, are they those of plain decoding, and how much faster do they come? Ends with exit code 1
    where an answer that was not cut is invalid.
    """
    from aded_bench.run import schemas as bench
    from aded_bench.run.methods import check_methods, check_same
    from aded_bench.schemas_table import invalid, print_schemas

    (same,) = check_same((same,), exact=False)
    plan = bench.Plan(
        model=model_path(model),
        arms=check_methods(arms, tuple(bench.ARMS)),
        same=same,
        n_threads=threads,
        **planned,
    )
    end_where_broken(invalid(measure("schemas", bench, plan, json_path, print_schemas)))
