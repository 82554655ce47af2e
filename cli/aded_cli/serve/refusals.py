"""What a client is told when it gets no answer: an HTTP status, and OpenAI's error object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aded_local.errors import (
    ADEDError,
    BusyError,
    ContextOverflowError,
    OptionError,
    PromptError,
    TemplateError,
)
from aded_local.shown import one_line

BAD_REQUEST: Final = 400
UNAUTHORIZED: Final = 401
FORBIDDEN: Final = 403
NOT_FOUND: Final = 404
NOT_ALLOWED: Final = 405
TOO_SLOW: Final = 408
TOO_LARGE: Final = 413
WRONG_TYPE: Final = 415
TOO_MANY: Final = 429
BROKEN: Final = 500
UNAVAILABLE: Final = 503

LONGEST: Final = 1000
"""Characters of a message: it may quote a field, which may be megabytes. Chosen."""

KINDS: Final = {
    UNAUTHORIZED: "authentication_error",
    FORBIDDEN: "permission_error",
    TOO_MANY: "rate_limit_error",
    BROKEN: "server_error",
    UNAVAILABLE: "server_error",
}
"""``type`` of OpenAI's error object by HTTP status; every other one is the request's own fault."""


class Cancelled(Exception):
    """Nobody waits for an answer any more: its client has left, or the server stays no longer."""


class Refusal(Exception):
    """A request that gets no answer.

    Attributes:
        status: HTTP status.
        message: one line for a person.
        param: the request's field that is at fault, where one is.
        code: a word for programs.
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        message = one_line(message)
        if len(message) > LONGEST:
            message = message[:LONGEST] + "…"
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        kind = KINDS.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def unavailable(message: str, seconds: int) -> Refusal:
    """The server cannot answer now, and may after so many seconds."""
    return Refusal(UNAVAILABLE, message, code="unavailable", headers={"Retry-After": str(seconds)})


def refusal_of(error: Exception) -> Refusal:
    """What to tell a client of an exception. Of one that nobody foresaw it learns the kind alone."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, ContextOverflowError):
        return Refusal(BAD_REQUEST, str(error), code="context_length_exceeded")
    if isinstance(error, (PromptError, OptionError, TemplateError)):
        return Refusal(BAD_REQUEST, str(error), code="invalid_value")
    if isinstance(error, (BusyError, Cancelled)):
        return unavailable("the server is closing", 1)
    if isinstance(error, ADEDError):
        return Refusal(BROKEN, str(error), code="engine_error")
    return Refusal(BROKEN, f"unexpected {type(error).__name__}; please report it", code="internal_error")
