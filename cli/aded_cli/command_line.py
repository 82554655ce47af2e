"""One command line of aded-chat or aded-serve, checked: what its options become for the engine and for answers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from aded_local.errors import ModelNotFoundError
from aded_models import PREFIX, is_name, reference

STDIN = "-"
"""As a value of -p: standard input."""

SAMPLING = ("max_tokens", "temperature", "top_k", "top_p", "min_p", "repeat_penalty", "seed", "stop")
"""What says how an answer is chosen, by the names of their parameters."""


@dataclass(frozen=True)
class Settings:
    """One command line, checked.

    Attributes:
        model: path or name of a model; None leaves it to the engine.
        engine: keyword arguments of LocalADED besides the model's path.
        sampling: keyword arguments of each generation; only what was given on the command line.
        prompt: the parts given with -p, in order, possibly ``STDIN``.
        files: the paths given with -f, in order; their texts follow the parts.
        system: the system prompt, None without one.
        conversation: chat, where the prompt is only the first message.
        goes_on: the last conversation that is kept goes on.
        raw: complete the prompt's text without a chat template.
        plain: write answers as they come.
        as_json: print one JSON object instead of streaming text.
        remember: keep a history of typed lines on disk; the engine's ``memory`` likewise.
        verbose: llama.cpp's log, and tracebacks.
    """

    model: str | None
    engine: dict[str, Any]
    sampling: dict[str, Any]
    prompt: tuple[str, ...]
    files: tuple[str, ...]
    system: str | None
    conversation: bool
    goes_on: bool
    raw: bool
    plain: bool
    as_json: bool
    remember: bool
    verbose: bool

    @classmethod
    def from_options(cls, **given: Any) -> Settings:
        """Check the options against each other.

        Raises:
            click.UsageError: two options contradict each other, or a text is not valid UTF-8.
        """
        prompt = tuple(_utf8("-p", part) for part in given["prompt"])
        system = _utf8("--system", given["system"] or "")
        model = model_of(given)
        if prompt.count(STDIN) > 1:
            raise click.UsageError("-p - reads all of standard input, so it can be given only once")
        for name, is_given in (("--raw", given["raw"]), ("--json", given["as_json"])):
            if given["conversation"] and is_given:
                raise click.UsageError(f"-cnv chats, and {name} answers once: give one of them")
        if given["conversation"] and STDIN in prompt:
            raise click.UsageError("-cnv reads messages from standard input, so it has no place for -p -")
        if given["raw"] and system:
            raise click.UsageError(
                "--raw uses no chat template, so --system has no place in it: give one of them"
            )
        if given["raw"] and given["chat_template"] is not None:
            raise click.UsageError("--raw uses no chat template, so leave out --raw or --chat-template")
        if given["goes_on"] and given["raw"]:
            raise click.UsageError("--raw knows no conversation, so --continue has no place in it")
        if given["goes_on"] and system:
            raise click.UsageError(
                "--continue goes on with the conversation's own system prompt: leave out --system"
            )
        if "" in given["stop"]:
            raise click.UsageError("--stop is empty: give the text that ends an answer, or leave it out")
        engine = engine_of(given)
        from aded_local.config import memory_is_off, read_config

        forbidden = "--no-memory" if given["no_memory"] else memory_is_off()
        engine["memory"] = forbidden is None
        if given["goes_on"] and forbidden is not None:
            raise click.UsageError(
                f"--continue reads a conversation that was kept, and {forbidden} says that none is read"
            )
        sampling = {name: given[name] for name in SAMPLING if given[name] not in (None, ())}
        return cls(
            model=model,
            engine=engine,
            sampling=sampling,
            prompt=prompt,
            files=given["files"],
            system=system or None,
            conversation=given["conversation"],
            goes_on=given["goes_on"],
            raw=given["raw"],
            plain=given["plain"] or read_config().plain,
            as_json=given["as_json"],
            remember=engine["memory"],
            verbose=given["verbose"],
        )


def engine_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of LocalADED besides the model's path and what it remembers.

    Raises:
        click.UsageError: two options contradict each other.
    """
    if given["store"] is not None and given["draft"] != "auto":
        raise click.UsageError(
            f"--draft {given['draft']} does not draft from a store: leave out --store, or take --draft auto"
        )
    if given["search"] is not None and given["draft"] != "auto":
        raise click.UsageError(
            f"--draft {given['draft']} has no search to choose: leave out --search, or take --draft auto"
        )
    if given["exact"] and given["same"] not in (None, "exact"):
        raise click.UsageError(
            f"--exact is --same exact, and --same {given['same']} was given too: leave one out"
        )
    names = ("draft", "n_ctx", "n_threads", "n_gpu_layers", "store", "verbose")
    engine = {name: given[name] for name in names}
    engine.update(_draft_model_of(given))
    engine["same"] = "exact" if given["exact"] else given["same"] or "cheap"
    if given["search"] is not None:
        engine["search"] = given["search"]
    if given["chat_template"] is not None:
        engine["chat_template"] = Path(given["chat_template"])
    return engine


def _draft_model_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of LocalADED for a draft model, where they were given."""
    found = {
        name: given[name]
        for name in ("draft_model", "draft_mode", "draft_threads", "draft_gpu_layers", "draft_max")
        if given[name] is not None
    }
    if "draft_model" in found and given["draft"] != "auto":
        raise click.UsageError(
            f"--draft {given['draft']} asks no draft model: leave out -md, or take --draft auto"
        )
    for name, option in (
        ("draft_mode", "--draft-mode"),
        ("draft_threads", "-td"),
        ("draft_gpu_layers", "-ngld"),
    ):
        if name in found and "draft_model" not in found:
            raise click.UsageError(f"{option} is about a draft model, and none was given: give one with -md")
    if "draft_model" in found:
        _require_there(found["draft_model"])
    return found


def _require_there(draft_model: str) -> None:
    if not draft_model:
        raise click.UsageError("-md is an empty string: give a path or a name, or leave it out")
    if not is_name(draft_model) and not os.path.lexists(os.path.expanduser(draft_model)):
        raise ModelNotFoundError(
            f"-md {draft_model} is neither a file nor the name of a model; `aded-models list` has the names"
        )


def model_of(given: Mapping[str, Any]) -> str | None:
    """The one model that was named; one of the Hugging Face Hub begins with ``hf:``.

    Raises:
        click.UsageError: there are several, or the name is empty.
        OptionError: --hf names no repository.
    """
    arguments, option, hub = given["models"], given["model_option"], given["hf_model"]
    if len(arguments) > 1:
        raise click.UsageError(
            f"there is one MODEL, not {len(arguments)}: to ask something, put it in quotes behind -p"
        )
    named = [*arguments, *([] if option is None else [option])]
    if hub is not None:
        named.append(f"{PREFIX}{reference(hub)}")
    if len(named) > 1:
        last = f"-m {option}" if hub is None else f"--hf {hub}"
        raise click.UsageError(f"{last} names a model, and so does {named[0]}: give one of them")
    if "" in named:
        raise click.UsageError("MODEL is an empty string: give a path or a name, or leave it out")
    return named[0] if named else None


def utf8(text: str) -> str | None:
    """A text from outside; None where its bytes are not UTF-8.

    Where the locale is not UTF-8, Python reads bytes beyond ASCII as lone surrogates, and they still are UTF-8.
    """
    try:
        text.encode("utf-8")
        return text
    except UnicodeEncodeError:
        try:
            return os.fsencode(text).decode("utf-8")
        except UnicodeError:
            return None


def _utf8(name: str, text: str) -> str:
    found = utf8(text)
    if found is None:
        raise click.UsageError(f"{name} is not valid UTF-8 text")
    return found
