"""Preset ``auto``: n-grams of several orders and repeated passages, mixed and calibrated as it runs.

``draft`` and ``observe`` are one kernel call each; everything they touch is allocated at construction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from aded_local.drafters import Search
from aded_local.drafters.ngram.calibration import UNTOLD_CLASSES
from aded_local.drafters.ngram.candidates import MODEL, MOST_CANDIDATES, ODDS, RATE, SEEN, SOFT_ORDERS
from aded_local.drafters.ngram.components import switches
from aded_local.drafters.ngram.mixing import MODEL_FIRST_SETS, MOST_ODDS
from aded_local.drafters.ngram.prediction import LAID, READ, SAID, learn, predict_next
from aded_local.drafters.ngram.pretrained import blank_priors, shipped_priors
from aded_local.drafters.ngram.search import NO_COST, best_first, puct
from aded_local.drafters.ngram.state import (
    HISTORY_BITS,
    MOST_NODES,
    NAMED,
    PREDICTOR,
    Predictor,
    Tables,
)
from aded_local.drafters.ngram.statements import tell
from aded_local.drafters.statement import Statement
from aded_local.ngrams.table import ORDERS, Table, claim_pages, new_table
from aded_local.step import NO_TOKENS, NOTHING_FORCED, Beginning, Forced, Likely, StepResult
from aded_local.tree import EMPTY_TREE, DraftTree, FloatArray, IntArray

MEMORY_BITS: Final = 23
"""Slots for everything seen: 64 MB, a third full after 620,000 tokens of chats."""
CONTEXT_BITS: Final = 18
"""Slots for the latest conversations, each for itself: 2 MB."""
SOFT_BITS: Final = 17
"""Entries for what the target would have said: 1 MB, some 5,000 verified nodes."""

TAUGHT_TOKENS: Final = 20_000
"""Of remembered answers, the newest so many teach the mixing too: a third of a second. Counting is much quicker."""

LEAST_BITS: Final = 4
"""Of a store that is not there: two buckets, empty."""

KNOWN_SESSIONS: Final = 64
"""The sessions begun last whose conversations can be taken up again; an older one is learnt once more."""

PUCT_ITERATIONS_PER_NODE: Final = 3
PUCT_ROLLOUT_DEPTH: Final = 1
"""A rollout step costs an expansion here, a microsecond or two: few, short ones."""

NOTHING: Final[tuple[IntArray, IntArray, npt.NDArray[np.uint64], IntArray, FloatArray]] = (
    np.zeros(0, np.int32),
    np.zeros(0, np.int32),
    np.zeros((0, SOFT_ORDERS), np.uint64),
    np.zeros((0, 1), np.int32),
    np.zeros((0, 1), np.float32),
)
"""In place of a verified tree and the target's likeliest tokens, where they were not read."""


NO_SESSION: Final = -1


def newest(tokens: IntArray) -> IntArray:
    """The end of a text, as much of it as half of the history holds."""
    return np.ascontiguousarray(tokens, np.int32)[-(1 << (HISTORY_BITS - 1)) :]


class NgramDrafter:
    """Drafts from what the conversation and earlier ones said; learns with every token."""

    name = "auto"
    block_type = PREDICTOR
    """Of ``model``; smaller in tests."""

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
            search: how the tree grows. ``best-first`` is the optimum for the estimated probabilities. ``puct`` reaches
                the same speed-ups within 0.8% (docs/ablation.md), at ten times the time (0.4 milliseconds a step).
            static: successors in a corpus of one's own, for this tokenizer; see ``ngrams.static``.
            phrases: successors in shipped phrases; see ``ngrams.phrases``.
            without: parts to leave out, of ``components.COMPONENTS``.

        Raises:
            OptionError: there is no such part.
        """
        self.n_vocab = n_vocab
        self.search: Search = search
        self._seed = seed
        self._static = new_table(LEAST_BITS) if static is None else static
        self._phrases = new_table(LEAST_BITS) if phrases is None else phrases
        self._without = frozenset(without)
        self._used = switches(self._without)
        self.reset()
        self._warm_up()

    def reset(self) -> None:
        """Forget everything: statistics, calibration, conversation."""
        priors = blank_priors() if "priors" in self._without else shipped_priors()
        self._block = np.zeros(1, self.block_type)
        self.model: Predictor = self._block.view(np.recarray)[0]
        self.tables = Tables(
            memory=new_table(MEMORY_BITS),
            context=new_table(CONTEXT_BITS),
            soft=new_table(SOFT_BITS),
            static=self._static,
            phrases=self._phrases,
        )
        # A scalar of it takes Python 0.4 microseconds by name, as an attribute 2.
        self._state = self._block["state"][0]
        self._tree, self._probabilities = self.model.tree, self.model.probabilities
        self._sources = self.model.sources
        self._state["copy_at"] = -1
        self._state["n_vocab"] = self.n_vocab
        self.model.rates[:], self.model.weights[:], self.model.finals[:] = priors
        self.model.used[:] = self._used
        self._rng = np.array([self._seed], np.uint64)
        self._latest_epoch = 0
        self._session = NO_SESSION
        self._epochs: dict[int, int] = {}
        claim_pages(self.tables.memory, self.tables.context, self.model.history, self.model.positions)

    def _begin_conversation(self) -> None:
        """What comes is another conversation."""
        state = self._state
        state["start"] = state["head"]
        self._latest_epoch += 1
        state["epoch"] = self._latest_epoch
        self._leave_passages()

    def _leave_passages(self) -> None:
        state = self._state
        state["copy_at"] = -1
        state["copy_length"] = state["n_nodes"] = 0

    def begin(self, beginning: Beginning) -> None:
        """Learn what is new; see ``Drafter``. A conversation that others came between is laid at the end of the
        history again, without being counted again."""
        state, session, past, new = self._state, beginning.session, beginning.past, beginning.new
        state["n_nodes"] = 0
        epoch = self._epochs.pop(session, None)
        if epoch is None or len(past) == 0:
            self._begin_conversation()
            new = np.concatenate((past, new))
        elif session != self._session:
            self._begin_conversation()
            state["epoch"] = epoch
            learn(self._block, self.tables, newest(past), LAID, *NOTHING)
        elif beginning.undone > 0:
            state["head"] = max(state["head"] - beginning.undone, state["start"])
            self._leave_passages()
        self._session = session
        self._epochs[session] = int(state["epoch"])
        if len(self._epochs) > KNOWN_SESSIONS:
            del self._epochs[next(iter(self._epochs))]
        self._read(newest(new))

    def _read(self, text: IntArray) -> None:
        """Learn a text that the target did not choose, such as a prompt."""
        learn(self._block, self.tables, text, READ, *NOTHING)

    def draft(
        self, max_nodes: int, cost: npt.NDArray[np.float64] | None = None, forced: Forced = NOTHING_FORCED
    ) -> DraftTree:
        """Candidates after the last token, likeliest path first.

        Args:
            max_nodes: at most this many; beyond ``MOST_NODES`` it is cut.
            cost: seconds of a target pass over i tokens, float64 ``(m,)``, index 0 unused, falling nowhere.
                With it the search stops where no further node could pay.
            forced: what comes first; ``puct`` drafts nothing behind it.
        """
        max_nodes = min(max_nodes, MOST_NODES)
        if self.search == "puct":
            if len(forced.tokens):
                return forced.tree(max_nodes)
            iterations = PUCT_ITERATIONS_PER_NODE * max_nodes
            n = puct(self._block, self.tables, max_nodes, iterations, PUCT_ROLLOUT_DEPTH, self._rng)
        else:
            n = best_first(
                self._block,
                self.tables,
                max_nodes,
                NO_COST if cost is None else cost,
                forced.tokens[:max_nodes],
                forced.chances[:max_nodes],
            )
        if n == 0:
            return EMPTY_TREE
        tokens, parents, depths = self._tree[:, :n].copy()
        sources = self._sources[:n].copy()
        return DraftTree(tokens, parents, depths, self._probabilities[:n].copy(), sources=sources)

    def predict(self) -> tuple[IntArray, FloatArray]:
        """The next token's distribution, calibrated; see ``Drafter.predict``."""
        tokens = np.zeros(MOST_CANDIDATES, np.int32)
        chances = np.zeros(MOST_CANDIDATES, np.float32)
        n = predict_next(self._block, self.tables, tokens, chances)
        return tokens[:n], chances[:n]

    def verifying(self, tree: DraftTree) -> None:
        """Nothing: a draft is judged by the tokens that come, however much of it was verified."""

    def observe(self, result: StepResult) -> None:
        """Judge predictions by, then count, the tokens of a step; keep what the target found likely."""
        tokens = np.array(result.tokens, np.int32)
        if result.likely is None:
            learn(self._block, self.tables, tokens, SAID, *NOTHING)
            return
        tree, likely = result.tree, result.likely
        contexts = np.zeros((len(tree) + 1, SOFT_ORDERS), np.uint64)
        learn(
            self._block,
            self.tables,
            tokens,
            SAID,
            tree.parents,
            tree.tokens,
            contexts,
            likely.tokens,
            likely.shares,
        )

    def hear_model(self) -> None:
        """A draft model speaks from now on, see ``tell``, whose kernel is loaded or compiled now."""
        self._used[MODEL] = self.model.used[MODEL] = 1
        self.tell((), ())

    def learnt_of_model(self) -> dict[str, FloatArray]:
        """What a draft model's statements turned out to be worth: copies of its part of ``pretrained.Priors``."""
        return {name: part.copy() for name, part in self._of_model().items()}

    def take_of_model(self, learnt: Mapping[str, FloatArray]) -> bool:
        """Go on from finite numbers of the shapes that ``learnt_of_model`` returned.

        Returns:
            False, with nothing changed, where they are none that could have been learnt.
        """
        rates, (points, seen) = learnt["rates"], learnt["finals"]
        shares = np.concatenate([rates[RATE].ravel(), points.ravel()])
        counts = np.concatenate([rates[SEEN].ravel(), seen.ravel()])
        if shares.min() < 0.0 or shares.max() > 1.0 or counts.min() < 0.0:
            return False
        if max(np.abs(rates[ODDS]).max(), np.abs(learnt["weights"]).max()) > MOST_ODDS:
            return False
        for name, part in self._of_model().items():
            part[:] = learnt[name]
        return True

    def _of_model(self) -> dict[str, FloatArray]:
        return {
            "rates": self.model.rates[:, MODEL],
            "weights": self.model.weights[MODEL_FIRST_SETS:],
            "finals": self.model.finals[:, UNTOLD_CLASSES:],
        }

    def tell(self, text: Sequence[int], statements: Sequence[Statement]) -> None:
        """Take what a draft model said.

        Args:
            text: the conversation from its first token, which the statements' paths lie below.
            statements: of places behind it; they hold where the conversation goes, or went, that way.
        """
        n = len(statements)
        tails = np.zeros((n, ORDERS), np.int32)
        lengths = np.zeros(n, np.int64)
        end = tuple(text[-ORDERS:])
        for row, each in enumerate(statements):
            lengths[row] = len(text) + len(each.path)
            tail = (end + each.path)[-ORDERS:]
            tails[row, : len(tail)] = tail[::-1]
        tell(
            self._block,
            tails,
            lengths,
            np.array([each.tokens for each in statements], np.int32).reshape(n, NAMED),
            np.array([each.probabilities for each in statements], np.float32).reshape(n, NAMED),
        )

    def close(self) -> None:
        """Nothing: no work goes on beside."""

    def recall(self, exchanges: Sequence[tuple[IntArray, IntArray, bool]]) -> None:
        """Learn earlier conversations, oldest first: see ``Drafter``.

        All are counted; by the newest alone, ``TAUGHT_TOKENS`` of answers, predictions are judged too.
        """
        left = sum(len(answer) for _, answer, _ in exchanges)
        for prompt, answer, continues in exchanges:
            if not continues:
                self._begin_conversation()
            self._read(prompt)
            if left <= TAUGHT_TOKENS:
                learn(self._block, self.tables, answer, SAID, *NOTHING)
            else:
                self._read(answer)
            left -= len(answer)
        self._begin_conversation()
        self._session = NO_SESSION

    def _warm_up(self) -> None:
        """Call every kernel that generation needs once, then forget it."""
        self.begin(Beginning(0, NO_TOKENS, np.zeros(8, np.int32)))
        self.draft(4)
        likely = Likely(np.zeros((1, 2), np.int32), np.full((1, 2), 0.5, np.float32))
        self.observe(StepResult(EMPTY_TREE, [0, 0], [], 0, likely))
        self.reset()
