"""One sweep of recorded answers through a way of drafting, and what it counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from aded_bench.replay import calibration
from aded_bench.replay.curves import LARGEST_PASS, NamedCurve
from aded_bench.replay.drafts import Replayed, Times
from aded_bench.replay.traces import Recorded, Trace
from aded_bench.summary import ratio_interval
from aded_local.tree import DraftTree


class Tally:
    """What a sweep counts, answer by answer.

    Attributes:
        passes: of each answer.
        sizes: how often each answer verified so many nodes, int64 ``(answers, LARGEST_PASS)``.
        judged: nodes by probability and depth.
        times: of drafting.
    """

    def __init__(self, n_answers: int, times: Times) -> None:
        self.passes = np.zeros(n_answers, np.int64)
        self.sizes = np.zeros((n_answers, LARGEST_PASS), np.int64)
        self.judged = calibration.Calibration()
        self.times = times

    def on(self, curve: NamedCurve, trace: Trace, seed: int) -> dict[str, Any]:
        """The row's entry for a curve."""
        cost = self.sizes @ curve.cost_array()[1:]
        nodes = int((self.sizes @ np.arange(LARGEST_PASS)).sum())
        tokens = np.array([len(one.answer) for one in trace.answers], np.int64)
        passes = int(self.passes.sum())
        categories = np.array([one.category for one in trace.answers])
        return {
            "passes": passes,
            "nodes": nodes,
            "tokens_per_pass": int(tokens.sum()) / passes,
            "nodes_per_pass": nodes / passes,
            **_speedup(tokens, cost, seed),
            "draft_microseconds": spread(self.times.draft),
            "learn_microseconds": spread(self.times.learn),
            "categories": {
                str(name): {
                    "answers": int((categories == name).sum()),
                    "tokens": int(tokens[categories == name].sum()),
                    "tokens_per_pass": float(
                        tokens[categories == name].sum() / self.passes[categories == name].sum()
                    ),
                    **_speedup(tokens[categories == name], cost[categories == name], seed),
                }
                for name in dict.fromkeys(categories)
            },
            "calibration": self.judged.result(),
            "depths": self.judged.depths(),
        }


def _speedup(
    tokens: npt.NDArray[np.int64], cost: npt.NDArray[np.float64], seed: int
) -> dict[str, float | None]:
    low, high = ratio_interval(tokens.tolist(), cost.tolist(), seed)
    return {"speedup": float(tokens.sum() / cost.sum()), "low": low, "high": high}


def spread(microseconds: list[float]) -> dict[str, float] | None:
    """Median, 99th percentile and mean; None of nothing."""
    if not microseconds:
        return None
    median, p99 = np.percentile(microseconds, (50, 99))
    return {"median": float(median), "p99": float(p99), "mean": float(np.mean(microseconds))}


def sweep(
    replayed: Replayed,
    trace: Trace,
    curve: NamedCurve | None,
    nodes: int | None,
    step: Callable[[], None] = lambda: None,
) -> Tally:
    """Replay every answer of ``trace``, in order.

    Args:
        curve: what passes cost, for ways of drafting that learn from it.
        nodes: the most nodes verified; None for all that are drafted.
    """
    tally = Tally(len(trace.answers), replayed.times)
    for index, recorded in enumerate(trace.answers):
        replayed.begin(recorded.prompt)
        at = 0
        while at < len(recorded.answer):
            cells = len(recorded.prompt) - 1 + at  # the root is not decoded yet
            tree = replayed.draft(cells).first(nodes if nodes is not None else LARGEST_PASS - 1)
            emitted = verify(tree, recorded, at, tally.judged, replayed.predicts)
            tally.passes[index] += 1
            tally.sizes[index, len(tree)] += 1
            replayed.observe(
                recorded.answer[at : at + emitted].tolist(),
                n_nodes=len(tree),
                n_cells=cells,
                cost=curve.cost(len(tree) + 1) if curve is not None else 1.0,
            )
            at += emitted
        step()
    return tally


def verify(
    tree: DraftTree, recorded: Recorded, at: int, judged: calibration.Calibration, predicts: bool
) -> int:
    """Walk ``tree`` along the recorded answer from ``at`` on; returns the tokens the pass yields, at least 1."""
    left = len(recorded.answer) - at
    if len(tree) == 0:
        return 1
    wanted = recorded.answer[at : at + len(tree)].tolist()
    path: list[int] = []
    node = -1
    # One look at each node is enough: parents precede their children.
    for i, (token, parent) in enumerate(zip(tree.tokens.tolist(), tree.parents.tolist(), strict=True)):
        if parent == node and len(path) < len(wanted) and token == wanted[len(path)]:
            path.append(i)
            node = i
    accepted = np.zeros(len(tree), np.bool_)
    accepted[path] = True
    # Nodes beyond the recorded end cannot be judged; nodes of probability 0 pad a batch and propose nothing.
    known = (tree.depths <= left) & (tree.probabilities > 0)
    judged.add(tree.probabilities[known] if predicts else None, tree.depths[known], accepted[known])
    return min(len(path) + 1, left)
