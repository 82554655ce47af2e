"""What to verify in the next pass: the drafter's candidates, cut to what pays.

A planner joins a drafter, the cost curve and the target's limits. ``paper`` verifies whole trees as the
authors do; ``auto`` verifies what the budget allows and keeps learning while it verifies nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol

import numpy as np

from aded_local.drafters import Drafter
from aded_local.kernels import top_k as topk
from aded_local.speed.budget import Guard, PassPrices, choose, price
from aded_local.speed.cost_curve import CostCurve
from aded_local.tree import EMPTY_TREE, DraftTree, FloatArray, IntArray


class Planner(Protocol):
    """What the loop asks before and after each pass."""

    def begin(self, context: IntArray) -> None:
        """The whole context, int32 ``(n,)``: prompt and first token."""
        ...

    def plan(self, n_cells: int, limit: int) -> DraftTree:
        """The tree to verify after ``n_cells`` cells, at most ``limit`` nodes; empty to decode plainly."""
        ...

    def see(self, tree: DraftTree, row_of: list[int], logits: Callable[[], FloatArray]) -> None:
        """What the target would say after the root and after each node of the verified tree, accepted or not.

        Called once per step, between ``plan`` and ``observe``, while the logits are valid. Changes nothing about
        what is said: it reads the raw logits, and the sampler has made its choice.

        Args:
            tree: as verified; without nodes where decoding was plain.
            row_of: batch row of each node; the root's is 0.
            logits: gives a view of all rows, float32 ``(n_nodes + 1, n_vocab)``; only called by who needs it.
        """
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

    def see(self, tree: DraftTree, row_of: list[int], logits: Callable[[], FloatArray]) -> None:
        pass

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

    def see(self, tree: DraftTree, row_of: list[int], logits: Callable[[], FloatArray]) -> None:
        pass

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

ROOT_ROW: Final = np.zeros(1, np.int32)
"""The batch rows of a plain step."""

TOP_K_SHARE_LIMIT: Final = 0.01
"""Reading the target's likeliest tokens may take this share of a plain pass per step; learning them is part of the
step's one kernel call. Chosen, not tuned:
small beside the margin that a draft must promise (``budget.MARGIN``)."""

TOP_K_RATE: Final = 0.1
"""Weight of one step in the running mean of that share: seven steps at twice the limit switch it off."""

TOP_K_HICCUP: Final = 5.0
"""A single step counts as at most this many limits: one interruption by the machine does not switch it off."""

FIRST_TOP_K_PAUSE: Final = 64
LONGEST_TOP_K_PAUSE: Final = 1024
"""Steps until it is tried again, for one timed step; doubled each time it is too dear again."""


class TopKSwitch:
    """Whether reading the target's distribution is cheap enough here to go on with.

    It starts on, goes off when the running mean of its cost passes the limit, and is then tried on single
    steps ever further apart. Once it has stayed on for as long as it was last off, pauses start short again.
    """

    def __init__(self) -> None:
        """On, nothing timed yet."""
        self._mean = 0.0
        self._wait = 0
        self._pause = 0
        self._on_for = 0
        self._trying = False

    def due(self) -> bool:
        """Whether to read at this step; asked once per step in which it could be."""
        if self._wait == 0:
            return True
        self._wait -= 1
        self._trying = self._wait == 0
        return self._trying

    def record(self, seconds: float, plain_seconds: float) -> None:
        """Take note of what a step's reading and learning took, beside a plain pass at this cache fill."""
        if plain_seconds <= 0.0:
            return
        share = min(seconds / plain_seconds, TOP_K_HICCUP * TOP_K_SHARE_LIMIT)
        # A trial speaks for itself: the mean is of the time before the pause.
        self._mean = share if self._trying else self._mean + TOP_K_RATE * (share - self._mean)
        self._trying = False
        if self._mean > TOP_K_SHARE_LIMIT:
            self._wait = self._pause = min(max(2 * self._pause, FIRST_TOP_K_PAUSE), LONGEST_TOP_K_PAUSE)
            self._on_for = 0
            return
        self._on_for += 1
        if self._on_for >= self._pause:
            self._pause = 0


class AutoPlanner:
    """Preset ``auto``: the number of nodes that promises the most tokens per second, or none.

    Args:
        drafter: proposes, with calibrated probabilities.
        curve: cost of a pass; refined with every step.
        largest, chain_only, allowed: as for ``PaperPlanner``.
        top_k: hand the target's likeliest tokens at every verified node to the drafter, where that is cheap enough.
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
        top_k: bool = True,
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
        self._seen = 0.0
        self._n_cells = 0
        self._unlearnt: list[int] = []
        self._plain_overhead = 0.0
        self._tree_overhead = 0.0
        self._top_k = TopKSwitch() if top_k else None
        if top_k:
            topk.warm_up()

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

    def _fitting(self, most: int) -> int:
        """The most nodes, up to so many, whose pass is of an allowed size: padding stops there."""
        if self._allowed is None:
            return most
        return max((size for size in self._allowed if size <= most + 1), default=1) - 1

    def plan(self, n_cells: int, limit: int) -> DraftTree:
        self._searched = self._seen = 0.0
        self._n_cells = n_cells
        if limit < 1 or self._guard.paused:
            return EMPTY_TREE
        started = self._clock()
        self._learn()
        prices = self._prices_at(n_cells)
        most = self._fitting(min(limit, self._largest, prices.most_nodes))
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

    def see(self, tree: DraftTree, row_of: list[int], logits: Callable[[], FloatArray]) -> None:
        """Hand the target's likeliest tokens at every verified node to the drafter, as long as that is cheap.

        The raw logits are read, whatever the sampler: temperature, penalties and grammars change from call to
        call and with the tokens before, while what the drafter learns here is the model's own and lasts.
        """
        if self._top_k is None or self._guard.paused or not self._top_k.due():
            return
        started = self._clock()
        # After a step without room for a draft the drafter may be behind, and the root is to be its last token.
        self._learn()
        rows = ROOT_ROW
        if len(tree):
            # Padding repeats a token, so what stands behind it follows a text that nobody would write. (A list takes
            # 27 microseconds here, with caches cold after a pass of a 1B model, NumPy's masks 36.)
            chances = tree.probabilities.tolist()
            nodes = [
                row if chance > 0.0 else topk.NO_ROW for row, chance in zip(row_of, chances, strict=True)
            ]
            rows = np.array([0, *nodes], np.int32)
        tokens, shares = topk.new_rows(len(rows))
        topk.top_k_rows(logits(), rows, tokens, shares)
        self._drafter.learn_distributions(tree, tokens, shares)
        self._seen = self._clock() - started
        self._top_k.record(self._seen, float(self._curve.seconds(self._n_cells)[1]))

    def observe(
        self, tokens: list[int], *, n_nodes: int, n_cells: int, verify_seconds: float, step_seconds: float
    ) -> None:
        if n_nodes == 0 and self._guard.paused:
            self._unlearnt += tokens
            self._guard.rest()
            return
        self._learn()
        self._drafter.observe(np.array(tokens, np.int32))
        # Reading the logits has a bound of its own and comes and goes: it is no price of verifying. Of a plain step it
        # is neither what plain decoding takes nor a search that was wasted; a step that drafts has to earn it.
        overhead = step_seconds - verify_seconds - self._searched - self._seen
        if n_nodes:
            self._tree_overhead += OVERHEAD_RATE * (overhead - self._tree_overhead)
        else:
            self._plain_overhead += OVERHEAD_RATE * (overhead - self._plain_overhead)
        plain_seconds = float(self._curve.seconds(n_cells)[1])
        self._curve.observe(n_nodes + 1, n_cells, verify_seconds)
        self._guard.record(
            tokens=len(tokens),
            seconds=step_seconds if n_nodes else step_seconds - self._seen,
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
        if self._top_k is not None:
            self._top_k = TopKSwitch()


def make_planner(
    preset: str,
    drafter: Drafter,
    curve: CostCurve,
    *,
    chain_only: bool,
    largest: int,
    exact: bool,
    top_k: bool = True,
) -> Planner:
    """The planner of a preset that drafts.

    Args:
        preset: ``auto`` or ``paper``.
        drafter: of the same preset.
        curve: of the opened target; with ``exact`` it says which batch sizes are.
        chain_only: no branches.
        largest: nodes the target can verify in one pass.
        exact: keep to the exact sizes.
        top_k: let ``auto`` learn from the target's likeliest tokens; see ``AutoPlanner``.
    """
    allowed = (curve.exact or [1]) if exact else None
    if preset == "paper":
        return PaperPlanner(drafter, largest=largest, chain_only=chain_only, allowed=allowed)
    return AutoPlanner(drafter, curve, largest=largest, chain_only=chain_only, allowed=allowed, top_k=top_k)
