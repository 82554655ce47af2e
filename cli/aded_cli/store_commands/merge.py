"""`aded-store merge`: several static stores as one."""

from __future__ import annotations

from pathlib import Path

import click

from aded_cli import display

from .shared import FORCE, MEMORY, OUTPUT, PATH, plural, size_text, tokens_progress


@click.command("merge")
@click.argument("stores", nargs=-1, required=True, type=PATH, metavar="STORE...")
@OUTPUT
@MEMORY
@FORCE
def command(stores: tuple[Path, ...], out: Path, memory: int, force: bool) -> None:
    """Count the texts of several static stores into one, as if it had been built from all of them.

    They must be for the same tokenizer, and are not changed. One STORE alone is counted anew: for one of an
    earlier version, or with another --memory.
    """
    from aded_local.ngrams.static import open_static
    from aded_local.ngrams.static_build import check_output, merge

    check_output(out, replaces=force)
    total = sum(open_static(path).facts.tokens for path in stores)
    with tokens_progress("counting", total, is_bytes=False) as (_, counted):
        facts = merge(stores, out, memory=memory, replaces=force, progress=counted)
    size = size_text(out.stat().st_size)
    display.say(f"{out}: {plural(facts.tokens, 'token')} of {plural(facts.texts, 'text')}, {size}")
