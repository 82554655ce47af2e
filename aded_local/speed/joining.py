"""Decoding plainly until drafting is ready, then drafting: also in the middle of an answer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from aded_local.speed.planner import PlainPlanner, Planner
from aded_local.tree import DraftTree, FloatArray, IntArray


class JoiningPlanner:
    """A planner that another one replaces as soon as it is there.

    ``join`` may be called from any thread; the other planner takes over at the next step, and is told all that was
    said meanwhile.
    """

    def __init__(self) -> None:
        """Plain for now."""
        self._active: Planner = PlainPlanner()
        self._waiting: Planner | None = None
        self._context: list[IntArray] = []

    def join(self, planner: Planner) -> None:
        """Let ``planner`` take over at the next step."""
        self._waiting = planner

    @property
    def joined(self) -> bool:
        """Whether the other planner is there."""
        return self._waiting is not None or not isinstance(self._active, PlainPlanner)

    def _take_over(self) -> None:
        planner = self._waiting
        if planner is not None:
            self._active, self._waiting = planner, None
            if self._context:
                planner.begin(np.concatenate(self._context))
            self._context = []

    def begin(self, context: IntArray) -> None:
        self._context = []
        self._take_over()
        self._active.begin(context)
        if isinstance(self._active, PlainPlanner):
            self._context = [np.array(context, np.int32)]

    def plan(self, n_cells: int, limit: int) -> DraftTree:
        self._take_over()
        return self._active.plan(n_cells, limit)

    def see(self, tree: DraftTree, row_of: list[int], logits: Callable[[], FloatArray]) -> None:
        self._active.see(tree, row_of, logits)

    def observe(
        self, tokens: list[int], *, n_nodes: int, n_cells: int, verify_seconds: float, step_seconds: float
    ) -> None:
        if self._context:
            self._context.append(np.array(tokens, np.int32))
        self._active.observe(
            tokens,
            n_nodes=n_nodes,
            n_cells=n_cells,
            verify_seconds=verify_seconds,
            step_seconds=step_seconds,
        )

    def reset_context(self) -> None:
        self._context = []
        self._take_over()
        self._active.reset_context()

    def reset(self) -> None:
        self._context = []
        self._take_over()
        self._active.reset()
