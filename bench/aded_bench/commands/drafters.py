"""`aded-bench drafters`: ours and published ones on a model's real logits, in virtual time."""

from __future__ import annotations

from pathlib import Path

import click

from aded_bench.options import (
    CONTEXT,
    DATA,
    MODEL,
    N_PREDICT,
    PATH,
    SEED,
    SUITE,
    THREADS,
    listed_if_given,
    model_path,
    note,
)

DEFAULT_CONTEXT, DEFAULT_PROMPTS = 2048, 40
LONG_PROMPT = 8_000
"""Tokens of a prompt that `auto` is timed with: a file, a retrieved document."""


@click.command("drafters")
@MODEL
@SUITE
@DATA
@click.option("--prompts", "count", type=click.IntRange(1),
              help="How many, evenly over categories; of conversations the first turn."
              f"  [default: {DEFAULT_PROMPTS}, or all where there are fewer]")  # fmt: skip
@click.option("--curve", "curve_paths", multiple=True, required=True, type=PATH, metavar="FILE",
              help="What a pass over n tokens costs: may be repeated.")  # fmt: skip
@click.option("--ways", "names", callback=listed_if_given, metavar="LIST",
              help="Which ones; an unknown name lists them all.  [default: all]")  # fmt: skip
@click.option("--logits", "kept", type=PATH, metavar="FILE",
              help="Keep answers and logits here, and go on from them: another run decodes what is new.")  # fmt: skip
@click.option("--decode", "decoded", type=click.IntRange(0), default=0, show_default=True, metavar="N",
              help="Decode every tree for the first N prompts for real too, and compare.")  # fmt: skip
@N_PREDICT
@THREADS
@CONTEXT
@SEED
def command(
    model: Path | None,
    suite: str | None,
    data: Path | None,
    count: int | None,
    curve_paths: tuple[Path, ...],
    names: tuple[str, ...] | None,
    kept: Path | None,
    decoded: int,
    max_tokens: int,
    threads: int | None,
    n_ctx: int | None,
    seed: int,
) -> None:
    """Compare ways to draft on the model's own greedy answers: what their passes cost, against plain decoding.

    Attention is on and the cache BF16: where every size of a pass gives the same logits, a place in the text is decoded
    once, whoever asks. Times are those of the curves; what drafting itself takes is not in them.
    """
    from aded_bench.drafters import real, virtual
    from aded_bench.progress import steps_progress
    from aded_bench.replay.curves import read_curve
    from aded_bench.results import check_output
    from aded_bench.run import suites
    from aded_bench.tables import console, show
    from aded_local.errors import OptionError, StoreError
    from aded_local.speed.device import physical_threads

    suites.check_data(data, suite)
    if kept is not None:
        check_output(kept)
    path = model_path(model)
    curves = [read_curve(file) for file in dict.fromkeys(curve_paths)]
    every = tuple(virtual.ways(lambda preset: NotImplemented))
    names = _chosen(names, every)
    found = suites.find(suite, data, path)
    every_prompt = suites.read(found.path)
    count = min(DEFAULT_PROMPTS, len(every_prompt)) if count is None else count
    asked = suites.pick(every_prompt, count, seed, mixed=found.mixed)
    n_ctx = n_ctx or DEFAULT_CONTEXT
    origin = f"{path.name} ({path.stat().st_size} bytes), answers of {max_tokens} tokens"
    texts = real.load(kept, origin) if kept is not None and kept.exists() else []
    known = {text.id for text in texts}
    prompts = virtual.prompts(path, [one for one in asked if one.id not in known], n_ctx - max_tokens)
    speaker, close = virtual.open_speaker(path, n_ctx, threads or physical_threads())
    is_kept = True
    try:
        with steps_progress("answers", len(prompts)) as step:
            for name, category, tokens in prompts:
                texts.append(speaker.write(name, category, tokens, max_tokens))
                step(name)
        wanted = {one.id for one in asked}
        measured = [text for text in texts if text.id in wanted]
        if not measured:
            raise OptionError(f"no prompt fits into {n_ctx} tokens; ask for more with -c")
        make = virtual.make_drafter(path, speaker.target.model.n_vocab)
        bench = virtual.Bench(speaker, measured, make, max_tokens)
        with steps_progress("drafters", virtual.steps(names, curves, len(measured))) as bench.step:
            rows = list(bench.rows(names, curves))
        again = bench.decoded(names, curves[0], decoded) if decoded else {}
        written = sum(len(text.tokens) - text.start for text in measured)
    finally:
        if kept is not None and texts:
            try:
                real.save(kept, texts, origin)
            except StoreError as failure:
                is_kept = False
                note(str(failure))
        close()
    out = console()
    for phase, table in virtual.tables(rows):
        title = f"{path.name}, {len(measured)} answers, {written} tokens, {phase}: speed-up (95%), tokens per pass"
        show(table, title, console=out)
    different = sum(row.different for row in rows)
    parted = ", ".join(f"{name} ({n})" for name, n in speaker.parted.items()) or "no answer"
    out.print(
        f"answers that are not plain decoding's: {different}; passes decoded: {speaker.passes}",
        soft_wrap=True,
    )
    out.print(f"in passes of other sizes another token was likeliest in: {parted}", soft_wrap=True)
    learnt = ", ".join(f"{ms:.1f}" for ms in virtual.prompt_milliseconds(make, measured, LONG_PROMPT))
    out.print(f"learning a prompt of {LONG_PROMPT} tokens takes auto {learnt} ms", soft_wrap=True)
    for name, (answers, passes) in again.items():
        told = f"{name}: of {decoded} answers decoded tree by tree {answers} are others, {passes} took other passes"
        out.print(told, soft_wrap=True)
    if not is_kept:
        raise StoreError(f"{kept} was not written; the results are printed above")


def _chosen(names: tuple[str, ...] | None, every: tuple[str, ...]) -> tuple[str, ...]:
    if names is None:
        return every
    unknown = [name for name in names if name not in every]
    if unknown:
        raise click.UsageError(f"--ways takes some of: {', '.join(every)}; not {', '.join(unknown)!r}")
    return names
