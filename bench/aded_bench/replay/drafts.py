"""What is replayed: our presets through the planner that the engine uses, and peers, each as a planner."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from aded_bench.replay.curves import LARGEST_PASS, NamedCurve
from aded_bench.replay.drafter_settings import DrafterSettings, Variant, open_drafter
from aded_bench.replay.peers import PeerLost, PeerProcess, tree_of
from aded_bench.replay.traces import Recorded, Trace
from aded_local.drafters import PRESETS, Drafter
from aded_local.speed.budget import Guard
from aded_local.speed.planner import AutoPlanner, Limits, PlainPlanner, Planner, WholePlanner
from aded_local.step import Beginning, StepResult
from aded_local.tree import EMPTY_TREE, DraftTree, IntArray, chain

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

Exchange = tuple[IntArray, IntArray, bool]


def settings_of(method: str) -> tuple[str, ...]:
    """The settings a method is replayed with; most have one, without a name. Those of `auto`: ``variants``."""
    if method == "suffix":
        return tuple(SUFFIX_SETTINGS)
    return (f"{LOOKUP_NGRAM}-gram, {LOOKUP_TOKENS}",) if method == "prompt-lookup" else ("",)


@dataclass
class Times:
    """Microseconds of each draft, and of learning what was accepted."""

    draft: list[float] = field(default_factory=list)
    learn: list[float] = field(default_factory=list)


@dataclass
class Method:
    """A way of drafting, with an empty memory.

    Attributes:
        planner: says what to verify. Probabilities of its trees are NaN where it gives none.
        recall: learns earlier conversations, before the first turn.
        times: what it says of itself; None where the replay has to time it.
        version: of a peer.
    """

    planner: Planner
    recall: Callable[[Sequence[Exchange]], None] = lambda exchanges: None
    times: Times | None = None
    version: str | None = None


def exchanges(answers: Iterable[Recorded]) -> list[Exchange]:
    """Earlier conversations as the engine hands over a memory."""
    return [(one.prompt, one.answer, False) for one in answers]


class NeverPauses(Guard):
    """Counts losses, which makes it wary, and goes on drafting."""

    def record(self, **step: Any) -> None:
        super().record(**step)
        self._paused_for = 0


def planner_of(
    preset: str,
    drafter: Drafter,
    curve: NamedCurve | None,
    *,
    nodes: int | None = None,
    guarded: bool = True,
    leaves: int = LARGEST_PASS,
) -> Planner:
    """The engine's planner without a clock, so that a replay repeats exactly.

    Args:
        curve: for the budget of ``auto``.
        nodes: verify so many at every step instead, whatever they cost.
        guarded: ``auto`` pauses where drafting loses.
        leaves: branches at most.
    """
    limits = Limits(nodes=MOST_NODES if nodes is None else nodes, leaves=leaves)
    if preset != "auto" or nodes is not None:
        return WholePlanner(drafter, limits)
    if curve is None:
        raise ValueError("the budget of auto needs a curve")
    guard = Guard if guarded else NeverPauses
    costs = curve.engine_curve()
    return AutoPlanner(drafter, lambda: costs, limits, guard=guard, top_k=False, clock=lambda: 0.0)


class PromptLookup(PlainPlanner):
    """llama-cpp-python's own class, over the conversation so far. Earlier conversations mean nothing to it."""

    def __init__(self) -> None:
        from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

        self._lookup = LlamaPromptLookupDecoding(max_ngram_size=LOOKUP_NGRAM, num_pred_tokens=LOOKUP_TOKENS)
        self._context = np.zeros(0, np.int32)

    def begin(self, beginning: Beginning) -> None:
        self._context = beginning.new

    def plan(self, n_cells: int, most: int) -> DraftTree:
        tokens = self._lookup(self._context)[:most]
        return chain(tokens, np.full(len(tokens), np.nan, np.float32)) if len(tokens) else EMPTY_TREE

    def observe(self, result: StepResult) -> None:
        self._context = np.concatenate([self._context, np.array(result.tokens, np.int32)])


class Foreign(PlainPlanner):
    """A peer in its own interpreter; times are those it takes itself, around its own calls."""

    def __init__(self, process: PeerProcess) -> None:
        self.times = Times()
        self._process = process
        self._accepted: list[int] | None = None

    def recall(self, exchanges: Sequence[Exchange]) -> None:
        """See ``Method``."""
        for prompt, answer, _ in exchanges:
            self._process.ask(do="feed", prompt=prompt.tolist(), answer=answer.tolist())

    def begin(self, beginning: Beginning) -> None:
        if self._accepted is not None:
            self._process.ask(do="end", accepted=self._accepted)
        self._process.ask(do="begin", prompt=beginning.new.tolist())
        self._accepted = []

    def plan(self, n_cells: int, most: int) -> DraftTree:
        answer = self._process.ask(do="draft", accepted=self._accepted)
        self._accepted = []
        try:
            self.times.draft.append(float(answer["microseconds"]))
            self.times.learn.append(float(answer["learn_microseconds"]))
        except (KeyError, TypeError, ValueError) as error:
            raise PeerLost(f"its draft lacks a time: {error!r}") from None
        return tree_of(answer).first(most)

    def observe(self, result: StepResult) -> None:
        self._accepted = result.tokens

    def close(self) -> None:
        self._process.close()


def open_method(
    method: str,
    setting: str,
    trace: Trace,
    *,
    curve: NamedCurve | None = None,
    nodes: int | None = None,
    seed: int = 0,
    peer_python: Path | None = None,
    variant: Variant | None = None,
) -> Method:
    """A way of drafting with an empty memory.

    Args:
        method: of ``commands.replay.METHODS``.
        setting: of ``settings_of(method)``.
        curve: what ``auto`` budgets with.
        nodes: see ``planner_of``.
        peer_python: interpreter with the peers' packages.
        variant: of ``auto``; as in the product when None.

    Raises:
        PeerLost: the peer is missing.
        StoreError, OptionError: see ``open_drafter``.
    """
    if method == "off":
        return Method(PlainPlanner(), times=Times())
    if method == "prompt-lookup":
        return Method(PromptLookup())
    if method in PRESETS:
        made = variant or Variant(DrafterSettings())
        drafter = open_drafter(method, trace, made.drafter, seed=seed)
        nodes = made.nodes if nodes is None else nodes
        planner = planner_of(method, drafter, curve, nodes=nodes, guarded=made.guarded, leaves=made.leaves)
        return Method(planner, drafter.recall)
    if peer_python is None:
        raise PeerLost("no interpreter for it was given with --peer-python")
    settings = SUFFIX_SETTINGS.get(setting, {})
    process = PeerProcess(peer_python, SCRIPTS[method], n_vocab=trace.n_vocab, settings=settings)
    peer = Foreign(process)
    return Method(peer, peer.recall, peer.times, process.version)
