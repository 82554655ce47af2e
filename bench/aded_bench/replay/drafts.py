"""What is replayed: our presets through the planner that the engine uses, and peers, all with the same few verbs."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from aded_bench.replay.ablation import Variant
from aded_bench.replay.curves import LARGEST_PASS, NamedCurve
from aded_bench.replay.makeup import Makeup, open_drafter
from aded_bench.replay.peers import PeerLost, PeerProcess, tree_of
from aded_bench.replay.traces import Recorded, Tokens, Trace
from aded_local.drafters import PRESETS, Drafter, make_drafter
from aded_local.speed.planner import AutoPlanner, PaperPlanner, Planner
from aded_local.tree import EMPTY_TREE, DraftTree, chain

MOST_NODES: Final = LARGEST_PASS - 1
"""What the engine verifies at most; `auto` stays one below, where its cost curve ends."""

LOOKUP_NGRAM: Final = 2
LOOKUP_TOKENS: Final = 10
"""`LlamaPromptLookupDecoding`'s own defaults."""

SUFFIX_SETTINGS: Final = {
    "chain of 3": {"most": 3, "tree": False, "factor": 1.0, "least": 0.3},
    "chain of 15": {"most": 15, "tree": False, "factor": 1.0, "least": 0.3},
    "tree of 63": {"most": 63, "tree": True, "factor": 4.0, "least": 0.1},
}
"""Short, middle and wide: which is best depends on what a pass costs. ``factor`` is how many tokens are drafted per
token that matched, ``least`` the probability a token must have; the package's defaults are 1 and 0.1. Chosen to
its advantage: at 0.1 chains of 3 lose 5% on the Q4_0 curve, at a factor of 1 trees stay as small as chains."""

SCRIPTS: Final = {"draftretriever": "draftretriever_peer", "suffix": "suffix_peer"}


def settings_of(method: str) -> tuple[str, ...]:
    """The settings a method is replayed with; most have one, without a name. Those of `auto`: ``ablation.variants``."""
    if method == "suffix":
        return tuple(SUFFIX_SETTINGS)
    return (f"{LOOKUP_NGRAM}-gram, {LOOKUP_TOKENS}",) if method == "prompt-lookup" else ("",)


@dataclass
class Times:
    """Microseconds of each draft, and of learning what was accepted."""

    draft: list[float] = field(default_factory=list)
    learn: list[float] = field(default_factory=list)


class Replayed(Protocol):
    """A way of drafting, as the replay drives it.

    Attributes:
        times: of what it did so far.
        predicts: its trees' probabilities are estimates.
    """

    times: Times
    predicts: bool

    def feed(self, answers: Iterable[Recorded]) -> None:
        """Learn from earlier conversations, before the first ``begin``."""
        ...

    def begin(self, prompt: Tokens) -> None:
        """A conversation that has nothing to do with those before."""
        ...

    def draft(self, n_cells: int) -> DraftTree:
        """What to verify after ``n_cells`` cells."""
        ...

    def observe(self, tokens: list[int], *, n_nodes: int, n_cells: int, cost: float) -> None:
        """The tokens of this pass, its nodes and its cost relative to one token."""
        ...

    def close(self) -> None:
        """End what was started."""
        ...


class Own:
    """A preset through its planner; nothing in it reads a clock, so a replay repeats exactly.

    Args:
        preset: ``auto`` or ``paper``.
        n_vocab: size of the vocabulary.
        seed: of the drafter.
        curve: for the budget of ``auto``.
        nodes: verify so many at every step instead, whatever they cost.
        drafter: of the preset; by default made anew, without phrases.
        planner: of ``auto``.
    """

    def __init__(
        self,
        preset: str,
        *,
        n_vocab: int,
        seed: int,
        curve: NamedCurve | None,
        nodes: int | None,
        drafter: Drafter | None = None,
        planner: type[AutoPlanner] = AutoPlanner,
    ) -> None:
        self.times = Times()
        self.predicts = True
        self._drafter = make_drafter(preset, n_vocab=n_vocab, seed=seed) if drafter is None else drafter
        self._plain_seconds = curve.plain_seconds if curve is not None else 0.0
        self._limit = MOST_NODES if nodes is None else nodes
        self._begun = False
        largest = max(self._limit, MOST_NODES)
        self._planner: Planner
        if preset == "auto" and nodes is None:
            if curve is None:
                raise ValueError("the budget of auto needs a curve")
            self._planner = planner(
                self._drafter,
                curve.engine_curve(),
                largest=largest,
                chain_only=False,
                allowed=None,
                clock=lambda: 0.0,
            )
        else:
            self._planner = PaperPlanner(self._drafter, largest=largest, chain_only=False, allowed=None)

    def feed(self, answers: Iterable[Recorded]) -> None:
        self.teach(self._drafter, answers)

    @staticmethod
    def teach(drafter: Drafter, answers: Iterable[Recorded]) -> None:
        """As the engine hands over a memory: ``paper`` counts it as its corpus, a message a text, as its authors do."""
        drafter.recall([(one.prompt, one.answer, False) for one in answers])

    def begin(self, prompt: Tokens) -> None:
        if self._begun:
            self._planner.reset_context()
        self._begun = True
        self._planner.begin(prompt)

    def draft(self, n_cells: int) -> DraftTree:
        started = time.perf_counter()
        tree = self._planner.plan(n_cells, self._limit)
        self.times.draft.append((time.perf_counter() - started) * 1e6)
        return tree

    def observe(self, tokens: list[int], *, n_nodes: int, n_cells: int, cost: float) -> None:
        seconds = cost * self._plain_seconds
        started = time.perf_counter()
        self._planner.observe(
            tokens, n_nodes=n_nodes, n_cells=n_cells, verify_seconds=seconds, step_seconds=seconds
        )
        self.times.learn.append((time.perf_counter() - started) * 1e6)

    def close(self) -> None:
        pass


class PromptLookup:
    """llama-cpp-python's own class, over the conversation so far. Earlier conversations mean nothing to it."""

    def __init__(self) -> None:
        from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

        self.times = Times()
        self.predicts = False
        self._lookup = LlamaPromptLookupDecoding(max_ngram_size=LOOKUP_NGRAM, num_pred_tokens=LOOKUP_TOKENS)
        self._context = np.zeros(0, np.int32)

    def feed(self, answers: Iterable[Recorded]) -> None:
        pass

    def begin(self, prompt: Tokens) -> None:
        self._context = prompt

    def draft(self, n_cells: int) -> DraftTree:
        started = time.perf_counter()
        tokens = self._lookup(self._context)
        self.times.draft.append((time.perf_counter() - started) * 1e6)
        return chain(tokens, np.ones(len(tokens), np.float32)) if len(tokens) else EMPTY_TREE

    def observe(self, tokens: list[int], *, n_nodes: int, n_cells: int, cost: float) -> None:
        self._context = np.concatenate([self._context, np.array(tokens, np.int32)])

    def close(self) -> None:
        pass


class Plain:
    """No drafts."""

    def __init__(self) -> None:
        self.times = Times()
        self.predicts = False

    def feed(self, answers: Iterable[Recorded]) -> None:
        pass

    def begin(self, prompt: Tokens) -> None:
        pass

    def draft(self, n_cells: int) -> DraftTree:
        return EMPTY_TREE

    def observe(self, tokens: list[int], *, n_nodes: int, n_cells: int, cost: float) -> None:
        pass

    def close(self) -> None:
        pass


class Foreign:
    """A peer in its own interpreter; times are those it takes itself, around its own calls."""

    def __init__(self, process: PeerProcess, *, most: int) -> None:
        self.times = Times()
        self.predicts = True
        self.version = process.version
        self._process = process
        self._most = most
        self._accepted: list[int] | None = None

    def feed(self, answers: Iterable[Recorded]) -> None:
        for one in answers:
            self._process.ask(do="feed", prompt=one.prompt.tolist(), answer=one.answer.tolist())

    def begin(self, prompt: Tokens) -> None:
        if self._accepted is not None:
            self._process.ask(do="end", accepted=self._accepted)
        self._process.ask(do="begin", prompt=prompt.tolist())
        self._accepted = []

    def draft(self, n_cells: int) -> DraftTree:
        answer = self._process.ask(do="draft", accepted=self._accepted)
        self.predicts = answer.get("probabilities") is not None
        tree = tree_of(answer).first(self._most)
        self._accepted = []
        try:
            self.times.draft.append(float(answer["microseconds"]))
            self.times.learn.append(float(answer["learn_microseconds"]))
        except (KeyError, TypeError, ValueError) as error:
            raise PeerLost(f"its draft lacks a time: {error!r}") from None
        return tree

    def observe(self, tokens: list[int], *, n_nodes: int, n_cells: int, cost: float) -> None:
        self._accepted = tokens

    def close(self) -> None:
        self._process.close()


def open_replayed(
    method: str,
    setting: str,
    trace: Trace,
    *,
    curve: NamedCurve | None,
    nodes: int | None,
    seed: int,
    peer_python: Path | None,
    variant: Variant | None = None,
) -> Replayed:
    """A way of drafting with an empty store.

    Args:
        method: of ``commands.replay.METHODS``.
        setting: of ``settings_of(method)``.
        curve: what ``auto`` budgets with.
        nodes: see ``Own``; peers' trees are cut to it.
        peer_python: interpreter with the peers' packages.
        variant: of ``auto``; as in the product when None.

    Raises:
        PeerLost: the peer is missing.
        StoreError, OptionError: see ``Makeup.check``.
    """
    if method == "off":
        return Plain()
    if method == "prompt-lookup":
        return PromptLookup()
    if method in PRESETS:
        variant = variant or Variant(Makeup())
        return Own(
            method,
            n_vocab=trace.n_vocab,
            seed=seed,
            curve=curve,
            nodes=nodes,
            drafter=open_drafter(method, trace, variant.makeup, seed=seed),
            planner=variant.planner,
        )
    if peer_python is None:
        raise PeerLost("no interpreter for it was given with --peer-python")
    process = PeerProcess(
        peer_python,
        SCRIPTS[method],
        n_vocab=trace.n_vocab,
        settings=SUFFIX_SETTINGS.get(setting, {}),
    )
    return Foreign(process, most=MOST_NODES if nodes is None else nodes)
