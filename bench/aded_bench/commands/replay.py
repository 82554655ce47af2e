"""`aded-bench replay`: recorded answers against drafters, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aded_bench.options import CONTEXT, GGUF, JSON, PATH, SEED, THREADS, finish, listed
from aded_local.errors import ModelNotFoundError

if TYPE_CHECKING:
    from aded_bench.replay.traces import Trace
    from aded_local.drafters import Search

METHODS = ("off", "auto", "paper", "prompt-lookup", "draftretriever", "suffix")
"""What ``drafts.open_method`` knows; listed here so that --help is quick."""

SEARCHES: tuple[Search, ...] = ("best-first", "puct")
"""Of ``aded_local.drafters.Search``."""

CACHE_TYPES = ("f16", "q8_0", "bf16", "f32")
"""Names of ``aded_local.llama.CACHE_TYPES``, which is not imported here for the same reason."""


@click.command("replay")
@click.argument("traces", nargs=-1, required=True, type=PATH, metavar="TRACE...")
@click.option("--cold", is_flag=True, help="Start with an empty store.  [default: unless --warm]")
@click.option(
    "--warm",
    "warm_paths",
    multiple=True,
    type=PATH,
    metavar="TRACE",
    help="Feed this trace first; may be repeated. With --cold, both are replayed.",
)
@click.option(
    "--curve",
    "curve_paths",
    multiple=True,
    type=PATH,
    metavar="FILE",
    help="What a pass over n tokens costs: may be repeated; also a result of `aded-bench curve`.",
)
@click.option(
    "--methods",
    default="off,auto",
    show_default=True,
    callback=listed,
    metavar="LIST",
    help=f"Of {', '.join(METHODS)}.",
)
@click.option(
    "--peer-python",
    type=PATH,
    metavar="PATH",
    help="Python interpreter in which draftretriever and arctic-inference are installed.",
)
@click.option("--limit", type=click.IntRange(1), help="The first so many answers of each TRACE.")
@click.option(
    "--answer-tokens",
    "longest",
    type=click.IntRange(1),
    help="Of each answer the first so many tokens, where a --body is slow.",
)
@click.option(
    "--vocab", type=GGUF, metavar="MODEL", help="Tokenizer.  [default: the one the trace names, in ../vocab]"
)
@click.option(
    "--nodes",
    type=click.IntRange(1, 64),
    help="Verify so many nodes at every step, whatever they cost; auto then has no budget and no guard.",
)
@click.option(
    "--phrases",
    type=PATH,
    metavar="FILE",
    help="Phrases for auto, counted without the model that is measured.  [default: the shipped ones]",
)
@click.option("--no-phrases", is_flag=True, help="Without any phrases.")
@click.option(
    "--priors",
    type=PATH,
    metavar="FILE",
    help="What auto starts from, as `aded-bench priors` writes it.  [default: what is shipped]",
)
@click.option("--store", type=PATH, metavar="FILE", help="A static store for auto, of `aded-store build`.")
@click.option(
    "--without",
    multiple=True,
    metavar="NAME",
    help="Leave a part of auto out: memory, mixing, passages, …; an unknown name lists them all. May be repeated.",
)
@click.option("--search", type=click.Choice(SEARCHES), help="How auto's tree grows.  [default: best-first]")
@click.option("--ablate", is_flag=True, help="Replay auto without each of its parts in turn, too.")
@click.option(
    "--body",
    type=GGUF,
    metavar="MODEL",
    help="Really decode every tree on this model; the recorded token decides.",
)
@click.option("--attention", type=click.Choice(["off", "on"]), help="Of --body.  [default: the faster]")
@click.option(
    "--cache",
    "cache_type",
    type=click.Choice(CACHE_TYPES),
    help="KV cache type of --body.  [default: the fastest]",
)
@THREADS
@CONTEXT
@SEED
@JSON
def command(
    traces: tuple[Path, ...],
    cold: bool,
    warm_paths: tuple[Path, ...],
    curve_paths: tuple[Path, ...],
    methods: tuple[str, ...],
    peer_python: Path | None,
    limit: int | None,
    longest: int | None,
    vocab: Path | None,
    nodes: int | None,
    phrases: Path | None,
    no_phrases: bool,
    priors: Path | None,
    store: Path | None,
    without: tuple[str, ...],
    search: Search | None,
    ablate: bool,
    body: Path | None,
    attention: str | None,
    cache_type: str | None,
    threads: int | None,
    n_ctx: int | None,
    seed: int,
    json_path: Path | None,
) -> None:
    """Replay recorded answers against ways of drafting; a node counts as accepted where it equals what was written.

    Speed-ups are modelled on the given curves. An interrupted run with --json goes on where it stopped.
    """
    from aded_bench.progress import steps_progress
    from aded_bench.replay.curves import read_curve
    from aded_bench.replay.drafter_settings import DrafterSettings, open_drafter
    from aded_bench.replay.loop import Plan, run, total_steps
    from aded_bench.replay.tables import print_replay
    from aded_bench.replay.traces import read_trace
    from aded_bench.results import ResultFile
    from aded_bench.tables import console

    if not curve_paths:
        raise click.UsageError(
            "give at least one --curve FILE: `aded-bench curve MODEL --json FILE` makes one"
        )
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise click.UsageError(f"--methods takes some of {', '.join(METHODS)}; not {', '.join(unknown)!r}")
    for_body = {"--attention": attention, "--cache": cache_type, "-t": threads, "-c": n_ctx}
    idle = [name for name, value in for_body.items() if value is not None and body is None]
    if idle:
        raise click.UsageError(f"{', '.join(idle)}: only for --body MODEL.gguf; name one, or leave it out")
    if body is not None and nodes is not None:
        raise click.UsageError("--nodes is for modelled replays; leave it out with --body")
    for_auto = {
        "--phrases": phrases, "--no-phrases": no_phrases, "--priors": priors, "--store": store,
        "--without": without, "--search": search, "--ablate": ablate,
    }  # fmt: skip
    given = [name for name, value in for_auto.items() if value]
    if given and "auto" not in methods:
        raise click.UsageError(f"{', '.join(given)}: only for auto; add it to --methods, or leave that out")
    _consistent({*given, *(["--nodes"] if nodes else []), *(["--body"] if body else [])}, without)
    file = ResultFile(json_path)
    phases = (("cold",) if cold or not warm_paths else ()) + (("warm",) if warm_paths else ())
    curves = tuple(read_curve(path) for path in dict.fromkeys(curve_paths))
    _distinct("curves", [curve.name for curve in curves])
    measured = tuple(
        read_trace(path, vocab=vocab, limit=limit, longest=longest) for path in dict.fromkeys(traces)
    )
    _distinct("traces", [trace.name for trace in measured])
    warm = tuple(read_trace(path, vocab=vocab) for path in dict.fromkeys(warm_paths))
    _same_vocabulary(measured, warm)
    settings = DrafterSettings(
        store=store, priors=priors, without=tuple(dict.fromkeys(without)), search=search or SEARCHES[0]
    )
    if no_phrases or phrases is not None:
        settings = replace(settings, phrases=phrases)
    if "auto" in methods:
        for trace in {trace.vocab: trace for trace in measured}.values():
            open_drafter("auto", trace, settings)  # a wrong file is told before anything is measured
    if body is not None and not body.is_file():
        raise ModelNotFoundError(f"there is no model {body}")
    body_options = {
        "n_threads": threads,
        "n_ctx": n_ctx,
        "flash_attention": None if attention is None else attention == "on",
        "cache_type": cache_type,
    }
    plan = Plan(
        traces=measured,
        curves=curves,
        warm=warm,
        phases=phases,
        methods=tuple(dict.fromkeys(methods)),
        nodes=nodes,
        limit=limit,
        longest=longest,
        seed=seed,
        peer_python=peer_python,
        drafter=settings,
        ablate=ablate,
        body=body,
        body_settings={} if body is None else body_options,
    )
    with steps_progress("replay", total_steps(plan)) as step:
        result = run(plan, file, step)
    print_replay(result, console())
    finish(result["complete"], file)


CONTRADICTIONS = (
    ("--phrases", "--no-phrases"),
    ("--ablate", "--without"),
    ("--ablate", "--search"),
    ("--ablate", "--nodes"),
    ("--ablate", "--body"),
)
"""An ablation leaves out each part of the whole drafter in turn, other searches and fixed nodes among its rows."""


def _consistent(given: set[str], without: Sequence[str]) -> None:
    pairs = [pair for pair in CONTRADICTIONS if given.issuperset(pair)]
    for part, options in (("static", ("--phrases", "--store")), ("priors", ("--priors",))):
        if part in without:
            pairs += [(f"--without {part}", option) for option in options if option in given]
    if pairs:
        one, other = pairs[0]
        raise click.UsageError(f"{one} and {other} contradict each other; leave one out")


def _distinct(what: str, names: list[str]) -> None:
    if len(set(names)) < len(names):
        raise click.UsageError(f"two of the {what} have the same name: {', '.join(names)}")


def _same_vocabulary(measured: tuple[Trace, ...], warm: tuple[Trace, ...]) -> None:
    """Token ids mean the same only within one vocabulary; its size tells the known ones apart."""
    for trace in measured:
        for other in warm:
            if trace.n_vocab != other.n_vocab:
                raise click.UsageError(
                    f"{other.name} has another vocabulary ({other.n_vocab} tokens) than {trace.name} "
                    f"({trace.n_vocab}): it cannot warm its store"
                )
