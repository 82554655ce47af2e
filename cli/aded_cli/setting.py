"""What ``/set`` changes: the names, what each takes, and whether a value is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aded_local.errors import OptionError
from aded_local.shown import brief

DEFAULT: Final = "default"
"""As a value: what the model suggests, else llama.cpp's default."""

_ANY_TOKEN: Final = 2**31
"""In place of a vocabulary's size: none of these settings names a token."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Something of each answer that may be changed.

    Attributes:
        read: a value from what was typed; raises ValueError.
        takes: what that has to be.
        words: what it does.
    """

    read: Callable[[str], Any]
    takes: str
    words: str


def _texts(typed: str) -> list[str]:
    """Texts apart by spaces, or one in quotes; ``\\n`` and ``\\t`` in them are what they stand for."""
    quoted = len(typed) > 1 and typed[0] == typed[-1] and typed[0] in "\"'"
    parts = [typed[1:-1]] if quoted else typed.split()
    return [part.replace("\\n", "\n").replace("\\t", "\t") for part in parts]


SETTINGS: Final[Mapping[str, Setting]] = {
    "temperature": Setting(float, "a number", "0 takes the likeliest token, more is freer"),
    "top_k": Setting(int, "a whole number", "keep the N likeliest (0: all)"),
    "top_p": Setting(float, "a number", "keep the likeliest up to a mass of P"),
    "min_p": Setting(float, "a number", "drop what is P times less likely than the best"),
    "typical_p": Setting(float, "a number", "locally typical sampling (1: off)"),
    "repeat_penalty": Setting(float, "a number", "penalty on repetition (1: none)"),
    "repeat_last_n": Setting(int, "a whole number", "tokens that the penalty looks back"),
    "presence_penalty": Setting(float, "a number", "penalty on what was said (0: none)"),
    "frequency_penalty": Setting(float, "a number", "penalty for each time it was said (0: none)"),
    "seed": Setting(int, "a whole number", "of the random draws (-1: another one each time)"),
    "max_tokens": Setting(int, "a whole number", "tokens of an answer at most (-1: until it ends)"),
    "stop": Setting(_texts, "texts", "texts that end an answer"),
}

ALIASES: Final[Mapping[str, str]] = {
    "temp": "temperature",
    "num_predict": "max_tokens",
    "n_predict": "max_tokens",
    "predict": "max_tokens",
    "n": "max_tokens",
}
"""The same in llama.cpp and Ollama."""

AT_START: Final[Mapping[str, str]] = {
    "num_ctx": "-c",
    "n_ctx": "-c",
    "ctx_size": "-c",
    "num_thread": "-t",
    "num_gpu": "-ngl",
    "threads": "-t",
}
"""What is chosen when a model is loaded, and by which option."""


def change(sampling: dict[str, Any], typed: str) -> str:
    """Change one setting; what was changed.

    Args:
        sampling: keyword arguments of every generation, which is changed.
        typed: a name and a value.

    Raises:
        OptionError: there is no such setting, or no such value.
    """
    name, _, value = typed.removeprefix("parameter ").strip().partition(" ")
    name = name.lower().lstrip("-").replace("-", "_")
    name = ALIASES.get(name, name)
    value = value.strip()
    name = brief(name)
    if name in AT_START:
        raise OptionError(f"{name} holds for a loaded model: start the chat with {AT_START[name]}")
    setting = SETTINGS.get(name)
    if setting is None:
        raise OptionError(f"there is no setting {name}; there are {', '.join(SETTINGS)}")
    if not value:
        raise OptionError(f"/set {name} needs a value: {setting.takes}, or {DEFAULT}")
    if value == DEFAULT:
        sampling.pop(name, None)
        return f"{name} is the model's own again"
    try:
        found = setting.read(value)
    except ValueError:
        raise OptionError(f"{name} is {brief(value)!r}; it must be {setting.takes}") from None
    from aded_local.request import Request

    Request.of({**sampling, name: found}, {}, None, _ANY_TOKEN)  # type: ignore[typeddict-item]
    sampling[name] = found
    return f"{name} is {shown(found)}"


def shown(value: Any) -> str:
    """A value as it is typed."""
    return " ".join(repr(text) for text in value) if isinstance(value, (list, tuple)) else str(value)
