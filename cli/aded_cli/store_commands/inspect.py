"""`aded-store inspect`: what is stored, and whether it is sound."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from aded_cli import display
from aded_local.errors import StoreError

from .shared import PATH, date_text, open_any, plural, size_text

TYPED_LINES = "typed lines"

SHOWN_SOURCES = 10
"""Files of a corpus that are named without --json."""


@click.command("inspect")
@click.argument("files", nargs=-1, type=PATH, metavar="[FILE...]")
@click.option("--check", is_flag=True, help="Read all of each file and compare every checksum.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list with an object for each file.")
def command(files: tuple[Path, ...], check: bool, as_json: bool) -> None:
    """Show what static stores and conversation memories hold.

    Without FILE, all that lie in the data folder are listed, and the history of lines typed in chats.
    """
    facts = [facts_of(path, check=check) for path in files] if files else _all_facts(check=check)
    if as_json:
        display.say(json.dumps(facts, indent=2))
    elif files:
        for number, one in enumerate(facts):
            if number:
                display.say("")
            display.say_rows(_rows(one))
    else:
        _list(facts)
    damaged = [one["path"] for one in facts if one.get("damaged")]
    if check and damaged:
        raise StoreError(f"damaged: {', '.join(damaged)}; erase what cannot be used")


def facts_of(path: Path, *, check: bool = False) -> dict[str, Any]:
    """What a file holds, as for JSON.

    Raises:
        StoreError: it cannot be read, is neither kind, or is damaged.
    """
    from aded_local.memory import ConversationMemory

    from .found import is_typed_lines

    if is_typed_lines(path):
        return {"path": str(path), "kind": TYPED_LINES, "bytes": path.stat().st_size}
    found = open_any(path)
    if isinstance(found, ConversationMemory):
        facts = found.inspect()
        return {
            "path": str(path),
            "kind": "conversation memory",
            "model": facts.identity.name,
            "tokenizer_key": facts.identity.tokenizer,
            "tokens": facts.tokens,
            "exchanges": facts.exchanges,
            "bytes": facts.bytes,
            "first": facts.first,
            "last": facts.last,
            "damaged": bool(facts.damaged),
            "damaged_exchanges": facts.damaged,
            "beside": [str(one) for one in facts.beside],
        }
    if check:
        found.check()
    described = asdict(found.facts)
    described.pop("layout")
    return {
        "path": str(path),
        "kind": "static store",
        "bytes": found.size,
        "table_entries": len(found.table),
        **described,
        "checked": check,
    }


def _all_facts(*, check: bool) -> list[dict[str, Any]]:
    """Everything in the data folder, with what is left of memories that are gone."""
    from aded_local.memory import EARLIER_SUFFIX

    from .found import leftovers, stored, typed_lines

    facts = [_facts_or_reason(path, check=check) for path in [*stored(), *typed_lines()]]
    named = {one["path"] for one in facts} | {path for one in facts for path in one.get("beside", ())}
    for path in leftovers():
        if str(path) not in named and path.suffix != ".lock":
            kind = "earlier version" if EARLIER_SUFFIX in path.name else "set aside"
            facts.append({"path": str(path), "kind": kind, "bytes": path.lstat().st_size})
    return facts


def _facts_or_reason(path: Path, *, check: bool) -> dict[str, Any]:
    """Of the files in the data folder, one that cannot be read hides no other."""
    try:
        return facts_of(path, check=check)
    except StoreError as error:
        return {"path": str(path), "kind": "unreadable", "damaged": True, "reason": str(error)}


def _rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """One file for people: names and values."""
    rows = [("file", facts["path"]), ("kind", facts["kind"]), ("size", size_text(facts["bytes"]))]
    if facts["kind"] == "conversation memory":
        rows += [
            ("model", facts["model"]),
            ("tokenizer", facts["tokenizer_key"][:12] or "unknown"),
            ("exchanges", f"{facts['exchanges']:,}"),
            ("tokens", f"{facts['tokens']:,}"),
            ("first", date_text(facts["first"])),
            ("last", date_text(facts["last"])),
        ]
        if facts["damaged"]:
            lost = plural(facts["damaged_exchanges"], "exchange")
            rows.append(("damaged", f"{lost} or more cannot be read; what is sound is still used"))
        return rows + [("set aside", path) for path in facts["beside"]]
    if facts["kind"] == TYPED_LINES:
        return rows
    used = facts["entries"] / facts["table_entries"]
    rows += [
        (
            "tokenizer",
            f"{facts['tokenizer_name']} ({facts['tokenizer_key'][:12]}, {facts['n_vocab']:,} tokens)",
        ),
        ("tokens", f"{facts['tokens']:,}"),
        ("texts", f"{facts['texts']:,}"),
        ("successors", f"{facts['entries']:,} of {facts['table_entries']:,} places ({used:.0%})"),
        ("forgotten", f"{facts['forgotten']:,}"),
        ("created", date_text(facts["created"])),
    ]
    if facts["pruned_texts"]:
        rows.append(("pruned", plural(facts["pruned_texts"], "text")))
    sources: Sequence[dict[str, Any]] = facts["sources"]
    rows += [("source", f"{one['name']} ({size_text(one['bytes'])})") for one in sources[:SHOWN_SOURCES]]
    others = max(0, len(sources) - SHOWN_SOURCES) + facts["more_sources"]
    if others:
        rows.append(("", f"and {plural(others, 'other')}"))
    if facts["checked"]:
        rows.append(("checked", "every checksum is right"))
    return rows


def _list(facts: Sequence[dict[str, Any]]) -> None:
    """All files of the data folder, a line each."""
    from aded_local.files import data_folder

    if not facts:
        display.say(f"nothing is stored in {data_folder()}")
        return
    rows = [("file", "kind", "exchanges", "tokens", "size", "first", "last")]
    for one in facts:
        count, size = one.get("exchanges", one.get("texts")), one.get("bytes")
        rows.append(
            (
                one["path"],
                one["kind"] + (" (damaged)" if one.get("damaged_exchanges") else ""),
                "-" if count is None else f"{count:,}",
                "-" if count is None else f"{one['tokens']:,}",
                "-" if size is None else size_text(size),
                date_text(one.get("first", one.get("created"))),
                date_text(one.get("last")),
            )
        )
    display.say_rows(rows, right=(2, 3, 4))
    for one in facts:
        if one["kind"] == "unreadable":
            display.say(one["reason"])
