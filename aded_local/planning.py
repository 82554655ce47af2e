"""What to verify in the next pass: the drafter's candidates, cut to what pays.

A planner joins a drafter, the cost curve and the target's limits. ``paper`` verifies whole trees as the
authors do; ``auto`` verifies what the budget allows and keeps learning while it verifies nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import numpy as np

from aded_local.budget import Guard, PassPrices, choose, price
from aded_local.cost import CostCurve
from aded_local.drafting import Drafter
from aded_local.tree import EMPTY_TREE, DraftTree, IntArray


class Planner(Protocol):
    """What the loop asks before and after each pass."""

    def begin(self, context: IntArray) -> None:
        """The whole context, int32 ``(n,)``: prompt and first token."""
        ...

    def plan(self, n_cells: int, limit: int) -> DraftTree:
        """The tree to verify after ``n_cells`` cells, at most ``limit`` nodes; empty to decode plainly."""
        ...

    def observe(
        self, tokens: list[int], *, n_nodes: int, n_cells: int, verify_seconds: float, step_seconds: float
    ) -> None:
        """What the pass brought (tokens, at least one) and took."""
        ...

    def reset_context(self) -> None:
        """The conversation ended."""
        ...

    def reset(self) -> None:
        """Forget everything learnt."""
        ...


class PlainPlanner:
    """Preset ``off``: one token per pass."""

    def begin(self, context: IntArray) -> None:
        pass

    def plan(self, n_cells: int, limit: int) -> DraftTree:
        return EMPTY_TREE

    def observe(
        self, tokens: list[int], *, n_nodes: int, n_cells: int, verify_seconds: float, step_seconds: float
    ) -> None:
        pass

    def reset_context(self) -> None:
        pass

    def reset(self) -> None:
        pass


class PaperPlanner:
    """Preset ``paper``: the whole tree, every step.

    Args:
        drafter: proposes.
        largest: nodes the target can verify in one pass.
        chain_only: the target's memory cannot branch, or cells must stay in order.
        allowed: batch sizes to keep to; None for all.
    """

    def __init__(
        self, drafter: Drafter, *, largest: int, chain_only: bool, allowed: list[int] | None
    ) -> None:
        self._drafter = drafter
        self._largest = largest
        self._chain_only = chain_only
        self._allowed = allowed

    def begin(self, context: IntArray) -> None:
        self._drafter.begin(context)

    def plan(self, n_cells: int, limit: int) -> DraftTree:
        most = min(limit, self._largest)
        if most < 1:
            return EMPTY_TREE
        tree = self._drafter.draft(most)
        if self._chain_only:
            tree = tree.main_chain()
        if self._allowed is not None:
            fitting = [size for size in self._allowed if size <= len(tree) + 1]
            tree = tree.first(max(fitting, default=1) - 1)
        return tree

    def observe(
        self, tokens: list[int], *, n_nodes: int, n_cells: int, verify_seconds: float, step_seconds: float
    ) -> None:
        self._drafter.observe(np.array(tokens, np.int32))

    def reset_context(self) -> None:
        self._drafter.reset_context()

    def reset(self) -> None:
        self._drafter.reset()


PRICES_KEPT = 16
"""Steps between two looks at a curve that real steps refine: it moves by a fraction of a percent in that time."""

OVERHEAD_RATE = 0.1
"""Weight of one step in the running mean of what verifying costs outside the pass."""


class AutoPlanner:
    """Preset ``auto``: the number of nodes that promises the most tokens per second, or none.

    Args:
        drafter: proposes, with calibrated probabilities.
        curve: cost of a pass; refined with every step.
        largest, chain_only, allowed: as for ``PaperPlanner``.
        clock: seconds, for tests.
    """

    def __init__(
        self,
        drafter: Drafter,
        curve: CostCurve,
        *,
        largest: int,
        chain_only: bool,
        allowed: list[int] | None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._drafter = drafter
        self._curve = curve
        self._largest = largest
        self._chain_only = chain_only
        self._allowed = allowed
        self._clock = clock
        self._guard = Guard()
        self._prices: PassPrices | None = None
        self._prices_bucket = -1
        self._prices_age = 0
        self._searched = 0.0
        self._unlearnt: list[int] = []
        self._plain_overhead = 0.0
        self._tree_overhead = 0.0

    def begin(self, context: IntArray) -> None:
        self._learn()
        self._drafter.begin(context)

    def _learn(self) -> None:
        """Hand over the tokens of a pause: one call for all of them, for where a pass takes as long as a few calls."""
        if self._unlearnt:
            self._drafter.observe(np.array(self._unlearnt, np.int32))
            self._unlearnt = []

    def _prices_at(self, n_cells: int) -> PassPrices:
        bucket = n_cells >> 6
        self._prices_age += 1
        if self._prices is None or bucket != self._prices_bucket or self._prices_age > PRICES_KEPT:
            self._prices = price(self._curve.seconds(n_cells), self._allowed)
            self._prices_bucket = bucket
            self._prices_age = 0
        return self._prices

    def plan(self, n_cells: int, limit: int) -> DraftTree:
        self._searched = 0.0
        if limit < 1 or self._guard.paused:
            return EMPTY_TREE
        started = self._clock()
        self._learn()
        prices = self._prices_at(n_cells)
        most = min(limit, self._largest, prices.most_nodes)
        if most < 1:
            return EMPTY_TREE
        tree = self._drafter.draft(most, prices.seconds)
        if self._chain_only:
            tree = tree.main_chain()
        extra = max(0.0, self._tree_overhead - self._plain_overhead)
        n = choose(tree.probabilities, prices, self._clock() - started, extra, margin=self._guard.margin)
        if n > 0:
            # A dearer size is padded up to a cheaper one, with further candidates where there are any.
            n_batch = min(int(prices.batch[n + 1]), most + 1)
            tree = tree.first(n_batch - 1).padded(n_batch - 1)
        else:
            tree = EMPTY_TREE
        self._searched = self._clock() - started
        return tree

    def observe(
        self, tokens: list[int], *, n_nodes: int, n_cells: int, verify_seconds: float, step_seconds: float
    ) -> None:
        if n_nodes == 0 and self._guard.paused:
            self._unlearnt += tokens
            self._guard.rest()
            return
        self._learn()
        self._drafter.observe(np.array(tokens, np.int32))
        overhead = step_seconds - verify_seconds - self._searched
        if n_nodes:
            self._tree_overhead += OVERHEAD_RATE * (overhead - self._tree_overhead)
        else:
            self._plain_overhead += OVERHEAD_RATE * (overhead - self._plain_overhead)
        plain_seconds = float(self._curve.seconds(n_cells)[1])
        self._curve.observe(n_nodes + 1, n_cells, verify_seconds)
        self._guard.record(
            tokens=len(tokens),
            seconds=step_seconds,
            plain_seconds=plain_seconds,
            nodes=n_nodes,
            draft_seconds=self._searched,
        )

    def reset_context(self) -> None:
        self._learn()
        self._drafter.reset_context()

    def reset(self) -> None:
        self._unlearnt = []
        self._drafter.reset()
        self._guard = Guard()


def make_planner(
    preset: str, drafter: Drafter, curve: CostCurve, *, chain_only: bool, largest: int, exact: bool
) -> Planner:
    """The planner of a preset that drafts.

    Args:
        preset: ``auto`` or ``paper``.
        drafter: of the same preset.
        curve: of the opened target; with ``exact`` it says which batch sizes are.
        chain_only: no branches.
        largest: nodes the target can verify in one pass.
        exact: keep to the exact sizes.
    """
    allowed = (curve.exact or [1]) if exact else None
    if preset == "paper":
        return PaperPlanner(drafter, largest=largest, chain_only=chain_only, allowed=allowed)
    return AutoPlanner(drafter, curve, largest=largest, chain_only=chain_only, allowed=allowed)
