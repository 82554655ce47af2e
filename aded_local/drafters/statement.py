"""What a draft model says of one place in the text."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import log

from aded_local.tree import FloatArray, IntArray


@dataclass(frozen=True)
class Statement:
    """The likeliest next tokens behind a text and a path below it.

    Attributes:
        path: tokens behind the text's last one; empty for what follows the text itself.
        tokens: likeliest first, int32 ``(8,)``; -1 where there are fewer.
        probabilities: of each, among all tokens of the vocabulary, float32 ``(8,)``.
    """

    path: tuple[int, ...]
    tokens: IntArray
    probabilities: FloatArray

    @property
    def confidence(self) -> float:
        """Probability of the likeliest token."""
        return float(self.probabilities[0])

    @cached_property
    def entropy(self) -> float:
        """In nats, with all that is not named taken for one token."""
        named = [float(p) for p in self.probabilities if p > 0.0]
        rest = 1.0 - sum(named)
        return -sum(p * log(p) for p in (*named, rest) if p > 0.0)
