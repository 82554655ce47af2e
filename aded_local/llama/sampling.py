"""How the target chooses a token: the settings, and which of a model maker's can be followed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from aded_local.errors import OptionError

LARGEST_SEED: Final = 2**32 - 2
"""The number above means "draw one" to llama.cpp (``LLAMA_DEFAULT_SEED``)."""

LARGEST_WINDOW: Final = 2**20
"""Tokens that a penalty may look back over: a context can hold no more (``request.LARGEST_CONTEXT``)."""

MOST_BREAKERS: Final = 64
"""Texts at which DRY's repetitions end, at most: llama.cpp looks for each in the whole vocabulary. Chosen."""

LONGEST_BREAKER: Final = 40
"""Bytes of such a text at most: llama.cpp cuts longer ones (``MAX_CHAR_LEN``, llama-sampler.cpp)."""

FORBIDDEN: Final = -math.inf
"""The bias of a token that is never to be said."""

LARGEST_BIAS: Final = float(np.finfo(np.float32).max)
"""llama.cpp's biases are float32."""


@dataclass(frozen=True, slots=True)
class _Range:
    """The numbers that a setting may be."""

    low: float
    high: float
    text: str
    whole: bool = False
    low_itself: bool = True

    def holds(self, value: float) -> bool:
        above = value >= self.low if self.low_itself else value > self.low
        return above and value <= self.high and not (self.whole and value != int(value))


def _between(low: float, high: float) -> _Range:
    return _Range(low, high, f"between {low:g} and {high:g}")


def _above(low: float, high: float) -> _Range:
    return _Range(low, high, f"above {low:g}, at most {high:g}", low_itself=False)


def _whole(low: int, high: int) -> _Range:
    return _Range(low, high, f"a whole number from {low} to {high}", whole=True)


_WINDOW = _Range(-1, LARGEST_WINDOW, "a whole number, 0 or more, or -1 for the whole context", whole=True)

_RANGES: Final = {
    "temperature": _between(0, 100),
    "top_k": _Range(0, 2**31 - 1, "a whole number, 0 or more", whole=True),
    "top_p": _between(0, 1),
    "min_p": _between(0, 1),
    "typical_p": _between(0, 1),
    "repeat_penalty": _above(0, 10),
    "presence_penalty": _between(-100, 100),
    "frequency_penalty": _between(-100, 100),
    "repeat_last_n": _WINDOW,
    "xtc_probability": _between(0, 1),
    "xtc_threshold": _between(0, 1),
    "dry_multiplier": _between(0, 100),
    "dry_base": _between(1, 100),
    "dry_allowed_length": _whole(0, LARGEST_WINDOW),
    "dry_penalty_last_n": _WINDOW,
    "mirostat_mode": _whole(0, 2),
    "mirostat_tau": _between(0, 100),
    "mirostat_eta": _between(0, 1),
    "seed": _whole(0, LARGEST_SEED),
}


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen from the logits. Defaults are llama.cpp's (``common/common.h``).

    Attributes:
        temperature: 0 takes the likeliest token (greedy).
        top_k: keep the k likeliest; 0 keeps all.
        top_p: keep the smallest set with this probability mass; 1 keeps all.
        min_p: keep tokens at least this fraction as likely as the likeliest; 0 keeps all.
        typical_p: keep the tokens nearest to the expected surprise, up to this mass; 1 keeps all.
        repeat_penalty: divide the logits of recent tokens by this; 1 does nothing.
        presence_penalty: subtract this from the logits of recent tokens.
        frequency_penalty: subtract this for each time that a token came recently.
        repeat_last_n: tokens that count as recent for these three; 0 turns them off, -1 takes the whole context.
        penalize_prompt: tokens of the prompt count too, for DRY as well, as in llama.cpp's own programs. (Not so in
            llama-cpp-python.)
        xtc_probability: how often the likeliest tokens but one are dropped; 0 never.
        xtc_threshold: of those that are at least this likely; above 0.5 none.
        dry_multiplier: penalty on tokens that go on with a repetition (DRY); 0 turns it off.
        dry_base: by which it grows with each token of the repetition.
        dry_allowed_length: longest repetition without a penalty, in tokens.
        dry_penalty_last_n: tokens in which repetitions are looked for; 0 turns it off, -1 takes the whole context.
        dry_sequence_breakers: texts at which a repetition ends.
        mirostat_mode: 1 or 2 keeps the surprise of the text at ``mirostat_tau``, in place of ``top_k``, ``top_p``,
            ``min_p``, ``typical_p`` and XTC; 0 does not. A temperature of 0 is greedy all the same.
        mirostat_tau: that surprise, in bits.
        mirostat_eta: how quickly it is followed.
        logit_bias: token ids and what is added to their logits; ``-inf`` forbids a token.
        seed: of the random draws; None draws one.

    Raises:
        OptionError: a value is out of range.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repeat_last_n: int = 64
    penalize_prompt: bool = True
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = 64
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    mirostat_mode: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, allowed in _RANGES.items():
            value = getattr(self, name)
            if name == "seed" and value is None:
                continue
            if not _is_number(value):
                raise OptionError(f"{name} must be a number, not {value!r}")
            if isinstance(value, (float, np.floating)):  # a whole number may be too large to be asked
                _require(math.isfinite(value), name, value, "finite")
            _require(allowed.holds(value), name, value, allowed.text)
        if not isinstance(self.penalize_prompt, (bool, np.bool_)):
            raise OptionError(f"penalize_prompt is {self.penalize_prompt!r}; it must be True or False")
        _check_breakers(self.dry_sequence_breakers)
        _check_bias(self.logit_bias)

    @property
    def penalizes(self) -> bool:
        """Whether recent tokens are made less likely, or more."""
        changes = (self.repeat_penalty, self.presence_penalty, self.frequency_penalty) != (1.0, 0.0, 0.0)
        return changes and self.repeat_last_n != 0

    @property
    def dries(self) -> bool:
        """Whether repetitions are penalized by DRY."""
        return self.dry_multiplier > 0.0 and self.dry_penalty_last_n != 0

    @property
    def is_plain_greedy(self) -> bool:
        """Whether the choice is the arg-max of the raw logits."""
        return self.temperature == 0.0 and not (self.penalizes or self.dries or self.logit_bias)


def suggestions(found: Mapping[str, float]) -> tuple[dict[str, float], list[str]]:
    """The settings of a model's maker that are in range, and a line on each of the others."""
    usable: dict[str, float] = {}
    lines = []
    for name, value in found.items():
        try:
            Sampling(**{name: value})  # type: ignore[arg-type]
            usable[name] = value
        except OptionError as error:
            lines.append(f"the model's own suggestion is ignored: {error}")
    return usable, lines


def biases(given: object) -> tuple[tuple[int, float], ...]:
    """A mapping from token ids to biases as ``Sampling.logit_bias``.

    Raises:
        OptionError: it is no mapping; what it holds, ``Sampling`` checks.
    """
    if not isinstance(given, Mapping):
        raise OptionError(f"logit_bias is {given!r}; it must be a mapping from token ids to numbers")
    return tuple(given.items())


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _require(condition: bool, name: str, value: object, range_text: str) -> None:
    if not condition:
        raise OptionError(f"{name} is {value}; it must be {range_text}")


def _check_breakers(breakers: object) -> None:
    is_texts = isinstance(breakers, tuple) and all(isinstance(each, str) for each in breakers)
    if not is_texts or not all(_is_breaker(each) for each in breakers):  # type: ignore[attr-defined]
        raise OptionError(
            f"dry_sequence_breakers is {breakers!r}; it must be texts of 1 to {LONGEST_BREAKER} bytes without a NUL"
        )
    _require(
        len(breakers) <= MOST_BREAKERS,  # type: ignore[arg-type]
        "the number of dry_sequence_breakers",
        len(breakers),  # type: ignore[arg-type]
        f"at most {MOST_BREAKERS}",
    )


def _is_breaker(text: str) -> bool:
    try:
        return 0 < len(text.encode()) <= LONGEST_BREAKER and "\0" not in text
    except UnicodeEncodeError:
        return False


def _check_bias(pairs: tuple[tuple[int, float], ...]) -> None:
    for token, bias in pairs:
        if isinstance(token, bool) or not isinstance(token, (int, np.integer)) or token < 0:
            raise OptionError(f"logit_bias names {token!r}; it must name token ids, whole numbers from 0")
        if not _is_number(bias) or not (bias == FORBIDDEN or abs(bias) <= LARGEST_BIAS):
            raise OptionError(f"logit_bias of token {token} is {bias!r}; it must be a finite number, or -inf")
