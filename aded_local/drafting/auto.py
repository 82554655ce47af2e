"""Preset ``auto``: n-grams of several orders, copied passages, calibrated as it runs.

``draft`` and ``observe`` are one kernel call each; everything they touch is allocated at construction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from aded_local.drafting import Search
from aded_local.drafting.calibration import no_shifts
from aded_local.drafting.compiling import kernel
from aded_local.drafting.evidence import MOST_CANDIDATES, new_evidence
from aded_local.drafting.ingredients import switches
from aded_local.drafting.memory import (
    ASKED,
    COPY_AT,
    COPY_LENGTH,
    HEAD,
    N_NODES,
    N_VOCAB,
    NODE,
    POOL_SIZE,
    RESUME_AT,
    START,
    STATE_SIZE,
    Predictor,
)
from aded_local.drafting.prediction import end_conversation, find_related, learn, predict_next, read
from aded_local.drafting.priors import blank_priors, shipped_priors
from aded_local.drafting.related import no_conversations
from aded_local.drafting.search import best_first, export, puct
from aded_local.drafting.soft import contexts_of, soften
from aded_local.drafting.statistics import Table, claim_pages, new_table
from aded_local.tree import EMPTY_TREE, DraftTree, FloatArray, IntArray

MEMORY_BITS: Final = 23
"""Slots for everything seen: 64 MB, a third full after 620,000 tokens of chats."""
CONTEXT_BITS: Final = 18
"""Slots for this conversation and those related to it: 2 MB."""
SOFT_BITS: Final = 17
"""Entries for what the target would have said: 1 MB, some 5,000 verified nodes."""
HISTORY_BITS: Final = 20
POSITION_BITS: Final = 18

TAUGHT_TOKENS: Final = 20_000
"""Of remembered answers, the newest so many teach the mixing too: a third of a second. Counting is much quicker."""

LEAST_BITS: Final = 4
"""Of a store that is not there: two buckets, empty."""

MOST_NODES: Final = 64
"""Nodes of the largest draft, as in the paper."""

SAME_CONTEXT: Final = 0.75
"""A prompt that begins with this share of the history continues the conversation; otherwise it is another."""

PUCT_ITERATIONS_PER_NODE: Final = 3
PUCT_ROLLOUT_DEPTH: Final = 1
"""A rollout step costs an expansion here, a microsecond or two: few, short ones."""

NO_COST: Final = np.zeros(1, np.float64)
NOTHING: Final[tuple[IntArray, IntArray, IntArray, FloatArray]] = (
    np.zeros(0, np.int32),
    np.zeros(0, np.int32),
    np.zeros((0, 1), np.int32),
    np.zeros((0, 1), np.float32),
)
"""In place of a verified tree and the target's likeliest tokens, where they were not read."""


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
def common_prefix(model: Predictor, tokens: IntArray) -> int:
    """How many tokens the history of this context and ``tokens`` share at the beginning."""
    start = model.state[START]
    n = min(tokens.shape[0], model.state[HEAD] - start)
    mask = model.history.shape[0] - 1
    for i in range(n):
        if model.history[(start + i) & mask] != tokens[i]:
            return i
    return int(n)


@kernel
def learn_step(
    model: Predictor,
    accepted: IntArray,
    parents: IntArray,
    drafted: IntArray,
    tokens: IntArray,
    shares: FloatArray,
) -> None:
    """Learn what the target said, then what it nearly said: one call, since after a pass of a large model every call
    finds its code and data gone from the caches.

    Args:
        accepted: int32 ``(m,)``.
        parents, drafted: the verified tree, int32 ``(n,)``.
        tokens, shares: as for ``soft.soften``; without rows where nothing was read.
    """
    contexts = contexts_of(model, parents, drafted)
    learn(model, accepted)
    soften(model, contexts, tokens, shares)


class AutoDrafter:
    """Drafts from what the conversation and earlier ones said; learns with every token."""

    name = "auto"

    def __init__(
        self,
        *,
        n_vocab: int,
        seed: int = 0,
        search: Search = "best-first",
        static: Table | None = None,
        phrases: Table | None = None,
        without: Iterable[str] = (),
    ) -> None:
        """Allocate the tables and load or compile the kernels.

        Args:
            n_vocab: size of the vocabulary; token ids are below it.
            seed: for the random numbers of the PUCT search.
            search: how the tree grows. ``best-first`` is the optimum for the estimated probabilities; replayed
                beside it on 150 instruction answers, ``puct`` reached the same speed-ups within 0.3% on three cost
                curves, at ten times the time (0.4 milliseconds a step).
            static: successors in a corpus of one's own, for this tokenizer; see ``store.static``.
            phrases: successors in shipped phrases; see ``store.phrases``.
            without: parts to leave out, of ``ingredients.INGREDIENTS``.

        Raises:
            OptionError: there is no such part.
        """
        self.n_vocab = n_vocab
        self.search: Search = search
        self._seed = seed
        self._scratch = np.zeros(POOL_SIZE, np.int32)
        self._chosen = np.zeros(MOST_NODES, np.int32)
        self._shape = np.zeros((3, MOST_NODES), np.int32)
        self._probabilities = np.zeros(MOST_NODES, np.float32)
        self._static = new_table(LEAST_BITS) if static is None else static
        self._phrases = new_table(LEAST_BITS) if phrases is None else phrases
        self._without = frozenset(without)
        self._used = switches(self._without)
        self.reset()
        self._warm_up()

    def reset(self) -> None:
        """Forget everything: statistics, calibration, conversation."""
        state = np.zeros(STATE_SIZE, np.int64)
        state[COPY_AT] = state[RESUME_AT] = -1
        state[N_VOCAB] = self.n_vocab
        self._rng = np.array([self._seed], np.uint64)
        self._nearly_said = NOTHING
        priors = blank_priors() if "priors" in self._without else shipped_priors()
        self.model = Predictor(
            memory=new_table(MEMORY_BITS),
            context=new_table(CONTEXT_BITS),
            soft=new_table(SOFT_BITS),
            static=self._static,
            phrases=self._phrases,
            history=np.zeros(1 << HISTORY_BITS, np.int32),
            positions=np.zeros(1 << POSITION_BITS, np.int64),
            state=state,
            rates=priors.rates,
            weights=priors.weights,
            finals=priors.finals,
            shifts=no_shifts(),
            used=self._used.copy(),
            evidence=new_evidence(),
            conversations=no_conversations(),
            nodes=np.zeros(POOL_SIZE, NODE),
        )
        claim_pages(self.model.memory, self.model.context, self.model.history, self.model.positions)

    def reset_context(self) -> None:
        """Forget where the conversation stands, not what was learnt from it: the next prompt is a new one."""
        end_conversation(self.model)
        self._nearly_said = NOTHING

    def begin(self, tokens: IntArray) -> None:
        """Take ``tokens``, int32 ``(n,)``, as the context so far; learn those that are new."""
        state = self.model.state
        tokens = np.ascontiguousarray(tokens, np.int32)[-(1 << (HISTORY_BITS - 1)) :]
        held = int(state[HEAD] - state[START])
        common = int(common_prefix(self.model, tokens))
        state[N_NODES] = 0
        self._nearly_said = NOTHING
        if held == 0 or common < SAME_CONTEXT * held:
            self.reset_context()
            common = 0
        else:
            state[HEAD] = state[START] + common
            state[ASKED] = min(state[ASKED], state[HEAD])
            if common < held:
                state[COPY_AT] = state[RESUME_AT] = -1
                state[COPY_LENGTH] = 0
        if common < len(tokens):
            find_related(self.model, tokens[common:])
        read(self.model, tokens[common:])
        if common == 0:
            state[ASKED] = state[HEAD]

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
        """Judge predictions by, then count, the tokens the target emitted in this step; see ``Drafter``."""
        nearly_said, self._nearly_said = self._nearly_said, NOTHING
        learn_step(self.model, accepted, *nearly_said)

    def learn_distributions(self, tree: DraftTree, tokens: IntArray, shares: FloatArray) -> None:
        """Keep what the target would have said after the last token and each node, once this step is learnt."""
        self._nearly_said = (tree.parents, tree.tokens, tokens, shares)

    def recall(self, exchanges: Sequence[tuple[IntArray, IntArray, bool]]) -> None:
        """Learn earlier conversations, oldest first: see ``Drafter``.

        All are counted; by the newest alone, ``TAUGHT_TOKENS`` of answers, predictions are judged too.
        """
        left = sum(len(answer) for _, answer, _ in exchanges)
        for prompt, answer, continues in exchanges:
            if not continues:
                self.reset_context()
            read(self.model, prompt)
            if not continues:
                self.model.state[ASKED] = self.model.state[HEAD]
            if left <= TAUGHT_TOKENS:
                learn_step(self.model, answer, *NOTHING)
            else:
                read(self.model, answer)
            left -= len(answer)
        self.reset_context()

    def _warm_up(self) -> None:
        """Call every kernel once, then forget it."""
        self.begin(np.zeros(8, np.int32))
        for cost in (None, np.arange(4, dtype=np.float64)):
            self.draft(4, cost)
            self.learn_distributions(EMPTY_TREE, np.zeros((1, 2), np.int32), np.full((1, 2), 0.5, np.float32))
            self.observe(np.zeros(2, np.int32))
        self.predict()
        self.reset()
