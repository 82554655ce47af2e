"""Places a draft tree in a llama.cpp batch: the order of its nodes, and the sequences of its branches.

Each leaf is a sequence of its own, and a node belongs to the sequences of all leaves below it. llama.cpp's attention
mask goes by sequence, so a node sees its ancestors and nothing else. Two choices keep the cache in order and make
accepting cheap:

- the likeliest chain comes first in the batch: after it is accepted and the rest removed, the cells are in the order of
  plain decoding;
- the leaf of that chain owns all sequences that no other leaf needs: accepting it copies almost nothing, and a tree
  without branches copies nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from aded_local.tree import ROOT, DraftTree


@dataclass(frozen=True, slots=True)
class Layout:
    """Placement of a tree's nodes in a batch; batch row 0 is the root.

    Attributes:
        order: node index of batch rows 1, 2, …
        row_of: batch row of each node.
        sequences: sequence ids of each node.
        is_chain: whether the tree has no branches; every node then carries every sequence.
    """

    order: list[int]
    row_of: list[int]
    sequences: list[list[int]]
    is_chain: bool


PLAIN = Layout([], [], [], True)
"""The layout of a tree without nodes."""


def lay_out(tree: DraftTree, n_sequences: int) -> Layout:
    """Place ``tree`` in a batch of a context with ``n_sequences`` sequences.

    Raises:
        ValueError: the tree has more leaves than there are sequences (see ``DraftTree.with_leaves``).
    """
    n = len(tree)
    everything = list(range(n_sequences))
    parents = tree.parents.tolist()
    rows = list(range(n))
    if parents == list(range(-1, n - 1)):
        return Layout(rows, [row + 1 for row in rows], [everything] * n, True)
    children: list[list[int]] = [[] for _ in range(n + 1)]
    for node, parent in enumerate(parents):
        children[parent].append(node)

    # The first child listed is the likeliest, so this chain is the tree's best guess.
    main: list[int] = []
    node = ROOT
    while children[node]:
        node = children[node][0]
        main.append(node)
    on_main = set(main)
    order = main + [node for node in range(n) if node not in on_main]
    row_of = [0] * n
    for row, node in enumerate(order):
        row_of[node] = row + 1

    side_leaves = [node for node in range(n) if not children[node] and node != main[-1]]
    if len(side_leaves) >= n_sequences:
        raise ValueError(f"{len(side_leaves) + 1} leaves, {n_sequences} sequences")
    sequences: list[list[int]] = [[] for _ in range(n)]
    sequences[main[-1]] = everything[: n_sequences - len(side_leaves)]
    for leaf, sequence in zip(side_leaves, everything[n_sequences - len(side_leaves) :], strict=True):
        sequences[leaf] = [sequence]
    for node in range(n - 1, -1, -1):
        parent = parents[node]
        if parent != ROOT:
            sequences[parent] = sequences[parent] + sequences[node]
    return Layout(order, row_of, sequences, False)
