"""Preset ``paper``: ADED as published (arXiv 2407.12021) and as its authors' code runs, to the constant.

One matrix from pairs of tokens to the twelve likeliest next ones, a PUCT search of 150 iterations,
the most visited prefixes extended by one token each (``search``, ``tree``). At each step 0.04 is added
to the weight of every tri-gram among the last 16 tokens, up to 3.0. Weights are used as they are, as
if they were probabilities; only the path probabilities handed out are scaled so that siblings add up
to one at most. No calibration; a budget that trusts them drafts too much, as the paper does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from aded_local.drafters.paper.matrix import Table, add, new_table, normalise
from aded_local.drafters.paper.search import MOST_NODES, new_search, start
from aded_local.drafters.paper.tree import search_tree
from aded_local.kernels.compiling import entry
from aded_local.ngrams.table import SEED_KEY, claim_pages, extend_hash
from aded_local.step import NO_TOKENS, NOTHING_FORCED, Beginning, Forced, StepResult
from aded_local.tree import EMPTY_TREE, DraftTree, FloatArray, IntArray, Source

WINDOW_TOKENS: Final = 16
WEIGHT_STEP: Final = 0.04
WEIGHT_LIMIT: Final = 3.0
"""The adaptive update of the authors' code."""

MATRIX_BITS: Final = 18
"""Pairs held: 262,144, 32 MB when full. 800 answers of a chat model hold 100,000."""


@entry
def count_pairs(table: Table, tokens: IntArray, amount: float, limit: float, clock: int) -> None:
    """Add ``amount`` to every tri-gram of ``tokens``, int32 ``(n,)``."""
    for i in range(2, tokens.shape[0]):
        key = extend_hash(extend_hash(SEED_KEY, tokens[i - 1]), tokens[i - 2])
        add(table, key, tokens[i], amount, limit, clock + i)


class PaperDrafter:
    """Drafts from tri-grams alone, by Monte Carlo tree search."""

    name = "paper"

    def __init__(self, *, n_vocab: int, seed: int = 0) -> None:
        """Allocate the matrix and load or compile the kernels; ``seed`` is for the rollouts."""
        self.n_vocab = n_vocab
        self._seed = seed
        self._shape = np.zeros((3, MOST_NODES), np.int32)
        self._probabilities = np.zeros(MOST_NODES, np.float32)
        self.reset()
        self._warm_up()

    def reset(self) -> None:
        """Forget everything."""
        self.matrix = new_table(MATRIX_BITS)
        self._clock = 0
        claim_pages(self.matrix)
        self._search = new_search(self._seed)
        self._last = NO_TOKENS

    def feed(self, texts: Iterable[IntArray]) -> None:
        """Start the matrix from a corpus of token sequences: counted, pruned, normalised to probabilities."""
        self.reset()
        for tokens in texts:
            count_pairs(self.matrix, tokens, 1.0, np.inf, self._clock)
            self._clock += len(tokens)
        normalise(self.matrix)

    def begin(self, beginning: Beginning) -> None:
        """Take the end of the whole text as the last tokens seen."""
        self._last = NO_TOKENS
        self._learn(np.concatenate((beginning.past[-WINDOW_TOKENS:], beginning.new))[-WINDOW_TOKENS:])

    def draft(
        self, max_nodes: int, cost: npt.NDArray[np.float64] | None = None, forced: Forced = NOTHING_FORCED
    ) -> DraftTree:
        """The paper's tree, cut to ``max_nodes`` nodes, whatever the ``cost``; or ``forced`` tokens alone."""
        if len(forced.tokens):
            return forced.tree(max_nodes)
        if max_nodes < 1 or len(self._last) < 2:
            return EMPTY_TREE
        before, last = self._last[-2:]
        n = search_tree(
            self.matrix, self._search, before, last, max_nodes, self._shape, self._probabilities
        )  # fmt: skip
        if n == 0:
            return EMPTY_TREE
        tokens, parents, depths = self._shape[:, :n].copy()
        sources = np.full(n, Source.PAIRS, np.uint8)
        return DraftTree(tokens, parents, depths, self._probabilities[:n].copy(), sources=sources)

    def predict(self) -> tuple[IntArray, FloatArray]:
        """The successors of the last two tokens; see ``Drafter.predict``."""
        if len(self._last) < 2:
            return np.zeros(0, np.int32), np.zeros(0, np.float32)
        n = start(self.matrix, self._search, *self._last[-2:])
        return self._search.token[1:n].copy(), self._search.path[1:n].copy()

    def verifying(self, tree: DraftTree) -> None:
        """Nothing: what was verified changes no weight."""

    def observe(self, result: StepResult) -> None:
        """Append the tokens of this step and adapt. What the target found likely has no part in it."""
        self._learn(np.array(result.tokens, np.int32))

    def _learn(self, tokens: IntArray) -> None:
        self._last = np.concatenate((self._last, tokens))[-WINDOW_TOKENS:]
        self._clock += len(tokens)
        count_pairs(self.matrix, self._last, WEIGHT_STEP, WEIGHT_LIMIT, self._clock)

    def close(self) -> None:
        """Nothing: no work goes on beside."""

    def recall(self, exchanges: Sequence[tuple[IntArray, IntArray, bool]]) -> None:
        """Take earlier conversations, one at least, as the corpus the matrix starts from; see ``feed``."""
        if exchanges:
            self.feed(text for prompt, answer, _ in exchanges for text in (prompt, answer))

    def _warm_up(self) -> None:
        """Call every kernel once, then forget it."""
        self.feed([np.zeros(4, np.int32)])
        self.begin(Beginning(0, NO_TOKENS, np.zeros(8, np.int32)))
        self.draft(4)
        self.predict()
        self._learn(np.zeros(2, np.int32))
        self.reset()
