"""`aded-bench curve`: what does verifying n tokens cost here?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from aded_bench.options import CONTEXT, JSON, MODEL, PATH, THREADS, finish, listed_if_given, model_path, note

LARGEST = 64  # aded_local.speed.cost_curve.LARGEST_BATCH, which is not imported here so that --help is quick
ATTENTION = {"off": False, "on": True}


def _numbers(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Callback: whole numbers from 1 up, separated by commas; None where not given."""
    if value is None:
        return None
    try:
        found = tuple(dict.fromkeys(int(part) for part in value.split(",")))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of whole numbers such as 1,2,4") from None
    if min(found) < 1:
        raise click.BadParameter("numbers start at 1")
    return found


def _attention(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[bool, ...] | None:
    names = listed_if_given(context, parameter, value)
    if names is None:
        return None
    if any(name not in ATTENTION for name in names):
        raise click.BadParameter(f"{value!r} is not off, on or off,on")
    return tuple(ATTENTION[name] for name in dict.fromkeys(names))


@click.command("curve")
@MODEL
@click.option(
    "--sizes", callback=_numbers, metavar="LIST", help="Tokens per pass.  [default: the engine's 18]"
)
@click.option("--all", "every", is_flag=True, help=f"All sizes from 1 to {LARGEST}.")
@click.option("--prefix", "prefixes", default="256,1536", show_default=True, callback=_numbers, metavar="LIST",
              help="Tokens in the cache before.")  # fmt: skip
@click.option("--attention", callback=_attention, metavar="LIST",
              help="Flash attention off, on, or off,on.  [default: what the engine chooses among]")  # fmt: skip
@click.option("--cache", "cache_types", callback=listed_if_given, metavar="LIST",
              help="Of f16, bf16, q8_0, f32.  [default: what the engine chooses among]")  # fmt: skip
@click.option(
    "--exact/--no-exact", default=True, help="Which sizes equal one-token decoding to the last bit."
)
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1), help="Repetitions per size.")
@click.option("--keep/--no-keep", default=True, help="Let the engine's budget use the curves from now on.")
@click.option("--png", "png_path", type=PATH, metavar="OUT", help="Chart; needs matplotlib.")
@THREADS
@CONTEXT
@JSON
def command(
    model: Path | None,
    sizes: tuple[int, ...] | None,
    every: bool,
    png_path: Path | None,
    threads: int | None,
    json_path: Path | None,
    **measured: Any,
) -> None:
    """Measure the cost of verifying n tokens, by attention, cache type and cells before them.

    The engine's budget uses the same code, and what is measured here. An interrupted run with --json goes on
    where it stopped.
    """
    import importlib.util

    from aded_bench import curve as bench
    from aded_bench.curve_table import print_curves
    from aded_bench.progress import steps_progress
    from aded_bench.results import ResultFile, check_output
    from aded_bench.tables import console
    from aded_local.errors import OptionError
    from aded_local.speed.probe import SIZES

    if png_path is not None:
        if importlib.util.find_spec("matplotlib") is None:
            raise OptionError("--png needs matplotlib: install aded-local[bench]")
        check_output(png_path)
        if png_path.suffix.lower() != ".png":
            raise click.UsageError(f"--png writes a PNG: call the file {png_path.with_suffix('.png').name}")
    file = ResultFile(json_path)
    if every and sizes is not None:
        raise click.UsageError("--all and --sizes exclude each other")
    sizes = tuple(range(1, LARGEST + 1)) if every else sizes or SIZES
    plan = bench.Plan(model_path(model), sizes, n_threads=threads, **measured)
    with steps_progress("curve", bench.total_steps(plan)) as step:
        result = bench.run(plan, file, step, note)
    print_curves(result, console())
    if png_path is not None:
        from aded_bench.report.charts import curve_chart
        from aded_bench.report.sections import curve_panels

        if curve_panels(result):
            curve_chart(result, png_path)
        else:
            note(f"there is no curve to draw: {png_path} was not written")
    finish(result["complete"], file)
