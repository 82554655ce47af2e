"""Prompts to measure with: ordinary chat, shell questions, a JSONL file, Spec-Bench.

A conversation is what was said before, and one or more user turns to answer. Turns after the first have plain
decoding's own answers as history, so that every method meets the same tokens.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aded_local.errors import OptionError, PromptError, TemplateError

if TYPE_CHECKING:
    from aded_bench.run.arms import LocalArm

Message = dict[str, str]
CHAT, SHELL, SPEC_BENCH = "chat", "shell", "spec-bench"
SHIPPED = (CHAT, SHELL)
"""Suites whose files lie beside this module, written for this bench. ``shell`` asks what people ask a model that knows
shell commands, in words that its training did not have; a part of it breaks programs: control texts, other scripts, and
pasted texts, most of which end a little below 512 KV cells, where llama.cpp's attention changes kernels."""
FORMER_SHELL = "builtin"  # what that suite was called before, and still answers to
SHELL_PROMPTS = 40  # where no number is given; another suite is taken whole
SHELL_MODELS = "tldr-"  # how the models that know shell commands only call themselves, in whatever body
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Conversation:
    """What to ask.

    Attributes:
        id: unique in its suite.
        category: for the table by category.
        opening: messages before the first turn to answer.
        turns: what the user says; each is answered.
    """

    id: str
    category: str
    opening: tuple[Message, ...]
    turns: tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """One turn, ready to answer.

    Attributes:
        text: what the user says in it.
        tokens: ids of the whole conversation up to the answer.
    """

    id: str
    category: str
    text: str
    tokens: list[int]


@dataclass(frozen=True)
class Suite:
    """Where conversations are read from.

    Attributes:
        name: in results; of a file without its folder.
        mixed: it keeps its own mixture of kinds; else as many of each category are taken.
    """

    name: str
    path: Path
    mixed: bool = False


def find(given: str | None, data: Path | None, model: Path) -> Suite:
    """The suite that was asked for; without a wish, the one a model can answer.

    Args:
        given: ``chat``, ``shell``, ``spec-bench``, or a JSONL file.
        data: Spec-Bench's file.

    Raises:
        OptionError: Spec-Bench without its file.
        ModelError: nothing was asked for, and the model's header cannot be read.
    """
    if given is None:
        from aded_local.llama.gguf import read_header

        name = read_header(model).metadata.get("general.name")
        given = SHELL if isinstance(name, str) and name.startswith(SHELL_MODELS) else CHAT
    given = SHELL if given == FORMER_SHELL else given
    if given in SHIPPED:
        return Suite(given, Path(str(files("aded_bench.run") / f"{given}.jsonl")), mixed=given == SHELL)
    if given != SPEC_BENCH:
        return Suite(Path(given).name, Path(given).expanduser())
    if data is None:
        raise OptionError(
            "the suite spec-bench needs --data FILE: data/spec_bench/question.jsonl of the Spec-Bench project "
            "(github.com/hemingkx/Spec-Bench), plain or gzipped"
        )
    return Suite(SPEC_BENCH, data.expanduser())


def check_data(data: Path | None, *suites: str | None) -> None:
    """Refuse a file of Spec-Bench's that would not be read, with OptionError: none of the suites is that."""
    if data is not None and SPEC_BENCH not in suites:
        raise OptionError(f"--data is for --suite {SPEC_BENCH}; name another file with --suite")


def load(
    suite: Suite, count: int | None, warm: int | None, seed: int, warm_suite: Suite | None = None
) -> tuple[list[Conversation], list[Conversation]]:
    """The conversations to measure, and disjoint ones to learn from.

    Args:
        count: conversations measured; None for all but the others, of ``shell`` for 40.
        warm: others; None for all there are, of ``shell`` for 40.
        warm_suite: where the others come from, if from another suite.

    Raises:
        OptionError: a file or a line of it is no suite, or there are not that many conversations.
    """
    every = read(suite.path)
    if count is None:
        count = SHELL_PROMPTS if suite.mixed else max(0, len(every) - (0 if warm_suite else warm or 0))
    measured = pick(every, count, seed, mixed=suite.mixed)
    if warm_suite is None:
        taken = {conversation.id for conversation in measured}
        others = [c for c in every if c.id not in taken]
    else:  # two files may use the same ids
        asked = {conversation.turns for conversation in measured}
        others = [replace(c, id=f"warm {c.id}") for c in read(warm_suite.path) if c.turns not in asked]
    mixed = (warm_suite or suite).mixed
    if warm is None:
        warm = SHELL_PROMPTS if mixed else len(others)
    return measured, pick(others, warm, seed, mixed=mixed)


def pick(conversations: Sequence[Conversation], count: int, seed: int, *, mixed: bool) -> list[Conversation]:
    """``count`` conversations: evenly over categories, or in the file's own mixture of them (``mixed``).

    Mixed ones are in the file's order for seed 0. Others always are, and the seed says which are taken.

    Raises:
        OptionError: there are not that many.
    """
    if not 0 <= count <= len(conversations):
        raise OptionError(f"{count} prompts asked for; {len(conversations)} are there")
    places: dict[str, list[int]] = {}
    for index, conversation in enumerate(conversations):
        places.setdefault(conversation.category, []).append(index)
    for category, pool in places.items() if seed or not mixed else ():
        random.Random(f"{category} {seed}").shuffle(pool)
    if mixed:
        # Each place in the file goes to another conversation of its kind, so every slice has the same mixture.
        turns = {category: iter(pool) for category, pool in places.items()}
        return [conversations[next(turns[c.category])] for c in conversations[:count]]
    ranks = zip_longest(*places.values())
    chosen = [index for rank in ranks for index in rank if index is not None][:count]
    return [conversations[index] for index in sorted(chosen)]


def fingerprint(conversations: Sequence[Conversation]) -> str:
    """Hash of all that is asked, hexadecimal: the same prompts in the same order, from whatever suite."""
    asked = json.dumps([asdict(conversation) for conversation in conversations])
    return hashlib.sha256(asked.encode()).hexdigest()


def read(path: Path) -> list[Conversation]:
    """Conversations of a JSONL file, plain or gzipped; see docs/benchmarks.md for the keys.

    Raises:
        OptionError: the file cannot be read, holds nothing, or a line is no conversation.
    """
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8-sig")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        what = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise OptionError(f"the suite {path} cannot be read: {what}") from None
    found: dict[str, Conversation] = {}
    # Not splitlines(): that also splits at characters that JSON allows inside a text, such as U+2028.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            conversation = _conversation(json.loads(line), number)
            if conversation.id in found:
                raise ValueError(f"the id {conversation.id} occurs twice")
        except (ValueError, RecursionError) as error:
            is_json = not isinstance(error, json.JSONDecodeError | RecursionError)
            what = str(error) if is_json else "no JSON"
            raise OptionError(f"{path}, line {number}: {what}") from None
        found[conversation.id] = conversation
    if not found:
        raise OptionError(f"the suite {path} holds no prompt")
    return list(found.values())


def _conversation(row: Any, number: int) -> Conversation:
    """One line; ValueError says what is wrong with it."""
    if not isinstance(row, dict):
        raise ValueError("a line must be a JSON object")
    given = [key for key in ("prompt", "messages", "turns") if key in row]
    if len(given) != 1:
        raise ValueError("it must have one of prompt, messages and turns")
    name, category = row.get("id", row.get("question_id", f"line-{number}")), row.get("category", "all")
    if not isinstance(name, str | int) or not isinstance(category, str):
        raise ValueError("id must be text or a number, category text")
    opening: tuple[Message, ...] = ()
    turns = row.get("turns", [row.get("prompt")])
    if given == ["messages"]:
        messages = row["messages"] if isinstance(row["messages"], list) else [None]
        *before, last = [_message(found) for found in messages or [None]]
        if last["role"] != "user":
            raise ValueError("the last message must be the user's")
        opening, turns = tuple(before), [last["content"]]
    if not isinstance(turns, list) or not turns or not all(isinstance(t, str) and t.strip() for t in turns):
        raise ValueError(f"{given[0]} must hold text")
    return Conversation(str(name), category, opening, tuple(turns))


def _message(found: Any) -> Message:
    if not isinstance(found, dict) or not isinstance(found.get("content"), str):
        raise ValueError("messages must be objects with a role and a content that is text")
    if found.get("role") not in ROLES:
        raise ValueError(f"a role is one of {', '.join(ROLES)}")
    return {"role": found["role"], "content": found["content"]}


def prepare(
    speaker: LocalArm,
    conversations: Sequence[Conversation],
    histories: dict[str, str],
    *,
    n_ctx: int,
    max_tokens: int,
    temperature: float,
    seed: int,
    step: Callable[[str], None] = lambda note: None,
) -> tuple[list[Question], dict[str, str]]:
    """Every turn as token ids; answers that become history are in ``histories``, or are put there.

    Returns:
        The questions, and by id why others are left out: no room for prompt and answer, or the model's
        template does not take it.
    """
    questions: list[Question] = []
    skipped: dict[str, str] = {}
    for conversation in conversations:
        messages = list(conversation.opening)
        for number, turn in enumerate(conversation.turns):
            name = conversation.id + (f"/{number + 1}" if len(conversation.turns) > 1 else "")
            messages.append({"role": "user", "content": turn})
            try:
                tokens = speaker.render(messages)
            except (PromptError, TemplateError) as error:
                skipped[name] = str(error)
                break
            if len(tokens) + max_tokens >= n_ctx:
                skipped[name] = (
                    f"{len(tokens)} tokens and an answer of {max_tokens} do not fit a context of {n_ctx}"
                )
                break
            questions.append(Question(name, conversation.category, turn, tokens))
            if number + 1 < len(conversation.turns):
                if name not in histories:
                    histories[name] = speaker.speak(tokens, max_tokens, temperature, seed)
                    step("history")
                messages.append({"role": "assistant", "content": histories[name]})
    return questions, skipped
