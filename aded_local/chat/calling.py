"""Which functions an answer may or must call, as a caller chooses; and the grammar of an answer that must."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aded_local.chat.messages import Plain, checked_tools
from aded_local.chat.style import AnswerStyle, Family
from aded_local.errors import OptionError
from aded_local.llama.schemas import gbnf_of

ToolChoice = str | Mapping[str, Any]
"""``auto``, ``none``, ``required``, or ``{"type": "function", "function": {"name": …}}``."""

_AROUND: Final[Mapping[Family | None, tuple[str, str]]] = {
    "hermes": ('<tool_call>\n{"name": NAME, "arguments": ', "}\n</tool_call>"),
    "llama3": ('{"name": NAME, "parameters": ', "}"),
    "mistral": ('[TOOL_CALLS][{"name": NAME, "arguments": ', "}]"),
    "mistral-new": ("[TOOL_CALLS]NAME[ARGS]", ""),
}
"""What families write before and behind a call's arguments."""

_PART: Final = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|[A-Za-z][A-Za-z0-9-]*')
"""A text, a set of characters, or a rule's name in GBNF; only the last is renamed."""


@dataclass(frozen=True, slots=True)
class Calling:
    """What may be called.

    Attributes:
        tools: for the template; None where there are none.
        required: one of these must be called; None where the model is free.
    """

    tools: list[Plain] | None
    required: list[Plain] | None = None

    @classmethod
    def of(cls, tools: Sequence[Mapping[str, Any]] | None, choice: ToolChoice | None) -> Calling:
        """What a caller chose.

        Raises:
            OptionError: tools that are none, or a choice that is none or names no tool.
        """
        offered = checked_tools(tools)
        if choice is None or choice == "auto":
            return cls(offered)
        if choice == "none":
            return cls(None)
        name = None
        if isinstance(choice, Mapping) and choice.get("type") == "function":
            function = choice.get("function")
            name = function.get("name") if isinstance(function, Mapping) else None
        if choice != "required" and not isinstance(name, str):
            raise OptionError(
                f"tool_choice is {str(choice)[:60]!r}; it must be 'auto', 'none', 'required', or "
                "{'type': 'function', 'function': {'name': …}}"
            )
        if not offered:
            raise OptionError(
                "tool_choice asks for a call, and there are no tools; give tools, or leave it out"
            )
        wanted = [tool for tool in offered if name is None or tool["function"]["name"] == name]
        if not wanted:
            raise OptionError(f"tool_choice names {str(name)[:60]!r}, which is none of the tools")
        return cls(offered, wanted)


def call_grammar(calling: Calling, style: AnswerStyle) -> str | None:
    """The grammar (GBNF) of an answer that calls one of the required functions; None where the model is free.

    Thoughts may come first where the model has such.

    Raises:
        OptionError: the family's format is not known, or is not JSON.
        GrammarError: a function's schema cannot be held to.
    """
    if calling.required is None:
        return None
    family = None if style.calls is None else style.calls.family
    if family not in _AROUND:
        raise OptionError(
            "tool_choice asks for a call, and how this model writes calls is not known as JSON; use 'auto'"
        )
    rules: list[str] = []
    calls: list[str] = []
    for number, tool in enumerate(calling.required):
        function = tool["function"]
        rules += _renamed(gbnf_of(function["parameters"]), f"f{number}-")
        before, after = _AROUND[family]
        name = (
            function["name"] if family == "mistral-new" else json.dumps(function["name"], ensure_ascii=False)
        )
        calls.append(f"{_literal(before.replace('NAME', name))} f{number}-root {_literal(after)}")
    return "\n".join([f"root ::= {_thoughts(style)} ({' | '.join(calls)})", *rules]) + "\n"


def _thoughts(style: AnswerStyle) -> str:
    """Thoughts up to their closing marker, with blank lines behind it."""
    if style.reasoning is None:
        return ""
    opening, closing = style.reasoning
    first, second = closing[0], closing[1]
    # Whatever stands before the closing marker: no second sign of it behind a first.
    inside = f"([^{_escaped(first)}] | {_literal(first)} [^{_escaped(second)}])*"
    thoughts = f'{inside} {_literal(closing)} "\\n"*'
    return thoughts if style.reasoning_is_open else f"({_literal(opening)} {thoughts})?"


def _renamed(grammar: str, prefix: str) -> list[str]:
    """A grammar's rules under other names."""
    return [
        _PART.sub(lambda found: found[0] if found[0][0] in '"[' else prefix + found[0], line)
        for line in grammar.splitlines()
        if line.strip()
    ]


def _literal(text: str) -> str:
    """A text in GBNF."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"' if text else ""


def _escaped(character: str) -> str:
    """A character within a set in GBNF."""
    return "\\" + character if character in "\\[]" else character
