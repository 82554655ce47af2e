"""`aded-bench run`: end to end on a real model, beside all peers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from aded_bench.options import (
    CONTEXT,
    DATA,
    GGUF,
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
)


@click.command("run")
@MODEL
@SUITE
@DATA
@click.option("--prompts", "count", type=click.IntRange(1),
              help="How many, evenly over categories.  [default: 40 of shell, else all]")  # fmt: skip
@click.option("--warm", type=click.IntRange(0), default=0, show_default=True,
              help="Add a second pass, in which these many other prompts are answered first.")  # fmt: skip
@click.option("--warm-suite", metavar="NAME|FILE",
              help="Where those come from; without --warm all of it (40 of shell).  [default: the suite]")  # fmt: skip
@click.option(
    "--methods",
    default="all",
    show_default=True,
    callback=listed,
    metavar="LIST",
    help="Of off, auto, paper, llama-cpp, llama-cpp-lookup, server, server-ngram-simple, -map-k, -map-k4v, "
    "-mod, -cache, server-spec-default (these are all), and auto-no-top-k, which learns only from what was said. With "
    "--draft-model also model-auto, model-serial, model-parallel, model-branch and server-draft-simple.",
)
@click.option(
    "--draft-model",
    type=GGUF,
    metavar="FILE",
    help="A second model that drafts, for the methods that take one.",
)
@click.option("--llama-server", type=PATH, metavar="PATH", help="llama.cpp's server, for the server methods.")
@click.option("--repeat", default=3, show_default=True, type=click.IntRange(1),
              help="Sweeps per pass; a prompt's figure is their median.")  # fmt: skip
@click.option("--fresh-each", is_flag=True, help="In the first pass, forget before every prompt.")
@click.option("--temp", "temperature", default=0.0, show_default=True, type=click.FloatRange(0, 10),
              help="0 is greedy; above, our own methods only.")  # fmt: skip
@click.option("--beside", default=0, show_default=True, type=click.IntRange(0, 256), metavar="N",
              help="Keep N busy processes running while answers are timed.")  # fmt: skip
@click.option("--same", default="cheap", show_default=True, metavar="MODE",
              help="How much drafting may change: exact, cheap or off; chooses the setting of all.")  # fmt: skip
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
    warm: int,
    warm_suite: str | None,
    methods: tuple[str, ...],
    draft_model: Path | None,
    llama_server: Path | None,
    same: str,
    threads: int | None,
    json_path: Path | None,
    **planned: Any,
) -> None:
    """Measure tokens/s end to end beside all peers, interleaved by prompt: with an empty store, then warm.

    An interrupted run with --json goes on where it stopped. See docs/benchmarks.md.
    """
    from aded_bench.run import loop as bench
    from aded_bench.run import suites
    from aded_bench.run.methods import ALL, METHODS, WITH_DRAFT_MODEL, check_methods, check_same
    from aded_bench.run.server import inspect
    from aded_bench.run.tables import print_run
    from aded_local.errors import OptionError

    suites.check_data(data, suite, warm_suite)
    every = (*ALL, *WITH_DRAFT_MODEL) if draft_model is not None else ALL
    methods = every if methods == ("all",) else check_methods(methods, METHODS)
    if draft_model is not None and not set(methods) & set(WITH_DRAFT_MODEL):
        raise OptionError(
            f"--draft-model is for {', '.join(WITH_DRAFT_MODEL)}: name one of them in --methods, or leave it out"
        )
    model = model_path(model)
    asked = suites.find(suite, data, model)
    other = suites.find(warm_suite, data, model) if warm_suite else None
    learnt = warm or None if other else warm
    measured, warming = suites.load(asked, count, learnt, planned["seed"], other)
    server = inspect(llama_server) if llama_server else None
    inputs = [asked.path, *([other.path] if other else []), *([server.path] if server else [])]
    inputs += [draft_model] if draft_model is not None else []
    plan = bench.Plan(
        model=model,
        suite=asked.name,
        measured=measured,
        warming=warming,
        warm_suite=other.name if other else None,
        methods=methods,
        same=check_same((same,), exact=False)[0],
        server=server,
        draft_model=draft_model,
        inputs=tuple(dict.fromkeys(inputs)),
        n_threads=threads,
        **planned,
    )
    measure("run", bench, plan, json_path, print_run)
