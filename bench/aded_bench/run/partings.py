"""Why do two answers part, and how far does decoding in wider passes move the probabilities?

The prefix is decoded again with `llama_cpp.Llama`, in the setting of the answers: once token by token, as plain
decoding wrote it, and in wider passes, those that drafting took where they are known. What such passes change about
the two candidates themselves is what rounding explains. A parting that they do not change enough is no rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aded_bench.run.arms import ONE_TOKEN, SAMPLING, LlamaArm, PassSize

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Logits = npt.NDArray[np.float32]

WIDTH = 8
"""Tokens per pass of a second wider decoding, beside the passes that were taken: drafts are about that long."""


# --- sizes of passes as text -----------------------------------------------------------------------------


def passes_as_text(passes: Sequence[PassSize]) -> str:
    """``12 8/3 1``: twelve passes over one token, one over eight of which three stayed, one over one."""
    words: list[str] = []
    plain = 0
    for size, kept in (*passes, (0, 0)):
        if (size, kept) == ONE_TOKEN:
            plain += 1
            continue
        if plain:
            words.append(str(plain))
        plain = 0
        if size:
            words.append(f"{size}/{kept}")
    return " ".join(words)


def passes_of_text(text: str) -> tuple[PassSize, ...]:
    """The reverse. ValueError where it is no such text."""
    found: list[PassSize] = []
    for word in text.split():
        size, slash, kept = word.partition("/")
        found += [(int(size), int(kept))] if slash else [ONE_TOKEN] * int(size)
    if not all(1 <= kept <= size for size, kept in found):
        raise ValueError("these are no sizes of passes")
    return tuple(found)


# --- partings --------------------------------------------------------------------------------------------


def parting_position(expected: Sequence[int], found: Sequence[int]) -> int:
    """Index of the first token that differs; the shorter length where one is the other's beginning."""
    pairs = enumerate(zip(expected, found, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(expected), len(found)))


def parting(
    witness: LlamaArm,
    prompt: Sequence[int],
    expected: Sequence[int],
    found: Sequence[int],
    passes: Sequence[PassSize] | None,
    temperature: float = 0.0,
    threads: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Where two answers part, how far apart their candidates were, and how far wider passes move that.

    Greedily, ``gap`` is what separates the two candidates' logits in plain decoding, and ``moved`` the most by which
    that changes in the other ways of decoding. With a temperature a random number between 0 and 1 decides, and each
    candidate has a stretch of them: ``gap`` is what lies between plain decoding's stretch of its candidate and the
    nearest stretch that another way gives to the other candidate, and ``moved`` the most by which ends of the two
    stretches move. ``within_rounding``: the move is at least as large as the gap. (A pass is not always replayed to
    the bit, since in a branched draft the accepted tokens need not be the first ones; so the stretches may miss each
    other.)

    Args:
        expected, found: plain decoding's answer and the other.
        passes: by which ``found`` was decoded; () for passes over one token each, None where they are not known.
        threads: how many there are, and how many one of the answers was left with by other programs; in some settings
            that is another order of sums, as another width is.
    """
    position = parting_position(expected, found)
    first = position % WIDTH or WIDTH
    ways: dict[str, Sequence[PassSize]] = {
        "one": (),
        "wide": [(first, first), *[(WIDTH, WIDTH)] * (position // WIDTH)],
    }
    if passes is not None and any(size > 1 for size, _ in passes):
        ways["real"] = passes
    elif passes is not None:
        del ways["wide"]  # two ways that decode token by token part for another reason than width
    logits = {
        name: witness.replay(prompt, found, sizes, position + 1)[position] for name, sizes in ways.items()
    }
    if threads is not None:
        full, left = threads
        witness.use_threads(left)
        logits["threads"] = witness.replay(prompt, found, passes or (), position + 1)[position]
        witness.use_threads(full)
    plain = logits.pop("one")
    # The end token is not part of an answer: the shorter answer chose the likeliest of them.
    end = max(witness.ends, key=lambda token: float(plain[token])) if witness.ends else 0
    pair = [int(tokens[position]) if position < len(tokens) else end for tokens in (expected, found)]
    decide = _draws if temperature else _logits_apart
    gap, moved, within = decide(plain, list(logits.values()), pair, temperature)
    return {
        "position": position,
        "cells": len(prompt) + position,
        "candidates": [
            {"token": token, "text": witness.text(token), "one": float(plain[token])}
            | {name: float(each[token]) for name, each in logits.items()}
            for token in pair
        ],
        "gap": gap,
        "moved": moved,
        "within_rounding": within,
    }


def _logits_apart(
    plain: Logits, others: Sequence[Logits], pair: Sequence[int], _temperature: float
) -> tuple[float, float, bool]:
    margin, *wider = (float(each[pair[0]]) - float(each[pair[1]]) for each in (plain, *others))
    moved = max((abs(each - margin) for each in wider), default=0.0)
    return abs(margin), moved, abs(margin) <= moved


@dataclass(frozen=True)
class Stretch:
    """The random numbers, between 0 and 1, with which a token is drawn."""

    low: float
    high: float

    def apart(self, other: Stretch) -> float:
        """What lies between the two; 0 where they meet."""
        return max(0.0, self.low - other.high, other.low - self.high)


def stretch(logits: Logits, token: int, temperature: float) -> Stretch | None:
    """When llama.cpp's chain draws ``token``, with the bench's settings; None where it never does.

    The order is llama.cpp's: the likeliest ``top_k``, of those the first ``top_p`` of the probability, of those all
    that are at least ``min_p`` times as likely as the likeliest; then the temperature, then the draw, likeliest first.
    """
    import numpy as np

    order = np.argsort(-logits, kind="stable")[: SAMPLING["top_k"]]
    sorted_logits = logits[order].astype(np.float64)
    shares = np.exp(sorted_logits - sorted_logits[0])
    reached = np.cumsum(shares / shares.sum())
    kept = min(len(order), int(np.searchsorted(reached, SAMPLING["top_p"])) + 1)
    kept = min(kept, int(np.count_nonzero(shares >= SAMPLING["min_p"])))
    warm = np.exp((sorted_logits[:kept] - sorted_logits[0]) / temperature)
    ends = np.concatenate(([0.0], np.cumsum(warm / warm.sum())))
    (places,) = np.nonzero(order[:kept] == token)
    return Stretch(float(ends[places[0]]), float(ends[places[0] + 1])) if len(places) else None


def _draws(
    plain: Logits, others: Sequence[Logits], pair: Sequence[int], temperature: float
) -> tuple[float, float, bool]:
    mine = stretch(plain, pair[0], temperature)
    gap, moved = 1.0, 0.0
    for each in others if mine is not None else ():
        theirs = stretch(each, pair[1], temperature)
        if mine is not None and theirs is not None:
            gap = min(gap, mine.apart(theirs))
        for token in pair:
            ends = [stretch(way, token, temperature) or Stretch(1.0, 1.0) for way in (plain, each)]
            moved = max(moved, abs(ends[0].low - ends[1].low), abs(ends[0].high - ends[1].high))
    return gap, moved, gap <= moved


# --- how far probabilities move --------------------------------------------------------------------------


@dataclass(frozen=True)
class Movement:
    """What decoding in passes of given sizes does to the probabilities at one position of an answer.

    Attributes:
        divergence: Kullback–Leibler divergence from one-token decoding, in nats.
        change: the largest change of any token's probability.
        wide: the position was decoded in a pass over more than one token.
    """

    divergence: float
    change: float
    wide: bool


def movements(
    witness: LlamaArm, prompt: Sequence[int], answer: Sequence[int], passes: Sequence[PassSize]
) -> list[Movement]:
    """At each position of an answer but the first, which comes from the prompt."""
    import numpy as np

    rows = len(answer)
    if rows < 2:
        return []
    plain, other = (witness.replay(prompt, answer, sizes, rows)[1:] for sizes in ((), passes))
    wide = [size > 1 for size, kept in passes for _ in range(kept)]
    found = []
    for row, (a, b) in enumerate(zip(plain, other, strict=True)):
        p, q = (_log_shares(each.astype(np.float64)) for each in (a, b))
        divergence = float(np.sum(np.exp(p) * (p - q)))
        change = float(np.max(np.abs(np.exp(p) - np.exp(q))))
        found.append(Movement(max(0.0, divergence), change, row < len(wide) and wide[row]))
    return found


def _log_shares(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    import numpy as np

    shifted = logits - logits.max()
    found: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return found


def summed_up(found: Sequence[Movement]) -> dict[str, Any]:
    """Over positions: mean and largest divergence, the largest change, and how many positions there are."""
    divergences = [each.divergence for each in found]
    return {
        "positions": len(found),
        "wide": sum(each.wide for each in found),
        "divergence_mean": sum(divergences) / len(found) if found else 0.0,
        "divergence_largest": max(divergences, default=0.0),
        "change_largest": max((each.change for each in found), default=0.0),
    }
