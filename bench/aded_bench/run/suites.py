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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from itertools import zip_longest
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from aded_local.errors import OptionError, PromptError, TemplateError

if TYPE_CHECKING:
    from aded_bench.run.arms import LocalArm

Message = dict[str, str]
CHAT, SHELL, SPEC_BENCH = "chat", "shell", "spec-bench"
SHIPPED = (CHAT, SHELL)
"""Suites whose files lie beside this module, written for this bench. ``shell`` asks what people ask a model that knows
shell commands, in words that its training did not have; a part of it breaks programs: control texts, other scripts, and
pasted texts, most of which end a little below 512 KV cells, where llama.cpp's attention changes kernels."""
FORMER: Final[Mapping[str, str]] = MappingProxyType({"builtin": SHELL})
"""Names that suites had before, and still answer to."""
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


def suite_for(given: str | None, model: Path) -> str:
    """The suite that was asked for under its present name; without a wish, the one a model can answer.

    Raises:
        ModelError: nothing was asked for, and the model's header cannot be read.
    """
    if given is not None:
        return FORMER.get(given, given)
    from aded_local.llama.gguf import read_header

    name = read_header(model).metadata.get("general.name")
    return SHELL if isinstance(name, str) and name.startswith(SHELL_MODELS) else CHAT


def load(name: str, data: Path | None, count: int | None, warm: int, seed: int) -> list[list[Conversation]]:
    """The conversations to measure, and disjoint ones to learn from.

    Args:
        name: ``chat``, ``shell``, ``spec-bench``, or a JSONL file.
        data: Spec-Bench's file.
        count: conversations measured; None for all but the others, of ``shell`` for 40.
        warm: others.

    Raises:
        OptionError: no such suite, a line that is none, or not that many conversations.
    """
    every = read(path_of(name, data), needs_turns=name == SPEC_BENCH)
    if count is None:
        count = SHELL_PROMPTS if name == SHELL else max(0, len(every) - warm)
    measured = pick(name, every, count, seed)
    taken = {conversation.id for conversation in measured}
    return [measured, pick(name, [c for c in every if c.id not in taken], warm, seed)]


def warming(
    name: str, data: Path | None, count: int | None, seed: int, *, without: Sequence[Conversation]
) -> list[Conversation]:
    """Conversations of another suite to learn from; those measured are not among them.

    Raises:
        OptionError: as ``load``.
    """
    asked = {conversation.turns for conversation in without}
    every = [c for c in read(path_of(name, data), needs_turns=name == SPEC_BENCH) if c.turns not in asked]
    if count is None:
        count = SHELL_PROMPTS if name == SHELL else len(every)
    # Two files may use the same ids.
    return [
        replace(conversation, id=f"warm {conversation.id}") for conversation in pick(name, every, count, seed)
    ]


def pick(name: str, conversations: Sequence[Conversation], count: int, seed: int) -> list[Conversation]:
    """``count`` conversations: of ``shell`` in its own mixture of kinds, else evenly over categories.

    ``shell`` is in the file's order for seed 0. Other suites stay in that order, and the seed says which are taken.

    Raises:
        OptionError: there are not that many.
    """
    if not 0 <= count <= len(conversations):
        raise OptionError(f"{count} prompts asked for; {len(conversations)} are there")
    places: dict[str, list[int]] = {}
    for index, conversation in enumerate(conversations):
        places.setdefault(conversation.category, []).append(index)
    for category, pool in places.items() if seed or name != SHELL else ():
        random.Random(f"{category} {seed}").shuffle(pool)
    if name == SHELL:
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


def short_name(name: str) -> str:
    """A suite's name in results: of a file without its folder."""
    return name if name in (*SHIPPED, SPEC_BENCH) else Path(name).name


def inputs(names: Sequence[str | None], data: Path | None) -> tuple[Path, ...]:
    """The files that suites are read from, for a result to name."""
    return tuple(path_of(name, data) for name in sorted({name for name in names if name is not None}))


def check_data(data: Path | None, *names: str | None) -> None:
    """Refuse a file of Spec-Bench's where none of the suites is that.

    Raises:
        OptionError: the file would not be read.
    """
    if data is not None and SPEC_BENCH not in names:
        raise OptionError(f"--data is for --suite {SPEC_BENCH}; name another file with --suite")


def path_of(name: str, data: Path | None) -> Path:
    """The file of a suite.

    Raises:
        OptionError: Spec-Bench without its file.
    """
    if name in SHIPPED:
        return Path(str(files("aded_bench.run") / f"{name}.jsonl"))
    if name != SPEC_BENCH:
        return Path(name).expanduser()
    if data is None:
        raise OptionError(
            "the suite spec-bench needs --data FILE: data/spec_bench/question.jsonl of the Spec-Bench project "
            "(github.com/hemingkx/Spec-Bench), plain or gzipped"
        )
    return data.expanduser()


def read(path: Path, *, needs_turns: bool = False) -> list[Conversation]:
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
            conversation = _conversation(json.loads(line), number, needs_turns)
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


def _conversation(row: Any, number: int, needs_turns: bool) -> Conversation:
    """One line; ValueError says what is wrong with it."""
    if not isinstance(row, dict):
        raise ValueError("a line must be a JSON object")
    given = [key for key in ("prompt", "messages", "turns") if key in row]
    if len(given) != 1 or (needs_turns and given != ["turns"]):
        raise ValueError("it must have " + ("turns" if needs_turns else "one of prompt, messages and turns"))
    name = row.get("id", row.get("question_id", f"line-{number}"))
    category = row.get("category", "all")
    if not isinstance(name, str | int) or not isinstance(category, str):
        raise ValueError("id must be text or a number, category text")
    opening: tuple[Message, ...] = ()
    turns = row.get("turns", [row.get("prompt")])
    if given == ["messages"]:
        *before, last = _messages(row["messages"])
        opening, turns = tuple(before), [last["content"]]
    if not isinstance(turns, list) or not turns or not all(isinstance(t, str) and t.strip() for t in turns):
        raise ValueError(f"{given[0]} must hold text")
    return Conversation(str(name), category, opening, tuple(turns))


def _messages(found: Any) -> list[Message]:
    if not isinstance(found, list) or not found:
        raise ValueError("messages must be a list of objects with role and content")
    for message in found:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise ValueError("every message needs a role and a content that is text")
        if message.get("role") not in ROLES:
            raise ValueError(f"a role is one of {', '.join(ROLES)}")
    if found[-1]["role"] != "user":
        raise ValueError("the last message must be the user's")
    return [{"role": m["role"], "content": m["content"]} for m in found]


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
