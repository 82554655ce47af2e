"""How the target chooses a token: the settings, and which of a model maker's can be followed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from aded_local.errors import OptionError

LARGEST_SEED = 2**32 - 2
"""The number above means "draw one" to llama.cpp (``LLAMA_DEFAULT_SEED``)."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen from the logits. Defaults are llama.cpp's (``common/common.h``).

    Attributes:
        temperature: 0 takes the likeliest token (greedy).
        top_k: keep the k likeliest; 0 keeps all.
        top_p: keep the smallest set with this probability mass; 1 keeps all.
        min_p: keep tokens at least this fraction as likely as the likeliest; 0 keeps all.
        repeat_penalty: divide the logits of recent tokens by this; 1 does nothing.
        seed: of the random draws; None draws one.

    Raises:
        OptionError: a value is out of range.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "seed" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
                raise OptionError(f"{field.name} must be a number, not {value!r}")
            if isinstance(value, (float, np.floating)):  # a whole number may be too large to be asked
                _require(math.isfinite(value), field.name, value, "finite")
        _require(0.0 <= self.temperature <= 100.0, "temperature", self.temperature, "between 0 and 100")
        _require(
            self.top_k == int(self.top_k) and 0 <= self.top_k < 2**31,
            "top_k",
            self.top_k,
            "a whole number, 0 or more",
        )
        _require(0.0 <= self.top_p <= 1.0, "top_p", self.top_p, "between 0 and 1")
        _require(0.0 <= self.min_p <= 1.0, "min_p", self.min_p, "between 0 and 1")
        _require(
            0.0 < self.repeat_penalty <= 10.0, "repeat_penalty", self.repeat_penalty, "above 0, at most 10"
        )
        if self.seed is not None:
            valid = self.seed == int(self.seed) and 0 <= self.seed <= LARGEST_SEED
            _require(valid, "seed", self.seed, f"a whole number from 0 to {LARGEST_SEED}")

    @property
    def is_plain_greedy(self) -> bool:
        """Whether the choice is the arg-max of the raw logits."""
        return self.temperature == 0.0 and self.repeat_penalty == 1.0


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


def _require(condition: bool, name: str, value: object, range_text: str) -> None:
    if not condition:
        raise OptionError(f"{name} is {value}; it must be {range_text}")
