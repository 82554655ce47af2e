"""A drafter under a constraint: what must come first is drafted first, and what may not come is not drafted.

A grammar is such a constraint. What it forces heads the tree, the drafter's own candidates go on behind that, and those
that the grammar forbids are dropped before anything is priced.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from aded_local.drafters import Drafter
from aded_local.step import NOTHING_FORCED, Beginning, Constraint, Forced, StepResult
from aded_local.tree import DraftTree, FloatArray, IntArray


class ConstrainedDrafter:
    """A drafter for one answer that has to keep to something. What it learns stays with the drafter it wraps."""

    def __init__(self, drafter: Drafter, constraint: Constraint) -> None:
        self.name = drafter.name
        self._drafter = drafter
        self._constraint = constraint

    def draft(
        self, max_nodes: int, cost: npt.NDArray[np.float64] | None = None, forced: Forced = NOTHING_FORCED
    ) -> DraftTree:
        """What is forced, and below it the drafter's candidates as far as they are allowed; see ``Drafter``.

        Args:
            forced: not looked at: the constraint knows.
        """
        forced = self._constraint.forced(max_nodes)
        tree = self._drafter.draft(max_nodes, cost, forced)
        n = len(forced.tokens)
        if len(tree) <= n:
            return tree
        return without(tree, n, self._constraint.allowed(forced.tokens, below(tree, n)))

    def begin(self, beginning: Beginning) -> None:
        """See ``Drafter``."""
        self._drafter.begin(beginning)

    def verifying(self, tree: DraftTree) -> None:
        """See ``Drafter``."""
        self._drafter.verifying(tree)

    def observe(self, result: StepResult) -> None:
        """See ``Drafter``; the constraint hears of the tokens from the loop, which says all of them."""
        self._drafter.observe(result)

    def recall(self, exchanges: Sequence[tuple[IntArray, IntArray, bool]]) -> None:
        """See ``Drafter``."""
        self._drafter.recall(exchanges)

    def predict(self) -> tuple[IntArray, FloatArray]:
        """See ``Drafter``."""
        return self._drafter.predict()

    def reset(self) -> None:
        """See ``Drafter``."""
        self._drafter.reset()

    def close(self) -> None:
        """See ``Drafter``."""
        self._drafter.close()


def under(constraint: Constraint | None, drafter: Drafter) -> Drafter:
    """The drafter under a constraint; itself where there is none."""
    return drafter if constraint is None else ConstrainedDrafter(drafter, constraint)


def below(tree: DraftTree, n: int) -> DraftTree:
    """The tree below its first ``n`` nodes, which are a chain."""
    above = np.float32(tree.probabilities[n - 1]) if n else np.float32(1.0)
    return DraftTree(
        tree.tokens[n:],
        np.maximum(tree.parents[n:] - n, -1).astype(np.int32),
        tree.depths[n:] - n,
        tree.probabilities[n:] / max(above, np.float32(1e-9)),
    )


def without(tree: DraftTree, n: int, allowed: npt.NDArray[np.bool_]) -> DraftTree:
    """The tree without the nodes that may not come, likeliest first.

    What a forbidden node took of its parent's probability goes to the others below that, those that were not drafted
    included: the target will choose among what is allowed.

    Args:
        tree: its first ``n`` nodes are a chain that stays.
        allowed: of the others, bool ``(len(tree) - n,)``; none below one that is not.
    """
    if allowed.all():
        return tree
    parents, paths = tree.parents.tolist(), tree.probabilities.tolist()
    keep = [True] * n + allowed.tolist()
    forbidden: dict[int, float] = {}
    for node in range(n, len(tree)):
        parent = parents[node]
        if not keep[node] and (parent < 0 or keep[parent]):
            forbidden[parent] = forbidden.get(parent, 0.0) + paths[node]
    probabilities = [0.0] * len(tree)
    for node, parent in enumerate(parents):
        if keep[node]:
            before, after = (1.0, 1.0) if parent < 0 else (paths[parent], probabilities[parent])
            left = before - forbidden.get(parent, 0.0)
            probabilities[node] = after * min(1.0, paths[node] / left) if left > 0.0 else after
    order = [*range(n), *sorted(np.flatnonzero(allowed) + n, key=lambda node: -probabilities[node])]
    place = {node: i for i, node in enumerate(order)}
    place[-1] = -1
    index = np.array(order, np.int32)
    return DraftTree(
        tree.tokens[index],
        np.array([place[parents[node]] for node in order], np.int32),
        tree.depths[index],
        np.array([probabilities[node] for node in order], np.float32),
        sources=None if tree.sources is None else tree.sources[index],
    )
