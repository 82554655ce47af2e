"""aded-store: statistics counted from a corpus, and conversations kept, to look at, change and erase."""

from __future__ import annotations

from typing import Any

import click

from .program import CONTEXT, OneLine, ending_tidily
from .store_commands import build, conversations, erase, export, inspect, merge, prune


class _Group(OneLine, click.Group):
    program = "aded-store"

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        with ending_tidily():
            return super().invoke(ctx)


@click.group(cls=_Group, context_settings=CONTEXT)
def main() -> None:
    """Statistics for drafting: build them from a corpus, look at what is stored, change it, erase it.

    A static store is counted once from texts of yours, for one tokenizer. A conversation memory is what
    aded-chat keeps of your chats with one model. Both hold what was written, and are readable by you alone; so are
    the conversations that are kept to go on with.
    """


for module in (build, inspect, merge, prune, export, erase, conversations):
    main.add_command(module.command)


if __name__ == "__main__":
    main()
