"""`aded-bench branch`: a second model drafts, on a simulated machine with a processor for each."""

from __future__ import annotations

from pathlib import Path

import click

from aded_bench.options import (
    CONTEXT,
    DATA,
    JSON,
    MODEL,
    N_PREDICT,
    PATH,
    SEED,
    SUITE,
    THREADS,
    listed,
    measure,
    model_path,
    note,
)

DEFAULT_CONTEXT, DEFAULT_PROMPTS = 2048, 13
DEFAULT_DRAFTS = "self,q2_k,first-20,first-10"
DEFAULT_RATIOS = "2,5,10,20,50"
ABLATION_RATIO = 10.0
"""Where rules for branch points are compared. Chosen: in the middle of the others."""


def _ratios(_: click.Context, __: click.Parameter, value: str) -> tuple[float, ...]:
    try:
        found = tuple(dict.fromkeys(float(part) for part in value.split(",")))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of numbers such as 2,10") from None
    if not all(1 <= ratio <= 1000 for ratio in found):
        raise click.BadParameter("ratios lie between 1 and 1000")
    return found


@click.command("branch")
@MODEL
@click.option("--draft", "drafts", default=DEFAULT_DRAFTS, show_default=True, callback=listed, metavar="LIST",
              help="Draft models: self, q2_k, first-20, first-10 (made of the model), pair (of the built-in model), "
              "or files.")  # fmt: skip
@click.option("--curve", "curve_paths", multiple=True, required=True, type=PATH, metavar="FILE",
              help="What a pass over n tokens costs, of either model: may be repeated.")  # fmt: skip
@click.option("--ratios", default=DEFAULT_RATIOS, show_default=True, callback=_ratios, metavar="LIST",
              help="The target's time for a token over the draft model's.")  # fmt: skip
@click.option("--modes", "names", default="all", show_default=True, callback=listed, metavar="LIST",
              help="Of ngram, draft-simple, serial, parallel, branch, auto.")  # fmt: skip
@click.option("--ablation/--no-ablation", default=True, help="Compare rules for where branches start, too.")
@SUITE
@DATA
@click.option("--prompts", "count", default=DEFAULT_PROMPTS, show_default=True, type=click.IntRange(1),
              help="How many, evenly over categories; of conversations the first turn.")  # fmt: skip
@click.option("--recorded", "folder", type=PATH, metavar="FOLDER",
              help="Keep what the models said here, and go on from it.")  # fmt: skip
@click.option("--png", "png_path", type=PATH, metavar="OUT", help="Chart; needs matplotlib.")
@N_PREDICT
@THREADS
@CONTEXT
@SEED
@JSON
def command(
    model: Path | None,
    drafts: tuple[str, ...],
    curve_paths: tuple[Path, ...],
    ratios: tuple[float, ...],
    names: tuple[str, ...],
    ablation: bool,
    suite: str | None,
    data: Path | None,
    count: int,
    folder: Path | None,
    png_path: Path | None,
    max_tokens: int,
    threads: int | None,
    n_ctx: int | None,
    seed: int,
    json_path: Path | None,
) -> None:
    """Simulate drafting with a second model while the target verifies.

    The target answers greedily; what both models say is recorded. Then each mode runs on a clock, with a processor for
    each model and the costs of a curve. Every figure is simulated. See docs/specbranch.md.
    """
    from aded_bench.branch import simulate as bench
    from aded_bench.branch.modes import MODES
    from aded_bench.branch.table import chart, print_branch
    from aded_bench.replay.curves import read_curve
    from aded_bench.report import charts
    from aded_bench.results import check_output
    from aded_bench.run import suites
    from aded_bench.run.methods import check_methods

    suites.check_data(data, suite)
    if png_path is not None:
        charts.check()
        check_output(png_path)
    if folder is not None:
        _make(folder)
    path = model_path(model)
    curves = [read_curve(file) for file in dict.fromkeys(curve_paths)]
    modes = MODES if names == ("all",) else check_methods(names, MODES)
    found = suites.find(suite, data, path)
    every = suites.read(found.path)
    asked = suites.pick(every, min(count, len(every)), seed, mixed=found.mixed)
    plan = bench.Plan(
        model=path,
        drafts={name: files for name, files in zip(map(_name, drafts), _files(path, drafts), strict=True)},
        suite=found.name,
        conversations=asked,
        curves=curves,
        ratios=ratios,
        modes=modes,
        ablation_ratio=ABLATION_RATIO if ablation else None,
        max_tokens=max_tokens,
        n_ctx=n_ctx or DEFAULT_CONTEXT,
        n_threads=threads,
        folder=folder,
        seed=seed,
    )
    result = measure("branch", bench, plan, json_path, print_branch)
    if png_path is not None:
        drawn = chart(result)
        if drawn is None:
            note(f"there is nothing to draw: {png_path} was not written")
        else:
            charts.write_png(drawn, png_path)


def _name(given: str) -> str:
    return Path(given).stem


def _files(model: Path, given: tuple[str, ...]) -> list[Path]:
    """The files of draft models, made where need be."""
    from aded_bench.body.poorer import KINDS, poorer
    from aded_models.builtin import draft_path

    named = {"self": lambda: model, "pair": draft_path}
    found = []
    for name in given:
        if name in KINDS:
            found.append(poorer(model, name))
        else:
            found.append(named[name]() if name in named else Path(name).expanduser())
    return found


def _make(folder: Path) -> None:
    from aded_local.files import failure

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise failure("write", folder, error) from None
