"""How likely the model found a token: the softmax of its own logits, before any sampler."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from aded_local.tree import FloatArray


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token of an answer, and what else the model found likely in its place.

    Attributes:
        token: its id.
        logprob: natural logarithm of its probability.
        top: the likeliest tokens there and their logarithms, likeliest first; as many as were asked for. The token
            itself is among them only where it is that likely.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)


def token_logprob(logits: FloatArray, token: int, n_top: int) -> TokenLogprob:
    """What the softmax of ``logits`` says of ``token``.

    In float32 and in llama-cpp-python's order of operations, so that the numbers are the same.

    Args:
        logits: raw, float32 ``(n_vocab,)``.
        token: its id.
        n_top: the number of likeliest tokens wanted beside it; of two that are equally likely the smaller id is first.
    """
    highest = logits.max()
    shifted = logits - (highest if np.isfinite(highest) else np.float32(0))
    with np.errstate(divide="ignore"):
        total = np.log(np.exp(shifted).sum())
    top: tuple[tuple[int, float], ...] = ()
    if n_top > 0:
        likeliest = _likeliest(logits, n_top)
        top = tuple((int(each), float(shifted[each] - total)) for each in likeliest)
    return TokenLogprob(token, float(shifted[token] - total), top)


def _likeliest(logits: FloatArray, n: int) -> list[int]:
    n = min(n, len(logits))
    bound = np.partition(logits, len(logits) - n)[len(logits) - n]
    candidates = np.flatnonzero(
        logits >= bound
    )  # all that are as likely as the last of them, smaller ids first
    order = np.argsort(-logits[candidates], kind="stable")
    found: list[int] = candidates[order[:n]].tolist()
    return found
