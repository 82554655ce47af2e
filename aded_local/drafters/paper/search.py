"""The ADED paper's draft maker: Monte Carlo tree search by PUCT over a matrix of tri-grams (arXiv 2407.12021).

As the authors' package runs it (``draftretriever`` 0.1.1, queried, and public copies of its source): prefixes reach
three tokens deep; the root is among the 24 most visited nodes, so that 23 prefixes are left; each is extended by its
likeliest successor to a path of up to four tokens; and it is the lengths of the paths that are cut to add up
to 64, so that a tree has some 30 nodes when much is known.

Nodes lie in flat arrays in the order of their birth, siblings side by side, likeliest first. A node's table slot is
looked up once.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from aded_local.drafters.paper.matrix import SUCCESSORS, Table, find
from aded_local.drafters.puct import Floats, best_child, draw
from aded_local.kernels.compiling import entry, kernel
from aded_local.ngrams.table import SEED_KEY, extend_hash

Integers = npt.NDArray[np.int32]

ITERATIONS: Final = 150
"""Of the search, from the paper."""
DEEPEST_PREFIX: Final = 3
"""Tokens of a prefix, and of a rollout from the root."""
MOST_VISITED: Final = 24
"""Nodes taken, the root among them."""
MOST_NODES: Final = 64
"""Of a tree."""

POOL: Final = SUCCESSORS * (ITERATIONS + 1 + MOST_VISITED) + 1
"""Nodes a search can bear: an iteration expands one node at most, and so does extending a prefix."""

UNKNOWN: Final = -2
"""A slot not looked up yet; -1: there is none."""
FREE: Final = -1
MARKED: Final = -2
"""Nodes not in the tree, and on the way into it."""


class Search(NamedTuple):
    """A search's nodes, changed in place.

    Attributes:
        token, parent, depth, slot, first, n_children, visits: int32 ``(POOL,)``; ``n_children`` is -1 until expanded.
        prior: weight of the tri-gram that ends here, float32 ``(POOL,)``.
        value: sum of the values of all rollouts through here.
        mean, bonus: see ``puct``.
        path: product of the priors down to here, siblings scaled to add up to one at most.
        ends: last nodes of prefixes, then of paths, int32 ``(MOST_VISITED,)``.
        chosen: nodes of the tree, int32 ``(MOST_NODES,)``.
        place: where in the tree a node went, or ``FREE`` or ``MARKED``, int32 ``(POOL,)``.
        rng: state of the random numbers, uint64 ``(1,)``.
    """

    token: Integers
    parent: Integers
    depth: Integers
    slot: Integers
    first: Integers
    n_children: Integers
    visits: Integers
    prior: Floats
    value: Floats
    mean: Floats
    bonus: Floats
    path: Floats
    ends: Integers
    chosen: Integers
    place: Integers
    rng: npt.NDArray[np.uint64]


def new_search(seed: int) -> Search:
    """Room for searches."""
    whole = np.zeros((8, POOL), np.int32)
    real = np.zeros((5, POOL), np.float32)
    return Search(
        token=whole[0],
        parent=whole[1],
        depth=whole[2],
        slot=whole[3],
        first=whole[4],
        n_children=whole[5],
        visits=whole[6],
        place=whole[7],
        prior=real[0],
        value=real[1],
        mean=real[2],
        bonus=real[3],
        path=real[4],
        ends=np.zeros(MOST_VISITED, np.int32),
        chosen=np.zeros(MOST_NODES, np.int32),
        rng=np.array([seed], np.uint64),
    )


@kernel
def slot_of(table: Table, before: int, last: int) -> int:
    """Where the successors of the pair lie, -1 for nowhere."""
    return int(find(table, extend_hash(extend_hash(SEED_KEY, last), before)))


@kernel
def expand_pair(table: Table, search: Search, node: int, size: int) -> int:
    """Append all successors of ``node``, likeliest first; returns the new number of nodes."""
    search.first[node] = size
    search.n_children[node] = 0
    if search.slot[node] == UNKNOWN:
        search.slot[node] = slot_of(table, search.token[search.parent[node]], search.token[node])
    if search.slot[node] < 0:
        return size
    slot = table[search.slot[node]]
    total = np.float32(0)
    n = 0
    for i in range(SUCCESSORS):
        weight = slot.counts[i]
        if weight <= 0:
            break  # successors fill a slot from its beginning
        total += weight
        at = size + n
        while at > size and search.prior[at - 1] < weight:
            search.prior[at] = search.prior[at - 1]
            search.token[at] = search.token[at - 1]
            at -= 1
        search.prior[at] = weight
        search.token[at] = slot.tokens[i]
        n += 1
    # Adapted weights may exceed 1, and siblings add up to more: a path must not be likelier than its beginning.
    scale = search.path[node] / max(np.float32(1), total)
    for child in range(size, size + n):
        search.parent[child] = node
        search.depth[child] = search.depth[node] + 1
        search.slot[child] = UNKNOWN
        search.n_children[child] = -1
        search.visits[child] = 0
        search.value[child] = np.float32(0)
        search.mean[child] = np.float32(np.inf)
        search.bonus[child] = search.prior[child]
        search.path[child] = min(search.path[node], search.prior[child] * scale)  # whatever rounding does
        search.place[child] = FREE
    search.n_children[node] = n
    return size + n


@kernel
def rollout_pairs(table: Table, search: Search, node: int) -> float:
    """Sum of the weights of successors sampled from below ``node`` down to ``DEEPEST_PREFIX``."""
    total = 0.0
    before = search.token[search.parent[node]] if node > 0 else 0
    last = search.token[node]
    at = search.slot[node]
    for step in range(DEEPEST_PREFIX - search.depth[node]):
        if step > 0 or at == UNKNOWN:
            at = slot_of(table, before, last)
            if step == 0:
                search.slot[node] = at
        if at < 0:
            break
        slot = table[at]
        mass = np.float32(0)
        for i in range(SUCCESSORS):
            mass += slot.counts[i]
        left = np.float32(draw(search.rng)) * mass
        picked = 0
        for i in range(SUCCESSORS):
            if slot.counts[i] <= 0:
                break
            picked = i
            left -= slot.counts[i]
            if left < 0:
                break
        total += slot.counts[picked]
        before = last
        last = slot.tokens[picked]
    return total


@entry
def start(table: Table, search: Search, before: int, last: int) -> int:
    """Make ``last`` the root (0) and append its successors; returns the number of nodes."""
    search.token[0] = last
    search.parent[0] = -1
    search.depth[0] = 0
    search.slot[0] = slot_of(table, before, last)
    search.n_children[0] = -1
    search.visits[0] = 0
    search.value[0] = np.float32(0)
    search.path[0] = np.float32(1)
    return int(expand_pair(table, search, 0, 1))


@kernel
def grow(table: Table, search: Search, before: int, last: int) -> int:
    """Search from the pair ``(before, last)``; returns the number of nodes, the root (0) included."""
    size = start(table, search, before, last)
    if size == 1:
        return 1
    for _ in range(ITERATIONS):
        node = 0
        value = np.float32(1)
        while search.n_children[node] > 0:
            node = best_child(
                search.mean, search.bonus, search.first[node], search.n_children[node], search.visits[node]
            )
            value += search.prior[node]
        if search.n_children[node] < 0 and search.depth[node] < DEEPEST_PREFIX:
            size = expand_pair(table, search, node, size)
            if search.n_children[node] > 0:
                node = search.first[node]
                value += search.prior[node]
        value += np.float32(rollout_pairs(table, search, node))
        while node > 0:
            visits = search.visits[node] + 1
            search.visits[node] = visits
            search.value[node] += value
            search.mean[node] = search.value[node] / np.float32(visits)
            search.bonus[node] = search.prior[node] / np.float32(1 + visits)
            node = search.parent[node]
        search.visits[0] += 1
    return size
