"""SpecBranch's own way (arXiv 2506.01979), to compare with: one chain, and several tokens at one point of it.

The chain is what the draft model finds likeliest, as long as it is sure; where it is not, the chain ends. While the
target verifies the chain, the likeliest tokens at its end are continued, all in one decode at a time, each for the
length of a chain. Where the target says one of them, the next chain is there at once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from aded_local.llama.branches import Path
from aded_local.tree import DraftTree, Source, chain

if TYPE_CHECKING:
    from aded_local.drafters.model.worker import Verified, Wanted, Worker

CHAIN: Final = 4
"""Tokens of a chain: what the paper's released scripts take."""
BRANCHES: Final = 3
"""Tokens at the branch point: what they take."""
SURE: Final = 0.4
"""A place whose likeliest token is less likely than this is the branch point. Chosen: the paper gives no figure."""


class Branching:
    """See this module's first line; a ``worker.Policy``.

    Args:
        length: tokens of a chain at most.
        branches: tokens at the branch point.
        sure: see ``SURE``.
    """

    def __init__(self, length: int = CHAIN, branches: int = BRANCHES, sure: float = SURE) -> None:
        self._length = length
        self._branches = branches
        self._sure = sure

    def draft(self, worker: Worker, wanted: Wanted) -> DraftTree:
        """The chain up to the branch point; see ``worker.Policy``."""
        if len(wanted.forced.tokens):
            return wanted.forced.tree(wanted.most)
        path: Path = ()
        chances: list[float] = []
        while len(path) < min(self._length, wanted.most) and not wanted.given_up:
            if path not in worker.speaker.said and not worker.ask([path], beside=False):
                break
            said = worker.speaker.said[path]
            if said.confidence < self._sure:
                break
            chances.append(said.confidence)
            path = (*path, int(said.tokens[0]))
        tree = chain(np.array(path, np.int32), np.cumprod(chances, dtype=np.float32))
        return replace(tree, sources=np.full(len(tree), Source.MODEL, np.uint8))

    def prepare(self, worker: Worker, verified: Verified) -> list[Path]:
        """The next token of each branch at the end of the verified chain; see ``worker.Policy``."""
        said = worker.speaker.said
        end = max(verified.paths, key=len, default=())
        if end not in said:
            return [end]
        n = 1 if said[end].confidence >= self._sure else self._branches
        open_ends = []
        for token in said[end].tokens[:n].tolist():
            path = (*end, token)
            while path in said and len(path) - len(end) < self._length:
                path = (*path, int(said[path].tokens[0]))
            if token >= 0 and path not in said and len(path) - len(end) <= self._length:
                open_ends.append(path)
        return open_ends
