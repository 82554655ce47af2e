"""What a request's body asks of the engine: prompts, and the options of each answer by their names there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from .fields import LARGEST_SEED, MOST_CHOICES, USUAL_COMPLETION, Asked, ChatRequest, CompletionRequest
from .refusals import BAD_REQUEST, Refusal

SAME_NAME: Final = (
    "stop",
    "seed",
    "draft",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
    "repeat_last_n",
    "xtc_probability",
    "xtc_threshold",
    "dry_multiplier",
    "dry_base",
    "dry_allowed_length",
    "dry_penalty_last_n",
    "dry_sequence_breakers",
    "mirostat_mode",
    "mirostat_tau",
    "mirostat_eta",
    "grammar",
)
"""Fields that are options of an answer under the same name."""

DRAWN: Final = -1
"""The seed that lets the engine draw one."""

Prompt = str | list[int]


def refused(param: str, message: str) -> Refusal:
    """A field that cannot be followed."""
    return Refusal(BAD_REQUEST, f"{param}: {message}", param=param, code="invalid_value")


def options_of(asked: Asked) -> dict[str, Any]:
    """The options of an answer; see ``request.Options``.

    Raises:
        Refusal: a field cannot be followed, or contradicts another.
    """
    options = {name: value for name in SAME_NAME if (value := getattr(asked, name)) is not None}
    max_tokens = asked.max_tokens
    if isinstance(asked, ChatRequest) and asked.max_completion_tokens is not None:
        max_tokens = asked.max_completion_tokens
    if isinstance(asked, CompletionRequest) and max_tokens is None:
        max_tokens = USUAL_COMPLETION
    if max_tokens == 0:
        raise refused("max_tokens", "it must be 1 or more, or -1 for as many as there are")
    if max_tokens is not None:
        options["max_tokens"] = max_tokens
    if asked.logit_bias:
        options["logit_bias"] = _biases(asked.logit_bias)
    schema = _schema(asked)
    if schema is not None:
        options["json_schema"] = schema
        if "grammar" in options:
            raise refused("grammar", "a JSON format was asked for too; leave one out")
    logprobs = _logprobs(asked)
    if logprobs is not None:
        options["logprobs"] = logprobs
    return options


def _biases(given: dict[str, float]) -> dict[int, float]:
    try:
        return {int(token): bias for token, bias in given.items()}
    except ValueError:
        raise refused("logit_bias", "its keys must be token ids") from None


def _schema(asked: Asked) -> dict[str, Any] | None:
    """The JSON schema that the answer has to keep to; ``{}`` is any object."""
    wanted = asked.response_format
    if wanted is None:
        return asked.json_schema
    if asked.json_schema is not None:
        raise refused("json_schema", "response_format was given too; leave one out")
    if wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return wanted.schema or {}
    if wanted.json_schema is None:
        raise refused("response_format", "there must be a JSON schema in json_schema.schema")
    return wanted.json_schema.schema


def _logprobs(asked: Asked) -> int | None:
    if isinstance(asked, CompletionRequest):
        return asked.logprobs
    if isinstance(asked, ChatRequest):
        if asked.logprobs:
            return asked.top_logprobs or 0
        if asked.top_logprobs is not None:
            raise refused("top_logprobs", "logprobs must be true for it")
    return None


def seeds(options: dict[str, Any], n: int) -> list[dict[str, Any]]:
    """The options of ``n`` answers to one prompt: each draws by a seed of its own."""
    seed = options.get("seed")
    if seed is None or seed == DRAWN:
        return [options] * n
    return [{**options, "seed": (seed + at) % (LARGEST_SEED + 1)} for at in range(n)]


def messages_of(asked: ChatRequest) -> list[dict[str, Any]]:
    """The conversation as ``stream_chat`` takes it."""
    found: list[dict[str, Any]] = []
    for message in asked.messages:
        plain = msgspec.to_builtins(message)
        plain.setdefault("content", None)
        found.append(plain)
    return found


def tools_of(asked: ChatRequest) -> tuple[list[dict[str, Any]] | None, str | dict[str, Any] | None]:
    """The functions that may be called and the choice among them, as ``stream_chat`` takes them."""
    choice: str | dict[str, Any] | None = msgspec.to_builtins(asked.tool_choice)
    return msgspec.to_builtins(asked.tools), choice


def prompts_of(given: str | Sequence[str | int | list[int]]) -> list[Prompt]:
    """The prompts of a completion: a text, token ids, or a list of either.

    Raises:
        Refusal: texts and ids are mixed.
    """
    if isinstance(given, str):
        return [given]
    if all(isinstance(each, int) for each in given):
        return [[int(each) for each in given]]  # type: ignore[arg-type]
    if any(isinstance(each, int) for each in given):
        raise refused("prompt", "texts and token ids stand side by side; give a list of one kind")
    return [each for each in given if not isinstance(each, int)]


def require_few(n_prompts: int, n: int) -> None:
    """Refuse more answers than one request may ask for.

    Raises:
        Refusal
    """
    if n_prompts * n > MOST_CHOICES:
        raise refused(
            "n", f"{n_prompts * n} answers in one request; at most {MOST_CHOICES}, as one follows the other"
        )
