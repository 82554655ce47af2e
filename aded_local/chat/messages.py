"""What a conversation may consist of, checked: messages in OpenAI's shape, and the functions that may be called."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from aded_local.chat.call_text import json_value
from aded_local.chat.looking import NAME
from aded_local.errors import ADEDError, OptionError, PromptError

Message = Mapping[str, Any]
"""``role``, and ``content``: text, or a list of OpenAI's text parts. An assistant's may have ``tool_calls`` beside
content None, and ``reasoning_content``; a tool's has ``tool_call_id``; each may have a ``name``."""

Plain = dict[str, Any]
"""A message or a function as a template gets it: JSON, checked, and without lone surrogates."""

MOST_TOOLS: Final = 128
"""Functions at most, as OpenAI's servers have it."""

DEEPEST: Final = 32
"""Lists and objects within each other in a function's schema or a call's arguments. Published ones have under ten."""

LARGEST: Final = 1 << 20
"""Characters of all functions together, or of one call's arguments; a list's or an object's parts count too."""

LONGEST_NAME: Final = 128
"""Characters of a function's name and of a call's id; OpenAI's servers take 64."""


def checked_messages(messages: object) -> list[Plain]:
    """The messages of a conversation, as a template gets them.

    Arguments of calls become dicts.

    Raises:
        PromptError: a message without role or content, with content that is no text, or with calls that are none.
    """
    if isinstance(messages, (str, Mapping)) or not isinstance(messages, Iterable):
        kind = type(messages).__name__
        raise PromptError(f"a conversation is a list of messages, not {kind}; put one message into a list")
    return [_message(message) for message in messages]


def checked_tools(tools: object) -> list[Plain] | None:
    """Functions that a model may call, as a template gets them; None where there are none.

    Each has ``name``, ``description`` and ``parameters``, in this order, and what else was given with it.

    Raises:
        OptionError: one is no function in OpenAI's shape, or they are too many, too deep or too large.
    """
    if tools is None:
        return None
    if isinstance(tools, (str, Mapping)) or not isinstance(tools, Sequence):
        raise OptionError(f"tools is a list of functions, not {type(tools).__name__}")
    if len(tools) > MOST_TOOLS:
        raise OptionError(f"there are {len(tools)} tools; {MOST_TOOLS} are allowed")
    sound: list[Any] = _Copy("the tools", OptionError).of(list(tools))
    found = [_tool(tool) for tool in sound]
    names = [tool["function"]["name"] for tool in found]
    for name in names:
        if names.count(name) > 1:
            raise OptionError(f"two tools have the name {name!r}; give each its own")
    return found or None


def without_system(messages: list[Plain]) -> list[Plain] | None:
    """The system prompts of the beginning in front of the first user message, for a template that refuses such.

    Empty ones are left out. None where there is nothing to move, or no user message to take it.
    """
    n = 0
    while n < len(messages) and messages[n]["role"] == "system":
        n += 1
    if n == 0 or n == len(messages) or messages[n]["role"] != "user":
        return None
    said = [message["content"] for message in messages[:n] if message["content"]]
    first = {**messages[n], "content": "\n\n".join([*said, messages[n]["content"]])}
    return [first, *messages[n + 1 :]]


def texts_of(value: Any) -> Iterator[str]:
    """All texts in a plain value, keys among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from texts_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts_of(inner)


# --- messages ------------------------------------------------------------------------------------------


def _message(message: Any) -> Plain:
    if not isinstance(message, Mapping) or "role" not in message:
        raise PromptError("a message needs 'role' and 'content'")
    role, calls = message["role"], message.get("tool_calls")
    if not isinstance(role, str) or not NAME.fullmatch(role):
        raise PromptError(
            f"a message's role is {str(role)[:40]!r}; it must be a name such as user or assistant"
        )
    if "content" not in message and not calls:
        raise PromptError("a message needs 'role' and 'content'")
    plain: Plain = {"role": role, "content": _content(message.get("content"), beside_calls=bool(calls))}
    if calls and role != "assistant":
        raise PromptError(f"a message of the role {role} has tool_calls; only the assistant calls")
    if message.get("function_call"):
        raise PromptError("a message has function_call, which is out of use; give tool_calls instead")
    for key in ("name", "reasoning_content", "tool_call_id"):
        given = message.get(key)
        if given is None:
            continue
        if not isinstance(given, str):
            raise PromptError(f"a message's {key} must be text, not {type(given).__name__}")
        plain[key] = sound(given)
    if calls:
        if isinstance(calls, (str, Mapping)) or not isinstance(calls, Sequence):
            raise PromptError(f"a message's tool_calls is a list, not {type(calls).__name__}")
        plain["tool_calls"] = [_call(call) for call in calls]
    return plain


def _content(content: Any, *, beside_calls: bool) -> str | None:
    if isinstance(content, (list, tuple)):
        content = "\n".join(map(_part_text, content))
    if content is None:
        if beside_calls:
            return None
        raise PromptError("a message's content is None; give its text, '' for none")
    if not isinstance(content, str):
        raise PromptError(f"a message's content must be text, not {type(content).__name__}")
    return sound(content)


def _part_text(part: Any) -> str:
    """The text of one of OpenAI's content parts."""
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    if kind != "text":
        raise PromptError(f"a message has a part of type {str(kind)[:40]!r}; only text parts can be read")
    if not isinstance(part.get("text"), str):
        raise PromptError("a text part of a message has no text")
    text: str = part["text"]
    return text


def _call(call: Any) -> Plain:
    """A call that the assistant made."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or call.get("type", "function") != "function":
        raise PromptError("a tool call needs type 'function', and function with name and arguments")
    name = _name(function.get("name"), "the name of a tool call", PromptError)
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = json_value(arguments) if arguments.strip() else {}
    elif arguments is None:
        arguments = {}
    if not isinstance(arguments, Mapping):
        raise PromptError(f"the arguments of the call of {name} are no JSON object")
    plain: Plain = (
        {} if call.get("id") is None else {"id": _name(call["id"], "the id of a tool call", PromptError)}
    )
    arguments = _Copy(f"the arguments of the call of {name}", PromptError).of(arguments)
    return {**plain, "type": "function", "function": {"name": name, "arguments": arguments}}


# --- functions -----------------------------------------------------------------------------------------


def _tool(tool: Any) -> Plain:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or tool.get("type") != "function":
        raise OptionError("a tool needs type 'function', and function with name, description and parameters")
    name = _name(function.get("name"), "the name of a tool", OptionError)
    description, parameters = function.get("description"), function.get("parameters")
    if description is not None and not isinstance(description, str):
        raise OptionError(
            f"the description of the tool {name} must be text, not {type(description).__name__}"
        )
    if parameters is None:
        parameters = {}
    if not isinstance(parameters, dict) or parameters.get("type", "object") != "object":
        raise OptionError(f"the parameters of the tool {name} must be the JSON schema of an object")
    # Templates read both keys without looking whether they are there.
    parameters = {"type": "object", "properties": {}} | parameters
    if not isinstance(parameters["properties"], dict):
        raise OptionError(f"the properties of the parameters of the tool {name} must be an object")
    others = {key: value for key, value in function.items() if value is not None}
    return {
        **tool,
        "function": {"name": name, "description": "", "parameters": parameters}
        | {key: value for key, value in others.items() if key not in ("name", "parameters")},
    }


def _name(name: Any, what: str, refuse: type[ADEDError]) -> str:
    is_word = isinstance(name, str) and name.isprintable() and not any(map(str.isspace, name))
    if not is_word or not 0 < len(name) <= LONGEST_NAME:
        raise refuse(f"{what} is {str(name)[:40]!r}; it must be a word of 1 to {LONGEST_NAME} signs")
    return sound(name)


# --- plain values --------------------------------------------------------------------------------------


def sound(text: str) -> str:
    """A text without lone surrogates: what the tokenizer would do to them, done before anything is looked for."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


class _Copy:
    """Copies JSON values, within bounds; ``what`` they are is said in the error."""

    def __init__(self, what: str, refuse: type[ADEDError]) -> None:
        self._what = what
        self._refuse = refuse
        self._room = LARGEST

    def of(self, value: Any, depth: int = 0) -> Any:
        """The value, of dicts, lists, sound texts, finite numbers, bools and None."""
        if depth > DEEPEST:
            raise self._refuse(f"{self._what} are nested deeper than {DEEPEST} levels")
        if isinstance(value, str):
            self._take(len(value))
            return sound(value)
        self._take(1)
        if isinstance(value, Mapping):
            return {self._key(key): self.of(inner, depth + 1) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.of(inner, depth + 1) for inner in value]
        if value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) < 1 << 64):
            return value
        if isinstance(value, float) and math.isfinite(value):
            return value
        raise self._refuse(
            f"{self._what} hold {str(value)[:40]!r} ({type(value).__name__}), which JSON has not"
        )

    def _key(self, key: Any) -> str:
        if not isinstance(key, str):
            raise self._refuse(f"{self._what} have a key that is no text: {str(key)[:40]!r}")
        self._take(len(key))
        return sound(key)

    def _take(self, n: int) -> None:
        self._room -= n
        if self._room < 0:
            raise self._refuse(f"{self._what} have more than {LARGEST:,} characters")
