"""A clock and two processors: one verifies, one drafts, and neither waits for the other unless it has to.

Discrete events: a pass of the target, a decode of the draft model. The texts, what the models say and what is accepted
are real; times are a cost curve's. So every figure that comes of it is *simulated*.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from aded_bench.branch.recording import Draft, States
from aded_bench.drafters.real import Key, RealText, Row, Way
from aded_bench.replay.curves import LARGEST_PASS, NamedCurve


@dataclass(frozen=True)
class Machine:
    """Where target and draft model have a processor each.

    Attributes:
        curve: what a pass over n tokens costs, relative to one token, of either model.
        ratio: the target's time for one token over the draft model's.
    """

    curve: NamedCurve
    ratio: float

    def verify(self, n_tokens: int) -> float:
        """Time of a pass of the target; of one token: 1."""
        return float(self.curve.costs[n_tokens])

    def decode(self, n_tokens: int) -> float:
        """Time of a pass of the draft model."""
        covered = min(n_tokens, LARGEST_PASS)
        return float(self.curve.costs[covered]) * n_tokens / covered / self.ratio


@dataclass
class Ran:
    """What one answer took.

    Attributes:
        tokens: that came, without the first.
        seconds: in all; plain decoding takes as many as there are tokens.
        passes, nodes: of the target; nodes are the drafted tokens it verified.
        waited: the target's time without work: the draft model was drafting.
        idle: the draft model's time without work.
        decodes: of the draft model.
        drafted, dropped: tokens that the draft model decoded below the root; those of them that did not come.
    """

    tokens: int
    seconds: float
    passes: int
    nodes: int
    waited: float
    idle: float
    decodes: int
    drafted: int
    dropped: int


@dataclass
class World:
    """One answer on its way.

    Attributes:
        text: the target's own.
        states: its hidden states, by token of the answer.
        at: tokens that are there; the last of them is the root.
        now: the target's clock.
        free_at: when the draft model has finished what it decodes.
    """

    text: RealText
    states: States
    draft: Draft
    machine: Machine
    at: int = 0
    now: float = 0.0
    free_at: float = 0.0
    _read: int = 0  # tokens of the text that the draft model has decoded
    _ready: dict[Key, float] = field(default_factory=dict)
    _drafted: set[Key] = field(default_factory=set)
    _passes: int = 0
    _nodes: int = 0
    _waited: float = 0.0
    _busy: float = 0.0
    _decodes: int = 0
    _until: float = 0.0

    def __post_init__(self) -> None:
        # The prompt is read and the first token said before the clock starts, for every mode alike.
        self.at = self.text.start + 1
        self._read = self.text.start

    @property
    def left(self) -> int:
        """Tokens still to come."""
        return len(self.text.tokens) - self.at

    @property
    def hidden(self) -> npt.NDArray[np.float32]:
        """The state that the root was chosen from: the newest that the target has computed."""
        found: npt.NDArray[np.float32] = self.states[self.at - 1 - self.text.start].astype(np.float32)
        return found

    # --- the draft model -------------------------------------------------------------------------

    def known(self, way: Way, when: float) -> bool:
        """Whether the draft model has said by then what comes after ``way`` from the root."""
        return self._ready.get(self.text.key(self.at, way), np.inf) <= when

    def was_asked(self, way: Way) -> bool:
        """Whether it has said that, or is about to."""
        return self.text.key(self.at, way) in self._ready

    def statement(self, way: Way) -> Row:
        """What it said."""
        key = self.text.key(self.at, way)
        assert key in self._ready
        return self.draft.says(self.text, *key)

    def prepare(self, ways: Sequence[Way], ahead: int = 0) -> None:
        """Have statements recorded together that are wanted soon: quicker than one by one, and no part of the clock."""
        self.draft.learn(self.text, [self.text.key(self.at, way) for way in ways], ahead)

    def said_at(self, place: int) -> Row | None:
        """What the draft model said after the first ``place`` tokens of the text; None where it was not asked."""
        known = self._ready.get((place, ()), np.inf) <= self.now
        return self.draft.says(self.text, place, ()) if known else None

    def ask(self, ways: Sequence[Way], start: float) -> float:
        """The draft model decodes these nodes in one pass, as soon as it is free: the time that takes.

        Args:
            ways: the nodes; those above them are among them, or were asked before.
            start: not before this.
        """
        width = 0
        keys = [self.text.key(self.at, way) for way in ways]
        for place, rest in keys:
            # Where the target accepted tokens that the draft model did not decode, it reads them now.
            width += len(rest[-1:]) if rest else max(1, place - self._read)
            if not rest:
                self._read = max(self._read, place)
        seconds = self.machine.decode(width)
        self.free_at = max(start, self.free_at) + seconds
        self._busy += seconds
        self._decodes += 1
        for key in keys:
            self._ready[key] = self.free_at
        self._drafted.update(key for key, way in zip(keys, ways, strict=True) if way)
        return seconds

    def wait(self) -> None:
        """The target waits for the draft model."""
        if self.free_at > self.now:
            self._waited += self.free_at - self.now
            self.now = self.free_at

    # --- the target ------------------------------------------------------------------------------

    def begin(self, ways: Sequence[Way]) -> float:
        """A pass over the root and these nodes begins; when it ends. Parents are among them."""
        self._passes += 1
        self._nodes += len(ways)
        self._until = self.now + self.machine.verify(len(ways) + 1)
        return self._until

    def finish(self, ways: Sequence[Way]) -> list[int]:
        """The pass ends: the tokens that came, the last of them is the new root."""
        there, taken = set(ways), 0
        coming = tuple(self.text.tokens[self.at :])
        while taken + 1 < len(coming) and coming[: taken + 1] in there:
            taken += 1
        self.now = self._until
        self.at += taken + 1
        return list(coming[: taken + 1])

    def ran(self) -> Ran:
        """What it took."""
        dropped = sum(bool(rest) for _, rest in self._drafted)
        return Ran(
            tokens=self.at - self.text.start - 1,
            seconds=self.now,
            passes=self._passes,
            nodes=self._nodes,
            waited=self._waited,
            idle=max(0.0, max(self.now, self.free_at) - self._busy),
            decodes=self._decodes,
            drafted=len(self._drafted),
            dropped=dropped,
        )
