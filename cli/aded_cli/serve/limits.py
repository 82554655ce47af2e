"""How large and how deep a request may be, and its body as one of the types of ``fields``."""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from .refusals import BAD_REQUEST, TOO_LARGE, TOO_SLOW, WRONG_TYPE, Refusal

MOST_BYTES: Final = 8 << 20
"""Of a body: twice a text that fills the largest context."""

FREE: Final = ("tools", "response_format", "json_schema", "metadata")
"""Fields with parts that may hold any JSON."""

READING_SECONDS: Final = 20.0
"""For the whole of a body to arrive: at 400 kB/s the largest does. Else a client could hold the server's end up."""

MOST_DEPTH: Final = 64
"""Lists and objects within each other in such a field. Chosen."""

MOST_VALUES: Final = 100_000
"""Values in such fields. Chosen."""

WHERE: Final = re.compile(r" - at `(?:key in )?\$\.?(.*)`$")
"""How msgspec says where in the body something is wrong."""

T = TypeVar("T")


async def body_of(request: Request, kind: type[T]) -> T:
    """The body of a request.

    Raises:
        Refusal: it is too large or deep, no JSON, or not what ``kind`` describes.
        ClientDisconnect: the client left while it was read.
    """
    kind_of_text = request.headers.get("content-type", "application/json").split(";")[0].strip().lower()
    if kind_of_text != "application/json":
        raise Refusal(WRONG_TYPE, "the body must be JSON: send Content-Type: application/json")
    try:
        raw = await asyncio.wait_for(_read(request), READING_SECONDS)
    except (TimeoutError, asyncio.TimeoutError):  # two classes before Python 3.11
        raise Refusal(
            TOO_SLOW,
            f"the body did not arrive within {READING_SECONDS:.0f} seconds",
            code="timeout",
            headers={"Connection": "close"},
        ) from None
    try:
        found = msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        raise _misfit(str(error)) from None
    except msgspec.DecodeError as error:
        raise Refusal(BAD_REQUEST, f"the body is not JSON: {error}", code="invalid_json") from None
    except RecursionError:
        raise _too_deep(None) from None
    except UnicodeDecodeError:
        raise Refusal(BAD_REQUEST, "the body is not UTF-8", code="invalid_json") from None
    for name in FREE:
        value = getattr(found, name, None)
        if value is not None:
            try:
                require_shallow(name, msgspec.to_builtins(value))
            except RecursionError:
                raise _too_deep(name) from None
    return found


async def _read(request: Request) -> bytes:
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > MOST_BYTES:
        raise _too_large()
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > MOST_BYTES:
            raise _too_large()
    return bytes(raw)


def _too_large() -> Refusal:
    return Refusal(
        TOO_LARGE,
        f"the body is larger than {MOST_BYTES >> 20} MiB, and no context holds as much",
        code="request_too_large",
        headers={"Connection": "close"},  # the rest of it is not read
    )


def _too_deep(name: str | None) -> Refusal:
    return Refusal(
        BAD_REQUEST,
        f"{name or 'the body'} nests more than {MOST_DEPTH} levels deep; make it flatter",
        param=name,
        code="too_deep",
    )


def _misfit(message: str) -> Refusal:
    """What msgspec says, with the field apart from the reason."""
    found = WHERE.search(message)
    reason = WHERE.sub("", message)
    param = found.group(1) if found else None
    if param is None and "unknown field `" in reason:
        param = reason.split("`")[1]
    where = f"{param}: " if param else ""
    return Refusal(BAD_REQUEST, f"{where}{reason}", param=param or None, code="invalid_value")


def require_shallow(name: str, value: Any) -> None:
    """Refuse a field that nests too deep or holds too much, before anything walks through it.

    Raises:
        Refusal
    """
    level, depth, count = [value], 0, 0
    while level:
        depth += 1
        inner: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                inner.extend(each.values())
            elif isinstance(each, list):
                inner.extend(each)
        count += len(inner)
        if depth > MOST_DEPTH:
            raise _too_deep(name)
        if count > MOST_VALUES:
            raise Refusal(
                BAD_REQUEST, f"{name} holds more than {MOST_VALUES:,} values", param=name, code="too_large"
            )
        level = inner


__all__ = ["MOST_BYTES", "MOST_DEPTH", "ClientDisconnect", "body_of", "require_shallow"]
