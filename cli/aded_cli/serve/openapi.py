"""/openapi.json: what may be asked on each path, and what comes back. Requests are described by their types."""

from __future__ import annotations

import functools
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import msgspec

from .fields import ChatRequest, CompletionRequest, EmbeddingRequest
from .limits import MOST_BYTES, READING_SECONDS

REFERENCE: Final = "#/components/schemas/{name}"

OBJECT: Final = {"type": "object"}

REFUSALS: Final = {
    400: "A field, or what it asks for, cannot be followed; `param` names it.",
    401: "An API key is set, and the request does not bear it.",
    403: "No API key is set, and the Host or Origin is none of this machine's.",
    408: f"The body took longer than {READING_SECONDS:.0f} seconds to arrive.",
    413: f"The body is larger than {MOST_BYTES >> 20} MiB.",
    415: "The body is not application/json.",
    429: "The line of requests is full; Retry-After says when to come again.",
    500: "The engine failed.",
    503: "The model is being loaded, or the server closes; Retry-After says when to come again.",
}
EVERYWHERE: Final = (401, 403)
OF_BODIES: Final = (400, 408, 413, 415, 429, 500, 503)

ERROR: Final = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}

TIMINGS: Final = {
    "type": "object",
    "description": "What the answer took.",
    "properties": {
        "tokens_per_pass": {"type": "number"},
        "drafted": {"type": "integer"},
        "accepted": {"type": "integer"},
        "tokens_per_second": {"type": "number"},
        "time_to_first_token": {"type": "number", "description": "Seconds from the answer's turn."},
        "reused_tokens": {"type": "integer", "description": "Of the prompt, taken from the cache."},
        "same_words": {"type": "boolean", "description": "The words are those of plain decoding."},
    },
}

USAGE: Final = {
    "type": "object",
    "required": ["prompt_tokens", "completion_tokens", "total_tokens"],
    "properties": {
        name: {"type": "integer"} for name in ("prompt_tokens", "completion_tokens", "total_tokens")
    },
}


def _answer(kind: str, choice: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["id", "object", "created", "model", "choices", "usage", "timings"],
        "properties": {
            "id": {"type": "string"},
            "object": {"const": kind},
            "created": {"type": "integer"},
            "model": {"type": "string"},
            "choices": {"type": "array", "items": choice},
            "usage": USAGE,
            "timings": TIMINGS,
        },
    }


CHAT_ANSWER: Final = _answer(
    "chat.completion",
    {
        "type": "object",
        "required": ["index", "message", "finish_reason"],
        "properties": {
            "index": {"type": "integer"},
            "message": {
                "type": "object",
                "required": ["role", "content"],
                "properties": {
                    "role": {"const": "assistant"},
                    "content": {"type": ["string", "null"]},
                    "reasoning_content": {"type": "string"},
                    "tool_calls": {"type": "array", "items": OBJECT},
                },
            },
            "logprobs": {"type": ["object", "null"]},
            "finish_reason": {"enum": ["stop", "length", "tool_calls"]},
        },
    },
)
COMPLETION_ANSWER: Final = _answer(
    "text_completion",
    {
        "type": "object",
        "required": ["index", "text", "finish_reason"],
        "properties": {
            "index": {"type": "integer"},
            "text": {"type": "string"},
            "logprobs": {"type": ["object", "null"]},
            "finish_reason": {"enum": ["stop", "length"]},
        },
    },
)
MODEL: Final = {
    "type": "object",
    "required": ["id", "object", "created", "owned_by"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "model"},
        "created": {"type": "integer"},
        "owned_by": {"type": "string"},
        "context_window": {"type": "integer", "description": "Tokens of prompt and answer together."},
    },
}
MODELS: Final = {
    "type": "object",
    "required": ["object", "data"],
    "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": MODEL}},
}
EMBEDDINGS: Final = {
    "type": "object",
    "required": ["object", "data", "model", "usage"],
    "properties": {
        "object": {"const": "list"},
        "data": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["object", "index", "embedding"],
                "properties": {
                    "object": {"const": "embedding"},
                    "index": {"type": "integer"},
                    "embedding": {"type": ["array", "string"]},
                },
            },
        },
        "model": {"type": "string"},
        "usage": OBJECT,
    },
}
HEALTH: Final = {
    "type": "object",
    "required": ["status", "drafting", "waiting", "running"],
    "properties": {
        "status": {"enum": ["ok", "loading", "closing", "failed"]},
        "drafting": {
            "enum": ["off", "loading", "kernels", "measuring", "ready"],
            "description": "What is still prepared for drafting; answers come meanwhile, at plain speed.",
        },
        "waiting": {"type": "integer"},
        "running": {"type": "integer"},
        "reason": {"type": "string", "description": "What takes long while loading."},
    },
}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _refusals(*statuses: int) -> dict[str, Any]:
    refused = _json({"$ref": REFERENCE.format(name="Error")})
    return {
        str(status): {"description": REFUSALS[status], "content": refused}
        for status in sorted((*statuses, *EVERYWHERE))
    }


def _asked(body: type, answer: dict[str, Any], summary: str, *, streams: bool = True) -> dict[str, Any]:
    content = _json(answer)
    if streams:
        content["text/event-stream"] = {
            "schema": {
                "type": "object",
                "description": "An event; with `stream`.",
                "required": ["data"],
                "properties": {
                    "data": {
                        "type": "string",
                        "description": "A chunk as JSON, or `[DONE]`, which comes last.",
                    }
                },
            }
        }
    return {
        "post": {
            "summary": summary,
            "requestBody": {
                "required": True,
                "content": _json({"$ref": REFERENCE.format(name=body.__name__)}),
            },
            "responses": {
                "200": {"description": "The answer.", "content": content},
                **_refusals(*OF_BODIES),
            },
        }
    }


def _got(summary: str, content: dict[str, Any], *statuses: int, **more: Any) -> dict[str, Any]:
    return {
        "get": {
            "summary": summary,
            **more,
            "responses": {"200": {"description": summary, "content": content}, **_refusals(*statuses)},
        }
    }


@functools.cache
def description() -> dict[str, Any]:
    """The whole description, OpenAPI 3.1."""
    kinds = (ChatRequest, CompletionRequest, EmbeddingRequest)
    _, schemas = msgspec.json.schema_components(kinds, ref_template=REFERENCE)
    health = _got("Whether requests are answered.", _json(HEALTH))
    health["get"]["responses"]["503"] = {"description": "They are not, now.", "content": _json(HEALTH)}
    named = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
    missing = {"description": "There is no such model."}
    one_model = _got("The model, by its name.", _json(MODEL), 503, parameters=[named])
    one_model["get"]["responses"]["404"] = {
        **missing,
        "content": _json({"$ref": REFERENCE.format(name="Error")}),
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "aded-serve", "version": _version()},
        "paths": {
            "/v1/chat/completions": _asked(ChatRequest, CHAT_ANSWER, "Answer a conversation."),
            "/v1/completions": _asked(CompletionRequest, COMPLETION_ANSWER, "Continue texts."),
            "/v1/embeddings": _asked(EmbeddingRequest, EMBEDDINGS, "Vectors of texts.", streams=False),
            "/v1/models": _got("The models: one.", _json(MODELS), 503),
            "/v1/models/{model}": one_model,
            "/health": health,
            "/metrics": _got("Figures for Prometheus.", {"text/plain": {"schema": {"type": "string"}}}),
            "/openapi.json": _got("This description.", _json(OBJECT)),
        },
        "components": {
            "schemas": {**schemas, "Error": ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _version() -> str:
    try:
        return version("aded-local")
    except PackageNotFoundError:
        return "0"
