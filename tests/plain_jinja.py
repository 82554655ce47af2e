"""Chat templates rendered as model makers' own tools do it, to compare with: plain Jinja, no bounds, this process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

Message = dict[str, str]


class Generation(Extension):
    """The tag that marks what is learnt; a call block, so variables set inside are gone after it."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("said"), [], [], body).set_lineno(line)

    def said(self, caller: Any) -> Any:
        return caller()


def environment() -> ImmutableSandboxedEnvironment:
    """Settings, filter and functions that public chat templates are written for."""

    def fail(message: str) -> NoReturn:
        raise jinja2.TemplateError(message)

    def to_json(
        value: Any,
        ensure_ascii: bool = False,
        indent: Any = None,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(
            value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )

    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    made.filters["tojson"] = to_json
    made.globals.update(raise_exception=fail, strftime_now=lambda pattern: datetime.now().strftime(pattern))
    return made


def message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def user(content: str) -> Message:
    return message("user", content)


def answer(content: str) -> Message:
    return message("assistant", content)


_CODE = 'def f(x):\n    return {"a": [x], "{{ b }}": "{% if c %}%s {0}"}  # {# no #}\n'

SHAPES: dict[str, tuple[list[Message], bool]] = {
    "one question": ([user("Hello there")], True),
    "a system prompt": ([message("system", "Be brief."), user("Hello")], True),
    "several turns": (
        [
            message("system", "Be kind."),
            user("One?"),
            answer("Two."),
            user(" Three? "),
            answer("\nFour.\n"),
            user("5"),
        ],
        True,
    ),
    "ends with an answer": ([user("Say A"), answer("A")], False),
    "an answer to go on with": ([user("Count"), answer("One, two")], True),
    "nothing said": ([user(""), answer(""), user("")], True),
    "signs of all kinds": ([user("é ß 漢字 🙂👩‍👩‍👧 \u2028 \x0b \u00a0 <b>&\"'</b> \t|>")], True),
    "code": ([user(_CODE), answer("```\n" + _CODE + "```"), user("<think>x</think> y")], True),
    "long": (
        [m for i in range(40) for m in (user(f"{i} " + "word " * 200), answer("said " * 100))] + [user("?")],
        True,
    ),
    "system in the middle": (
        [user("One"), answer("Two"), message("system", "Be brief."), user("Three")],
        True,
    ),
    "two questions in a row": ([user("One"), user("Two")], True),
}
"""Conversations, and whether the model is to go on: eleven shapes, each treated in its own way by some template."""


def variables(messages: list[Message], add_generation_prompt: bool) -> dict[str, Any]:
    """What a rendering gets."""
    return {
        "messages": messages,
        "add_generation_prompt": add_generation_prompt,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "tools": None,
        "documents": None,
    }


def conversations() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each shape's name and variables."""
    for name, shape in SHAPES.items():
        yield name, variables(*shape)
