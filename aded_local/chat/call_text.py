"""The text of calls, as models write them: JSON, and Qwen3-Coder's tags."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from typing import Any, Final

Call = tuple[str, str, str | None]
"""Name, JSON text of the arguments, and the id where the model wrote one."""

DEEPEST_CALL: Final = 64
"""Brackets open at once in a call; more is broken."""

_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_FUNCTION: Final = "<function="
_PARAMETER: Final = re.compile(r"\s*<parameter=([^>\s]+)>\n?(.*?)\n?</parameter>\s*", re.DOTALL)
_IN_JSON: Final = frozenset("{}[]:,+-.0123456789eEtrufalsn \t\r\n")
"""Characters of JSON outside of strings."""


def calls_in_json(
    text: str, *, named: tuple[str, str | None] | None = None, only: Collection[str] | None = None
) -> tuple[Call, ...] | None:
    """Calls written as a JSON object, or as a list of such.

    Args:
        text: ``{"name": …, "arguments": {…}}``; ``parameters`` will do for ``arguments``, and JSON text for an object.
        named: name and id, where ``text`` is the arguments alone.
        only: names that count.

    Returns:
        The calls; None where it is something else.
    """
    value = json_value(text)
    if named is not None:
        arguments = _arguments(value)
        return None if arguments is None else ((named[0], arguments, named[1]),)
    found: list[Call] = []
    for one in value if isinstance(value, list) else [value]:
        call = _call(one)
        if call is None or (only is not None and call[0] not in only):
            return None
        found.append(call)
    return tuple(found) or None


def _call(value: Any) -> Call | None:
    if not isinstance(value, Mapping):
        return None
    function = value.get("function")
    inner = function if isinstance(function, Mapping) else value
    name = inner.get("name")
    given: Any = next((inner[key] for key in ("arguments", "parameters") if inner.get(key) is not None), {})
    arguments = _arguments(given)
    if not isinstance(name, str) or not name or arguments is None:
        return None
    given_id = value.get("id")
    return (
        _sound(name),
        arguments,
        given_id if isinstance(given_id, str) and _ID.fullmatch(given_id) else None,
    )


def _arguments(value: Any) -> str | None:
    if isinstance(value, str):
        value = json_value(value)
    return _written(value) if isinstance(value, Mapping) else None


def _written(arguments: Mapping[str, Any]) -> str:
    return _sound(json.dumps(arguments, ensure_ascii=False))


def _sound(text: str) -> str:
    """A text without lone surrogates, which JSON can write and UTF-8 cannot."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def json_value(text: str) -> Any:
    """What a JSON text says; None where it is none, or has numbers that JSON has not."""
    try:
        return json.loads(text, strict=False, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError):
        return None


def _refuse(_name: str) -> None:
    raise ValueError


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError
    return number


def calls_in_xml(text: str, texts: Collection[tuple[str, str]]) -> tuple[Call, ...] | None:
    """A call written as ``<function=name><parameter=key>value</parameter></function>``.

    Args:
        text: the call.
        texts: function and parameter, where the value is text whatever it looks like. Other values are JSON where they
            can be.

    Returns:
        The call; None where it is something else.
    """
    text = text.strip()
    head, _, body = text.partition(">")
    name = head.removeprefix(_FUNCTION)
    if not text.startswith(_FUNCTION) or not name or any(map(str.isspace, name)):
        return None
    body = body.removesuffix("</function>")
    arguments: dict[str, Any] = {}
    at = 0
    while (parameter := _PARAMETER.match(body, at)) is not None:
        key, written = parameter[1], parameter[2]
        value = None if (name, key) in texts else json_value(written)
        arguments[key] = written if value is None and written != "null" else value
        at = parameter.end()
    if body[at:].strip():
        return None
    return ((_sound(name), _written(arguments), None),)


class JsonReader:
    """Finds where a JSON object or list ends, in text that comes in parts.

    Attributes:
        is_open: its end has not come.
        is_broken: it cannot be JSON, since there is a sign that no JSON has.
        behind: text behind its end, or from that sign on.
    """

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._depth = 0
        self._in_string = self._is_escaped = False
        self.is_open = True
        self.is_broken = False
        self.behind = ""

    @property
    def text(self) -> str:
        """What was read of it."""
        return "".join(self._parts)

    def read(self, text: str) -> None:
        """Read on, until the end."""
        for at, character in enumerate(text):
            if self._in_string:
                if self._is_escaped:
                    self._is_escaped = False
                elif character == "\\":
                    self._is_escaped = True
                elif character == '"':
                    self._in_string = False
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
                if self._depth > DEEPEST_CALL:
                    self._end(text, at, is_broken=True)
                    return
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self._end(text, at + 1)
                    return
            elif character not in _IN_JSON:
                self._end(text, at, is_broken=True)
                return
        self._parts.append(text)

    def _end(self, text: str, at: int, *, is_broken: bool = False) -> None:
        self._parts.append(text[:at])
        self.behind = text[at:]
        self.is_open = False
        self.is_broken = is_broken
