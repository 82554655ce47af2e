"""SpecBranch's own way (arXiv 2506.01979), to compare with: one chain, and several tokens at one point of it.

The chain is what the draft model finds likeliest. H-RAD says how much of it the target will accept: none, some or all;
where that is some, the chain is verified up to the first token of which the model is not sure. While the target
verifies that much, the likeliest tokens behind it are continued, all in one decode at a time, each for the length of a
chain. Where the target says one of them, the next chain is there at once.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Final

import numpy as np

from aded_local.drafters.model.hrad import (
    LEAST_CONFIDENCE,
    Acceptance,
    Hrad,
    branch_point,
    draft_features,
    opened,
    outcome,
)
from aded_local.errors import StoreError
from aded_local.llama.branches import Path
from aded_local.tree import DraftTree, FloatArray, Source, chain

if TYPE_CHECKING:
    from aded_local.drafters.model.jobs import Further, Verified, Wanted
    from aded_local.drafters.model.worker import Worker

CHAIN: Final = 4
"""Tokens of a chain: what the paper's released scripts take."""
BRANCHES: Final = 3
"""Tokens at the branch point: what they take."""


class KeptHrad:
    """The classifier of a pair of models, and the file that keeps it.

    Args:
        path: of the file; what is wrong with it leaves a new classifier.
        n_hidden: numbers of the target's hidden state.
    """

    def __init__(self, path: FilePath, n_hidden: int) -> None:
        self._path = path
        self.hrad: Hrad = opened(path, n_hidden)

    def save(self) -> None:
        """Keep what was learnt, where that can be written."""
        with contextlib.suppress(StoreError):
            self.hrad.save(self._path)


@dataclass
class _Chain:
    """A chain whose outcome is not known yet."""

    tokens: Path
    hidden: FloatArray | None
    features: FloatArray
    came: list[int] = field(default_factory=list)


class Branching:
    """See this module's first lines; a ``worker.Policy``.

    Args:
        kept: the classifier; None to go by the model's confidence alone.
        length: tokens of a chain at most.
        branches: tokens at the branch point.
    """

    def __init__(self, kept: KeptHrad | None = None, length: int = CHAIN, branches: int = BRANCHES) -> None:
        self._kept = kept
        self._length = length
        self._branches = branches
        self._hidden: FloatArray | None = None
        self._open: list[_Chain] = []

    def draft(self, worker: Worker, wanted: Wanted) -> DraftTree:
        """The chain up to the branch point; see ``worker.Policy``."""
        if len(wanted.forced.tokens):
            return wanted.forced.tree(wanted.most)
        path: Path = ()
        chances: list[float] = []
        entropies: list[float] = []
        while len(path) < min(self._length, wanted.most) and not wanted.given_up:
            if path not in worker.speaker.said and not worker.ask([path], beside=False):
                break
            said = worker.speaker.said[path]
            if self._kept is None and said.confidence < LEAST_CONFIDENCE:
                break
            chances.append(said.confidence)
            entropies.append(said.entropy)
            path = (*path, int(said.tokens[0]))
        n = self._point(path, chances, entropies)
        tree = chain(np.array(path[:n], np.int32), np.cumprod(chances[:n], dtype=np.float32))
        return replace(tree, sources=np.full(n, Source.MODEL, np.uint8))

    def _point(self, path: Path, chances: list[float], entropies: list[float]) -> int:
        """How much of a chain is verified."""
        expected = Acceptance.SOME
        if self._kept is not None and path:
            features = draft_features(chances, entropies)
            self._open.append(_Chain(path, self._hidden, features))
            expected = self._kept.hrad.expected(self._hidden, features)
        return branch_point(chances, expected)

    def prepare(self, worker: Worker, verified: Verified) -> list[Path]:
        """The next token of each branch at the end of the verified chain; see ``worker.Policy``."""
        said = worker.speaker.said
        end = max(verified.paths, key=len, default=())
        if end not in said:
            return [end]
        open_ends = []
        for token in said[end].tokens[: self._branches].tolist():
            path = (*end, token)
            while path in said and len(path) - len(end) < self._length:
                path = (*path, int(said[path].tokens[0]))
            if token >= 0 and path not in said and len(path) - len(end) <= self._length:
                open_ends.append(path)
        return open_ends

    def came(self, further: Further) -> None:
        """The classifier learns from chains whose outcome is known now; see ``worker.Policy``."""
        self._hidden = further.hidden
        still = []
        for each in self._open:
            each.came += further.tokens
            found = outcome(each.tokens, each.came)
            if found is None:
                still.append(each)
            elif self._kept is not None:
                self._kept.hrad.learn(each.hidden, each.features, found)
        self._open = still

    def forget(self) -> None:
        """The text is another one: what came of open chains will not be known."""
        self._open, self._hidden = [], None

    def close(self) -> None:
        """See ``worker.Policy``."""
        if self._kept is not None:
            self._kept.save()
