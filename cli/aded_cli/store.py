"""aded-store: statistics counted from a corpus, and conversations kept, to look at, change and erase."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import click

from .program import CONTEXT, OneLine
from .store_commands import build, erase, export, inspect, merge, prune


class _Group(OneLine, click.Group):
    program = "aded-store"

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        with _ending_tidily():
            return super().invoke(ctx)


@contextlib.contextmanager
def _ending_tidily() -> Iterator[None]:
    """Let a closed terminal and a request to end remove unfinished files, as Ctrl-C does."""

    def leave(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = {}
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores it
            with contextlib.suppress(ValueError):  # not in the main thread
                before[number] = signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@click.group(cls=_Group, context_settings=CONTEXT)
def main() -> None:
    """Statistics for drafting: build them from a corpus, look at what is stored, change it, erase it.

    A static store is counted once from texts of yours, for one tokenizer. A conversation memory is what
    aded-chat keeps of your chats with one model. Both hold what was written, and are readable by you alone.
    """


for module in (build, inspect, merge, prune, export, erase):
    main.add_command(module.command)


if __name__ == "__main__":
    main()
