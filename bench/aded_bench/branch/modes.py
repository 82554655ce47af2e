"""Ways to use a draft model, as a simulation runs them: llama.cpp's, SpecBranch's, and the engine's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import numpy as np

from aded_bench.branch.chances import Hits, best_size, entropy_of
from aded_bench.branch.machine import World
from aded_bench.drafters.real import Way
from aded_local.drafters.model.costs import AskingCosts
from aded_local.drafters.model.hrad import Acceptance, Hrad, branch_point, draft_features, outcome
from aded_local.drafters.model.jobs import POOL
from aded_local.drafters.model.outcomes import open_places, outcomes, paths_of, worth_asking
from aded_local.drafters.ngram.drafter import NgramDrafter
from aded_local.drafters.statement import Statement
from aded_local.step import NO_TOKENS, Beginning, Likely, StepResult
from aded_local.tree import DraftTree, FloatArray, chain

BRANCHES: Final = 3
"""SpecBranch's, as its released code sets them."""

LONGEST: Final = 10
"""Tokens of a chain at most, where the ratio of both times, which is SpecBranch's gamma, is more. Chosen: longer ones
of a draft model that is right half of the time come to nothing."""

SERVER_TOKENS: Final = 3
"""llama.cpp's server drafts so many by default (``--spec-draft-n-max``)."""


class Mode(Protocol):
    """What differs between modes. It learns from text to text."""

    def begin(self, world: World, session: int) -> None:
        """An answer begins."""
        ...

    def prepare(self, world: World) -> list[Way]:
        """What to verify now, parents first; the target waits meanwhile."""
        ...

    def meanwhile(self, world: World, end: float) -> None:
        """The target verifies until then."""
        ...

    def learn(self, world: World, came: list[int]) -> None:
        """These tokens came; the root is the last of them."""
        ...


def run(mode: Mode, worlds: Sequence[World], session: int = 0) -> None:
    """Write one answer after the other, in conversations from number ``session`` on."""
    for number, world in enumerate(worlds, session):
        mode.begin(world, number)
        while world.left > 0:
            ways = mode.prepare(world)
            mode.meanwhile(world, world.begin(ways))
            mode.learn(world, world.finish(ways))


class Engine:
    """The engine's own: its prediction of all sources, and its rules for which places are asked for.

    Args:
        ngrams: whose prediction the draft model joins.
        asks: the draft model; without it n-grams alone.
        overlaps: it is asked while the target verifies, too.
    """

    def __init__(self, ngrams: NgramDrafter, *, asks: bool = True, overlaps: bool = True) -> None:
        self.ngrams, self.asks, self.overlaps = ngrams, asks, overlaps
        self.costs = AskingCosts()
        self._said: dict[Way, Statement] = {}
        self._verified: frozenset[Way] = frozenset()
        if asks:
            ngrams.hear_model()

    def begin(self, world: World, session: int) -> None:
        self._said = {}
        text = np.array(world.text.tokens[: world.at], np.int32)
        self.ngrams.begin(Beginning(session, NO_TOKENS, text))

    def prepare(self, world: World) -> list[Way]:
        cost, most = world.machine.curve.costs, min(POOL, world.left - 1)
        if most == 0:
            return []
        started = world.now
        if self.asks:
            world.wait()  # what is in flight comes first
        tree = self._draft(most, world)
        while self.asks:
            places = open_places(tree, self._said, self.costs.sureness)
            asked = worth_asking(tree, places, cost, world.now - started, self.costs)
            if not asked:
                break
            self._ask(world, asked, world.now, beside=False)
            world.wait()
            tree = self._draft(most, world)
        n = best_size(tree.probabilities, cost)
        ways = paths_of(tree.first(n))
        self._verified = frozenset(ways)
        return ways

    def _draft(self, most: int, world: World) -> DraftTree:
        return self.ngrams.draft(most, world.machine.curve.costs)

    def _ask(self, world: World, ways: Sequence[Way], start: float, *, beside: bool) -> None:
        # Places on the way that were not asked for are asked for too, as the engine does.
        every = dict.fromkeys(way[:n] for way in ways for n in range(len(way) + 1))
        asked = [way for way in every if way not in self._said]
        seconds = world.ask(asked, start)
        self.costs.decoded(len(asked), seconds, beside=beside)
        world.prepare(asked)
        statements = [Statement(way, *world.statement(way)) for way in asked]
        self._said |= {each.path: each for each in statements}
        self.ngrams.tell(world.text.tokens[: world.at], statements)

    def meanwhile(self, world: World, end: float) -> None:
        while self.asks and self.overlaps and world.left > 1:
            start = max(world.free_at, world.now)
            tree = self.ngrams.draft(min(POOL, world.left - 1))
            asked = outcomes(tree, self._verified, self._said, self.costs, end - start)
            if start >= end or not asked:
                return
            self._ask(world, asked, start, beside=True)

    def learn(self, world: World, came: list[int]) -> None:
        start, n = world.at - len(came), len(came)
        rows = [world.text.rows[start + place, ()] for place in range(n)]
        likely = Likely(np.stack([row[0] for row in rows]), np.stack([row[1] for row in rows]))
        path = np.array(came[:-1], np.int32)
        tree = chain(path, np.ones(n - 1, np.float32))
        self.ngrams.observe(StepResult(tree, came, list(range(n - 1)), start - 1, likely))
        gone = tuple(came)
        on_the_way = [
            (way, said) for way, said in self._said.items() if len(way) < n and way == gone[: len(way)]
        ]
        self.costs.judged([int(said.tokens[0]) == gone[len(way)] for way, said in on_the_way])
        self._said = {way[n:]: said for way, said in self._said.items() if way[:n] == gone}


class Fixed:
    """A chain of fixed length before each pass, as llama.cpp's server drafts with a model."""

    def __init__(self, n: int = SERVER_TOKENS) -> None:
        self.n = n

    def begin(self, world: World, session: int) -> None:
        pass

    def prepare(self, world: World) -> list[Way]:
        way = draft_chain(world, min(self.n, world.left - 1))
        return [way[: n + 1] for n in range(len(way))]

    def meanwhile(self, world: World, end: float) -> None:
        pass

    def learn(self, world: World, came: list[int]) -> None:
        pass


def draft_chain(world: World, n: int) -> Way:
    """The draft model's likeliest ``n`` tokens, one decode each, while the target waits."""
    way: Way = ()
    while len(way) < n:
        if not world.known(way, world.now):
            if not world.was_asked(way):
                world.prepare([way], ahead=n - len(way) - 1)
                world.ask([way], world.now)
            world.wait()
        way = (*way, likeliest(world, way))
    return way


def likeliest(world: World, way: Way) -> int:
    """What the draft model holds likeliest there."""
    return int(world.statement(way)[0][0])


Rule = Callable[["Branching", World, Way], int]
"""How many tokens of a chain are verified before branches start."""


class Branching:
    """SpecBranch: a chain is verified up to the branch point, from where branches are drafted meanwhile.

    Args:
        rule: of ``RULES``.
        n_hidden: numbers of the target's hidden state.
        branches: 1 for a chain that goes on while it is verified, as in PEARL.
    """

    def __init__(self, rule: str, n_hidden: int, seed: int = 0, branches: int = BRANCHES) -> None:
        self.rule, self.branches = RULES[rule], branches
        self.hrad = Hrad(n_hidden, seed)
        self.hits = Hits()
        self.right = np.zeros((len(Acceptance), len(Acceptance)), np.int64)
        """What was expected of chains (row) and what came (column), once the classifier had learnt enough."""
        self._stem: Way = ()
        self._open: list[tuple[int, Way, FloatArray, FloatArray, Acceptance | None]] = []

    def begin(self, world: World, session: int) -> None:
        self._open.clear()

    def gamma(self, world: World) -> int:
        """Tokens of a chain: as many as the draft model writes while the target verifies one."""
        return max(1, min(LONGEST, round(world.machine.ratio), world.left - 1))

    def prepare(self, world: World) -> list[Way]:
        self._stem = ()
        if world.left <= 1:
            return []
        gamma = self.gamma(world)
        way: Way = ()
        while len(way) < gamma and world.known(way, world.now):
            way = (*way, likeliest(world, way))
        if not way:  # nothing was prepared for what came
            way = draft_chain(world, gamma)
        self._stem = way[: self.rule(self, world, way)]
        features = self.said(world, way)[1]
        expected = self.hrad.expected(world.hidden, features) if self.hrad.is_settled else None
        self._open.append((world.at, way, world.hidden, features, expected))
        return [self._stem[: n + 1] for n in range(len(self._stem))]

    def said(self, world: World, way: Way) -> tuple[list[float], FloatArray]:
        """The draft model's confidence in each token of a chain, and the features of it."""
        rows = [world.statement(way[:n]) for n in range(len(way))]
        confidence = [float(row[1][0]) for row in rows]
        return confidence, draft_features(confidence, [entropy_of(row) for row in rows])

    def meanwhile(self, world: World, end: float) -> None:
        stem, gamma = self._stem, self.gamma(world)
        longest = min(len(stem) + 1 + gamma, world.left - 1)
        if len(stem) >= longest:
            return
        if not world.was_asked(stem):
            start = max(world.free_at, world.now)
            if start >= end:
                return
            world.ask([stem], start)
        tokens = world.statement(stem)[0][: self.branches].tolist()
        fronts: list[Way] = [(*stem, int(token)) for token in tokens if token >= 0]
        world.prepare(fronts, ahead=longest - len(stem) - 2)
        while (start := max(world.free_at, world.now)) < end:
            for place, front in enumerate(fronts):
                while len(front) < longest and world.known(front, start):
                    front = (*front, likeliest(world, front))
                fronts[place] = front
            asked = [front for front in fronts if len(front) < longest]
            if not asked:
                return
            world.ask(asked, start)

    def learn(self, world: World, came: list[int]) -> None:
        still = []
        for at, way, hidden, features, expected in self._open:
            found = outcome(way, world.text.tokens[at : world.at])
            if found is None:
                still.append((at, way, hidden, features, expected))
                continue
            self.hrad.learn(hidden, features, found)
            if expected is not None:
                self.right[expected, found] += 1
        self._open = still
        for place in range(world.at - len(came), world.at):
            row = world.said_at(place)
            if row is not None:
                self.hits.learn(float(row[1][0]), int(row[0][0]) == world.text.tokens[place])


def _confidence(mode: Branching, world: World, way: Way) -> int:
    return branch_point(mode.said(world, way)[0], Acceptance.SOME)


def _features(mode: Branching, world: World, way: Way) -> int:
    """The classes alone, as the released code maps them: nothing, half, all of the chain."""
    expected = mode.hrad.expected(world.hidden, mode.said(world, way)[1])
    return (0, (len(way) + 1) // 2, len(way))[expected]


def _both(mode: Branching, world: World, way: Way) -> int:
    confidence, features = mode.said(world, way)
    return branch_point(confidence, mode.hrad.expected(world.hidden, features))


def _calibrated(mode: Branching, world: World, way: Way) -> int:
    """As far as tokens pay, by how often such statements came true."""
    chances = np.cumprod([mode.hits.chance(said) for said in mode.said(world, way)[0]])
    return best_size(chances, world.machine.curve.costs)


RULES: Final[Mapping[str, Rule]] = {
    "confidence": _confidence,
    "features": _features,
    "both": _both,
    "calibrated": _calibrated,
}
"""Where branches start: by the draft's confidence; by H-RAD's class; by both, as in the paper; by calibration."""

NGRAM, SERVER, SERIAL, PARALLEL, BRANCH, AUTO = (
    "ngram", "draft-simple", "serial", "parallel", "branch", "auto"
)  # fmt: skip
MODES: Final = (NGRAM, SERVER, SERIAL, PARALLEL, BRANCH, AUTO)
"""n-grams alone; llama.cpp's server; the engine before passes only; one chain that goes on beside passes; SpecBranch;
the engine beside passes too."""


def make(
    name: str, ngrams: Callable[[], NgramDrafter], n_hidden: int, *, rule: str = "both", seed: int = 0
) -> Mode:
    """A mode by name, with nothing learnt."""
    made: Mapping[str, Callable[[], Mode]] = {
        NGRAM: lambda: Engine(ngrams(), asks=False),
        SERVER: Fixed,
        SERIAL: lambda: Engine(ngrams(), overlaps=False),
        PARALLEL: lambda: Branching("calibrated", n_hidden, seed, branches=1),
        BRANCH: lambda: Branching(rule, n_hidden, seed),
        AUTO: lambda: Engine(ngrams()),
    }
    return made[name]()
