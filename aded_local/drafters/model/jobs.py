"""What the thread of a draft model is told to do."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from aded_local.llama.branches import Path
from aded_local.step import Forced
from aded_local.tree import DraftTree, FloatArray, IntArray

POOL: Final = 64
"""Nodes of the tree in which outcomes are looked for."""


@dataclass(eq=False, kw_only=True)
class Awaited:
    """What somebody waits for.

    Attributes:
        since: when waiting began, by ``seconds_now``.
        done: it is there, or never will be.
        given_up: nobody waits any more.
    """

    since: float
    done: bool = False
    given_up: bool = False
    _gate: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        # Not an Event: a Ctrl-C in its wait may raise a RuntimeError in place of the KeyboardInterrupt.
        self._gate.acquire()

    def wait(self, seconds: float) -> bool:
        """Wait until it is done, at most ``seconds``; tells whether it is. One thread waits, once."""
        self._gate.acquire(timeout=seconds)
        return self.done

    def finish(self) -> None:
        """It is done."""
        self.done = True
        self._gate.release()


@dataclass(eq=False, kw_only=True)
class Wanted(Awaited):
    """A draft.

    Attributes:
        most: nodes of it.
        cost: see ``Drafter.draft``; shorter than 2 where passes have no prices.
        forced: what comes first.
        leaves: branches that the target can verify.
        tree: the draft, once ``done``; None where the model could not be asked.
        said: paths of the places that the model was asked for by then.
        explores: it is asked once, also where that does not seem to pay.
    """

    most: int
    cost: npt.NDArray[np.float64]
    forced: Forced
    leaves: int = POOL
    tree: DraftTree | None = None
    said: frozenset[Path] = frozenset()
    explores: bool = False


@dataclass(eq=False, kw_only=True)
class Sample(Awaited):
    """The model is to read the end of a text, and say what it would have written there.

    Attributes:
        text: the end, int32 ``(n,)``.
        n_judged: its last tokens, by which the model is judged.
    """

    text: IntArray
    n_judged: int


@dataclass(frozen=True, eq=False)
class Verified:
    """A pass that is under way.

    Attributes:
        paths: of the nodes that it verifies.
        until: when it is expected to end, by ``seconds_now``; infinite where nobody knows.
    """

    paths: frozenset[Path]
    until: float


@dataclass(frozen=True, eq=False)
class Another:
    """The text is another one now."""

    text: IntArray


@dataclass(frozen=True, eq=False)
class Further:
    """The text goes on.

    Attributes:
        tokens: with these.
        hidden: see ``StepResult``.
    """

    tokens: Sequence[int]
    hidden: FloatArray | None = None


Job = Another | Further | Wanted | Sample | Verified
