"""A function that the caller chose (``tool_choice`` with its name), in llama-cpp-python's way: the answer's text is its
arguments. OpenAI's older ``functions`` and ``function_call`` as tools."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from aded_local.completions import (
    FINISHED_CALLS,
    Heading,
    Shape,
    chat_completion,
    completion_chunks,
)
from aded_local.errors import OptionError
from aded_local.result import Piece
from aded_local.spelling import Spelling, chat_logprobs

Tools = Sequence[Mapping[str, Any]]


def as_tools(
    functions: Sequence[Mapping[str, Any]] | None, function_call: Any, tools: Tools | None, tool_choice: Any
) -> tuple[Tools | None, Any]:
    """Tools and their choice, of the older arguments where those are given."""
    if functions is not None:
        tools = [{"type": "function", "function": function} for function in functions]
    if function_call in ("none", "auto"):
        tool_choice = function_call
    elif isinstance(function_call, Mapping) and "name" in function_call:
        tool_choice = {"type": "function", "function": {"name": function_call["name"]}}
    return tools, tool_choice


def chosen_function(tools: Tools | None, tool_choice: Any) -> Mapping[str, Any] | None:
    """The function that ``tool_choice`` names; None where it names none.

    Raises:
        OptionError: it is not among the tools.
    """
    if tools is None or not isinstance(tool_choice, Mapping):
        return None
    try:
        name = tool_choice["function"]["name"]
        functions: dict[Any, Mapping[str, Any]] = {
            tool["function"]["name"]: tool["function"] for tool in tools
        }
    except (KeyError, TypeError):
        raise OptionError(
            "tool_choice and tools name functions: {'type': 'function', 'function': {'name': …}}"
        ) from None
    if name not in functions:
        raise OptionError(f"tool_choice names {name!r}, which is none of the tools: {', '.join(functions)}")
    return functions[name]


def function_completion(
    pieces: Iterable[Piece], heading: Heading, name: str, spelling: Spelling | None = None
) -> Shape:
    """The whole answer as a call of the function ``name``; the other arguments are those of ``chat_completion``."""
    found = chat_completion(pieces, heading, spelling=spelling)
    choice = found["choices"][0]
    function = {"name": name, "arguments": choice["message"]["content"]}
    choice["message"] = {
        "role": "assistant",
        "content": None,
        "function_call": function,
        "tool_calls": [{"id": _call_id(heading, name), "type": "function", "function": dict(function)}],
    }
    choice["finish_reason"] = FINISHED_CALLS
    return found


def function_chunks(
    pieces: Iterable[Piece], heading: Heading, name: str, spelling: Spelling | None = None
) -> Iterator[Shape]:
    """The same, chunk by chunk."""
    call_id = _call_id(heading, name)
    nothing = {"content": None, "function_call": None, "tool_calls": None}
    is_first = True
    for chunk in completion_chunks(pieces, heading, spelling=spelling):
        if is_first:
            yield _chunk(heading, {"role": "assistant", **nothing})
            is_first = False
        text, logprobs = chunk["choices"][0]["text"], chunk["choices"][0]["logprobs"]
        function = {"name": name, "arguments": text}
        call = {"index": 0, "id": call_id, "type": "function", "function": dict(function)}
        delta = {"role": None, "content": None, "function_call": function, "tool_calls": [call]}
        yield _chunk(heading, delta, None if logprobs is None else chat_logprobs(logprobs))
    yield _chunk(heading, {"role": None, **nothing}, finish_reason=FINISHED_CALLS)


def _call_id(heading: Heading, name: str) -> str:
    return f"call__0_{name}_{heading.id.removeprefix('chat')}"


def _chunk(
    heading: Heading, delta: Shape, logprobs: Shape | None = None, finish_reason: str | None = None
) -> Shape:
    return {
        "id": heading.id,
        "object": "chat.completion.chunk",
        "created": heading.created,
        "model": heading.model,
        "choices": [{"index": 0, "finish_reason": finish_reason, "logprobs": logprobs, "delta": delta}],
    }
