"""The bodies of requests: each field, its type and its range. Reading and /openapi.json both go by them."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

MOST_MESSAGES: Final = 4096
MOST_TOKENS: Final = 2**20
"""The engine's largest context."""
MOST_CHOICES: Final = 16
"""Answers to one request at most: ``n``, times the prompts of a completion. One follows the other, so more are asked
for in requests of their own."""
MOST_STOPS: Final = 16
MOST_LIKELIEST: Final = 20
"""OpenAI's bound of ``top_logprobs``."""
MOST_BIASES: Final = 1024
LARGEST_SEED: Final = 2**32 - 2
"""The number above means "draw one" to llama.cpp (``LLAMA_DEFAULT_SEED``)."""
MOST_INPUTS: Final = 2048
"""OpenAI's bound of texts to embed; LangChain sends 1,000 at a time."""
MOST_TOOLS: Final = 128

USUAL_COMPLETION: Final = 16
"""``max_tokens`` of /v1/completions where it is not given, as OpenAI has it."""

Temperature = Annotated[float, Meta(ge=0, le=100)]
Share = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Tokens = Annotated[int, Meta(ge=-1, le=MOST_TOKENS)]
Choices = Annotated[int, Meta(ge=1, le=MOST_CHOICES)]
Seed = Annotated[int, Meta(ge=-1, le=LARGEST_SEED)]
Stop = str | Annotated[list[str], Meta(max_length=MOST_STOPS)]
Bias = Annotated[dict[str, Annotated[float, Meta(ge=-100, le=100)]], Meta(max_length=MOST_BIASES)]
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Ids = Annotated[list[TokenId], Meta(min_length=1, max_length=MOST_TOKENS)]
Text = Annotated[str, Meta(min_length=1)]


class StreamOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """``stream_options``."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Part(Struct, frozen=True, omit_defaults=True):
    """A part of a message's content. Only texts can be read."""

    type: str
    text: str | None = None


class Function(Struct, frozen=True):
    """A call that the model made."""

    name: str
    arguments: str = ""


class ToolCall(Struct, frozen=True):
    """A call of an earlier answer."""

    function: Function
    id: str = ""
    type: str = "function"


class Message(Struct, frozen=True, omit_defaults=True):
    """A turn of the conversation. Clients send back what they got, so other keys of theirs are passed over."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: Annotated[list[ToolCall], Meta(max_length=MOST_TOOLS)] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class ToolFunction(Struct, frozen=True, omit_defaults=True):
    """A function that the model may call; ``parameters`` is a JSON schema."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Struct, frozen=True):
    """What the model may use: functions alone."""

    type: Literal["function"]
    function: ToolFunction


class FunctionName(Struct, frozen=True):
    """Names a function."""

    name: str


class NamedTool(Struct, frozen=True):
    """The function that must be called."""

    type: Literal["function"]
    function: FunctionName


class JSONSchema(Struct, frozen=True):
    """``response_format.json_schema``. The schema is always held to, ``strict`` or not."""

    schema: dict[str, Any]
    name: str | None = None


class ResponseFormat(Struct, frozen=True):
    """What an answer has to look like. ``json_object`` may have a schema too, as llama.cpp's server has it."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JSONSchema | None = None
    schema: dict[str, Any] | None = None


class Asked(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What chats and completions have in common. A field that is null counts as left out."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Choices | None = None
    max_tokens: Tokens | None = None
    stop: Stop | None = None
    seed: Seed | None = None
    draft: Literal["auto", "off"] | None = None

    temperature: Temperature | None = None
    top_p: Share | None = None
    top_k: Count | None = None
    min_p: Share | None = None
    typical_p: Share | None = None
    repeat_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repeat_last_n: Annotated[int, Meta(ge=-1, le=MOST_TOKENS)] | None = None
    xtc_probability: Share | None = None
    xtc_threshold: Share | None = None
    dry_multiplier: Annotated[float, Meta(ge=0, le=100)] | None = None
    dry_base: Annotated[float, Meta(ge=0, le=100)] | None = None
    dry_allowed_length: Count | None = None
    dry_penalty_last_n: Annotated[int, Meta(ge=-1, le=MOST_TOKENS)] | None = None
    dry_sequence_breakers: Annotated[list[str], Meta(max_length=MOST_STOPS)] | None = None
    mirostat_mode: Annotated[int, Meta(ge=0, le=2)] | None = None
    mirostat_tau: Annotated[float, Meta(ge=0, le=100)] | None = None
    mirostat_eta: Share | None = None
    logit_bias: Bias | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    response_format: ResponseFormat | None = None

    # OpenAI's, for a server with accounts and several machines. They mean nothing here.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None


class ChatRequest(Asked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of /v1/chat/completions."""

    messages: Annotated[list[Message], Meta(min_length=1, max_length=MOST_MESSAGES)]
    max_completion_tokens: Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=MOST_LIKELIEST)] | None = None
    tools: Annotated[list[Tool], Meta(max_length=MOST_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None


class CompletionRequest(Asked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of /v1/completions. ``prompt`` is a text, token ids, or a list of either."""

    prompt: Text | Annotated[list[Text | TokenId | Ids], Meta(min_length=1, max_length=MOST_TOKENS)]
    suffix: None = None
    echo: bool | None = None
    best_of: Annotated[int, Meta(ge=1, le=1)] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=MOST_LIKELIEST)] | None = None


class EmbeddingRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of /v1/embeddings."""

    input: Text | Annotated[list[Text], Meta(min_length=1, max_length=MOST_INPUTS)]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None
