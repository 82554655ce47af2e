"""Progress on standard error, so that standard output stays clean for results."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from aded_local.shown import one_line


def _bar(counted: ProgressColumn) -> Progress:
    console = Console(stderr=True)
    text = TextColumn("{task.description}", markup=False)
    columns = (text, BarColumn(), counted, TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


@contextlib.contextmanager
def bytes_progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar over bytes; call the result with those done and their total."""
    with _bar(DownloadColumn()) as bar:
        task = bar.add_task(one_line(what), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextlib.contextmanager
def steps_progress(what: str, total: int) -> Iterator[Callable[[str], None]]:
    """A bar over steps; call the result after each, with a word on what comes next."""
    with _bar(MofNCompleteColumn()) as bar:
        task = bar.add_task(one_line(what), total=total)
        yield lambda note: bar.update(task, advance=1, description=one_line(f"{what} {note}"))
