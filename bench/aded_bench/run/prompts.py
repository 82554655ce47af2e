"""The suite `shell`: prompts of several kinds for a model that answers shell questions.

Deterministic by seed. Within one suite no subject (task, program, question) occurs twice, so any two slices
of it are disjoint not only in wording: what a store learnt from one slice it has not seen in the other.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from aded_bench.run import tasks
from aded_local.errors import OptionError

Message = dict[str, str]

SHARES = {
    "task": 0.60,
    "about": 0.14,
    "follow-up": 0.08,
    "off-topic": 0.05,
    "long": 0.07,
    "non-ascii": 0.03,
    "control": 0.03,
}
"""How much of a suite each kind is: mostly what people ask such a model, some of what breaks programs."""

TASK_WORDINGS = (
    "{task}",
    "How do I {task}?",
    "how can i {task}",
    "What is the command to {task}?",
    "I need to {task}.",
    "Please help me {task}",
    "Is there a quick way to {task} in the shell?",
    "linux: {task}",
    "Which command lets me {task}?",
    "Tell me how to {task}, please.",
    "{task} from the terminal",
    "I forgot how to {task}",
)

ABOUT_WORDINGS = (
    "What is {name}?",
    "what does {name} do?",
    "Explain {name} briefly.",
    "tell me about the {name} command",
    "when would I use {name}",
)

LONG_TOKENS = (140, 530)
"""Bounds of a pasted text's length, in estimated tokens."""

EDGE_TOKENS, EDGE_SHARE = (405, 445), 0.6
"""Bounds of, and how many pasted texts end, a little below 512 KV cells of the built-in model: an answer that
begins below and ends above crosses where llama.cpp's attention changes kernels (ggml-cpu/ops.cpp)."""

TOKEN_ESTIMATE = re.compile(r"[0-9]|[^\w\s]|[a-z]{1,4}|[A-Z]{1,2}|\n")
"""Pieces of about a token each in a small vocabulary; the built-in model's has a tenth more of them."""

LONG_COUNT = 200
"""Long prompts available; they are generated, so this bounds nothing but the suite."""


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    Attributes:
        id: kind and number, stable for a seed.
        kind: a key of ``SHARES``.
        subject: what it asks about, whatever the words.
        messages: the conversation so far, the last one the user's.
    """

    id: str
    kind: str
    subject: str
    messages: tuple[Message, ...]


def suite(count: int, seed: int = 0) -> list[Prompt]:
    """The first ``count`` prompts of the suite of ``seed``; a smaller suite is the beginning of a larger one.

    Raises:
        OptionError: there are not that many subjects.
    """
    pools = {kind: _pool(kind, seed) for kind in SHARES}
    available = sum(len(pool) for pool in pools.values())
    if not 0 <= count <= available:
        raise OptionError(f"{count} prompts asked for; the suite shell has {available}")
    taken = dict.fromkeys(SHARES, 0)
    chosen: list[Prompt] = []
    while len(chosen) < count:
        # The kind furthest behind its share comes next, so that every slice has the same mixture.
        open_kinds = [kind for kind in SHARES if taken[kind] < len(pools[kind])]
        kind = min(open_kinds, key=lambda kind: (taken[kind] + 0.5) / SHARES[kind])
        chosen.append(pools[kind][taken[kind]])
        taken[kind] += 1
    return chosen


def split(sizes: list[int], seed: int = 0) -> list[list[Prompt]]:
    """Disjoint consecutive slices of the suite of ``seed``.

    Raises:
        OptionError: there are not that many subjects.
    """
    whole, start, slices = suite(sum(sizes), seed), 0, []
    for size in sizes:
        slices.append(whole[start : start + size])
        start += size
    return slices


def _pool(kind: str, seed: int) -> list[Prompt]:
    """Every prompt of one kind, in an order of its own."""
    rng = random.Random(f"{kind} {seed}")  # a string seed is hashed the same way on every Python
    prompts = [
        Prompt(f"{kind}-{i:03d}", kind, subject, messages)
        for i, (subject, messages) in enumerate(_MAKERS[kind](rng))
    ]
    rng.shuffle(prompts)
    return prompts


def _user(text: str) -> tuple[Message, ...]:
    return ({"role": "user", "content": text},)


_Made = list[tuple[str, tuple[Message, ...]]]


def _tasks(rng: random.Random) -> _Made:
    return [(task, _user(rng.choice(TASK_WORDINGS).format(task=task))) for task in tasks.TASKS]


def _about(rng: random.Random) -> _Made:
    return [(name, _user(rng.choice(ABOUT_WORDINGS).format(name=name))) for name in tasks.PROGRAMS]


def _follow_ups(_: random.Random) -> _Made:
    return [
        (f"{first} / {second}", (*_user(first), {"role": "assistant", "content": answer}, *_user(second)))
        for first, answer, second in tasks.FOLLOW_UPS
    ]


def _plain(texts: tuple[str, ...]) -> Callable[[random.Random], _Made]:
    return lambda _: [(text, _user(text)) for text in texts]


def _long(rng: random.Random) -> _Made:
    return [(f"pasted text {i}", _user(_pasted(rng))) for i in range(LONG_COUNT)]


NAMES = (
    "report",
    "backup",
    "invoice",
    "photo",
    "server",
    "notes",
    "draft",
    "index",
    "access",
    "error",
    "build",
)
ENDINGS = ("txt", "log", "csv", "json", "tar.gz", "jpg", "py", "conf", "md", "sh")
HOSTS = ("alpha", "bravo", "cedar", "delta", "ember", "fjord", "grove", "haven")


def _listing(rng: random.Random) -> str:
    size, day, hour = rng.randrange(100, 9_000_000), rng.randrange(1, 29), rng.randrange(24)
    name = f"{rng.choice(NAMES)}-{rng.randrange(100)}.{rng.choice(ENDINGS)}"
    return f"-rw-r--r-- 1 {rng.choice(HOSTS)} staff {size} May {day:02d} {hour:02d}:{day:02d} {name}"


def _log_line(rng: random.Random) -> str:
    what = rng.choice(
        ("connection refused", "disk almost full", "started", "timed out after 30 s", "login failed")
    )
    level = rng.choice(("INFO", "WARN", "ERROR"))
    return f"2026-05-{rng.randrange(1, 29):02d} {rng.randrange(24):02d}:00 {rng.choice(HOSTS)} {level} {what}"


def _table_row(rng: random.Random) -> str:
    return f"{rng.choice(NAMES)},{rng.choice(HOSTS)},{rng.randrange(1000)},{rng.random():.3f}"


def _setting(rng: random.Random) -> str:
    state = rng.choice(("on", "off", "auto"))
    return f"{rng.choice(HOSTS)}.{rng.choice(NAMES)} = {state}  # {rng.choice(NAMES)}"


PASTED: tuple[tuple[Callable[[random.Random], str], str, str], ...] = (
    (_listing, "Here is my folder:", "How do I delete the files ending in .log?"),
    (_listing, "ls -l prints this", "how can I sort that by size"),
    (_log_line, "My log looks like this:", "Show me how to count the lines with ERROR."),
    (_log_line, "log:", "print only the host names of each line"),
    (_table_row, "I have a csv", "How do I print its second column?"),
    (_table_row, "Given this table:", "add up the third column"),
    (_setting, "This is my configuration:", "How do I replace off by on in the file?"),
    (_setting, "settings", "remove the comments from it"),
)


def _pasted(rng: random.Random) -> str:
    make_line, opening, question = rng.choice(PASTED)
    room = rng.uniform(*(EDGE_TOKENS if rng.random() < EDGE_SHARE else LONG_TOKENS))
    lines: list[str] = []
    while room > 0:
        lines.append(make_line(rng))
        room -= 1 + len(TOKEN_ESTIMATE.findall(lines[-1]))
    return "\n".join([opening, "", *lines, "", question])


_MAKERS: dict[str, Callable[[random.Random], _Made]] = {
    "task": _tasks,
    "about": _about,
    "follow-up": _follow_ups,
    "off-topic": _plain(tasks.OFF_TOPIC),
    "long": _long,
    "non-ascii": _plain(tasks.NON_ASCII),
    "control": _plain(tasks.CONTROL),
}
