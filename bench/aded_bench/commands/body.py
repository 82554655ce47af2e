"""`aded-bench body`: a small model in a body of realistic size."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from aded_bench.options import GGUF, say
from aded_models import BUILTIN, find


@click.command("body")
@click.argument("paths", nargs=-1, required=True, metavar="[MODEL] OUT.gguf")
@click.option(
    "--shape",
    "shape_name",
    required=True,
    type=click.Choice(["360m", "1b", "1b-deep", "3b", "3b-deep", "7b", "same"]),
    metavar="360m|1b|1b-deep|3b|3b-deep|7b",
    help="What real model it costs as much as: SmolLM2-360M, TinyLlama-1.1B, none (as many weights as TinyLlama in "
    "32 layers), Llama-3.2-3B, SmolLM3-3B, Llama-2-7B.",
)
@click.option("--type", "file_type", default="q4_0", show_default=True,
              type=click.Choice(["q4_0", "q8_0", "bf16", "q4_k_m", "f32"]),
              metavar="q4_0|q8_0|bf16|q4_k_m", help="How weights are stored.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**32 - 2), default=0, show_default=True,
              help="Of the added weights.")  # fmt: skip
@click.option("-t", "--threads", "n_threads", type=click.IntRange(1), help="For quantizing to q4_k_m.")
@click.option("--tokenizer", type=GGUF, metavar="VOCAB",
              help="No model: random weights and the tokenizer of this GGUF, for `replay --body`.")  # fmt: skip
@click.option("--force", is_flag=True, help="Write over OUT.gguf if it is there.")
def command(
    paths: tuple[str, ...],
    shape_name: str,
    file_type: str,
    seed: int,
    n_threads: int | None,
    tokenizer: Path | None,
    force: bool,
) -> None:
    """Put a small Llama model (the built-in one where none is named) into a body of realistic size; it says the same.

    For measuring where no large model can be had. Always label numbers made with it. Where a shape has too
    few layers or heads for the model, the body gets the model's; the last line tells.
    """
    from aded_bench.body.build import build, describe
    from aded_bench.body.placement import SHAPES
    from aded_bench.progress import bytes_progress

    if len(paths) > 2:
        raise click.UsageError("at most two files: MODEL OUT.gguf")
    if tokenizer is not None and len(paths) == 2:
        raise click.UsageError("a model brings its own tokenizer: give MODEL or --tokenizer")
    if n_threads is not None and file_type != "q4_k_m":
        raise click.UsageError("-t is for --type q4_k_m; other types are written by one thread")
    # Built-in even where a better model is installed: that one has more layers than the smallest body.
    source = tokenizer or find(paths[0] if len(paths) == 2 else BUILTIN).path
    out = Path(paths[-1])
    if os.path.lexists(out) and not force:
        raise click.UsageError(f"{out} is there already; give another name for OUT.gguf, or --force")
    options: dict[str, Any] = {"seed": seed, "tokenizer_only": tokenizer is not None, "n_threads": n_threads}
    with bytes_progress(f"writing {out.name}") as progress:
        made = build(source, out, SHAPES.get(shape_name), shape_name, file_type, progress=progress, **options)
    say(f"{out}: {out.stat().st_size / 1e9:.2f} GB, {describe(made)}")
