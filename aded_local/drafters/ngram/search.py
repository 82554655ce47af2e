"""Growing a draft tree over a predictor: best first, or by PUCT as in the ADED paper.

Both leave the nodes they chose in falling order of path probability, parents first, so that any
prefix is a tree.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from aded_local.drafters.ngram.prediction import expand
from aded_local.drafters.ngram.state import Block, Predictor, Tables, plant_root
from aded_local.drafters.paper.search import C1, C2, draw
from aded_local.kernels.compiling import entry, kernel

Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int32]


@kernel
def push(heap: Integers, nodes: npt.NDArray[Any], size: int, node: int) -> int:
    """Insert a node into a binary heap with the greatest path probability on top; returns its size."""
    i = size
    p = nodes[node].path
    while i > 0:
        up = (i - 1) // 2
        if nodes[heap[up]].path >= p:
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
    p = nodes[moved].path
    i = 0
    while True:
        child = 2 * i + 1
        if child >= size:
            break
        if child + 1 < size and nodes[heap[child + 1]].path > nodes[heap[child]].path:
            child += 1
        if nodes[heap[child]].path <= p:
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
def export(model: Predictor, n: int) -> None:
    """Write the ``n`` chosen nodes as the arrays of a draft tree, parents as indices within the tree."""
    nodes, tree = model.nodes, model.tree
    for i in range(n):
        node = nodes[model.chosen[i]]
        tree[0, i] = node.token
        tree[1, i] = nodes[node.parent].visits if node.parent > 0 else -1
        tree[2, i] = node.depth
        model.probabilities[i] = node.path
        node.visits = i  # where this node went, for its children


@entry
def best_first(block: Block, tables: Tables, max_nodes: int, cost: Doubles) -> int:
    """Choose the ``max_nodes`` likeliest nodes; fewer when no further one can pay.

    Args:
        block: its ``tree`` and ``probabilities`` receive the draft.
        cost: see ``may_pay``; shorter than 2 to choose without regard to cost.

    Returns:
        The number of nodes chosen.
    """
    model = block[0]
    nodes, heap, chosen = model.nodes, model.heap, model.chosen
    count = plant_root(model)
    if count == 0 or max_nodes < 1:
        return 0
    count = expand(model, tables, 0, count)
    size = 0
    for child in range(1, count):
        size = push(heap, nodes, size, child)
    n = 0
    priced = cost.shape[0] > 1
    expected = 1.0
    best = 1.0 / cost[1] if priced and cost[1] > 0.0 else 0.0
    while size > 0 and n < max_nodes:
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
        if n == max_nodes:
            break
        before = count
        count = expand(model, tables, node, count)
        for child in range(before, count):
            size = push(heap, nodes, size, child)
    model.state.n_nodes = count
    export(model, n)
    return n


@kernel
def select_child(nodes: npt.NDArray[Any], node: int) -> int:
    """The child with the highest PUCT score; an unvisited one, the likeliest, first.

    ``W/N + (c1 + ln((Np + c2 + 1) / c2)) * p * sqrt(Np) / (1 + N)``
    """
    parent = nodes[node]
    factor = (C1 + np.log((parent.visits + C2 + 1.0) / C2)) * np.sqrt(np.float64(parent.visits))
    best = parent.first_child
    best_score = -1.0
    for i in range(parent.first_child, parent.first_child + parent.n_children):
        child = nodes[i]
        if child.visits == 0:
            return i
        score = child.value / child.visits + factor * child.conditional / (1.0 + child.visits)
        if score > best_score:
            best_score = score
            best = i
    return int(best)


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
def grow_by_puct(
    model: Predictor, tables: Tables, iterations: int, depth: int, rng: npt.NDArray[np.uint64]
) -> int:
    """Monte Carlo tree search from the root (planted before); visits are left in the nodes. Returns the number of
    nodes."""
    nodes = model.nodes
    count = expand(model, tables, 0, 1)
    for _ in range(iterations):
        node = 0
        while nodes[node].n_children > 0:
            node = select_child(nodes, node)
        if nodes[node].n_children < 0:
            count = expand(model, tables, node, count)
        value = 1.0 + rollout(model, tables, node, count, depth, rng)
        while node >= 0:
            nodes[node].visits += 1
            nodes[node].value += value
            node = nodes[node].parent
    model.state.n_nodes = count
    return count


@kernel
def most_visited(nodes: npt.NDArray[Any], count: int, wanted: int, out: Integers) -> int:
    """The ``wanted`` most visited nodes below the root, most visited first; returns how many there are."""
    n = 0
    for node in range(1, count):
        visits = nodes[node].visits
        if visits == 0 or (n == wanted and visits <= nodes[out[n - 1]].visits):
            continue
        if n < wanted:
            n += 1
        place = n - 1
        while place > 0 and nodes[out[place - 1]].visits < visits:
            out[place] = out[place - 1]
            place -= 1
        out[place] = node
    return n


@kernel
def add_path(nodes: npt.NDArray[Any], node: int, chosen: Integers, n: int, limit: int) -> int:
    """Choose ``node`` and its ancestors too, unless that exceeds ``limit``; returns the new ``n``."""
    missing = 0
    at = node
    while at > 0 and nodes[at].visits >= 0:
        missing += 1
        at = nodes[at].parent
    if n + missing > limit:
        return n
    at = node
    while at > 0 and nodes[at].visits >= 0:
        chosen[n] = at
        n += 1
        nodes[at].visits = -1  # marks a chosen node; visits are not needed any more
        at = nodes[at].parent
    return n


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
    """The ``max_nodes`` most visited prefixes of a PUCT search, each extended greedily by one token.

    The tree is cut to ``max_nodes`` nodes, the least visited prefixes first. It is compiled when it is first called:
    that takes seconds, and it is seldom asked for.

    Args:
        block: its ``tree`` and ``probabilities`` receive the draft.

    Returns:
        The number of nodes chosen.
    """
    model = block[0]
    nodes, scratch, chosen = model.nodes, model.heap, model.chosen
    if plant_root(model) == 0 or max_nodes < 1:
        return 0
    count = grow_by_puct(model, tables, iterations, depth, rng)
    found = most_visited(nodes, count, max_nodes, scratch)
    n = 0
    for i in range(found):
        node = scratch[i]
        n = add_path(nodes, node, chosen, n, max_nodes)
    for i in range(found):
        node = scratch[i]
        if nodes[node].visits == -1:
            if nodes[node].n_children < 0:
                count = expand(model, tables, node, count)
            if nodes[node].n_children > 0:
                n = add_path(nodes, nodes[node].first_child, chosen, n, max_nodes)
    sort_by_path(nodes, chosen, n)
    model.state.n_nodes = count
    export(model, n)
    return n
