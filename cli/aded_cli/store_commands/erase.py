"""`aded-store erase`: remove what is stored."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from aded_cli import display
from aded_local.errors import StoreError

from .shared import PATH, open_any, plural, refuse_link


@click.command("erase")
@click.argument("files", nargs=-1, type=PATH, metavar="[FILE...]")
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="All memories and static stores that lie in the data folder, and the history of typed lines.",
)
@click.option("--history", is_flag=True, help="With --all: the conversations that are kept, too.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def command(files: tuple[Path, ...], everything: bool, history: bool, yes: bool) -> None:
    """Remove conversation memories and static stores, with all that was set aside from them.

    Only files of these two kinds are removed, and with --all the history of lines typed in chats. Conversations
    that are kept to go on with are named then, and removed with --history only; `conversations erase` removes one.
    On a terminal it is asked first.
    """
    if history and not everything:
        raise click.UsageError(
            "--history goes with --all; `aded-store conversations erase` erases single ones"
        )
    if files and everything:
        raise click.UsageError("--all erases what lies in the data folder: give it, or the files, not both")
    if not files and not everything:
        raise click.UsageError("name the files to erase, or give --all for those in the data folder")
    if everything:
        from aded_local.conversations import everything as conversations

        from .found import leftovers, stored, typed_lines

        past = conversations() if history else []
        paths = list(dict.fromkeys([*stored(), *leftovers(), *typed_lines(), *past]))
    else:
        paths = list(dict.fromkeys(files))
        for path in paths:
            _require_ours(path)
    if not paths:
        display.say("nothing is stored, so nothing was erased" + _kept_history(everything and not history))
    elif not yes and not confirmed(paths):
        display.say("nothing was erased")
    else:
        try:
            say_erased(paths)
        finally:
            left = _kept_history(everything and not history)
            if left:
                display.say(left.removeprefix("; "))
            if history:
                say_unsure()


def _kept_history(is_asked: bool) -> str:
    """What to add where conversations are kept that ``--all`` leaves; empty where there are none."""
    from aded_local.conversations import conversations_folder, kept

    count = len(kept()) if is_asked else 0
    if not count:
        return ""
    what = plural(count, "conversation")
    return f"; {what} in {conversations_folder()} stayed: --all --history erases them too"


def say_unsure() -> None:
    """Name what may be conversations, and is nothing that can be read: it is erased by name only."""
    from aded_local.conversations import kept

    for path in kept():
        display.say(
            f"{path} stayed, since nothing in it says what it is: `aded-store conversations erase {path.stem}`"
        )


def say_erased(paths: Sequence[Path]) -> None:
    """Remove files and what belongs to them, and say what was done.

    Raises:
        StoreError: something could not be removed; the rest was.
    """
    stayed: list[StoreError] = []
    for path in paths:
        try:
            for line in _erase(path):
                display.say(line)
        except StoreError as error:
            stayed.append(error)
    if stayed:
        others = f"; and {plural(len(stayed) - 1, 'other')} stayed too" if len(stayed) > 1 else ""
        raise StoreError(f"{stayed[0]}{others}")


def _require_ours(path: Path) -> None:
    """Refuse a link, and a file that is neither kind, however damaged; nothing else is ever removed.

    Raises:
        StoreError: it is something else.
    """
    from aded_local.memory import is_left_over
    from aded_local.ngrams.static import is_static

    from .found import is_typed_lines

    refuse_link(path)
    is_plain = is_typed_lines(path) or is_static(path) or (is_left_over(path) and path.is_file())
    if not is_plain:
        open_any(path)


def confirmed(paths: Sequence[Path]) -> bool:
    """Whether the person agrees that these files are erased; UsageError where nobody can be asked."""
    if not display.is_terminal(sys.stdin):
        raise click.UsageError("there is no terminal to ask on: give --yes to erase without being asked")
    for path in paths:
        display.note(str(path))
    return click.confirm(f"Erase {plural(len(paths), 'file')} for good?", err=True)


def _erase(path: Path) -> list[str]:
    """Remove a file and what belongs to it.

    Returns:
        What was done, in lines; none where it is gone already.

    Raises:
        StoreError: it cannot be removed.
    """
    from aded_local.files import failure
    from aded_local.memory import ConversationMemory, is_left_over
    from aded_local.ngrams.static import is_static

    is_link = os.path.islink(path)
    if not (is_link or is_static(path) or is_left_over(path)):
        memory = None
        with contextlib.suppress(StoreError):  # typed lines, or what cannot be read: the name alone goes
            memory = ConversationMemory.at(path)
        if memory is not None:
            return [f"erased {gone}" for gone in memory.erase()]
    if path.is_dir() and not is_link:
        raise StoreError(f"{path} is a folder where a file belongs; look into it and remove it by hand")
    try:
        to = (
            f"removed the link {path}; what it led to stays: {os.readlink(path)}"
            if is_link
            else f"erased {path}"
        )
        os.unlink(path)
        return [to]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise failure("erase", path, error) from error
