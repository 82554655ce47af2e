"""The routes, and what every request passes on its way to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from . import endpoints
from .auth import Guard
from .endpoints import Serving
from .refusals import NOT_ALLOWED, NOT_FOUND, Refusal

ROUTES = (
    ("POST", "/v1/chat/completions", endpoints.chat),
    ("POST", "/v1/completions", endpoints.complete),
    ("POST", "/v1/embeddings", endpoints.embed),
    ("GET", "/v1/models", endpoints.models),
    ("GET", "/v1/models/{model:path}", endpoints.model),
    ("GET", "/health", endpoints.health),
    ("GET", "/metrics", endpoints.metrics),
    ("GET", "/openapi.json", endpoints.description),
)
"""Method, path and handler of each."""


def make_app(serving: Serving, key: str | None, origins: Sequence[str] = ()) -> Starlette:
    """The application.

    Args:
        serving: what the handlers work with.
        key, origins: see ``Guard``.
    """
    middleware = [Middleware(Guard, key=key, origins=origins)]
    if origins:
        allowed: Any = Middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
        )
        middleware.insert(0, allowed)  # a browser's question before a request carries no key
    return Starlette(
        routes=[
            Route(path, endpoints.answering(path, handler, serving), methods=[method])
            for method, path, handler in ROUTES
        ],
        middleware=middleware,
        exception_handlers={HTTPException: _refused},
    )


async def _refused(request: Request, error: Exception) -> Response:
    """What the router finds: no such path, or not with this method."""
    assert isinstance(error, HTTPException)
    message = {
        NOT_FOUND: "there is no such path; /openapi.json lists them",
        NOT_ALLOWED: f"this path does not take {request.method}",
    }.get(error.status_code, str(error.detail))
    refusal = Refusal(error.status_code, message, code="not_found", headers=error.headers)
    return JSONResponse(refusal.body(), refusal.status, refusal.headers)
