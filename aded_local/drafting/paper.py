"""Preset ``paper``: ADED as published (arXiv 2407.12021) and as its authors' code runs, to the constant.

One matrix from pairs of tokens to the twelve likeliest next ones, a PUCT search of 150 iterations,
the 24 most visited prefixes extended by one token each, at most 64 nodes. At each step 0.04 is added
to the weight of every tri-gram among the last 16 tokens, up to 3.0. Weights are used as they are, as
if they were probabilities; only the path probabilities handed out are scaled so that siblings add up
to one at most. No calibration; a budget that trusts them drafts too much, as the paper does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

from aded_local.drafting.calibration import prior_rates
from aded_local.drafting.compiling import kernel
from aded_local.drafting.memory import (
    COPY_AT,
    ECHO_PLACES,
    HEAD,
    NODE,
    POOL_SIZE,
    RAW,
    SEED_KEY,
    START,
    STATE_SIZE,
    Predictor,
)
from aded_local.drafting.search import export, puct
from aded_local.drafting.statistics import Table, add, extend_hash, new_table, normalise
from aded_local.tree import EMPTY_TREE, DraftTree, IntArray

ITERATIONS: Final = 150
ROLLOUT_DEPTH: Final = 4
PREFIXES: Final = 24
MOST_NODES: Final = 64
"""Search and tree size, from the paper's section on the draft maker."""

WINDOW_TOKENS: Final = 16
WEIGHT_STEP: Final = 0.04
WEIGHT_LIMIT: Final = 3.0
"""The adaptive update of the authors' code."""

MATRIX_BITS: Final = 17
"""Pairs held: 131,072, 16 MB when full."""
HISTORY_BITS: Final = 6


@kernel
def count_pairs(table: Table, tokens: IntArray, amount: float, limit: float, clock: int) -> None:
    """Add ``amount`` to every tri-gram of ``tokens``, int32 ``(n,)``."""
    for i in range(2, tokens.shape[0]):
        key = extend_hash(extend_hash(SEED_KEY, tokens[i - 1]), tokens[i - 2])
        add(table, key, tokens[i], amount, limit, clock + i)


@kernel
def adapt(model: Predictor) -> None:
    """The adaptive update over the last ``WINDOW_TOKENS`` tokens of the history."""
    head = model.state[HEAD]
    n = min(WINDOW_TOKENS, head - model.state[START])
    tail = np.empty(n, np.int32)
    for i in range(n):
        tail[i] = model.history[(head - n + i) & (model.history.shape[0] - 1)]
    count_pairs(model.memory, tail, WEIGHT_STEP, WEIGHT_LIMIT, head)


@kernel
def append(model: Predictor, tokens: IntArray) -> None:
    """Put ``tokens`` at the end of the history and adapt the matrix once."""
    for token in tokens:
        head = model.state[HEAD]
        model.history[head & (model.history.shape[0] - 1)] = token
        model.state[HEAD] = head + 1
    adapt(model)


@kernel
def draft_paper_tree(
    model: Predictor,
    scratch: IntArray,
    chosen: IntArray,
    shape: IntArray,
    probabilities: npt.NDArray[np.float32],
    max_nodes: int,
    rng: npt.NDArray[np.uint64],
) -> int:
    """Search, and write the tree as ``auto.draft_tree`` does. Returns the number of nodes."""
    n = puct(model, scratch, chosen, MOST_NODES, PREFIXES, ITERATIONS, ROLLOUT_DEPTH, rng)
    n = min(n, max_nodes)
    export(model.nodes, chosen, n, shape[0], shape[1], shape[2], probabilities)
    return n


class PaperDrafter:
    """Drafts from tri-grams alone, by Monte Carlo tree search."""

    name = "paper"

    def __init__(self, *, n_vocab: int, seed: int = 0) -> None:
        """Allocate the matrix and load or compile the kernels; ``seed`` is for the rollouts."""
        self.n_vocab = n_vocab
        self._seed = seed
        self._scratch = np.zeros(POOL_SIZE, np.int32)
        self._chosen = np.zeros(MOST_NODES, np.int32)
        self._shape = np.zeros((3, MOST_NODES), np.int32)
        self._probabilities = np.zeros(MOST_NODES, np.float32)
        self.reset()
        self._warm_up()

    def reset(self) -> None:
        """Forget everything."""
        state = np.zeros(STATE_SIZE, np.int64)
        state[COPY_AT] = -1
        state[RAW] = 1
        self._rng = np.array([self._seed], np.uint64)
        self.model = Predictor(
            memory=new_table(MATRIX_BITS),
            context=new_table(0),
            history=np.zeros(1 << HISTORY_BITS, np.int32),
            positions=np.zeros(1, np.int64),
            state=state,
            rates=prior_rates(),
            echoes=np.zeros((2, ECHO_PLACES), np.float32),
            nodes=np.zeros(POOL_SIZE, NODE),
        )

    def reset_context(self) -> None:
        """The next prompt begins a new conversation; the matrix stays."""
        self.model.state[START] = self.model.state[HEAD]

    def feed(self, texts: Iterable[IntArray]) -> None:
        """Start the matrix from a corpus of token sequences: counted, pruned, normalised to probabilities."""
        self.reset()
        clock = 0
        for tokens in texts:
            count_pairs(self.model.memory, tokens, 1.0, np.inf, clock)
            clock += len(tokens)
        normalise(self.model.memory)

    def begin(self, tokens: IntArray) -> None:
        """Take the end of ``tokens``, int32 ``(n,)``, as the last tokens seen."""
        self.reset_context()
        append(self.model, np.ascontiguousarray(tokens, np.int32)[-WINDOW_TOKENS:])

    def draft(self, max_nodes: int, cost: npt.NDArray[np.float64] | None = None) -> DraftTree:
        """The paper's tree, cut to ``max_nodes`` nodes; ``cost`` is not looked at."""
        n = 0
        if max_nodes > 0:
            n = draft_paper_tree(
                self.model, self._scratch, self._chosen, self._shape, self._probabilities,
                max_nodes, self._rng,
            )  # fmt: skip
        if n == 0:
            return EMPTY_TREE
        tokens, parents, depths = self._shape[:, :n].copy()
        return DraftTree(tokens, parents, depths, self._probabilities[:n].copy())

    def observe(self, accepted: IntArray) -> None:
        """Append the tokens of this step, int32 ``(m,)``, and adapt."""
        append(self.model, accepted)

    def _warm_up(self) -> None:
        """Call every kernel once, then forget it."""
        self.feed([np.zeros(4, np.int32)])
        self.begin(np.zeros(8, np.int32))
        self.draft(4)
        self.observe(np.zeros(2, np.int32))
        self.reset()
