"""What the arguments of ``llama_cpp.Llama`` and of its calls mean here."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from aded_local.chat.template import CHATML
from aded_local.errors import ModelError, OptionError
from aded_local.files import given_path
from aded_local.llama.context import SMALLEST_CONTEXT
from aded_local.llama.context_settings import CACHE_TYPES
from aded_local.llama.gguf import read_header
from aded_local.request import YOU_CHOOSE

RANDOM_SEED: Final = 2**32 - 1
"""llama.cpp's "draw one" (``LLAMA_DEFAULT_SEED``)."""

FORMATS: Final[Mapping[str | None, str | None]] = {
    None: None,
    "chat_template.default": None,
    "chatml": CHATML,
}
"""Values of ``chat_format``, and the templates they stand for; None is the model's own."""

NOTHING_HERE: Final[Mapping[str, Any]] = {
    "n_ubatch": 512,
    "n_threads_batch": None,
    "use_mmap": True,
    "use_mlock": False,
    "logits_all": False,
    "offload_kqv": True,
    "op_offload": None,
    "swa_full": None,
    "no_perf": False,
    "numa": False,
    "lora_scale": 1.0,
    "draft_model": None,
}
"""Arguments that change no answer here, with the values that nobody is told of."""

_MODELS_OWN = "the model's own is used; leave it out"
_DEVICES = "layers are spread over devices by llama.cpp's own rule; leave it out"
_ADAPTERS = "adapters are not applied; merge it into the model (llama-export-lora) and give that file"

CANNOT: Final[Mapping[str, tuple[Any, str]]] = {
    "split_mode": (1, _DEVICES),
    "main_gpu": (0, _DEVICES),
    "tensor_split": (None, _DEVICES),
    "vocab_only": (False, "a model without weights cannot answer; leave it out"),
    "kv_overrides": (None, "a model is used as its file says; write what is wrong into the file"),
    "rope_scaling_type": (-1, _MODELS_OWN),
    "attention_type": (-1, _MODELS_OWN),
    "rope_freq_base": (0.0, _MODELS_OWN),
    "rope_freq_scale": (0.0, _MODELS_OWN),
    "yarn_ext_factor": (-1.0, _MODELS_OWN),
    "yarn_attn_factor": (1.0, _MODELS_OWN),
    "yarn_beta_fast": (32.0, _MODELS_OWN),
    "yarn_beta_slow": (1.0, _MODELS_OWN),
    "yarn_orig_ctx": (0, _MODELS_OWN),
    "lora_base": (None, _ADAPTERS),
    "lora_path": (None, _ADAPTERS),
    "chat_handler": (None, "images and own handlers cannot be used; give a Jinja text as chat_template"),
    "tokenizer": (None, "texts are tokenized by the model's own vocabulary; leave it out"),
}
"""Arguments that would change answers and cannot be followed: the value that is nobody's wish, and what to do."""

SAMPLERS: Final = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
    "mirostat_mode",
    "mirostat_tau",
    "mirostat_eta",
)
"""Options of an answer that have one name on both sides."""

UNASKED: Final[Mapping[str, Any]] = {"xtc_probability": 0.0, "dry_multiplier": 0.0}
"""Samplers that ``llama_cpp.Llama`` has not. What a model's maker suggests is not followed there, so not here."""


@dataclass(frozen=True, slots=True)
class Opening:
    """How a ``LocalADED`` is to be made.

    Attributes:
        options: its keyword arguments.
        ignored: names of arguments that were given and mean nothing here.
    """

    options: dict[str, Any]
    ignored: tuple[str, ...]


def opening(given: Mapping[str, Any]) -> Opening:
    """Make ``LocalADED``'s arguments of those of ``Llama``.

    Args:
        given: by ``Llama``'s names.

    Raises:
        OptionError: one of them cannot be followed.
    """
    for name, (nothing, instead) in CANNOT.items():
        if given[name] is not None and given[name] != nothing:
            raise OptionError(f"{name} is {str(given[name])[:80]!r}, which cannot be done here: {instead}")
    ignored = [name for name, nothing in NOTHING_HERE.items() if given[name] != nothing]
    if isinstance(given["draft_model"], (str, os.PathLike)):
        ignored.remove("draft_model")  # another GGUF; objects of llama_cpp's own are passed over
    options: dict[str, Any] = {
        name: given[name]
        for name in (
            "draft", "same", "memory", "store", "verbose", "on_progress", "on_notice", "n_gpu_layers", "n_threads",
        )
    }  # fmt: skip
    if isinstance(given["draft_model"], (str, os.PathLike)):
        options["draft_model"] = given["draft_model"]
    options["n_threads"] = given["n_threads"] or None
    options["n_ctx"] = context_cells(given["model_path"], given["n_ctx"])
    options["flash_attention"] = given["flash_attn"]
    options["cache_type"] = cache_type(given["type_k"], given["type_v"])
    options["chat_template"] = template(given["chat_format"], given["chat_template"])
    return Opening(options, tuple(ignored))


def context_cells(model_path: Any, n_ctx: Any) -> Any:
    """Cells of context as llama.cpp makes them of ``n_ctx``, in steps of 256; 0 is what the model was trained with."""
    if isinstance(n_ctx, bool) or not isinstance(n_ctx, int):
        return n_ctx  # LocalADED says what is wrong with it
    if n_ctx == 0:
        try:
            header = read_header(given_path("model_path", model_path, "a GGUF"))
        except (ModelError, OptionError):
            return (
                None  # a model's name, or a file with which something is wrong, as is said when it is opened
            )
        found = header.metadata.get(f"{header.architecture}.context_length")
        if not isinstance(found, int) or found <= 0:
            return None
        n_ctx = found
    return -(-n_ctx // SMALLEST_CONTEXT) * SMALLEST_CONTEXT


def cache_type(keys: Any, values: Any) -> str | None:
    """The name of the cache's type, from the numbers of ``enum ggml_type``; None leaves it open.

    Raises:
        OptionError: keys and values would have two types, or one that no cache has here.
    """
    names = {number: name for name, number in CACHE_TYPES.items()}
    if keys is None and values is None:
        return None
    if keys != values or keys not in names:
        known = ", ".join(f"{number} ({name})" for number, name in sorted(names.items()))
        raise OptionError(f"type_k is {keys!r} and type_v {values!r}; both must be the same one of {known}")
    return names[keys]


def template(chat_format: str | None, chat_template: Any) -> Any:
    """The template that ``chat_format`` stands for, or ``chat_template``, or None for the model's own.

    Raises:
        OptionError: there is no such format, or both were given.
    """
    if chat_format not in FORMATS:
        raise OptionError(
            f"chat_format is {str(chat_format)[:80]!r}; leave it out to chat by the model's own template, "
            "take 'chatml', or give a Jinja text as chat_template"
        )
    named = FORMATS[chat_format]
    if named is not None and chat_template is not None:
        raise OptionError(f"chat_format is {chat_format!r}, and chat_template was given too: leave one out")
    return named if chat_template is None else chat_template


# --- one answer ----------------------------------------------------------------------------------


def answering(given: Mapping[str, Any]) -> dict[str, Any]:
    """Make our options of an answer of those of ``Llama``'s calls; the length and the seed are not among them.

    Args:
        given: by ``Llama``'s names, and ``temperature``.

    Raises:
        OptionError: one of them cannot be followed.
    """
    options: dict[str, Any] = {name: given[name] for name in SAMPLERS}
    options.update(UNASKED)
    options["top_k"] = max(given["top_k"], 0)
    if options["mirostat_mode"] and options["temperature"] > 0:
        options["temperature"] = 1.0  # there it does not count beside mirostat
    if options["temperature"] < 0:  # drawn from the model's own softmax, whatever the rest says
        options.update(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, typical_p=1.0, mirostat_mode=0)
    bias = given.get("logit_bias")
    options["logit_bias"] = {int(token): float(value) for token, value in bias.items()} if bias else None
    options["grammar"] = gbnf(given.get("grammar"))
    for name in ("stopping_criteria", "logits_processor"):
        options[name] = given.get(name)
    return options


def gbnf(grammar: Any) -> str | None:
    """The text of a grammar: itself, or that of a ``llama_cpp.LlamaGrammar``.

    Raises:
        OptionError: it is neither.
    """
    text = getattr(grammar, "_grammar", grammar)
    if getattr(grammar, "_root", "root") != "root":
        raise OptionError(f"grammar begins with the rule {grammar._root!r}; name that rule root")
    if text is None or isinstance(text, str):
        return text
    raise OptionError(f"grammar is {type(grammar).__name__}; it must be GBNF text or a LlamaGrammar")


def response_schema(response_format: Any) -> Any:
    """The schema that an answer has to keep to, ``{}`` for any JSON object; None where it may be any text.

    Raises:
        OptionError: there is no such format.
    """
    if response_format is None:
        return None
    kind = response_format.get("type") if isinstance(response_format, Mapping) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return response_format.get("schema", {})
    if kind == "json_schema":
        named = response_format.get("json_schema")
        schema = named.get("schema") if isinstance(named, Mapping) else None
        if schema is not None:
            return schema
    raise OptionError(
        f"response_format is {str(response_format)[:80]!r}; it must have the type text, json_object, "
        "or json_schema and a json_schema with a schema"
    )


class Seeds:
    """The seeds of an object's answers, in order; the same as ``llama_cpp.Llama`` takes.

    Args:
        seed: the first; 0 and -1 draw one.
    """

    def __init__(self, seed: int) -> None:
        self.last = seed or RANDOM_SEED

    def next(self, given: int | None = None) -> int:
        """The seed of the next answer, or -1 to have one drawn.

        Args:
            given: with the call; else each follows from the one before.
        """
        self.last = random.Random(self.last).randint(0, 2**32) if given is None else given
        found = self.last % 2**32
        return YOU_CHOOSE if found == RANDOM_SEED else found
