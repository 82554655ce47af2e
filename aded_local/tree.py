"""The draft tree: what a drafter proposes and the target verifies, as plain arrays.

Node ``i`` of a tree stands for "after its parent's token comes ``tokens[i]``". The root itself, the
last accepted token that the target has not decoded yet, is not a node; its children have parent -1.
Nodes are ordered so that a parent precedes its children and any prefix of the arrays is a tree too:
cutting a draft to a budget is a slice.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]

ROOT = -1
"""Parent index of the nodes directly below the last accepted token."""


class Source(IntEnum):
    """What foresaw a drafted token: what made it likeliest, where several knew it.

    Attributes:
        UNKNOWN: nobody says.
        CONVERSATION: what followed the same words in this conversation.
        MEMORY: the same in all that was seen, earlier conversations included.
        PASSAGE: a longer passage that repeats itself.
        PHRASES: shipped phrases, or a static store.
        LIKELY: what the target found likely there before.
        GAPS: what followed similar words, one of them another.
        FREQUENT: tokens that are frequent anywhere.
        PAIRS: the tri-grams of the ADED paper.
        FORCED: nothing else may come, by the grammar.
        MODEL: what a draft model said.
    """

    UNKNOWN = 0
    CONVERSATION = 1
    MEMORY = 2
    PASSAGE = 3
    PHRASES = 4
    LIKELY = 5
    GAPS = 6
    FREQUENT = 7
    PAIRS = 8
    FORCED = 9
    MODEL = 10


@dataclass(frozen=True, slots=True)
class DraftTree:
    """A tree of proposed next tokens.

    Attributes:
        tokens: token id of each node, int32 ``(n,)``.
        parents: index of each node's parent, ``ROOT`` for the first level, int32 ``(n,)``; ``parents[i] < i``.
        depths: 1 for children of the root, int32 ``(n,)``.
        probabilities: the drafter's estimate that the target's output runs through this node (the
            product of the conditional probabilities along its path), float32 ``(n,)``.
        padding: the last so many nodes propose nothing: they fill a pass that is cheaper with more tokens in it.
        sources: what foresaw each node, of ``Source``, uint8 ``(n,)``; None where the drafter does not say.
    """

    tokens: IntArray
    parents: IntArray
    depths: IntArray
    probabilities: FloatArray
    padding: int = 0
    sources: ByteArray | None = None

    def __len__(self) -> int:
        return int(self.tokens.shape[0])

    def first(self, n: int) -> DraftTree:
        """The tree of the first ``n`` nodes; itself when it has no more than that."""
        if n >= len(self):
            return self
        return DraftTree(
            self.tokens[:n],
            self.parents[:n],
            self.depths[:n],
            self.probabilities[:n],
            sources=None if self.sources is None else self.sources[:n],
        )

    def path_to(self, node: int) -> list[int]:
        """Node indices from the first level down to ``node``, inclusive."""
        path = []
        while node != ROOT:
            path.append(node)
            node = int(self.parents[node])
        path.reverse()
        return path

    def with_leaves(self, most: int) -> DraftTree:
        """The tree without the branches that exceed ``most`` leaves; later branches go first.

        Nodes come likeliest first, so the branch that is one too many is the least likely. With 1 the likeliest chain
        is left: the first child of the root, its first child, and so on.
        """
        if len(self) <= most:
            return self
        has_child = [False] * (len(self) + 1)
        kept = [False] * len(self)
        leaves = 0
        for node, parent in enumerate(self.parents.tolist()):
            if parent != ROOT and not kept[parent]:
                continue
            # The first child continues its parent's branch; the root's first child opens the first.
            opens = 1 if has_child[parent] or (parent == ROOT and leaves == 0) else 0
            if leaves + opens > most:
                continue
            leaves += opens
            has_child[parent] = True
            kept[node] = True
        if all(kept):
            return self
        index = np.flatnonzero(kept).astype(np.int32)
        places = np.full(len(self) + 1, ROOT, np.int32)
        places[index] = np.arange(len(index), dtype=np.int32)
        return DraftTree(
            self.tokens[index],
            places[self.parents[index]],
            self.depths[index],
            self.probabilities[index],
            sources=None if self.sources is None else self.sources[index],
        )

    def padded(self, n: int) -> DraftTree:
        """This tree with nodes of probability 0 below its likeliest path, ``n`` nodes in all.

        For passes that are cheaper with more tokens in them. The added tokens repeat the last one.
        """
        missing = n - len(self)
        if missing <= 0 or len(self) == 0:
            return self
        last = ROOT
        for node, parent in enumerate(self.parents.tolist()):
            if parent == last:
                last = node
        size = len(self)
        parents = np.arange(size - 1, size - 1 + missing, dtype=np.int32)
        parents[0] = last
        depths = np.arange(missing, dtype=np.int32) + self.depths[last] + 1
        return DraftTree(
            np.concatenate([self.tokens, np.full(missing, self.tokens[last], np.int32)]),
            np.concatenate([self.parents, parents]),
            np.concatenate([self.depths, depths.astype(np.int32)]),
            np.concatenate([self.probabilities, np.zeros(missing, np.float32)]),
            padding=missing,
            sources=None
            if self.sources is None
            else np.concatenate([self.sources, np.zeros(missing, np.uint8)]),
        )

    def sources_of(self, nodes: list[int]) -> list[int]:
        """What foresaw each of some nodes, of ``Source``."""
        found: list[int] = (
            [Source.UNKNOWN] * len(nodes) if self.sources is None else self.sources[nodes].tolist()
        )
        return found

    @property
    def is_chain(self) -> bool:
        """Whether every node follows the one before it."""
        n = len(self)
        return bool(np.array_equal(self.parents, np.arange(-1, n - 1, dtype=np.int32)))


def empty_tree() -> DraftTree:
    """A tree without nodes: the step that verifies it decodes one token, plainly."""
    none = np.empty(0, np.int32)
    return DraftTree(none, none, none, np.empty(0, np.float32))


EMPTY_TREE = empty_tree()


def chain(tokens: IntArray, probabilities: FloatArray) -> DraftTree:
    """A tree without branches: token ``i`` follows token ``i - 1``.

    Args:
        tokens: int32 ``(n,)``.
        probabilities: path probabilities, float32 ``(n,)``, not increasing.
    """
    n = tokens.shape[0]
    index = np.arange(n, dtype=np.int32)
    return DraftTree(tokens, index - 1, index + 1, probabilities)
