"""Preset ``auto``: n-grams of several orders, copied passages, calibrated as it runs.

``draft`` and ``observe`` are one kernel call each; everything they touch is allocated at construction.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from aded_local.drafting.calibration import prior_rates, record
from aded_local.drafting.compiling import kernel
from aded_local.drafting.memory import (
    COPY_AT,
    ECHO_PLACES,
    EPOCH,
    HEAD,
    N_NODES,
    NODE,
    POOL_SIZE,
    START,
    STATE_SIZE,
    Predictor,
)
from aded_local.drafting.prediction import learn, predict_next
from aded_local.drafting.search import best_first, export, puct
from aded_local.drafting.sources import MOST_CANDIDATES
from aded_local.drafting.statistics import claim_pages, new_table
from aded_local.tree import EMPTY_TREE, DraftTree, FloatArray, IntArray

MEMORY_BITS: Final = 18
"""Slots for everything seen: 32 MB when full, some 100,000 tokens of text."""
CONTEXT_BITS: Final = 16
"""Slots for this conversation: 8 MB when full."""
HISTORY_BITS: Final = 18
POSITION_BITS: Final = 17

MOST_NODES: Final = 64
"""Nodes of the largest draft, as in the paper."""

SAME_CONTEXT: Final = 0.75
"""A prompt that begins with this share of the history continues the conversation; otherwise it is another."""

PUCT_ITERATIONS_PER_NODE: Final = 3
PUCT_ROLLOUT_DEPTH: Final = 1
"""A rollout step costs an expansion here, a microsecond or two: few, short ones."""

Search = Literal["best-first", "puct"]
NO_COST: Final = np.zeros(1, np.float64)


@kernel
def draft_best_first(
    model: Predictor,
    scratch: IntArray,
    chosen: IntArray,
    shape: IntArray,
    probabilities: npt.NDArray[np.float32],
    max_nodes: int,
    cost: npt.NDArray[np.float64],
) -> int:
    """Search, and write the tree to ``shape`` (tokens, parents, depths; int32 ``(3, MOST_NODES)``) and
    ``probabilities`` (float32 ``(MOST_NODES,)``). Returns the number of nodes."""
    n = best_first(model, scratch, chosen, max_nodes, cost)
    export(model.nodes, chosen, n, shape[0], shape[1], shape[2], probabilities)
    return n


@kernel
def draft_puct(
    model: Predictor,
    scratch: IntArray,
    chosen: IntArray,
    shape: IntArray,
    probabilities: npt.NDArray[np.float32],
    max_nodes: int,
    rng: npt.NDArray[np.uint64],
) -> int:
    """The same by PUCT; a kernel of its own, since it takes seconds to compile and is seldom asked for."""
    n = puct(
        model, scratch, chosen, max_nodes, max_nodes,
        PUCT_ITERATIONS_PER_NODE * max_nodes, PUCT_ROLLOUT_DEPTH, rng,
    )  # fmt: skip
    export(model.nodes, chosen, n, shape[0], shape[1], shape[2], probabilities)
    return n


@kernel
def calibrate_and_learn(model: Predictor, accepted: IntArray) -> None:
    """Judge the last draft's candidates whose parent lies on the accepted path, then learn it."""
    nodes = model.nodes
    if model.state[N_NODES] > 0:
        node = 0
        for token in accepted:
            if nodes[node].n_children < 0:
                break
            first = nodes[node].first_child
            found = -1
            for child in range(first, first + nodes[node].n_children):
                hit = 1 if nodes[child].token == token else 0
                record(model.rates, nodes[child].cell, hit)
                if hit == 1:
                    found = child
            if found < 0:
                break
            node = found
        model.state[N_NODES] = 0
    learn(model, accepted)


@kernel
def common_prefix(model: Predictor, tokens: IntArray) -> int:
    """How many tokens the history of this context and ``tokens`` share at the beginning."""
    start = model.state[START]
    n = min(tokens.shape[0], model.state[HEAD] - start)
    mask = model.history.shape[0] - 1
    for i in range(n):
        if model.history[(start + i) & mask] != tokens[i]:
            return i
    return int(n)


class AutoDrafter:
    """Drafts from what the conversation and earlier ones said; learns with every token."""

    name = "auto"

    def __init__(self, *, n_vocab: int, seed: int = 0, search: Search = "best-first") -> None:
        """Allocate the tables and load or compile the kernels.

        Args:
            n_vocab: size of the vocabulary; token ids are below it.
            seed: for the random numbers of the PUCT search.
            search: how the tree grows. ``best-first`` is the optimum for the estimated probabilities; replayed
                beside it on 240 shell answers and 40 instruction answers, ``puct`` reached the same speed-ups
                within 0.3% and took some 60 microseconds more per step.
        """
        self.n_vocab = n_vocab
        self.search: Search = search
        self._seed = seed
        self._scratch = np.zeros(POOL_SIZE, np.int32)
        self._chosen = np.zeros(MOST_NODES, np.int32)
        self._shape = np.zeros((3, MOST_NODES), np.int32)
        self._probabilities = np.zeros(MOST_NODES, np.float32)
        self.reset()
        self._warm_up()

    def reset(self) -> None:
        """Forget everything: statistics, calibration, conversation."""
        state = np.zeros(STATE_SIZE, np.int64)
        state[COPY_AT] = -1
        self._rng = np.array([self._seed], np.uint64)
        self.model = Predictor(
            memory=new_table(MEMORY_BITS),
            context=new_table(CONTEXT_BITS),
            history=np.zeros(1 << HISTORY_BITS, np.int32),
            positions=np.zeros(1 << POSITION_BITS, np.int64),
            state=state,
            rates=prior_rates(),
            echoes=np.zeros((2, ECHO_PLACES), np.float32),
            nodes=np.zeros(POOL_SIZE, NODE),
        )
        claim_pages(self.model.memory, self.model.context, self.model.history, self.model.positions)

    def reset_context(self) -> None:
        """Forget where the conversation stands, not what was learnt from it: the next prompt is a new one."""
        state = self.model.state
        state[START] = state[HEAD]
        state[EPOCH] += 1
        state[COPY_AT] = -1
        state[N_NODES] = 0

    def begin(self, tokens: IntArray) -> None:
        """Take ``tokens``, int32 ``(n,)``, as the context so far; learn those that are new."""
        state = self.model.state
        tokens = np.ascontiguousarray(tokens, np.int32)[-(1 << (HISTORY_BITS - 1)) :]
        held = int(state[HEAD] - state[START])
        common = int(common_prefix(self.model, tokens))
        state[N_NODES] = 0
        if held == 0 or common < SAME_CONTEXT * held:
            self.reset_context()
            common = 0
        else:
            state[HEAD] = state[START] + common
            if common < held:
                state[COPY_AT] = -1
        learn(self.model, tokens[common:])

    def draft(self, max_nodes: int, cost: npt.NDArray[np.float64] | None = None) -> DraftTree:
        """Candidates after the last token, likeliest path first.

        Args:
            max_nodes: at most this many; beyond ``MOST_NODES`` it is cut.
            cost: seconds of a target pass over i tokens, float64 ``(m,)``, index 0 unused, falling nowhere.
                With it the search stops where no further node could pay.
        """
        max_nodes = min(max_nodes, MOST_NODES)
        if max_nodes < 1 or self.model.state[HEAD] == self.model.state[START]:
            self.model.state[N_NODES] = 0
            return EMPTY_TREE
        if self.search == "puct":
            n = draft_puct(
                self.model, self._scratch, self._chosen, self._shape, self._probabilities,
                max_nodes, self._rng,
            )  # fmt: skip
        else:
            n = draft_best_first(
                self.model, self._scratch, self._chosen, self._shape, self._probabilities,
                max_nodes, NO_COST if cost is None else cost,
            )  # fmt: skip
        if n == 0:
            return EMPTY_TREE
        tokens, parents, depths = self._shape[:, :n].copy()
        return DraftTree(tokens, parents, depths, self._probabilities[:n].copy())

    def predict(self) -> tuple[IntArray, FloatArray]:
        """The next token's distribution, calibrated; see ``Drafter.predict``."""
        tokens = np.zeros(MOST_CANDIDATES, np.int32)
        chances = np.zeros(MOST_CANDIDATES, np.float32)
        n = 0
        if self.model.state[HEAD] > self.model.state[START]:
            n = predict_next(self.model, tokens, chances)
        return tokens[:n], chances[:n]

    def observe(self, accepted: IntArray) -> None:
        """Calibrate on, then learn, the tokens the target emitted in this step, int32 ``(m,)``."""
        calibrate_and_learn(self.model, accepted)

    def _warm_up(self) -> None:
        """Call every kernel once, then forget it."""
        self.begin(np.zeros(8, np.int32))
        for cost in (None, np.arange(4, dtype=np.float64)):
            self.draft(4, cost)
            self.observe(np.zeros(2, np.int32))
        self.reset()
