"""What each part of `auto` is worth: the drafter as it is, then with one part after the other taken away."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from aded_bench.replay.makeup import Makeup
from aded_local.drafters.ngram.components import INGREDIENTS
from aded_local.speed.budget import Guard
from aded_local.speed.planner import AutoPlanner
from aded_local.tree import EMPTY_TREE, DraftTree

FIXED_NODES: Final = 8
"""Of a step without a budget. Chosen, not tuned: what costs about a second token's time on many machines."""


class FixedBudget(AutoPlanner):
    """Verifies ``FIXED_NODES`` at every step, whatever they promise and cost; the guard may still pause it."""

    def plan(self, n_cells: int, limit: int) -> DraftTree:
        self._searched = self._seen = 0.0
        self._n_cells = n_cells
        if limit < 1 or self._guard.paused:
            return EMPTY_TREE
        self._learn()
        return self._drafter.draft(min(limit, FIXED_NODES))


class NeverPauses(Guard):
    """Counts losses, which makes it wary, and goes on drafting."""

    def record(self, **step: Any) -> None:
        super().record(**step)
        self._paused_for = 0


class Unguarded(AutoPlanner):
    """Never stops drafting because it loses; arguments as for ``AutoPlanner``."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._guard = NeverPauses()


@dataclass(frozen=True)
class Variant:
    """One way of making `auto`.

    Attributes:
        makeup: of its drafter.
        planner: decides how much to verify.
        predicts_anew: bits per token are its own; else they are those of the whole drafter.
    """

    makeup: Makeup
    planner: type[AutoPlanner] = AutoPlanner
    predicts_anew: bool = True


def variants(makeup: Makeup, *, ablate: bool) -> dict[str, Variant]:
    """By setting, as results name it: the whole drafter first, then, to ablate, each part left out in turn."""
    found = {makeup.setting: Variant(makeup)}
    if ablate:
        for name in INGREDIENTS:
            found[f"without {name}"] = Variant(replace(makeup, without=(name,)))
        found["without budget"] = Variant(makeup, FixedBudget, predicts_anew=False)
        found["without guard"] = Variant(makeup, Unguarded, predicts_anew=False)
        found["puct"] = Variant(replace(makeup, search="puct"), predicts_anew=False)
    return found
