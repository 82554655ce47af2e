"""Who may ask: an API key where one is set; elsewhere only this machine's own programs, and no web page.

Without a key the server listens on loopback alone. A page that a browser on this machine shows can still send requests
there, under a name of its own that it lets point to 127.0.0.1 (DNS rebinding). Such a request carries the page's name
as its Host, or its Origin.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from .loopback import is_local_name
from .refusals import FORBIDDEN, UNAUTHORIZED, Refusal

OPEN_PATHS: Final = frozenset(["/health"])
"""Answered without a key: whoever watches over the server need not hold one."""


class Guard:
    """Answers requests that may not pass; the others go on.

    Args:
        app: what they go on to.
        key: what a client has to send as its bearer token; None where none is set.
        origins: of pages that may ask, as a browser names them.
    """

    def __init__(self, app: ASGIApp, key: str | None, origins: Collection[str] = ()) -> None:
        self._app = app
        self._key = None if key is None else key.encode()
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self._app(scope, receive, send)
            return
        answer = JSONResponse(refusal.body(), refusal.status, refusal.headers)
        await answer(scope, receive, send)

    def _refusal(self, scope: Scope) -> Refusal | None:
        headers = Headers(scope=scope)
        if self._key is not None:
            if scope["path"] in OPEN_PATHS or self._is_key(headers.get("authorization", "")):
                return None
            return Refusal(
                UNAUTHORIZED,
                "this server wants its API key as a bearer token in the Authorization header",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if not is_local_name(headers.get("host", "")):
            return Refusal(
                FORBIDDEN,
                "without an API key only 127.0.0.1, [::1] and localhost are answered as Host",
                code="wrong_host",
            )
        origin = headers.get("origin")
        if origin is not None and origin not in self._origins:
            return Refusal(
                FORBIDDEN,
                "without an API key no page of a browser is answered, unless --allow-origin names its origin",
                code="wrong_origin",
            )
        return None

    def _is_key(self, authorization: str) -> bool:
        assert self._key is not None
        scheme, _, given = authorization.partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1"), self._key)
