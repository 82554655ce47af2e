"""What to verify in the next pass: the drafter's candidates, cut to what fits and pays.

A planner joins a drafter, the cost curve and the target's limits. The tree it returns is the tree that is verified:
branches that the target has no room for go before anything is priced. ``paper`` verifies whole trees as the authors
do; ``auto`` verifies what the budget allows and goes on learning while it verifies nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from aded_local.drafters import NOBODY, Beside, Drafter
from aded_local.kernels.top_k import NO_ROW, new_rows, top_k_rows, warm_up
from aded_local.speed.budget import Guard, PassPrices, choose, price
from aded_local.speed.constrained import under
from aded_local.speed.cost_curve import LARGEST_BATCH, CostCurve
from aded_local.speed.top_k_switch import TopKSwitch
from aded_local.step import Beginning, Likely, StepResult, said
from aded_local.tree import EMPTY_TREE, DraftTree, FloatArray


@dataclass(frozen=True, slots=True)
class Limits:
    """What a target can verify in one pass.

    Attributes:
        nodes: at most.
        leaves: branches at most; 1 for chains alone.
        sizes: the only numbers of tokens, the root included, that a pass may have; None for all.
    """

    nodes: int
    leaves: int
    sizes: tuple[int, ...] | None = None

    def fitting(self, most: int) -> int:
        """The most nodes, up to so many, whose pass has an allowed size."""
        if self.sizes is None:
            return most
        return max((size for size in self.sizes if size <= most + 1), default=1) - 1


class Planner(Protocol):
    """What the loop asks before and after each pass."""

    def begin(self, beginning: Beginning) -> None:
        """A turn begins."""
        ...

    def plan(self, n_cells: int, most: int) -> DraftTree:
        """The tree to verify after ``n_cells`` cells, at most ``most`` nodes; empty to decode plainly."""
        ...

    def read(self, tree: DraftTree, row_of: list[int], logits: Callable[[], FloatArray]) -> Likely | None:
        """What the target finds likely at each verified node, where somebody wants to know; while logits are valid.

        It reads the raw logits, and the sampler chooses as it would without.

        Args:
            tree: as verified; without nodes where decoding was plain.
            row_of: batch row of each node; the root's is 0.
            logits: gives a view of all rows, float32 ``(n_nodes + 1, n_vocab)``.
        """
        ...

    def observe(self, result: StepResult) -> None:
        """What the step brought and took."""
        ...

    def fit(self, limits: Limits) -> None:
        """Keep to other limits from the next pass on: another turn, or another setting of the target."""
        ...

    def reset(self) -> None:
        """Forget everything learnt."""
        ...

    def close(self) -> None:
        """End what runs beside; nothing is asked afterwards."""
        ...


class PlainPlanner:
    """Preset ``off``: one token per pass."""

    def begin(self, beginning: Beginning) -> None:
        pass

    def plan(self, n_cells: int, most: int) -> DraftTree:
        return EMPTY_TREE

    def read(self, tree: DraftTree, row_of: list[int], logits: Callable[[], FloatArray]) -> Likely | None:
        return None

    def observe(self, result: StepResult) -> None:
        pass

    def fit(self, limits: Limits) -> None:
        pass

    def reset(self) -> None:
        pass

    def close(self) -> None:
        pass


Costs = Callable[[], CostCurve | None]
"""Gives the curve that holds now; None while passes are compared with each other, and are to be plain."""


class WholePlanner:
    """The whole tree, every step, whatever it promises: preset ``paper``.

    Args:
        drafter: proposes.
        limits: of the target.
    """

    def __init__(self, drafter: Drafter, limits: Limits) -> None:
        self._free = self._drafter = drafter
        self._limits = limits

    def begin(self, beginning: Beginning) -> None:
        self._drafter = under(beginning.constraint, self._free)
        self._drafter.begin(beginning)

    def plan(self, n_cells: int, most: int) -> DraftTree:
        most = min(most, self._limits.nodes)
        tree = EMPTY_TREE
        if most > 0:
            tree = self._drafter.draft(most).with_leaves(self._limits.leaves)
            tree = tree.first(self._limits.fitting(len(tree)))
        self._drafter.verifying(tree)
        return tree

    def read(self, tree: DraftTree, row_of: list[int], logits: Callable[[], FloatArray]) -> Likely | None:
        return None

    def observe(self, result: StepResult) -> None:
        self._drafter.observe(result)

    def fit(self, limits: Limits) -> None:
        self._limits = limits

    def reset(self) -> None:
        self._drafter.reset()

    def close(self) -> None:
        self._drafter.close()


PRICES_KEPT = 16
"""Steps between two looks at a curve that real steps refine: it moves by a fraction of a percent in that time."""

OVERHEAD_RATE = 0.1
"""Weight of one step in the running mean of what verifying costs outside the pass."""

ROOT_ROW: Final = np.zeros(1, np.int32)
"""The batch rows of a plain step."""


class AutoPlanner:
    """Preset ``auto``: the number of nodes that promises the most tokens per second, or none.

    Args:
        drafter: proposes, with calibrated probabilities.
        costs: gives what passes cost now: another curve where threads or other programs changed that.
        limits: of the target.
        guard: kind of guard that stops drafting where it loses.
        top_k: read the target's likeliest tokens at every verified node, where that is cheap enough.
        beside: what works beside the passes.
        clock: seconds, for tests.
    """

    def __init__(
        self,
        drafter: Drafter,
        costs: Costs,
        limits: Limits,
        *,
        guard: type[Guard] = Guard,
        top_k: bool = True,
        beside: Beside = NOBODY,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._beside = beside
        beside.fit(limits.leaves)
        self._free = self._drafter = drafter
        self._costs = costs
        self._curve: CostCurve | None = None
        self._limits = limits
        self._clock = clock
        self._new_guard = guard
        self._guard = guard()
        self._prices: PassPrices | None = None
        self._prices_bucket = -1
        self._prices_age = 0
        self._unlearnt: list[int] = []
        self._plain_overhead = 0.0
        self._tree_overhead = 0.0
        self._reads = top_k
        self._switch = TopKSwitch()
        self._plain_seconds = 0.0
        self._sampling = 0.0  # seconds to choose a token where nothing was read, a running mean
        if top_k:
            warm_up()

    def begin(self, beginning: Beginning) -> None:
        self._learn()
        self._drafter = under(beginning.constraint, self._free)
        self._drafter.begin(beginning)

    def _learn(self) -> None:
        """Hand over the tokens of a pause: one call for all of them, for where a pass takes as long as a few calls."""
        if self._unlearnt:
            self._drafter.observe(said(self._unlearnt))
            self._unlearnt = []

    def _prices_at(self, n_cells: int, curve: CostCurve) -> PassPrices:
        bucket = n_cells >> 6
        if curve is not self._curve:
            if self._curve is not None:
                self._guard.forget_pace()
            self._curve, self._prices = curve, None
        if self._prices is None or bucket != self._prices_bucket or self._prices_age > PRICES_KEPT:
            seconds = curve.seconds(n_cells)
            self._plain_seconds = float(seconds[1])
            if curve.waking:
                seconds = seconds.copy()
                seconds[2:] += curve.lost_behind
            self._prices = price(seconds, self._limits.sizes)
            self._prices_bucket = bucket
            self._prices_age = 0
        return self._prices

    def plan(self, n_cells: int, most: int) -> DraftTree:
        curve = self._costs()
        if most < 1 or curve is None or self._guard.paused:
            return EMPTY_TREE
        started = self._clock()
        self._learn()
        self._prices_age += 1
        prices = self._prices_at(n_cells, curve)
        if self._guard.paused:  # other prices hold from here on
            return EMPTY_TREE
        most = self._limits.fitting(min(most, self._limits.nodes, prices.most_nodes))
        tree = EMPTY_TREE
        if most > 0:
            tree = self._drafter.draft(most, prices.seconds)
            n_nodes = self._worth_verifying(tree, most, prices, started)
            if n_nodes > self._limits.leaves:  # fewer nodes than leaves always fit
                fitting = tree.with_leaves(self._limits.leaves)
                if fitting is not tree:
                    tree = fitting
                    n_nodes = self._worth_verifying(tree, most, prices, started)
            tree = tree.first(n_nodes).padded(n_nodes)
        self._drafter.verifying(tree)
        return tree

    def _worth_verifying(self, tree: DraftTree, most: int, prices: PassPrices, started: float) -> int:
        """Nodes of the pass that promises most, padding included; 0 for plain decoding."""
        extra = max(0.0, self._tree_overhead - self._plain_overhead)
        n = choose(tree.probabilities, prices, self._clock() - started, extra, margin=self._guard.margin)
        # A dearer size is padded up to a cheaper one, with further candidates where there are any.
        return min(int(prices.batch[n + 1]) - 1, most) if n else 0

    def read(self, tree: DraftTree, row_of: list[int], logits: Callable[[], FloatArray]) -> Likely | None:
        """See ``Planner``. Raw logits, since temperature, penalties and grammars change from call to call and with the
        tokens before, while what a drafter learns here is the model's own and lasts."""
        if not self._reads or self._guard.paused or self._costs() is None or not self._switch.due():
            return None
        rows = ROOT_ROW
        if len(tree):
            # What stands behind padding follows a text that nobody would write.
            drafted = row_of[: len(row_of) - tree.padding]
            rows = np.array([0, *drafted, *[NO_ROW] * tree.padding], np.int32)
        likely = Likely(*new_rows(len(rows)))
        top_k_rows(logits(), rows, likely.tokens, likely.shares)
        return likely

    def observe(self, result: StepResult) -> None:
        n_nodes = len(result.tree)
        curve = self._costs()
        alone = not self._beside.beside
        if n_nodes == 0 and (curve is None or self._guard.paused):
            self._unlearnt += result.tokens
            if curve is not None:
                self._guard.rest(result.verify_seconds / float(curve.seconds(result.n_cells)[1]))
            return
        self._learn()
        self._drafter.observe(result)
        if curve is None:
            return
        self._prices_at(result.n_cells, curve)
        sampling = result.sample_seconds / len(result.tokens)
        if result.likely is None:
            self._sampling += OVERHEAD_RATE * (sampling - self._sampling)
        else:
            # A greedy step takes its tokens from what was read, and does not look for them a second time.
            saved = max(0.0, self._sampling - sampling) * len(result.tokens)
            self._switch.record(max(0.0, result.read_seconds - saved), self._plain_seconds, n_nodes + 1)
        # Reading the logits has a limit of its own and comes and goes, so it is no price of verifying.
        step_seconds = result.total_seconds
        overhead = step_seconds - result.verify_seconds - result.search_seconds - result.read_seconds
        if n_nodes:
            self._tree_overhead += OVERHEAD_RATE * (overhead - self._tree_overhead)
            step_seconds += curve.lost_behind
        else:
            # Plain decoding does not read either. Only a step that drafts has to earn it.
            step_seconds -= result.read_seconds
            self._plain_overhead += OVERHEAD_RATE * (overhead - self._plain_overhead)
        predicted = float(curve.seconds(result.n_cells)[min(n_nodes + 1, LARGEST_BATCH)])
        self._guard.record(
            tokens=len(result.tokens),
            seconds=step_seconds,
            plain_seconds=self._plain_seconds,
            nodes=n_nodes,
            draft_seconds=result.search_seconds,
            ratio=result.verify_seconds / max(predicted, 1e-9) if alone else None,
            alone=alone,
        )

    def fit(self, limits: Limits) -> None:
        if limits != self._limits:
            self._limits, self._prices = limits, None
            self._beside.fit(limits.leaves)

    def reset(self) -> None:
        self._unlearnt = []
        self._drafter.reset()
        self._guard = self._new_guard()
        self._switch = TopKSwitch()

    def close(self) -> None:
        self._drafter.close()


def make_planner(
    preset: str,
    drafter: Drafter,
    costs: Costs,
    limits: Limits,
    *,
    top_k: bool = True,
    beside: Beside = NOBODY,
) -> Planner:
    """The planner of a preset that drafts.

    Args:
        preset: ``auto`` or ``paper``.
        drafter: of the same preset.
        costs: of the opened target; see ``AutoPlanner``.
        limits: of the opened target.
        top_k, beside: see ``AutoPlanner``.
    """
    if preset == "paper":
        return WholePlanner(drafter, limits)
    return AutoPlanner(drafter, costs, limits, top_k=top_k, beside=beside)
