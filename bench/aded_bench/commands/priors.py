"""`aded-bench priors`: what the drafter starts from, fitted on recorded answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from aded_bench.options import GGUF, PATH, say

if TYPE_CHECKING:
    from aded_bench.replay.traces import Trace


@click.command("priors")
@click.argument("traces", nargs=-1, required=True, type=PATH, metavar="TRACE...")
@click.option("-o", "out", required=True, type=PATH, metavar="FILE.npz", help="The file to write.")
@click.option(
    "--phrases-for",
    multiple=True,
    metavar="TRACE=FILE",
    help="Phrases counted without this trace's model; may be repeated.  [default: the shipped ones]",
)
@click.option("--limit", type=click.IntRange(1), help="The first so many answers of each TRACE.")
@click.option(
    "--vocab", type=GGUF, metavar="MODEL", help="Tokenizer.  [default: the one the trace names, in ../vocab]"
)
def command(
    traces: tuple[Path, ...], out: Path, phrases_for: tuple[str, ...], limit: int | None, vocab: Path | None
) -> None:
    """Fit the start of auto (hit rates, mixing weights, calibration) on recorded answers, in the order given.

    Each TRACE is met with an empty memory. The same files give the same start.
    """
    from aded_bench.progress import steps_progress
    from aded_bench.replay.priors import LARGEST_FILE, Lesson, fit, packed
    from aded_bench.replay.traces import read_trace
    from aded_bench.results import check_output
    from aded_local.errors import StoreError
    from aded_models.phrases import phrases_path

    check_output(out)
    read = [read_trace(path, vocab=vocab, limit=limit) for path in dict.fromkeys(traces)]
    files = _phrases(phrases_for, read)
    lessons = [Lesson(trace, files.get(trace.name, phrases_path())) for trace in read]
    for lesson in lessons:
        lesson.table()  # a wrong file is told before the work begins
    with steps_progress("priors", sum(len(trace.answers) for trace in read)) as step:
        priors = fit(lessons, step)
    raw = packed(priors, lessons)
    out.write_bytes(raw)
    answers, tokens = sum(len(trace.answers) for trace in read), sum(trace.tokens for trace in read)
    say(f"{out}: {len(raw):,} bytes, from {len(read)} traces, {answers} answers, {tokens} tokens")
    if len(raw) >= LARGEST_FILE:
        raise StoreError(f"{out} is too large to be shipped: {LARGEST_FILE:,} bytes at most")


def _phrases(given: tuple[str, ...], traces: list[Trace]) -> dict[str, Path]:
    """Files by trace, which is named as in results, or by its path."""
    names = {str(trace.path): trace.name for trace in traces} | {trace.name: trace.name for trace in traces}
    found: dict[str, Path] = {}
    for one in given:
        name, equals, file = one.partition("=")
        if not equals or not file or name not in names:
            known = ", ".join(trace.name for trace in traces)
            raise click.UsageError(f"--phrases-for takes TRACE=FILE, TRACE one of {known}; not {one!r}")
        found[names[name]] = Path(file)
    return found
