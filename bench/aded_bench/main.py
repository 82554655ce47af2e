"""The command line `aded-bench`. Heavy imports stay inside the commands, so that --help is quick."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from aded_local.errors import ADEDError

PROGRAM = "aded-bench"
EXIT_BAD_INPUT = 2
EXIT_STOPPED = 130
PATH = click.Path(path_type=Path)


class _Group(click.Group):
    """A group whose errors are one line, like the chat's."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["standalone_mode"] = False
        try:
            return super().main(*args, **kwargs)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
            sys.exit(EXIT_BAD_INPUT)
        except click.ClickException as error:
            _fail(error.format_message())
        except click.exceptions.Exit as error:
            sys.exit(error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            click.echo(f"{PROGRAM}: stopped", err=True)
            sys.exit(EXIT_STOPPED)
        except ADEDError as error:
            _fail(str(error))


def _fail(message: str) -> None:
    click.echo(f"{PROGRAM}: {' '.join(message.split())}", err=True)
    sys.exit(EXIT_BAD_INPUT)


def _model_path(given: Path | None) -> Path:
    """The model given, else the built-in one."""
    if given is not None:
        return given
    import aded_models

    return Path(aded_models.builtin_path())


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def main() -> None:
    """Measure speculative decoding on this machine: is the output unchanged, and what does it gain?"""


@main.command()
@click.argument("paths", nargs=-1, required=True, type=PATH, metavar="[MODEL.gguf] OUT.gguf")
@click.option(
    "--shape",
    "shape_name",
    required=True,
    type=click.Choice(["1b", "3b", "7b", "same"]),
    metavar="1b|3b|7b",
    help="What real model it costs as much as: TinyLlama-1.1B, Llama-3.2-3B, Llama-2-7B.",
)
@click.option(
    "--type",
    "file_type",
    default="q4_0",
    show_default=True,
    type=click.Choice(["q4_0", "q8_0", "bf16", "q4_k_m", "f32"]),
    metavar="q4_0|q8_0|bf16|q4_k_m",
    help="How weights are stored.",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 2), default=0, show_default=True, help="Of the added weights."
)
@click.option("-t", "--threads", type=click.IntRange(1), help="For quantizing to q4_k_m.")
def body(paths: tuple[Path, ...], shape_name: str, file_type: str, seed: int, threads: int | None) -> None:
    """Put a small Llama model (the built-in one) into a body of realistic size; it says the same.

    For measuring where no large model can be had. Always label numbers made with it.
    """
    from aded_bench.body import SAME_SHAPE, SHAPES, build, describe
    from aded_bench.progress import bytes_progress

    if len(paths) > 2:
        raise click.UsageError("at most two files: MODEL.gguf OUT.gguf")
    source, out = _model_path(paths[0] if len(paths) == 2 else None), paths[-1]
    shape = None if shape_name == SAME_SHAPE else SHAPES[shape_name]
    with bytes_progress(f"writing {out.name}") as progress:
        made = build(
            source, out, shape, shape_name, file_type, seed=seed, n_threads=threads, progress=progress
        )
    click.echo(f"{out}: {out.stat().st_size / 1e9:.2f} GB, {describe(made)}")


def _presets(_: click.Context, __: click.Parameter, value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _temperatures(_: click.Context, __: click.Parameter, value: str) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of numbers such as 0,0.8") from None
    if not all(0 <= temperature <= 10 for temperature in found):
        raise click.BadParameter("temperatures lie between 0 and 10")
    return tuple(dict.fromkeys(found))


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


@main.command()
@MODEL
@click.option("--prompts", "count", default=200, show_default=True, type=click.IntRange(1), help="How many.")
@click.option("--exact", is_flag=True, help="Compare auto --exact with off --exact.")
@click.option(
    "--draft",
    "presets",
    default="auto,paper",
    show_default=True,
    callback=_presets,
    metavar="LIST",
    help="Draft presets to compare with off.",
)
@click.option(
    "--temps",
    default="0,0.8",
    show_default=True,
    callback=_temperatures,
    metavar="LIST",
    help="Temperatures; 0 is greedy.",
)
@click.option("--peer/--no-peer", default=True, help="Compare greedy off with llama_cpp.Llama too.")
@N_PREDICT
@THREADS
@CONTEXT
@SEED
@JSON
def lossless(
    model: Path | None,
    count: int,
    exact: bool,
    presets: tuple[str, ...],
    temps: tuple[float, ...],
    peer: bool,
    max_tokens: int,
    threads: int | None,
    n_ctx: int | None,
    seed: int,
    json_path: Path | None,
) -> None:
    """Compare token sequences: each draft preset with plain decoding, and that with llama_cpp.Llama.

    An interrupted run with --json goes on where it stopped.
    """
    from aded_bench import lossless as bench
    from aded_bench.progress import steps_progress
    from aded_bench.prompts import suite
    from aded_bench.results import ResultFile
    from aded_bench.speed import check_methods
    from aded_bench.tables import console, print_lossless

    presets = check_methods(presets, ("auto", "paper"))
    plan = bench.Plan(
        model=_model_path(model),
        prompts=suite(count, seed),
        presets=presets,
        temperatures=temps,
        max_tokens=max_tokens,
        seed=seed,
        exact=exact,
        peer=peer,
        n_threads=threads,
        n_ctx=n_ctx,
    )
    with steps_progress("lossless", bench.total_steps(plan)) as step:
        result = bench.run(plan, ResultFile(json_path), step)
    print_lossless(result, console())
    _finish(result["complete"])


@main.command()
@MODEL
@click.option(
    "--prompts", "count", default=40, show_default=True, type=click.IntRange(1), help="Prompts measured."
)
@click.option(
    "--warm",
    default=200,
    show_default=True,
    type=click.IntRange(0),
    help="Other prompts answered before the second pass; 0 leaves it out.",
)
@click.option(
    "--methods",
    default="off,auto,llama-cpp",
    show_default=True,
    callback=_presets,
    metavar="LIST",
    help="Of off, auto, paper, llama-cpp.",
)
@click.option(
    "--repeat",
    default=3,
    show_default=True,
    type=click.IntRange(1),
    help="Sweeps per pass; a prompt's figure is their median.",
)
@click.option("--fresh-each", is_flag=True, help="In the first pass, forget before every prompt.")
@N_PREDICT
@THREADS
@CONTEXT
@SEED
@JSON
def speed(
    model: Path | None,
    count: int,
    warm: int,
    methods: tuple[str, ...],
    repeat: int,
    fresh_each: bool,
    max_tokens: int,
    threads: int | None,
    n_ctx: int | None,
    seed: int,
    json_path: Path | None,
) -> None:
    """Measure greedy tokens/s, interleaved by prompt: with an empty store, then after other prompts."""
    from aded_bench import speed as bench
    from aded_bench.arms import METHODS
    from aded_bench.progress import steps_progress
    from aded_bench.prompts import split
    from aded_bench.results import ResultFile
    from aded_bench.tables import console, print_speed

    measured, warming = split([count, warm], seed)
    plan = bench.Plan(
        model=_model_path(model),
        measured=measured,
        warming=warming,
        methods=bench.check_methods(methods, METHODS),
        max_tokens=max_tokens,
        repeat=repeat,
        seed=seed,
        fresh_each=fresh_each,
        n_threads=threads,
        n_ctx=n_ctx,
    )
    with steps_progress("speed", bench.total_steps(plan)) as step:
        result = bench.run(plan, ResultFile(json_path), step)
    print_speed(result, console())
    _finish(result["complete"])


def _finish(complete: bool) -> None:
    if not complete:
        click.echo(f"{PROGRAM}: stopped; this is what there was", err=True)
        sys.exit(EXIT_STOPPED)


if __name__ == "__main__":
    main()
