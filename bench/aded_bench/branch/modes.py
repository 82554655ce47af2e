"""Ways to use a draft model, as a simulation runs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import numpy as np

from aded_bench.branch.chances import Chances, conditionals_of, entropy_of, shares_of
from aded_bench.branch.growing import LOOK_AHEAD, MOST_ASKED, Growing, best_size
from aded_bench.branch.machine import World
from aded_bench.drafters.real import Way
from aded_local.drafters import Drafter
from aded_local.drafters.model.hrad import Acceptance, Hrad, branch_point, draft_features, outcome
from aded_local.step import NO_TOKENS, Beginning, Likely, StepResult
from aded_local.tree import FloatArray, chain

NGRAM_NODES: Final = 48
"""Of an n-gram tree: what any curve here pays for."""

WIDTH: Final = 8
"""Tokens behind a node: what a draft model's statement names."""

FIRST_SHARE: Final = 0.6
"""Chance of a further statement's first token, before any was judged; then the mean, of which each is a part."""
SHARE_PART: Final = 0.02

BRANCHES: Final = 3
"""SpecBranch's, as its released code sets them."""

LONGEST: Final = 16
"""Tokens of a chain at most: SpecBranch's gamma is the ratio of both times, and a pass has room for no more."""

SERVER_TOKENS: Final = 3
"""llama.cpp's server drafts so many by default (``--spec-draft-n-max``)."""


class Mode(Protocol):
    """What differs between modes. It learns from text to text."""

    def begin(self, world: World, session: int) -> None:
        """An answer begins."""
        ...

    def prepare(self, world: World) -> tuple[list[Way], list[Way]]:
        """What to verify now, parents first, and what of that is the draft model's; the target waits meanwhile."""
        ...

    def meanwhile(self, world: World, end: float) -> None:
        """The target verifies until then."""
        ...

    def learn(self, world: World, came: list[int]) -> None:
        """These tokens came; the root is the last of them."""
        ...


def answer(mode: Mode, world: World, session: int) -> None:
    """Write the whole answer."""
    mode.begin(world, session)
    while world.left > 0:
        ways, proposed = mode.prepare(world)
        mode.meanwhile(world, world.begin(ways, proposed))
        mode.learn(world, world.finish(ways))


class Priced:
    """Ours: one tree, asked where it is likeliest, verified as far as it pays.

    Args:
        ngrams: None to do without.
        asks: the draft model; without it n-grams alone.
        overlaps: it drafts on while the target verifies.
        width: tokens considered behind a node; 1 for chains.
    """

    def __init__(
        self, ngrams: Drafter | None, *, asks: bool = True, overlaps: bool = True, width: int = WIDTH
    ):
        self.ngrams, self.asks, self.overlaps, self.width = ngrams, asks, overlaps, width
        self.chances = Chances()
        self._share = FIRST_SHARE
        self._grown: Growing
        self._said: Mapping[Way, Mapping[int, float]] = {}

    def begin(self, world: World, session: int) -> None:
        if self.ngrams is not None:
            tokens = np.array(world.text.tokens[: world.at], np.int32)
            self.ngrams.begin(Beginning(session, NO_TOKENS, tokens))

    def prepare(self, world: World) -> tuple[list[Way], list[Way]]:
        costs = world.machine.curve.costs
        if self.ngrams is not None:
            self._said = conditionals_of(self.ngrams.draft(NGRAM_NODES))
        grown = self._grown = Growing(world, self.chances, self._said, self.width)
        while self.asks and world.left > 1:
            ways, chances = grown.likeliest()
            if not self._wait_pays(world, grown, chances):
                break
            if world.free_at > world.now:  # what is in flight comes first
                world.wait()
                grown = self._grown = Growing(world, self.chances, self._said, self.width)
                continue
            asked = grown.next_unknown(1, costs)
            if not asked:
                break
            world.ask(asked, world.now)
            world.wait()
            grown.refresh(world.now, asked)
        ways, chances = grown.likeliest()
        _, n = best_size(chances, costs)
        return ways[:n], [way for way in ways[:n] if way in grown.by_model]

    def _wait_pays(self, world: World, grown: Growing, chances: FloatArray) -> bool:
        """Whether tokens per time rise when the target waits for a few more statements."""
        costs = world.machine.curve.costs
        best, _ = best_size(chances, costs)
        top = self._open_chance(world, grown)
        if top <= 0.0:
            return False
        busy = max(0.0, world.free_at - world.now)
        more: list[float] = []
        for n in range(1, min(LOOK_AHEAD, world.left - 1) + 1):
            more.append(top * self._share**n)
            with_more = np.sort(np.concatenate([chances, more]))[::-1]
            # What is in flight needs no decode of its own.
            decodes = n - 1 if busy else n
            if best_size(with_more, costs, busy + decodes * world.machine.decode(1))[0] > best:
                return True
        return False

    def _open_chance(self, world: World, grown: Growing) -> float:
        """Of the likeliest node about which nothing is known yet."""
        open_ways = (way for way in grown.chance if not world.known(way, world.now))
        return max((grown.chance[way] for way in open_ways), default=0.0)

    def meanwhile(self, world: World, end: float) -> None:
        if not (self.asks and self.overlaps):
            return
        grown, most = self._grown, MOST_ASKED if self.width > 1 else 1
        while (start := max(world.free_at, world.now)) < end:
            grown.refresh(start, self._answered(world, grown, start))
            asked = grown.next_unknown(most, world.machine.curve.costs)
            if not asked:
                return
            world.ask(asked, start)
            grown.refresh(world.free_at, asked)

    @staticmethod
    def _answered(world: World, grown: Growing, when: float) -> list[Way]:
        """What was in flight when the tree was made and has come since."""
        return [
            way for way in list(grown.chance) if world.known(way, when) and not world.known(way, grown.when)
        ]

    def learn(self, world: World, came: list[int]) -> None:
        start = world.at - len(came)
        tokens = world.text.tokens
        for n, token in enumerate(came):
            way, place = tuple(came[:n]), start + n
            row = world.said_at(place)
            if row is not None:
                model = shares_of(row)
                self.chances.learn(model, self._said.get(way, {}), token)
                top = next(iter(model))
                self._share += SHARE_PART * ((top == token) - self._share)
        if self.ngrams is not None:
            rows = [world.text.rows[start + n, ()] for n in range(len(came))]
            likely = Likely(np.stack([row[0] for row in rows]), np.stack([row[1] for row in rows]))
            path = np.array(tokens[start : world.at - 1], np.int32)
            tree = chain(path, np.ones(len(path), np.float32))
            self.ngrams.observe(StepResult(tree, came, list(range(len(path))), start - 1, likely))


class Fixed:
    """A chain of fixed length before each pass, as llama.cpp's server drafts with a model."""

    def __init__(self, n: int = SERVER_TOKENS) -> None:
        self.n = n

    def begin(self, world: World, session: int) -> None:
        pass

    def prepare(self, world: World) -> tuple[list[Way], list[Way]]:
        way = draft_chain(world, (), min(self.n, world.left - 1))
        ways = [way[: n + 1] for n in range(len(way))]
        return ways, ways

    def meanwhile(self, world: World, end: float) -> None:
        pass

    def learn(self, world: World, came: list[int]) -> None:
        pass


def draft_chain(world: World, way: Way, n: int) -> Way:
    """Extend a chain to ``n`` tokens, one decode each, while the target waits."""
    while len(way) < n:
        if not world.known(way, world.now):
            if not world.in_flight(way):
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
    """

    def __init__(self, rule: str, n_hidden: int, seed: int = 0) -> None:
        self.rule = RULES[rule]
        self.hrad = Hrad(n_hidden, seed)
        self.chances = Chances()
        self.right = np.zeros((3, 3), np.int64)
        """What was expected of chains (row) and what came (column), once the classifier had learnt enough."""
        self._chain: Way = ()
        self._stem: Way = ()
        self._open: list[tuple[int, Way, FloatArray, FloatArray, Acceptance | None]] = []

    def begin(self, world: World, session: int) -> None:
        self._open.clear()

    def gamma(self, world: World) -> int:
        """Tokens of a chain: as many as the draft model writes while the target verifies one."""
        return max(1, min(LONGEST, round(world.machine.ratio), world.left - 1))

    def prepare(self, world: World) -> tuple[list[Way], list[Way]]:
        if world.left <= 1:
            self._chain = self._stem = ()
            return [], []
        gamma = self.gamma(world)
        way: Way = ()
        while len(way) < gamma and world.known(way, world.now):
            way = (*way, likeliest(world, way))
        if not way:  # nothing was prepared for what came
            way = draft_chain(world, (), gamma)
        self._chain = way
        self._stem = way[: self.rule(self, world, way)]
        self._note(world, way)
        ways = [self._stem[: n + 1] for n in range(len(self._stem))]
        return ways, ways

    def said(self, world: World, way: Way) -> tuple[list[float], FloatArray]:
        """The draft model's confidence in each token of a chain, and the features of it."""
        rows = [world.statement(way[:n]) for n in range(len(way))]
        confidence = [float(row[1][0]) for row in rows]
        return confidence, draft_features(confidence, [entropy_of(row) for row in rows])

    def _note(self, world: World, way: Way) -> None:
        _, features = self.said(world, way)
        expected = self.hrad.expected(world.hidden, features) if self.hrad.is_settled else None
        self._open.append((world.at, way, world.hidden, features, expected))

    def meanwhile(self, world: World, end: float) -> None:
        if world.left <= 1:
            return
        stem, gamma = self._stem, self.gamma(world)
        start = max(world.free_at, world.now)
        if not world.in_flight(stem):
            if start >= end or len(stem) >= world.left - 1:
                return
            world.ask([stem], start)
        tokens = world.statement(stem)[0][:BRANCHES].tolist()
        fronts: list[Way] = [(*stem, int(token)) for token in tokens if token >= 0]
        longest = min(len(stem) + 1 + gamma, world.left - 1)
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
        start = world.at - len(came)
        for n, token in enumerate(came):
            row = world.said_at(start + n)
            if row is not None:
                self.chances.learn(shares_of(row), {}, token)


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
    """As far as tokens pay by how often such statements came true."""
    path, chances = 1.0, []
    for n, token in enumerate(way):
        path *= mode.chances.of(shares_of(world.statement(way[:n])), {}).get(token, 0.0)
        chances.append(path)
    return best_size(np.array(chances), world.machine.curve.costs)[1]


RULES: Final[Mapping[str, Rule]] = {
    "confidence": _confidence,
    "features": _features,
    "both": _both,
    "calibrated": _calibrated,
}
"""Where branches start: by the draft's confidence; by H-RAD's class; by both, as in the paper; by calibration."""

NGRAM, SERVER, SERIAL, PARALLEL, BRANCH, AUTO = (
    "ngram",
    "draft-simple",
    "serial",
    "parallel",
    "branch",
    "auto",
)
MODES: Final = (NGRAM, SERVER, SERIAL, PARALLEL, BRANCH, AUTO)


def make(
    name: str, ngrams: Callable[[], Drafter], n_hidden: int, *, rule: str = "both", seed: int = 0
) -> Mode:
    """A mode by name, with nothing learnt."""
    made: Mapping[str, Callable[[], Mode]] = {
        NGRAM: lambda: Priced(ngrams(), asks=False),
        SERVER: Fixed,
        SERIAL: lambda: Priced(None, overlaps=False, width=1),
        PARALLEL: lambda: Priced(None, width=1),
        BRANCH: lambda: Branching(rule, n_hidden, seed),
        AUTO: lambda: Priced(ngrams()),
    }
    return made[name]()


def run(mode: Mode, worlds: Sequence[World]) -> None:
    """One answer after the other."""
    for session, world in enumerate(worlds):
        answer(mode, world, session)
