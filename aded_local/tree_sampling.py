"""Sample and match: the target's own sampler walks the verified tree.

One sample per node on the current path. Where the sampled token is a child of the current node, the walk
steps into that child; where it is not, the sample is the step's last token. The sampler sees the same
logits in the same order as in plain decoding, so any chain (temperature, top-k, penalties, …) gives what
plain decoding with the same seed gives. (Sampling whole paths and keeping the longest match, as the ADED
authors' code does, favours drafted tokens.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aded_local.tree import ROOT, DraftTree


@dataclass(frozen=True, slots=True)
class Match:
    """What the target said in one step.

    Attributes:
        tokens: the tokens it chose, at least one; the last one is not in the cache.
        path: nodes of the tree that were accepted, ``len(tokens) - 1`` of them.
    """

    tokens: list[int]
    path: list[int]


def sample_and_match(
    tree: DraftTree,
    row_of: list[int],
    sample: Callable[[int], int],
    is_end: Callable[[int], bool],
    limit: int,
) -> Match:
    """Walk down the verified ``tree``.

    Args:
        tree: what was verified.
        row_of: batch row of each node; the root is row 0.
        sample: draws the target's token after a batch row; called once per token returned.
        is_end: whether a token ends the answer; nothing is drawn behind it.
        limit: tokens wanted at most, at least 1.
    """
    if not len(tree):
        return Match([sample(0)], [])
    drafted = tree.tokens.tolist()
    parents = tree.parents.tolist()
    n = len(drafted)
    node, row = ROOT, 0
    tokens: list[int] = []
    path: list[int] = []
    while True:
        token = sample(row)
        tokens.append(token)
        if len(tokens) >= limit or is_end(token):
            return Match(tokens, path)
        for child in range(node + 1, n):
            if parents[child] == node and drafted[child] == token:
                node, row = child, row_of[child]
                path.append(child)
                break
        else:
            return Match(tokens, path)
