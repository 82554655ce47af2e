"""Decoding plainly until drafting is ready, then drafting: also in the middle of an answer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from aded_local.speed.planner import Limits, PlainPlanner, Planner
from aded_local.step import NO_TOKENS, Beginning, Constraint, Likely, StepResult
from aded_local.tree import DraftTree, FloatArray, IntArray


class JoiningPlanner:
    """A planner that another one replaces as soon as it is there.

    ``join`` may be called from any thread; the other planner takes over at the next step, and is told what was said
    meanwhile in this conversation.
    """

    def __init__(self) -> None:
        """Plain for now."""
        self._active: Planner = PlainPlanner()
        self._is_plain = True
        self._waiting: Planner | None = None
        self._session = 0
        self._constraint: Constraint | None = None
        self._said: list[IntArray] = []

    def join(self, planner: Planner) -> None:
        """Let ``planner`` take over at the next step."""
        self._waiting = planner

    @property
    def joined(self) -> bool:
        """Whether the other planner is there."""
        return self._waiting is not None or not self._is_plain

    def _take_over(self) -> None:
        planner = self._waiting
        if planner is not None:
            self._active, self._waiting, self._is_plain = planner, None, False
            if self._said:
                said = np.concatenate(self._said)
                planner.begin(Beginning(self._session, NO_TOKENS, said, constraint=self._constraint))
            self._said = []

    def begin(self, beginning: Beginning) -> None:
        self._said = []
        self._take_over()
        if self._is_plain:
            self._session, self._constraint = beginning.session, beginning.constraint
            self._said = [beginning.past, beginning.new]
        self._active.begin(beginning)

    def plan(self, n_cells: int, most: int) -> DraftTree:
        self._take_over()
        return self._active.plan(n_cells, most)

    def read(self, tree: DraftTree, row_of: list[int], logits: Callable[[], FloatArray]) -> Likely | None:
        return self._active.read(tree, row_of, logits)

    def observe(self, result: StepResult) -> None:
        if self._said:
            self._said.append(np.array(result.tokens, np.int32))
        self._active.observe(result)

    def fit(self, limits: Limits) -> None:
        self._take_over()
        self._active.fit(limits)

    def reset(self) -> None:
        self._said = []
        self._take_over()
        self._active.reset()

    def close(self) -> None:
        self._take_over()
        self._active.close()
