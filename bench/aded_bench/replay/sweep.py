"""One sweep of recorded answers through a way of drafting, and what it counts.

A pass verifies a tree below the last token; nodes that equal what the model wrote are accepted, and one more token
follows.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from aded_bench.extra import pandas
from aded_bench.replay.curves import LARGEST_PASS, NamedCurve
from aded_bench.replay.drafts import Method, Times
from aded_bench.replay.traces import Recorded, Trace
from aded_bench.summary import ratio_interval
from aded_local.speed.planner import Planner
from aded_local.step import NO_TOKENS, Beginning, StepResult
from aded_local.tree import DraftTree
from aded_local.tree_sampling import sample_and_match

BINS: Final = 20
"""Of equal width, over probabilities from 0 to 1."""
DEEPEST: Final = 64
"""Depths told apart: a chain of the largest tree."""

NOTHING: Final = -1
"""Stands behind a recorded answer; no token has this id."""

Seconds = Callable[[int, int], float]
"""What a pass takes: tokens in it, cells before it."""

clock = time.perf_counter


@dataclass
class Judged:
    """Nodes that were verified and whose depth the recorded answer still reaches: was their probability right?"""

    _probabilities: list[npt.NDArray[np.float32]] = field(default_factory=list)
    _depths: list[npt.NDArray[np.int32]] = field(default_factory=list)
    _hits: list[npt.NDArray[np.bool_]] = field(default_factory=list)

    def add(self, tree: DraftTree, path: list[int], left: int) -> None:
        """Note a pass.

        Args:
            tree: as verified; probabilities are NaN where there is no estimate.
            path: nodes on the recorded path.
            left: recorded tokens from the root on.
        """
        if len(tree) == 0:
            return
        hits = np.zeros(len(tree), np.bool_)
        hits[path] = True
        # Nodes of probability 0 pad a batch and propose nothing.
        known = (tree.depths <= left) & (tree.probabilities != 0.0)
        self._probabilities.append(tree.probabilities[known])
        self._depths.append(tree.depths[known])
        self._hits.append(hits[known])

    def depths(self) -> list[dict[str, int]]:
        """Nodes proposed and accepted, by depth."""
        if not self._depths:
            return []
        depths = np.minimum(np.concatenate(self._depths), DEEPEST)
        hits = pandas.Series(np.concatenate(self._hits)).groupby(depths).agg(proposed="size", accepted="sum")
        listed: list[dict[str, int]] = hits.rename_axis("depth").reset_index().to_dict("records")
        return listed

    def calibration(self) -> dict[str, Any] | None:
        """Expected calibration error (mean distance of predicted and observed, weighted by count) and the bins."""
        if not self._depths:
            return None
        predicted, hits = np.concatenate(self._probabilities), np.concatenate(self._hits)
        predicted, hits = predicted[~np.isnan(predicted)], hits[~np.isnan(predicted)]
        if not len(hits):
            return None
        nodes = pandas.DataFrame({"predicted": predicted.astype(np.float64), "observed": hits})
        by_place = nodes.groupby(np.minimum((predicted * BINS).astype(int), BINS - 1))
        bins = by_place.mean().assign(count=by_place.size())
        error = ((bins["predicted"] - bins["observed"]).abs() * bins["count"]).sum() / len(nodes)
        bins = bins.assign(low=bins.index / BINS, high=(bins.index + 1) / BINS)
        return {"ece": float(error), "bins": bins.to_dict("records")}


def walk(tree: DraftTree, recorded: Recorded, at: int) -> tuple[list[int], list[int]]:
    """What a pass yields where the target says the recorded answer from ``at`` on.

    Returns:
        Tokens, at least one; and all nodes of the tree that lie on the recorded path, the last of which may be the
        answer's end and so no token more.
    """
    left = len(recorded.answer) - at
    said = itertools.chain(recorded.answer[at : at + len(tree) + 1].tolist(), itertools.repeat(NOTHING))
    match = sample_and_match(tree, [0] * len(tree), lambda row: next(said), lambda token: False, left + 1)
    return match.tokens[:left], match.path


def replay_answer(
    planner: Planner,
    recorded: Recorded,
    seconds: Seconds,
    most: int,
    judged: Judged | None = None,
    times: Times | None = None,
) -> Iterator[int]:
    """Draft along a recorded answer and let the planner learn from it; yields the nodes of each pass.

    Args:
        seconds: what passes are said to take.
        most: nodes at most.
        judged, times: told of every pass.
    """
    planner.begin(Beginning(0, NO_TOKENS, recorded.prompt))
    at = 0
    while at < len(recorded.answer):
        cells = len(recorded.prompt) - 1 + at  # the root is not decoded yet
        started = clock()
        tree = planner.plan(cells, most)
        planned = clock()
        tokens, path = walk(tree, recorded, at)
        taken = seconds(len(tree) + 1, cells)
        if judged is not None:
            judged.add(tree, path, len(recorded.answer) - at)
        result = StepResult(
            tree, tokens, path[: len(tokens) - 1], cells, verify_seconds=taken, total_seconds=taken
        )
        observing = clock()
        planner.observe(result)
        if times is not None:
            times.learn.append((clock() - observing) * 1e6)
            times.draft.append((planned - started) * 1e6)
        at += len(tokens)
        yield len(tree)


class Sweep:
    """Every answer of a trace, in order, and what was counted.

    Args:
        method: drafts; has learnt what it is to know before.
        trace: the answers.
        curve: what passes cost, for ways of drafting that learn from it.
        most: nodes verified at most.
        step: told after each answer.

    Attributes:
        sizes: how often each answer verified so many nodes, int64 ``(answers, LARGEST_PASS)``.
        judged: nodes by probability and depth.
        times: of drafting and learning.
    """

    def __init__(
        self,
        method: Method,
        trace: Trace,
        curve: NamedCurve | None,
        most: int,
        step: Callable[[], None] = lambda: None,
    ) -> None:
        self.sizes = np.zeros((len(trace.answers), LARGEST_PASS), np.int64)
        self.judged = Judged()
        self.times = Times() if method.times is None else method.times
        measured = self.times if method.times is None else None

        def seconds(n_tokens: int, n_cells: int) -> float:
            return 0.0 if curve is None else float(curve.costs[n_tokens]) * curve.plain_seconds

        for index, recorded in enumerate(trace.answers):
            for nodes in replay_answer(method.planner, recorded, seconds, most, self.judged, measured):
                self.sizes[index, nodes] += 1
            step()
        self._answers = pandas.DataFrame(
            {
                "category": [one.category for one in trace.answers],
                "tokens": [len(one.answer) for one in trace.answers],
                "passes": self.sizes.sum(axis=1),
            }
        )

    def on(self, curve: NamedCurve, seed: int) -> dict[str, Any]:
        """The row's entry for a curve: ``schema.Figures``."""
        answers = self._answers.assign(plain=self._answers["tokens"], cost=self.sizes @ curve.costs[1:])
        passes, nodes = int(self.sizes.sum()), int((self.sizes @ np.arange(LARGEST_PASS)).sum())
        return {
            "passes": passes,
            "nodes": nodes,
            "nodes_per_pass": nodes / passes,
            **gains(answers, seed),
            "draft_microseconds": spread(self.times.draft),
            "learn_microseconds": spread(self.times.learn),
            "categories": by_category(answers, seed),
            "calibration": self.judged.calibration(),
            "depths": self.judged.depths(),
        }


def gains(answers: pandas.DataFrame, seed: int) -> dict[str, Any]:
    """Tokens per pass and speed-up. Answers have ``tokens, passes, cost``, and ``plain``: what plain decoding costs."""
    sums = answers[["tokens", "passes", "plain", "cost"]].sum()
    low, high = ratio_interval(answers["plain"].tolist(), answers["cost"].tolist(), seed)
    return {
        "tokens_per_pass": float(sums["tokens"] / sums["passes"]),
        "speedup": float(sums["plain"] / sums["cost"]),
        "low": low,
        "high": high,
    }


def by_category(answers: pandas.DataFrame, seed: int) -> dict[str, Any]:
    """The same for each ``category``."""
    return {
        str(name): {"answers": len(part), "tokens": int(part["tokens"].sum()), **gains(part, seed)}
        for name, part in answers.groupby("category", sort=False)
    }


def spread(microseconds: list[float]) -> dict[str, float] | None:
    """Median, 99th percentile and mean; None of nothing."""
    if not microseconds:
        return None
    median, p99 = np.percentile(microseconds, (50, 99))
    return {"median": float(median), "p99": float(p99), "mean": float(np.mean(microseconds))}
