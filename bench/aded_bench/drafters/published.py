"""What the rebuilt drafters share: a tree under construction, and probabilities where a paper gives none."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from aded_local.step import NO_TOKENS, NOTHING_FORCED, Beginning, Forced, Likely, StepResult
from aded_local.tree import EMPTY_TREE, ROOT, DraftTree, FloatArray, IntArray

FIRST_RATE: Final = 0.2
"""How often nodes of a kind never met are taken to come true, with the weight of one observation; as in `auto`."""


class Sketch:
    """A draft tree under construction; equal siblings are one node.

    Args:
        most: nodes at most.

    Attributes:
        kinds: what each node is, for ``Rated``.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.kinds: list[Hashable] = []
        self._places: dict[tuple[int, int], int] = {}

    def add(self, parent: int, token: int, kind: Hashable) -> int | None:
        """The node of ``token`` below ``parent``, made if there is room; else None."""
        place = self._places.get((parent, token))
        if place is None and len(self.tokens) < self.most:
            place = self._places[parent, token] = len(self.tokens)
            self.tokens.append(token)
            self.parents.append(parent)
            self.kinds.append(kind)
        return place

    def add_path(self, parent: int, tokens: Sequence[int], kind: Callable[[int], Hashable]) -> None:
        """A chain below ``parent``; ``kind`` of each depth in it, from 1."""
        node: int | None = parent
        for depth, token in enumerate(tokens, 1):
            if node is not None:
                node = self.add(node, token, kind(depth))

    def tree(self, order: Sequence[int] | None = None, paths: npt.ArrayLike | None = None) -> DraftTree:
        """The nodes as a draft, in ``order`` (parents first) and with path probabilities; NaN for none."""
        n = len(self.tokens)
        if n == 0:
            return EMPTY_TREE
        order = range(n) if order is None else order
        place = {ROOT: ROOT} | {node: i for i, node in enumerate(order)}
        parents = [place[self.parents[node]] for node in order]
        depths: list[int] = []
        for parent in parents:
            depths.append(depths[parent] + 1 if parent != ROOT else 1)
        chances = np.full(n, np.nan) if paths is None else np.asarray(paths)[list(order)]
        return DraftTree(
            np.array([self.tokens[node] for node in order], np.int32),
            np.array(parents, np.int32),
            np.array(depths, np.int32),
            chances.astype(np.float32),
        )


class Published(Protocol):
    """A way to draft as its authors describe it."""

    def begin(self, beginning: Beginning) -> None:
        """A conversation begins."""
        ...

    def read_prompt(self, tokens: Sequence[int], likely: Likely) -> None:
        """What the target found likely after each token of the prompt, one row each."""
        ...

    def sketch(self) -> Sketch:
        """Its tree, of its published size."""
        ...

    def observe(self, result: StepResult) -> None:
        """Learn from a step."""
        ...


class AsPublished:
    """A published way as a drafter: the same tree whatever it costs, without probabilities."""

    name = "published"

    def __init__(self, make: Callable[[], Published]) -> None:
        self._make = make
        self.way = make()

    def recall(self, exchanges: Sequence[tuple[IntArray, IntArray, bool]]) -> None:
        """Earlier conversations have no logits; nothing is learnt from them."""

    def begin(self, beginning: Beginning) -> None:
        self.way.begin(beginning)

    def draft(
        self, max_nodes: int, cost: npt.NDArray[np.float64] | None = None, forced: Forced = NOTHING_FORCED
    ) -> DraftTree:
        return self.way.sketch().tree().first(max_nodes)

    def verifying(self, tree: DraftTree) -> None:
        pass

    def observe(self, result: StepResult) -> None:
        self.way.observe(result)

    def predict(self) -> tuple[IntArray, FloatArray]:
        return NO_TOKENS, np.zeros(0, np.float32)

    def reset(self) -> None:
        self.way = self._make()

    def close(self) -> None:
        pass


class Rated(AsPublished):
    """The same with probabilities, so that a budget can be asked: how often nodes of their kind came true."""

    name = "rated"

    def __init__(self, make: Callable[[], Published]) -> None:
        super().__init__(make)
        self._rates: dict[Hashable, tuple[float, float]] = {}
        self._drafted: Sketch | None = None

    def draft(
        self, max_nodes: int, cost: npt.NDArray[np.float64] | None = None, forced: Forced = NOTHING_FORCED
    ) -> DraftTree:
        sketch = self._drafted = self.way.sketch()
        paths: list[float] = []
        for parent, kind in zip(sketch.parents, sketch.kinds, strict=True):
            hits, trials = self._rates.get(kind, (FIRST_RATE, 1.0))
            paths.append(hits / trials * (paths[parent] if parent != ROOT else 1.0))
        # Stable, and no path is likelier than its beginning: parents stay first.
        order = np.argsort(-np.array(paths), kind="stable").tolist()
        return sketch.tree(order, paths).first(max_nodes)

    def observe(self, result: StepResult) -> None:
        if self._drafted is not None:
            self._judge(self._drafted, result.tokens)
        self._drafted = None
        self.way.observe(result)

    def _judge(self, sketch: Sketch, tokens: Sequence[int]) -> None:
        node = ROOT
        for token in tokens:
            below = [i for i, parent in enumerate(sketch.parents) if parent == node]
            for i in below:
                hits, trials = self._rates.get(sketch.kinds[i], (FIRST_RATE, 1.0))
                self._rates[sketch.kinds[i]] = (hits + (sketch.tokens[i] == token), trials + 1.0)
            found = [i for i in below if sketch.tokens[i] == token]
            if not found:
                return
            node = found[0]

    def reset(self) -> None:
        super().reset()
        self._rates.clear()
        self._drafted = None


def last_row(result: StepResult) -> int:
    """The row of ``result.likely`` from which the step's last token was chosen."""
    return result.path[-1] + 1 if result.path else 0
