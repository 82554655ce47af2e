"""How likely a token is by what a draft model and n-grams say: learnt from how often such statements came true."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from typing import Final

import numpy as np

from aded_bench.drafters.real import Row, Way
from aded_local.tree import ROOT, DraftTree

EDGES: Final = (0.01, 0.03, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
"""Between classes of statements; closer where being wrong costs more."""

PRIOR: Final = 4.0
"""Statements that the larger of both figures counts for, before anything was learnt."""

LEAST: Final = 0.01
"""Candidates below that are dropped: no pass has room for them."""

Given = Mapping[int, float]
"""Probabilities by token."""


def shares_of(row: Row) -> dict[int, float]:
    """A draft model's statement by token."""
    return {int(token): float(share) for token, share in zip(*row, strict=True) if token >= 0}


def entropy_of(row: Row) -> float:
    """Of the shares, in nats."""
    shares = row[1][row[1] > 0].astype(np.float64)
    return float(-(shares * np.log(shares)).sum())


def conditionals_of(tree: DraftTree) -> dict[Way, dict[int, float]]:
    """What an n-gram drafter's tree says of the tokens behind each of its paths."""
    found: dict[Way, dict[int, float]] = {}
    ways: list[Way] = []
    parents, tokens, paths = tree.parents.tolist(), tree.tokens.tolist(), tree.probabilities.tolist()
    for parent, token, path in zip(parents, tokens, paths, strict=True):
        way = ways[parent] if parent != ROOT else ()
        above = paths[parent] if parent != ROOT else 1.0
        found.setdefault(way, {})[token] = min(1.0, path / max(above, 1e-9))
        ways.append((*way, token))
    return found


class Chances:
    """One table over pairs of classes: what the draft model says, and what n-grams say."""

    def __init__(self) -> None:
        size = len(EDGES) + 2
        self._hits = np.zeros((size, size))
        self._trials = np.zeros((size, size))

    def of(self, model: Given, ngrams: Given) -> dict[int, float]:
        """Probabilities of the candidates, likeliest first; they add up to one at most."""
        found = {
            token: self._one(model.get(token, 0.0), ngrams.get(token, 0.0)) for token in {**model, **ngrams}
        }
        scale = 1.0 / max(1.0, sum(found.values()))
        kept = ((token, p * scale) for token, p in found.items() if p * scale >= LEAST)
        return dict(sorted(kept, key=lambda each: -each[1]))

    def _one(self, model: float, ngrams: float) -> float:
        place = _class(model), _class(ngrams)
        prior = PRIOR * max(model, ngrams)
        return float((self._hits[place] + prior) / (self._trials[place] + PRIOR))

    def learn(self, model: Given, ngrams: Given, came: int) -> None:
        """This token came where that was said."""
        for token in {**model, **ngrams}:
            place = _class(model.get(token, 0.0)), _class(ngrams.get(token, 0.0))
            self._trials[place] += 1
            self._hits[place] += token == came


def _class(p: float) -> int:
    """0 for what was not named."""
    return 0 if p <= 0.0 else 1 + bisect_right(EDGES, p)
