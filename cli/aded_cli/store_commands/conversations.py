"""`aded-store conversations`: the chats that are kept, to look at, search, export and erase."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aded_cli import display
from aded_local.errors import StoreError
from aded_local.shown import json_text, one_line, visible

from .shared import FORCE, PATH, date_text, plural, size_text

if TYPE_CHECKING:
    from aded_local.conversations import KeptConversation

AROUND = 40
"""Characters shown on either side of what was searched for."""

SHOWN_HITS = 3
"""Places shown of each conversation in which something was found."""

MARKDOWN, JSON = "markdown", "json"


@click.group("conversations")
def command() -> None:
    """Look at the chats that are kept, search, export and erase them.

    NAME is a conversation's name as `list` shows it, or as much of it as tells it from the others, or "last", or the
    path of a file that /save or LocalADED.save wrote.
    """


@command.command("list")
@click.option(
    "--json", "as_json", is_flag=True, help="Print a JSON list with an object for each conversation."
)
def list_them(as_json: bool) -> None:
    """List the conversations that are kept, those changed last first."""
    from aded_local.conversations import conversations_folder, kept

    facts = [_facts_or_reason(path) for path in kept()]
    if as_json:
        display.say(json_text(facts, sys.stdout.encoding))
        return
    if not facts:
        display.say(f"no conversation is kept in {conversations_folder()}")
        return
    rows = [("name", "changed", "turns", "model", "text", "state", "title")]
    for one in facts:
        rows.append(
            (
                one["name"],
                date_text(one.get("changed")),
                f"{one['turns']:,}" if "turns" in one else "-",
                one.get("model") or "-",
                size_text(one["bytes"]),
                size_text(one["state_bytes"]) if one["state_bytes"] else "-",
                one.get("title", "unreadable"),
            )
        )
    display.say_rows(rows, right=(2, 4, 5))
    for one in facts:
        if "reason" in one:
            display.say(one["reason"])


@command.command("show")
@click.argument("name", default="last")
def show(name: str) -> None:
    """Show a conversation; the last one where no NAME is given."""
    from aded_local.conversations import as_markdown, find, read

    display.say(as_markdown(read(find(name))).removesuffix("\n"))


@command.command("search")
@click.argument("text")
def search(text: str) -> None:
    """Show where TEXT stands in the conversations that are kept, in whatever case it is written."""
    from aded_local.conversations import kept

    wanted = text.casefold()
    if not wanted.strip():
        raise click.UsageError("TEXT is empty: give some words to look for")
    found = 0
    for path, conversation in _readable(kept()):
        hits = list(_hits(conversation, wanted))
        if not hits:
            continue
        found += 1
        display.say(f"{path.stem}  {date_text(conversation.changed)}  {conversation.title}")
        for role, excerpt in hits[:SHOWN_HITS]:
            display.say(f"  {role}: {excerpt}")
        if len(hits) > SHOWN_HITS:
            display.say(f"  and {plural(len(hits) - SHOWN_HITS, 'other message')}")
    if not found:
        display.say(f"nothing was found: no conversation has {one_line(text)!r}")


@command.command("export")
@click.argument("name")
@click.option(
    "--format",
    "kind",
    type=click.Choice([MARKDOWN, JSON]),
    help="How to write it.  [default: json where OUT ends so, else markdown]",
)
@click.option(
    "-o",
    "--output",
    "out",
    type=PATH,
    metavar="OUT",
    help="The file to write, readable by you alone.  [default: standard output]",
)
@FORCE
def export(name: str, kind: str | None, out: Path | None, force: bool) -> None:
    """Write a conversation as Markdown, or as JSON that `aded-chat` and LocalADED.load go on with."""
    from aded_local.conversations import as_markdown, find, read
    from aded_local.ngrams.static_build import check_output, new_file

    is_file = out is not None and str(out) != "-"
    if out is not None and is_file:
        check_output(out, replaces=force, stores=False)
    if kind is None:
        kind = JSON if out is not None and out.suffix == ".json" else MARKDOWN
    conversation = read(find(name))
    text = conversation.to_json() if kind == JSON else as_markdown(conversation)
    if out is not None and is_file:
        with new_file(out) as file:
            file.write(text.encode())
        display.say(f"{out}: {plural(len(conversation.messages), 'message')}")
        return
    sys.stdout.write(visible(text) if display.is_terminal(sys.stdout) else text)


@command.command("erase")
@click.argument("names", nargs=-1, metavar="[NAME...]")
@click.option("--all", "everything", is_flag=True, help="All conversations that are kept in the data folder.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def erase(names: tuple[str, ...], everything: bool, yes: bool) -> None:
    """Remove conversations, with what the model's cells held of them."""
    from aded_local.conversations import everything as files
    from aded_local.conversations import find, kept, read, state_path

    from .erase import confirmed, say_erased, say_unsure

    if bool(names) == everything:
        raise click.UsageError("name the conversations to erase, or give --all for those in the data folder")
    if everything:
        paths = files()
    else:
        paths = list(dict.fromkeys(map(find, names)))
        ours = kept()
        for path in paths:
            if path not in ours:  # one that is may be damaged
                read(path)
        states = [state for state in map(state_path, paths) if state.is_file()]
        paths += states
    if not paths:
        display.say("no conversation is kept, so none was erased")
    elif not yes and not confirmed(paths):
        display.say("nothing was erased")
    else:
        say_erased(paths)
    if everything:
        say_unsure()


def _readable(paths: Sequence[Path]) -> Iterator[tuple[Path, KeptConversation]]:
    """The conversations that can be read; of the others it is said why not."""
    from aded_local.conversations import read

    for path in paths:
        try:
            yield path, read(path)
        except StoreError as error:
            display.note(str(error))


def _hits(conversation: KeptConversation, wanted: str) -> Iterator[tuple[str, str]]:
    """Who said what was searched for, and the words around it."""
    for message in conversation.messages:
        text = one_line(message["content"] or "")
        # Folding case may change lengths, so the place is found in what is shown.
        at = text.lower().find(wanted.lower())
        if at < 0 and wanted not in text.casefold():
            continue
        at = max(at, 0)
        start, end = max(0, at - AROUND), at + len(wanted) + AROUND
        yield message["role"], "…" * (start > 0) + text[start:end] + "…" * (end < len(text))


def _facts_or_reason(path: Path) -> dict[str, Any]:
    """What a conversation holds, as for JSON; of one that cannot be read, why."""
    from aded_local.conversations import read, state_path

    facts: dict[str, Any] = {
        "name": path.stem,
        "path": str(path),
        "bytes": _size(path),
        "state_bytes": _size(state_path(path)),
    }
    try:
        conversation = read(path)
    except StoreError as error:
        return {**facts, "reason": str(error)}
    return {
        **facts,
        "title": conversation.title,
        "created": conversation.created,
        "changed": conversation.changed,
        "turns": sum(message["role"] == "user" for message in conversation.messages),
        "model": None if conversation.model is None else conversation.model.name,
    }


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0
