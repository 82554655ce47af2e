"""What a template does with tools and calls, found by rendering a conversation that has all of them.

Templates disagree: arguments are a dict to most and JSON text to some, content beside calls is None to some and must be
text to others, Mistral's want ids of nine letters and digits, and many templates leave tools or calls out without a
word. Whoever only reads the source does not see that.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from aded_local.chat.messages import Plain
from aded_local.errors import TemplateError, TemplateLimitError

CALLED: Final = "aded_called"
"""The function that the example calls. It and its argument are none of the tools', to be found in the call."""

_OFFERED, _KEY, _VALUE, _RESULT = "aded_offered", "aded_key", "aded_value", "aded_result"
_LONG_ID, _SHORT_ID = "call_aded012345678901", "aded01234"
_NINE: Final = re.compile(r"[A-Za-z0-9]{9}")

Rendering = Callable[[list[Plain], list[Plain] | None], str]
"""Renders a conversation with tools; raises TemplateError."""


@dataclass(frozen=True, slots=True)
class Habits:
    """What a template does.

    Attributes:
        takes_tools: it writes what the tools are.
        writes_calls, writes_results: it writes calls, and what came of them.
        keeps_none: content None beside calls is for it to see; else it is given an empty text.
        text_arguments: it takes the arguments of a call for JSON text, not for a dict.
        short_ids: it refuses ids that are not nine letters and digits.
        example: what it wrote for a conversation in which ``CALLED`` is called; empty where it does not write calls.
    """

    takes_tools: bool
    writes_calls: bool
    writes_results: bool
    keeps_none: bool = False
    text_arguments: bool = False
    short_ids: bool = False
    example: str = ""

    def applied(self, messages: list[Plain], tools: list[Plain] | None) -> list[Plain]:
        """The messages as the template wants them.

        Raises:
            TemplateError: it would leave out tools, calls or results.
        """
        if tools and not self.takes_tools:
            raise TemplateError(
                "the model's chat template has no place for tools; leave them out, "
                "or give a template that has one with --chat-template (chat_template)"
            )
        if not self.writes_calls and any("tool_calls" in message for message in messages):
            raise TemplateError(
                "the model's chat template leaves out tool_calls; write the call into the message's content"
            )
        if not self.writes_results and any(message["role"] == "tool" for message in messages):
            raise TemplateError(
                "the model's chat template leaves out messages of the role tool; write the result into a user message"
            )
        return [self._wanted(message) for message in messages]

    def _wanted(self, message: Plain) -> Plain:
        message = dict(message)
        if "tool_calls" in message:
            if not message["content"]:
                message["content"] = None if self.keeps_none else ""
            message["tool_calls"] = [self._wanted_call(call) for call in message["tool_calls"]]
        if self.short_ids and "tool_call_id" in message:
            message["tool_call_id"] = _short(message["tool_call_id"])
        return message

    def _wanted_call(self, call: Plain) -> Plain:
        call = dict(call)
        if self.short_ids and "id" in call:
            call["id"] = _short(call["id"])
        if self.text_arguments:
            arguments = json.dumps(call["function"]["arguments"], ensure_ascii=False)
            call["function"] = {**call["function"], "arguments": arguments}
        return call


def _short(call_id: str) -> str:
    """An id as it is, or nine digits and letters in its place, always the same."""
    if _NINE.fullmatch(call_id):
        return call_id
    return hashlib.sha256(call_id.encode()).hexdigest()[:9]


def habits_of(render: Rendering) -> Habits:
    """Find out by some ten renderings at most; 0.3 ms each.

    Raises:
        TemplateLimitError: the template took too much.
    """
    takes_tools = _OFFERED in _written(render, [_user()], [_tool()])
    tools = [_tool()] if takes_tools else None
    for short, keeps_none, as_text in itertools.product((False, True), (True, False), (False, True)):
        form = Habits(takes_tools, True, True, keeps_none=keeps_none, text_arguments=as_text, short_ids=short)
        said = _called(_SHORT_ID if short else _LONG_ID)
        text = _written(render, form.applied(said, tools), tools)
        if not _is_whole(text):
            continue
        if keeps_none:
            empty = Habits(takes_tools, True, True, text_arguments=as_text, short_ids=short)
            other = _written(render, empty.applied(said, tools), tools)
            if text.count("None") > other.count("None") and _is_whole(other):
                continue  # it writes None as a word
        return Habits(
            takes_tools,
            writes_calls=True,
            writes_results=_RESULT in text,
            keeps_none=keeps_none,
            text_arguments=as_text,
            short_ids=short,
            example=text,
        )
    answered = [_user(), {"role": "assistant", "content": "said"}, _result(_SHORT_ID)]
    return Habits(
        takes_tools, writes_calls=False, writes_results=_RESULT in _written(render, answered, tools)
    )


def _is_whole(text: str) -> bool:
    """Whether a rendering has the arguments of the call as JSON or as tags, not as Python writes a dict or a text."""
    return _KEY in text and _VALUE in text and f"'{_KEY}'" not in text and f'\\"{_KEY}' not in text


def _written(render: Rendering, messages: list[Plain], tools: list[Plain] | None) -> str:
    try:
        return render(messages, tools)
    except TemplateLimitError:
        raise
    except TemplateError:
        return ""


def _user() -> Plain:
    return {"role": "user", "content": "question"}


def _result(call_id: str) -> Plain:
    return {"role": "tool", "content": _RESULT, "name": CALLED, "tool_call_id": call_id}


def _called(call_id: str) -> list[Plain]:
    function = {"name": CALLED, "arguments": {_KEY: _VALUE}}
    call = {"id": call_id, "type": "function", "function": function}
    return [_user(), {"role": "assistant", "content": None, "tool_calls": [call]}, _result(call_id)]


def _tool() -> Plain:
    properties = {"parameter": {"type": "string", "description": "a text"}}
    parameters = {"type": "object", "properties": properties, "required": ["parameter"]}
    function = {"name": _OFFERED, "description": "a function", "parameters": parameters}
    return {"type": "function", "function": function}
