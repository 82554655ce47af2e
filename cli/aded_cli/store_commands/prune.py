"""`aded-store prune`: keep less."""

from __future__ import annotations

from pathlib import Path

import click

from aded_cli import display

from .shared import MEMORY, PATH, open_any, plural, tokens_progress


@click.command("prune")
@click.argument("file", type=PATH, metavar="FILE")
@click.option(
    "--tokens", required=True, type=click.IntRange(1), metavar="N", help="Keep at most so many tokens."
)
@MEMORY
def command(file: Path, tokens: int, memory: int) -> None:
    """Drop texts until N tokens are left at most; the file is replaced at once.

    Of a static store the texts that were counted first go first. Of a conversation memory the exchanges that
    were of least use for drafting later answers go first, and the newest stay.
    """
    from aded_local.memory import ConversationMemory
    from aded_local.ngrams.static_build import prune

    found = open_any(file)
    if isinstance(found, ConversationMemory):
        dropped = found.prune(tokens)
        facts = found.inspect()
        left, what, kept = facts.tokens, "exchange", facts.exchanges
    else:
        total = min(tokens, found.facts.tokens)
        with tokens_progress("counting", total, is_bytes=False) as (_, counted):
            static, dropped = prune(file, tokens, memory=memory, progress=counted)
        left, what, kept = static.tokens, "text", static.texts
    display.say(
        f"{file}: {plural(dropped, what)} dropped; {plural(left, 'token')} of {plural(kept, what)} left"
    )
