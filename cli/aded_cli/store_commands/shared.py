"""What the commands of aded-store share: names, options, progress, and opening what a path means."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aded_local.errors import StoreError
from aded_models.sizes import size_text as size_text

if TYPE_CHECKING:
    from aded_local.llama.vocabulary import Vocabulary
    from aded_local.memory import ConversationMemory
    from aded_local.ngrams.static import StaticStore

MOST_MEMORY = 1 << 16
"""MiB: more than any table uses."""

PATH = click.Path(path_type=Path)

FORCE = click.option("--force", is_flag=True, help="Replace OUT where it is there already.")
MEMORY = click.option(
    "--memory",
    type=click.IntRange(1, MOST_MEMORY),
    default=512,  # static_count.DEFAULT_MEMORY, which is not imported here so that --help is quick
    show_default=True,
    metavar="MB",
    help="Memory for counting at most. Less makes smaller tables of large corpora.",
)
OUTPUT = click.option(
    "-o", "--output", "out", required=True, type=PATH, metavar="OUT", help="The file to write."
)


def open_vocabulary(model: str) -> Vocabulary:
    """The vocabulary of a GGUF, or of a model by its name.

    Raises:
        ModelError: there is no such file, no model of that name is installed, or it has no sound vocabulary.
    """
    from aded_local.llama.vocabulary import Vocabulary
    from aded_models import find

    return Vocabulary(find(model).path)


def open_any(path: Path) -> StaticStore | ConversationMemory:
    """The static store or the conversation memory in a file.

    Raises:
        StoreError: it is neither, or cannot be read.
    """
    from aded_local.llama.identity import SUFFIX
    from aded_local.memory import EARLIER_SUFFIX, ConversationMemory
    from aded_local.ngrams.static import is_static, open_static

    if path.is_dir():
        raise StoreError(f"{path} is a folder; give a file in it")
    if is_static(path):
        return open_static(path)
    refuse_link(path)
    try:
        return ConversationMemory.at(path)
    except StoreError:
        if path.suffix in (SUFFIX, EARLIER_SUFFIX) or not path.is_file():
            raise
        raise StoreError(
            f"{path} is neither a static store nor a conversation memory; check the path"
        ) from None


def refuse_link(path: Path) -> None:
    """Refuse a link, which would be rewritten or erased in place of the file it leads to.

    Raises:
        StoreError: it is one.
    """
    if os.path.islink(path):
        raise StoreError(f"{path} is a link to {os.readlink(path)}; name that file, or remove the link")


def plural(count: int, what: str) -> str:
    """A number and what it counts: ``1 text``, ``1,200 texts``."""
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def date_text(seconds: int | None) -> str:
    """A moment in local time, to the minute."""
    if seconds is None:
        return "-"
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
    except (OverflowError, OSError, ValueError):  # a damaged or crafted file
        return "?"


@contextlib.contextmanager
def tokens_progress(what: str, total: int | None, *, is_bytes: bool) -> Iterator[tuple[Step, Step]]:
    """A bar on standard error where that is a terminal, with tokens per second and the remaining time.

    Args:
        what: is being done.
        total: bytes or tokens to come; None where that is not known.
        is_bytes: the bar is over bytes.

    Yields:
        Functions that are told the bytes (or tokens) done so far, and the tokens of each text.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    amount = DownloadColumn() if is_bytes else TextColumn("{task.percentage:>3.0f}%")
    speed = TextColumn("{task.fields[speed]}", markup=False)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        amount,
        speed,
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    started = time.perf_counter()
    tokens = 0

    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total or None, speed="")

        def counted(count: int) -> None:
            nonlocal tokens
            tokens += count
            rate = tokens / max(time.perf_counter() - started, 1e-3)
            advance = 0 if is_bytes else count
            bar.update(task, advance=advance, speed=f"{rate:,.0f} tokens/s")

        yield lambda done: bar.update(task, completed=done), counted


Step = Callable[[int], None]
