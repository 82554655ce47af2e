"""Steps as a loop would take them, without a target."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from aded_local.speed.planner import Planner
from aded_local.step import NO_TOKENS, Beginning, Likely, StepResult
from aded_local.tree import EMPTY_TREE, DraftTree, FloatArray, IntArray


def beginning(*tokens: int) -> Beginning:
    """A new conversation."""
    return Beginning(0, NO_TOKENS, np.array(tokens, np.int32))


class FixedDrafter:
    """Proposes the same tree each time and keeps what it is told."""

    name = "fixed"

    def __init__(self, tree: DraftTree = EMPTY_TREE) -> None:
        self.tree = tree
        self.seen: list[list[int]] = []
        self.verified: list[DraftTree] = []
        self.likely: list[tuple[DraftTree, Likely]] = []

    def recall(self, exchanges: object) -> None:
        pass

    def begin(self, beginning: Beginning) -> None:
        pass

    def draft(self, max_nodes: int, cost: object = None) -> DraftTree:
        return self.tree.first(max_nodes)

    def verifying(self, tree: DraftTree) -> None:
        self.verified.append(tree)

    def observe(self, result: StepResult) -> None:
        self.seen.append(list(result.tokens))
        if result.likely is not None:
            self.likely.append((result.tree, result.likely))

    def predict(self) -> tuple[IntArray, FloatArray]:
        return NO_TOKENS, np.zeros(0, np.float32)

    def reset(self) -> None:
        pass

    def close(self) -> None:
        pass


def take(
    planner: Planner,
    tokens: list[int],
    seconds: Callable[[int], float],
    *,
    tree: DraftTree | None = None,
    logits: FloatArray | None = None,
    read_seconds: float = 0.0,
    most: int = 60,
) -> DraftTree:
    """One step right on schedule, in which the target says ``tokens``; returns the tree that was verified.

    Args:
        seconds: what a pass over so many tokens takes.
        tree: verified in place of what the planner wants.
        logits: of all rows; None where nobody may read them.
        read_seconds: what reading them takes.
        most: nodes that there is room for.
    """
    planned = planner.plan(256, most)
    tree = planned if tree is None else tree
    likely = None
    if logits is not None:
        likely = planner.read(tree, list(range(1, len(tree) + 1)), lambda: logits)
    took = seconds(len(tree) + 1)
    planner.observe(
        StepResult(
            tree,
            tokens,
            [],
            256,
            likely,
            verify_seconds=took,
            read_seconds=read_seconds if likely is not None else 0.0,
            total_seconds=took + (read_seconds if likely is not None else 0.0),
        )
    )
    return tree
