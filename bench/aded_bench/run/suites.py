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
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Protocol

from aded_bench.run.prompts import Message, split
from aded_local.errors import OptionError, PromptError, TemplateError

CHAT, SHELL, SPEC_BENCH = "chat", "shell", "spec-bench"
FORMER: Final[Mapping[str, str]] = MappingProxyType({"builtin": SHELL})
"""Names that suites had before, and still answer to."""
CHAT_FILE = "chat.jsonl"  # beside this module
SHELL_PROMPTS = 40  # where no number is given; a file is taken whole
SHELL_MODELS = "tldr-"  # how the models that know shell commands only call themselves, in whatever body
ROLES = ("system", "user", "assistant")
WHERE_SPEC_BENCH_IS = (
    "the suite spec-bench needs --data FILE: data/spec_bench/question.jsonl of the Spec-Bench project "
    "(github.com/hemingkx/Spec-Bench), plain or gzipped"
)


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
        count: conversations measured; None for all of a file (``chat`` is one), 40 of ``shell``.
        warm: others.

    Raises:
        OptionError: no such suite, a line that is none, or not that many conversations.
    """
    if name == SHELL:
        slices = split([SHELL_PROMPTS if count is None else count, warm], seed)
        return [
            [Conversation(p.id, p.kind, p.messages[:-1], (p.messages[-1]["content"],)) for p in part]
            for part in slices
        ]
    every = read(path_of(name, data), needs_turns=name == SPEC_BENCH)
    wanted = max(0, len(every) - warm) if count is None else count
    measured = spread(every, wanted, seed)
    taken = {conversation.id for conversation in measured}
    return [measured, spread([c for c in every if c.id not in taken], warm, seed)]


def warming(
    name: str, data: Path | None, count: int | None, seed: int, *, without: Sequence[Conversation]
) -> list[Conversation]:
    """Conversations of another suite to learn from; those measured are not among them.

    Raises:
        OptionError: as ``load``.
    """
    asked = {conversation.turns for conversation in without}
    if name == SHELL:
        # The measured ones may be of this suite too, so take all that may be needed, then sort out.
        found = load(SHELL, None, (count or SHELL_PROMPTS) + len(without), 0, seed)[0]
        chosen = [c for c in found if c.turns not in asked][: count or SHELL_PROMPTS]
    else:
        found = read(path_of(name, data), needs_turns=name == SPEC_BENCH)
        every = [c for c in found if c.turns not in asked]
        chosen = spread(every, len(every) if count is None else count, seed)
    # Two files may use the same ids.
    return [replace(conversation, id=f"warm {conversation.id}") for conversation in chosen]


def fingerprint(conversations: Sequence[Conversation]) -> str:
    """Hash of all that is asked, hexadecimal: the same prompts in the same order, from whatever suite."""
    asked = json.dumps([asdict(conversation) for conversation in conversations])
    return hashlib.sha256(asked.encode()).hexdigest()


def short_name(name: str) -> str:
    """A suite's name in results: of a file without its folder."""
    return name if name in (CHAT, SHELL, SPEC_BENCH) else Path(name).name


def inputs(names: Sequence[str | None], data: Path | None) -> tuple[Path, ...]:
    """The files that suites are read from, for a result to name."""
    read_from = {name for name in names if name is not None and name != SHELL}
    return tuple(path_of(name, data) for name in sorted(read_from))


def check_data(data: Path | None, *names: str | None) -> None:
    """Refuse a file of Spec-Bench's where none of the suites is that.

    Raises:
        OptionError: the file would not be read.
    """
    if data is not None and SPEC_BENCH not in names:
        raise OptionError(f"--data is for --suite {SPEC_BENCH}; name another file with --suite")


def path_of(name: str, data: Path | None) -> Path:
    """The file of a suite that is one.

    Raises:
        OptionError: Spec-Bench without its file.
    """
    if name == CHAT:
        return Path(str(files("aded_bench.run") / CHAT_FILE))
    if name != SPEC_BENCH:
        return Path(name).expanduser()
    if data is None:
        raise OptionError(WHERE_SPEC_BENCH_IS)
    return data.expanduser()


def spread(conversations: Sequence[Conversation], count: int, seed: int) -> list[Conversation]:
    """``count`` of them, evenly over categories, in the file's order.

    Raises:
        OptionError: there are not that many.
    """
    if not 0 <= count <= len(conversations):
        raise OptionError(f"{count} prompts asked for; {len(conversations)} are there")
    pools: dict[str, list[int]] = {}
    for index, conversation in enumerate(conversations):
        pools.setdefault(conversation.category, []).append(index)
    for category, pool in pools.items():
        random.Random(f"{category} {seed}").shuffle(pool)
    chosen: list[int] = []
    for rank in range(max(map(len, pools.values()), default=0)):
        chosen += [pool[rank] for pool in pools.values() if rank < len(pool)]
    return [conversations[index] for index in sorted(chosen[:count])]


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


class Speaker(Protocol):
    """What ``prepare`` needs of an arm; ``LocalArm`` is one."""

    def render(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation."""
        ...

    def speak(self, prompt: Sequence[int], max_tokens: int, temperature: float, seed: int) -> str:
        """Plain decoding's answer."""
        ...


def prepare(
    speaker: Speaker,
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
