"""aded-models: which models there are for this machine, and fetching them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from aded_local.errors import ModelNotFoundError
from aded_models import CATALOGUE, NAMES, Listed, Reference, find, installed, reference
from aded_models.catalogue import CONTEXT_TOKENS
from aded_models.installed import hub_cache, repositories
from aded_models.sizes import size_text

from . import display
from .program import CONTEXT, OneLine

PROGRAM = "aded-models"


class _Group(OneLine, click.Group):
    program = PROGRAM


@click.group(cls=_Group, context_settings=CONTEXT)
def main() -> None:
    """Models to chat with: which are good and fit this machine, fetching one, and where it lies.

    Models come from the Hugging Face Hub, into the cache that its programs and llama.cpp share. That needs
    its client: pip install 'aded-local[hub]'.
    """


@main.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list with an object for each model.")
def list_models(as_json: bool) -> None:
    """Show small models that follow instructions, and whether they fit this machine and are here.

    Memory is that of the file, of 8,192 tokens of context, and of the program. What is marked * could not be
    checked when the list was written; `pull` takes what the repository has.
    """
    free = _free_memory()
    facts = [_facts(one, free) for one in CATALOGUE.values()]
    others = [name for name in repositories() if name not in {one["repository"] for one in facts}]
    if as_json:
        facts += [{"repository": name, "path": str(installed(Reference(name)))} for name in others]
        display.say(json.dumps(facts, indent=2))
        return
    rows: list[Sequence[str]] = [("name", "file", "memory", "fits", "here", "licence", "repository")]
    rows += [_row(one) for one in facts]
    display.say_rows(rows, right=(1, 2))
    display.say(
        f"\nfits: into the {size_text(free)} of memory that are free now, with {CONTEXT_TOKENS:,} tokens of context"
    )
    if any(one["unchecked"] for one in facts):
        display.say("*: taken from one source, or rounded")
    local = [name for name in NAMES if _is_here(name)]
    display.say(f"also by name: {', '.join(local)}" if local else "no other model is here by name")
    for name in others:
        display.say(f"also here: hf:{name}")


@main.command()
@click.argument("model", metavar="NAME|OWNER/NAME[:QUANT]")
def pull(model: str) -> None:
    """Fetch a model of the list, or any GGUF of the Hugging Face Hub, and print its path.

    QUANT is a quantization such as Q8_0; without one Q4_K_M is taken, else Q8_0, else the first there is. A
    download that is broken off goes on with the same command. HF_TOKEN, or `hf auth login`, says who you are.
    """
    from aded_models.hub import pull as pull_from_hub

    wanted = _wanted(model)
    try:
        with display.loading(f"asking for {model}", quiet=False) as say:
            path = pull_from_hub(wanted, say)
    except KeyboardInterrupt:
        display.note("stopped; the same command goes on from there")
        raise
    display.say(str(path))
    display.note(f"`aded-chat {model if model in CATALOGUE else f'--hf {shlex.quote(model)}'}` chats with it")


@main.command()
@click.argument("model", required=False, metavar="[NAME|OWNER/NAME[:QUANT]]")
def path(model: str | None) -> None:
    """Print where a model lies that is here, or without one the folder where fetched models lie."""
    if model is None:
        display.say(str(hub_cache()))
    elif model in NAMES or model in CATALOGUE:
        display.say(str(find(model).path))
    else:
        found = installed(_wanted(model))
        if found is None:
            raise ModelNotFoundError(
                f"{model} is not on this machine; `aded-models pull {shlex.quote(model)}` fetches it"
            )
        display.say(str(found))


def _wanted(model: str) -> Reference:
    if model in NAMES:
        raise click.UsageError(
            f"{model} comes with pip, not from the hub; `aded-models path {model}` says where it is"
        )
    return CATALOGUE[model].model if model in CATALOGUE else reference(model)


def _free_memory() -> int:
    import psutil

    return int(psutil.virtual_memory().available)


def _is_here(name: str) -> bool:
    try:
        return find(name).path.is_file()
    except ModelNotFoundError:
        return False


def _facts(one: Listed, free: int) -> dict[str, Any]:
    here: Path | None = installed(one.model)
    return {
        "name": one.name,
        "repository": one.model.repository,
        "quantization": one.model.quantization,
        "licence": one.licence,
        "bytes": one.size,
        "memory_bytes": one.memory,
        "fits": one.memory <= free,
        "path": None if here is None else str(here),
        "good_for": one.good_for,
        "unchecked": one.unchecked,
    }


def _row(facts: dict[str, Any]) -> Sequence[str]:
    return (
        facts["name"] + ("*" if facts["unchecked"] else ""),
        size_text(facts["bytes"]),
        size_text(facts["memory_bytes"]),
        "yes" if facts["fits"] else "no",
        "no" if facts["path"] is None else "yes",
        facts["licence"],
        f"{facts['repository']}:{facts['quantization']}",
    )


if __name__ == "__main__":
    main()
