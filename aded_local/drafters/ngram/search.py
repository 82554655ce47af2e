"""Growing a draft tree over the predictions: best first, or by PUCT as in the ADED paper.

Both end in ``take``: the nodes of the highest rank are chosen one after the other, and the children of a node are
looked up when it is chosen, if they were not before. The rank of best-first is the path probability. PUCT walks first;
its rank is the number of visits plus the path probability, so that what was never visited comes last.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from aded_local.drafters.ngram.components import FORCED, KIND_OF_SOURCE
from aded_local.drafters.ngram.prediction import UNJUDGED, copied_token, expand
from aded_local.drafters.ngram.state import Block, Predictor, Tables, plant_root
from aded_local.drafters.puct import best_child, draw
from aded_local.kernels.compiling import entry, kernel

Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int32]

NO_COST: Final = np.zeros(1, np.float64)
"""In place of a curve: choose without regard to cost."""


@kernel
def push(heap: Integers, nodes: npt.NDArray[Any], size: int, node: int) -> int:
    """Insert a node into a binary heap with the highest rank on top; returns its size."""
    i = size
    rank = nodes[node].rank
    while i > 0:
        up = (i - 1) // 2
        if nodes[heap[up]].rank >= rank:
            break
        heap[i] = heap[up]
        i = up
    heap[i] = node
    return size + 1


@kernel
def pop(heap: Integers, nodes: npt.NDArray[Any], size: int) -> int:
    """Remove the top of the heap of ``size`` nodes; returns the new size. Read ``heap[0]`` before."""
    size -= 1
    moved = heap[size]
    rank = nodes[moved].rank
    i = 0
    while True:
        child = 2 * i + 1
        if child >= size:
            break
        if child + 1 < size and nodes[heap[child + 1]].rank > nodes[heap[child]].rank:
            child += 1
        if nodes[heap[child]].rank <= rank:
            break
        heap[i] = heap[child]
        i = child
    heap[i] = moved
    return size


@kernel
def may_pay(cost: Doubles, chosen: int, expected: float, best: float, p: float) -> bool:
    """Whether nodes of probability ``p`` at most could still raise tokens per second.

    Args:
        cost: seconds of a pass over i tokens, float64 ``(m,)``, index 0 unused.
        chosen: nodes chosen so far.
        expected: tokens expected from them, the bonus token included.
        best: the best tokens per second among the prefixes chosen so far.
        p: path probability of the next node; none after it is likelier.
    """
    for n in range(chosen + 1, cost.shape[0] - 1):  # noqa: SIM110 - kernels have no generators
        if expected + (n - chosen) * p > best * cost[n + 1]:
            return True
    return False


@kernel
def take(model: Predictor, tables: Tables, count: int, max_nodes: int, cost: Doubles) -> int:
    """Choose up to ``max_nodes`` nodes of a tree of ``count``, the highest rank first; returns how many.

    No node ranks above its parent, so parents come first.
    """
    nodes, heap, chosen = model.nodes, model.heap, model.chosen
    node = size = n = 0
    priced = cost.shape[0] > 1
    expected = 1.0
    best = 1.0 / cost[1] if priced and cost[1] > 0.0 else 0.0
    while n < max_nodes:
        if nodes[node].n_children < 0:
            count = expand(model, tables, node, count)
        first = nodes[node].first_child
        for child in range(first, first + nodes[node].n_children):
            size = push(heap, nodes, size, child)
        if size == 0:
            break
        node = heap[0]
        p = nodes[node].path
        if priced and not may_pay(cost, n, expected, best, p):
            break
        size = pop(heap, nodes, size)
        chosen[n] = node
        n += 1
        expected += p
        if priced and n + 1 < cost.shape[0]:
            best = max(best, expected / cost[n + 1])
    model.state.n_nodes = count
    return n


@kernel
def export(model: Predictor, n: int) -> None:
    """Write the ``n`` chosen nodes as the arrays of a draft tree, parents as indices within the tree."""
    nodes, tree = model.nodes, model.tree
    for i in range(n):
        node = nodes[model.chosen[i]]
        tree[0, i] = node.token
        tree[1, i] = nodes[node.parent].visits if node.parent > 0 else -1
        tree[2, i] = node.depth
        model.probabilities[i] = node.path
        model.sources[i] = KIND_OF_SOURCE[node.source]
        node.visits = i  # where this node went, for its children


@kernel
def plant_chain(model: Predictor, tokens: Integers, chances: npt.NDArray[np.float32]) -> int:
    """Put tokens below the root, each as the only child of the one before; returns the number of nodes."""
    nodes = model.nodes
    for i in range(tokens.shape[0]):
        parent, child = nodes[i], nodes[i + 1]
        parent.first_child = i + 1
        parent.n_children = 1
        copies = copied_token(model, i) == tokens[i]
        child.token = tokens[i]
        child.parent = i
        child.depth = i + 1
        child.n_children = -1
        child.visits = 0
        child.kind = UNJUDGED
        child.source = FORCED
        child.mixed = 0.0
        child.copy_at = parent.copy_at + 1 if copies else -1
        child.copy_length = parent.copy_length + 1 if copies else 0
        child.conditional = chances[i]
        child.path = child.rank = parent.path * chances[i]
    return 1 + int(tokens.shape[0])


@entry
def best_first(
    block: Block,
    tables: Tables,
    max_nodes: int,
    cost: Doubles,
    forced: Integers,
    chances: npt.NDArray[np.float32],
) -> int:
    """Choose the ``max_nodes`` likeliest nodes; fewer when no further one can pay.

    Args:
        block: its ``tree`` and ``probabilities`` receive the draft.
        cost: see ``may_pay``; shorter than 2 to choose without regard to cost.
        forced, chances: of what comes first, see ``step.Forced``.

    Returns:
        The number of nodes chosen.
    """
    model = block[0]
    if plant_root(model) == 0:
        return 0
    n = take(model, tables, plant_chain(model, forced, chances), max_nodes, cost)
    export(model, n)
    return n


@kernel
def rollout(
    model: Predictor, tables: Tables, node: int, count: int, depth: int, rng: npt.NDArray[np.uint64]
) -> float:
    """Sum of the probabilities along successors sampled from below ``node``, ``depth`` deep at most.

    The nodes it walks over are appended behind ``count`` and forgotten.
    """
    nodes = model.nodes
    total = 0.0
    for _ in range(depth):
        if nodes[node].n_children < 0:
            grown = expand(model, tables, node, count)
            first, n = count, grown - count
            nodes[node].n_children = -1
            count = grown
        else:
            first, n = nodes[node].first_child, nodes[node].n_children
        if n == 0:
            break
        mass = 0.0
        for i in range(first, first + n):
            mass += nodes[i].conditional
        left = draw(rng) * mass
        node = first
        for i in range(first, first + n):
            node = i
            left -= nodes[i].conditional
            if left < 0.0:
                break
        total += nodes[node].conditional
    return total


@kernel
def walk(model: Predictor, tables: Tables, iterations: int, depth: int, rng: npt.NDArray[np.uint64]) -> int:
    """Monte Carlo tree search from the root; visits are added to the ranks. Returns the number of nodes."""
    nodes, means, bonuses = model.nodes, model.means, model.bonuses
    count = 1
    for _ in range(iterations):
        node = 0
        while nodes[node].n_children > 0:
            at = nodes[node]
            node = best_child(means, bonuses, at.first_child, at.n_children, at.visits)
        if nodes[node].n_children < 0:
            first = count
            count = expand(model, tables, node, count)
            for child in range(first, count):
                means[child] = np.float32(np.inf)
                bonuses[child] = nodes[child].conditional
        value = 1.0 + rollout(model, tables, node, count, depth, rng)
        while node >= 0:
            at = nodes[node]
            at.visits += 1
            at.rank += 1.0
            means[node] = value if at.visits == 1 else means[node] + (value - means[node]) / at.visits
            bonuses[node] = at.conditional / (1.0 + at.visits)
            node = at.parent
    return count


@kernel
def sort_by_path(nodes: npt.NDArray[Any], chosen: Integers, n: int) -> None:
    """Order by falling path probability, then by age: a parent is at least as likely and older."""
    for i in range(1, n):
        node = chosen[i]
        p = nodes[node].path
        j = i - 1
        while j >= 0 and (nodes[chosen[j]].path < p or (nodes[chosen[j]].path == p and chosen[j] > node)):
            chosen[j + 1] = chosen[j]
            j -= 1
        chosen[j + 1] = node


@entry
def puct(
    block: Block,
    tables: Tables,
    max_nodes: int,
    iterations: int,
    depth: int,
    rng: npt.NDArray[np.uint64],
) -> int:
    """The ``max_nodes`` most visited nodes of a PUCT search; where fewer were visited, the likeliest below them.

    Args:
        block: its ``tree`` and ``probabilities`` receive the draft.
        iterations: fewer than ``puct.MOST_VISITS``.

    Returns:
        The number of nodes chosen.
    """
    model = block[0]
    if plant_root(model) == 0 or max_nodes < 1:
        return 0
    n = take(model, tables, walk(model, tables, iterations, depth, rng), max_nodes, NO_COST)
    sort_by_path(model.nodes, model.chosen, n)
    export(model, n)
    return n
