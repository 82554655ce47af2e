"""From a finished search to the draft tree: the most visited prefixes, each one token longer, cut to size.

See ``search`` for where the numbers come from.
"""

from __future__ import annotations

import numpy as np

from aded_local.drafters.paper.matrix import Table
from aded_local.drafters.paper.search import (
    FREE,
    ITERATIONS,
    MARKED,
    MOST_NODES,
    MOST_VISITED,
    Integers,
    Search,
    expand_pair,
    grow,
)
from aded_local.drafters.puct import Floats
from aded_local.kernels.compiling import entry, kernel


@kernel
def least_visits(search: Search, size: int) -> int:
    """The fewest visits a node may have to be among the ``MOST_VISITED``."""
    counts = np.zeros(ITERATIONS + 1, np.int32)
    for node in range(size):
        counts[search.visits[node]] += 1
    taken = 0
    visits = ITERATIONS
    while visits > 0 and taken + counts[visits] < MOST_VISITED:
        taken += counts[visits]
        visits -= 1
    return visits


@kernel
def take_prefixes(search: Search, size: int) -> int:
    """Write the most visited nodes but the root to ``ends``; returns how many.

    Of nodes visited as often, the first met from the root downwards, branch by branch.

    No node is visited more often than its parent, so they hang together.
    """
    bound = least_visits(search, size)
    above = 0
    for node in range(size):
        if search.visits[node] > bound:
            above += 1
    room = MOST_VISITED - above  # for nodes visited exactly as often as the bound
    n = 0
    node = 0
    while True:
        if node > 0 and search.visits[node] == bound:
            room -= 1
        if node > 0:
            search.ends[n] = node
            n += 1
        # The next one in depth-first order that is visited enough.
        found = -1
        if search.n_children[node] > 0:
            found = eligible(
                search, search.first[node], search.first[node] + search.n_children[node], bound, room
            )
        while found < 0 and node > 0:
            parent = search.parent[node]
            last = search.first[parent] + search.n_children[parent]
            found = eligible(search, node + 1, last, bound, room)
            node = parent
        if found < 0:
            return n
        node = found


@kernel
def eligible(search: Search, start: int, stop: int, bound: int, room: int) -> int:
    """The first sibling from ``start`` on that is visited enough, -1 for none."""
    for node in range(start, stop):
        if search.visits[node] > bound or (search.visits[node] == bound and room > 0):
            return node
    return -1


@kernel
def extend_prefixes(table: Table, search: Search, size: int, n: int) -> int:
    """Make a path of each of the ``n`` prefixes in ``ends``: it ends one token later, at the likeliest successor.

    Returns:
        The number of different paths; a prefix without a successor may be another's path.
    """
    ends = search.ends
    kept = 0
    for i in range(n):
        node = ends[i]
        if search.n_children[node] < 0:
            size = expand_pair(table, search, node, size)
        end = search.first[node] if search.n_children[node] > 0 else node
        if search.place[end] == FREE:
            search.place[end] = MARKED
            ends[kept] = end
            kept += 1
    for i in range(kept):
        search.place[ends[i]] = FREE
    return kept


@kernel
def distinct_tokens(search: Search, end: int) -> int:
    """How many different tokens the path to ``end`` holds."""
    n = 0
    node = end
    while node > 0:
        other = search.parent[node]
        while other > 0 and search.token[other] != search.token[node]:
            other = search.parent[other]
        if other <= 0:
            n += 1
        node = search.parent[node]
    return n


@kernel
def cut_paths(search: Search, n: int) -> int:
    """Drop paths of the ``n`` in ``ends``, the longest first, until they hold ``MOST_NODES`` tokens in all; returns
    how many stay.

    What paths share is counted with each of them, and a token that a path repeats once. Of equally long
    ones the authors' package drops any; here it is the least likely.
    """
    ends = search.ends
    total = 0
    for i in range(n):
        total += distinct_tokens(search, ends[i])
    while total > MOST_NODES:
        worst = 0
        longest = 0
        for i in range(n):
            length = distinct_tokens(search, ends[i])
            if length > longest or (length == longest and search.path[ends[i]] < search.path[ends[worst]]):
                longest = length
                worst = i
        total -= longest
        n -= 1
        ends[worst] = ends[n]
    return n


@kernel
def gather_nodes(search: Search, n: int) -> int:
    """Put all nodes of the ``n`` paths into ``chosen``, each once; returns how many."""
    found = 0
    for i in range(n):
        node = search.ends[i]
        while node > 0 and search.place[node] == FREE:
            search.place[node] = MARKED
            search.chosen[found] = node
            found += 1
            node = search.parent[node]
    return found


@kernel
def sort_likeliest(search: Search, n: int) -> None:
    """Order the chosen nodes by falling path probability, then by birth: a parent is at least as likely, and older."""
    chosen, path = search.chosen, search.path
    for i in range(1, n):
        node = chosen[i]
        j = i - 1
        while j >= 0 and (
            path[chosen[j]] < path[node] or (path[chosen[j]] == path[node] and chosen[j] > node)
        ):
            chosen[j + 1] = chosen[j]
            j -= 1
        chosen[j + 1] = node


@entry
def search_tree(
    table: Table, search: Search, before: int, last: int, most: int, shape: Integers, probabilities: Floats
) -> int:
    """The paper's tree below the pair ``(before, last)``, likeliest nodes first.

    Args:
        most: nodes wanted at most.
        shape: receives tokens, parents and depths, int32 ``(3, MOST_NODES)``.
        probabilities: receives path probabilities, float32 ``(MOST_NODES,)``.

    Returns:
        The number of nodes.
    """
    size = grow(table, search, before, last)
    if size == 1:
        return 0
    n = extend_prefixes(table, search, size, take_prefixes(search, size))
    n = gather_nodes(search, cut_paths(search, n))
    sort_likeliest(search, n)
    n = min(n, most)
    for i in range(n):
        node = search.chosen[i]
        search.place[node] = i
        shape[0, i] = search.token[node]
        shape[1, i] = search.place[search.parent[node]] if search.parent[node] > 0 else -1
        shape[2, i] = search.depth[node]
        probabilities[i] = search.path[node]
    return n
