"""Which places the draft model is asked for next.

Before a pass: those whose answers are worth the wait. The draft as it stands promises so many tokens per second; a
further decode adds tokens and time. Beside a pass: what may come when it has ended, likeliest first. An outcome is a
verified node and a token behind it that was not verified, so of the tree that goes on below the verified one every open
place counts by the probability of its path.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from aded_local.drafters.model.costs import AskingCosts
from aded_local.llama.branches import Path
from aded_local.tree import ROOT, DraftTree

Seconds = npt.NDArray[np.float64]

MOST_AT_ONCE: Final = 8
"""Places of one decode: beyond, a further one costs a draft model what it costs in a decode of its own."""
DEEPEST_LOOK: Final = 8
"""Further decodes that are thought of when the next one is priced."""
MARGIN: Final = 0.02
"""By how much a decode must be expected to raise the tokens per second."""
LEAST_OUTCOME: Final = 0.1
"""Outcomes less likely than this are not prepared. Origin: three answers of SmolLM2, drafted by itself on a virtual
clock where a pass takes eight draft steps: 0.01, 0.05, 0.1 and 0.2 reach 2.00, 1.97, 2.05 and 2.00 times plain
decoding, and drop 7.8, 2.7, 1.1 and 0.4 places for each token."""


@dataclass(frozen=True)
class Place:
    """A place that was not asked for.

    Attributes:
        path: to it.
        probability: that the text goes there.
        gain: tokens that are expected from asking, in the next draft.
    """

    path: Path
    probability: float
    gain: float


def paths_of(tree: DraftTree) -> list[Path]:
    """Of each node."""
    paths: list[Path] = []
    for token, parent in zip(tree.tokens.tolist(), tree.parents.tolist(), strict=True):
        paths.append((*(() if parent == ROOT else paths[parent]), token))
    return paths


def open_places(tree: DraftTree, said: Collection[Path], sureness: float, n_forced: int = 0) -> list[Place]:
    """The places of a draft that were not asked for, the most useful first.

    Args:
        tree: likeliest path first; its first ``n_forced`` nodes are known to come.
        said: paths of the places that were asked for.
        sureness: see ``AskingCosts``.
    """
    paths: list[Path] = [(), *paths_of(tree)]
    chances = [1.0, *tree.probabilities.tolist()]
    drafted = [0.0] * len(paths)
    for parent, chance in zip(tree.parents.tolist(), chances[1:], strict=True):
        drafted[parent + 1] += chance
    places = [
        Place(path, chance, max(0.0, sureness * chance - known))
        for i, (path, chance, known) in enumerate(zip(paths, chances, drafted, strict=True))
        if i >= n_forced and path not in said
    ]
    return sorted(places, key=lambda place: -place.gain)


def worth_asking(
    tree: DraftTree, places: Sequence[Place], cost: Seconds, spent: float, costs: AskingCosts
) -> list[Path]:
    """The places to ask for in one more decode before the tree is verified; none where that does not pay.

    Args:
        tree: the draft as it stands.
        places: of ``open_places``.
        cost: seconds of a target pass over i tokens, float64 ``(m,)``, index 0 unused.
        spent: seconds since drafting began.
        costs: of asking.
    """
    first = costs.seconds(1)
    if first is None:
        return [places[0].path] if places else []
    price: list[float] = cost.tolist()
    most = len(price) - 2
    expected, n, best = 1.0, 0, 1.0 / (price[1] + spent)
    total = 1.0
    for i, chance in enumerate(tree.probabilities[:most].tolist(), start=1):
        total += chance
        rate = total / (price[i + 1] + spent)
        if rate > best:
            expected, n, best = total, i, rate
    limit = best * (1.0 + MARGIN)
    found = 0
    gained = 0.0
    for k, place in enumerate(places[:MOST_AT_ONCE], start=1):
        gained += place.gain
        seconds = costs.seconds(k) or first
        further, chance = 0.0, places[0].probability * costs.sureness
        for depth in range(DEEPEST_LOOK):
            nodes = n + k + depth
            if nodes > most:
                break
            rate = (expected + gained + further) / (price[nodes + 1] + spent + seconds + depth * first)
            if rate > limit:
                limit, found = rate, k
            chance *= costs.sureness
            further += chance
    return [place.path for place in places[:found]]


def outcomes(
    tree: DraftTree,
    verified: Collection[Path],
    said: Mapping[Path, object],
    costs: AskingCosts,
    seconds: float,
) -> list[Path]:
    """The places to ask for in one decode while the target verifies; none where nothing likely is left, or fits.

    Args:
        tree: what may come, below the same text.
        verified: paths of the nodes that are verified.
        said: by path, what was asked for.
        costs: of asking.
        seconds: that the pass still takes.
    """
    paths: list[Path] = [(), *paths_of(tree)]
    weights = [1.0, *tree.probabilities.tolist()]
    # The target itself answers at a verified node, unless it leaves the tree there.
    leaving = list(weights)
    for path, parent, chance in zip(paths[1:], tree.parents.tolist(), weights[1:], strict=True):
        if path in verified:
            leaving[parent + 1] -= chance
    found = [
        (weight, path)
        for path, weight in zip(paths, leaving, strict=True)
        if path not in said and weight >= LEAST_OUTCOME
    ]
    found.sort(key=lambda each: -each[0])
    best, rate, total = 0, 0.0, 0.0
    for k, (weight, _) in enumerate(found[:MOST_AT_ONCE], start=1):
        total += weight
        needed = costs.seconds(k, beside=True)
        if needed is None:
            best = 1
            break
        if needed <= seconds and total / needed > rate:
            best, rate = k, total / needed
    return [path for _, path in found[:best]]
