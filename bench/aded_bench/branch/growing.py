"""The tree below the root as far as it is known: grown where it is likeliest, and verified as far as it pays."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from aded_bench.branch.chances import Chances, shares_of
from aded_bench.branch.machine import World
from aded_bench.drafters.real import Way
from aded_bench.replay.curves import LARGEST_PASS

LEAST_PATH: Final = 0.01
"""Paths less likely than this are neither verified nor asked about."""

LOOK_AHEAD: Final = 8
"""Further statements considered before the target starts: a pass over 2 tokens may cost what one over 8 does."""

MOST_ASKED: Final = 8
"""Nodes of one decode of the draft model."""

Costs = npt.NDArray[np.float64]


class Growing:
    """See this module's first line.

    Args:
        world: whose root it grows from.
        chances: what statements are worth.
        ngrams: by path, what n-grams say of the tokens behind it.
        width: tokens considered behind a node.
    """

    def __init__(
        self, world: World, chances: Chances, ngrams: Mapping[Way, Mapping[int, float]], width: int
    ) -> None:
        self.world, self.chances, self.ngrams, self.width = world, chances, ngrams, width
        self.when = world.now
        self.chance: dict[Way, float] = {(): 1.0}
        self.by_model: set[Way] = set()
        self._children: dict[Way, list[Way]] = {}
        self._waiting: list[tuple[float, Way]] = []
        self._expand(())

    def refresh(self, when: float, ways: list[Way]) -> None:
        """What was asked is answered by then."""
        self.when = when
        for way in ways:
            if way in self.chance:
                self._expand(way)

    def _expand(self, way: Way) -> None:
        """Children of a node, with what they are worth now, and theirs."""
        path = self.chance[way]
        is_known = self.world.known(way, self.when)
        ngrams = self.ngrams.get(way, {})
        if is_known:
            model = shares_of(self.world.statement(way))
            found = self.chances.of(model, ngrams)
        else:
            model, found = {}, dict(ngrams)
        chosen = list(found.items())[: self.width]
        left = path
        children = self._children[way] = []
        for token, conditional in chosen:
            p = path * conditional
            child = (*way, token)
            if p < LEAST_PATH or len(child) >= self.world.left:
                continue
            left -= p
            children.append(child)
            self.chance[child] = p
            if token in model:
                self.by_model.add(child)
            self._expand(child)
        if not is_known and not self.world.in_flight(way):
            # Whatever comes here and is not named yet would find nothing prepared.
            heapq.heappush(self._waiting, (-max(left, 0.0), way))

    def likeliest(self) -> tuple[list[Way], npt.NDArray[np.float64]]:
        """Nodes that a pass has room for, parents first, and their chances."""
        there = [way for way in self._reachable() if way]
        there.sort(key=lambda way: (-self.chance[way], len(way)))
        there = there[: LARGEST_PASS - 1]
        return there, np.array([self.chance[way] for way in there])

    def _reachable(self) -> list[Way]:
        found, stack = [], [()]
        while stack:
            way = stack.pop()
            found.append(way)
            stack += self._children.get(way, [])
        return found

    def next_unknown(self, most: int, costs: Costs) -> list[Way]:
        """Nodes to ask about in one decode: as many of the likeliest as bring most chance per time. None left: []."""
        chosen: list[Way] = []
        together = best = 0.0
        put_back: list[tuple[float, Way]] = []
        while self._waiting and len(chosen) < most:
            value, way = heapq.heappop(self._waiting)
            if self.world.in_flight(way) or way in chosen or -value < LEAST_PATH:
                continue
            # The draft model needs the cells of what comes before.
            above = [way[:n] for n in range(len(way)) if not self.world.in_flight(way[:n])]
            new = [each for each in above if each not in chosen]
            rate = (together - value) / costs[min(len(chosen) + len(new) + 1, len(costs) - 1)]
            if chosen and rate <= best:
                put_back.append((value, way))
                break
            together, best = together - value, rate
            chosen += [*new, way]
        for each in put_back:
            heapq.heappush(self._waiting, each)
        return chosen


def best_size(chances: npt.NDArray[np.float64], costs: Costs, extra: float = 0.0) -> tuple[float, int]:
    """Tokens per time at best, and the nodes that take: of a pass over the likeliest nodes, ``extra`` time before it.

    Args:
        chances: of nodes, likeliest first, float64 ``(n,)``.
        costs: of a pass by its tokens, index 0 unused.
    """
    n = min(len(chances), len(costs) - 2)
    tokens = 1.0 + np.concatenate([[0.0], np.cumsum(chances[:n])])
    rates = tokens / (costs[1 : n + 2] + extra)
    place = int(np.argmax(rates))
    return float(rates[place]), place
