"""What may come next: the protocol of a drafter, and the presets by name.

A step of the generation loop is::

    tree = drafter.draft(max_nodes, cost)   # candidates below the last token
    drafter.verifying(tree)                 # as much of them as the target verifies now
    ...
    drafter.observe(result)                 # the tokens that came, and what the target found likely

A drafter with a model of its own may work in a thread while the target verifies (llama.cpp calls and the kernels
release the GIL): ``verifying`` says which tokens are on trial, ``observe`` which of them came, ``draft`` may block, and
``close`` ends the thread.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, Protocol

import numpy as np
import numpy.typing as npt

from aded_local.errors import OptionError
from aded_local.step import NOTHING_FORCED, Beginning, Forced, StepResult
from aded_local.tree import DraftTree, FloatArray, IntArray

PRESETS: Final[Mapping[str, str]] = {
    "auto": "aded_local.drafters.ngram",
    "paper": "aded_local.drafters.paper",
}
"""The presets that draft, each with the module that makes its drafter, imported when it is asked for: a function
``make`` with the keywords of ``make_drafter``. A new drafter is one file and one line here."""

Search = Literal["best-first", "puct"]
"""How the tree of ``auto`` grows."""
SEARCHES: tuple[Search, ...] = ("best-first", "puct")


class Drafter(Protocol):
    """What the generation loop asks of a way to draft. Not thread-safe: one generation at a time."""

    name: str

    def recall(self, exchanges: Sequence[tuple[IntArray, IntArray, bool]]) -> None:
        """Learn earlier conversations, before the first ``begin``.

        Args:
            exchanges: oldest first: what was new in the prompt, int32 ``(n,)``, the answer, int32 ``(m,)``, and
                whether the exchange continues the one before.
        """
        ...

    def begin(self, beginning: Beginning) -> None:
        """A turn begins. Only what is new is learnt; of a session that the drafter does not know, all."""
        ...

    def draft(
        self, max_nodes: int, cost: npt.NDArray[np.float64] | None = None, forced: Forced = NOTHING_FORCED
    ) -> DraftTree:
        """Candidates below the last token, at most ``max_nodes``, likeliest path first.

        Args:
            max_nodes: upper bound of the tree's size.
            cost: seconds of a pass over i tokens, float64 ``(m,)``, index 0 unused: a drafter may stop
                where no further node can pay.
            forced: known to come first: the tree begins with as many of these as ``max_nodes`` allows, as a chain, and
                goes on below them where the drafter can.
        """
        ...

    def verifying(self, tree: DraftTree) -> None:
        """The target verifies ``tree`` now: a part of the last draft, perhaps padded, perhaps empty."""
        ...

    def observe(self, result: StepResult) -> None:
        """Learn from a step: its tokens, and what the target found likely where that was read.

        Called once per step, whether or not ``draft`` was called before and anything was verified; after a pause,
        once for several plain steps.
        """
        ...

    def predict(self) -> tuple[IntArray, FloatArray]:
        """What comes next, as far as the drafter knows: tokens and their probabilities, likeliest first.

        For measuring how well a drafter knows the text, in bits per token; generation does not call it. As after
        ``draft``, the next ``observe`` judges what was said.

        Returns:
            int32 ``(n,)``, distinct, and float32 ``(n,)``, which add up to one at most; both empty when
            nothing is known.
        """
        ...

    def reset(self) -> None:
        """Forget everything."""
        ...

    def close(self) -> None:
        """End what runs beside; nothing is asked afterwards."""
        ...


class Beside(Protocol):
    """What works beside the target's passes.

    Attributes:
        beside: it worked beside the last pass, whose time says nothing of passes alone.
        lent: threads that the next pass leaves to it.
    """

    @property
    def beside(self) -> bool: ...

    @property
    def lent(self) -> int: ...

    def fit(self, leaves: int) -> None:
        """The target can verify so many branches from now on."""
        ...


class Nobody:
    """Nothing works beside."""

    beside: Final = False
    lent: Final = 0

    def fit(self, leaves: int) -> None:
        """Nobody drafts."""


NOBODY: Final = Nobody()


def make_drafter(
    preset: str,
    *,
    n_vocab: int,
    seed: int = 0,
    search: Search = "best-first",
    static: npt.NDArray[np.int64] | None = None,
    phrases: npt.NDArray[np.int64] | None = None,
    without: Iterable[str] = (),
) -> Drafter:
    """The drafter of a preset, with its kernels compiled, and kept for the next start.

    Args:
        preset: of ``PRESETS``.
        n_vocab: size of the target's vocabulary.
        seed: for drafters that draw random numbers.
        search, static, phrases, without: see ``NgramDrafter``; ``paper`` has its own search and no other source.

    Raises:
        OptionError: there is no such preset, or no such part to leave out.
    """
    if preset not in PRESETS:
        raise OptionError(f"no draft preset is called {preset!r}: choose one of {', '.join(PRESETS)}")
    drafter: Drafter = importlib.import_module(PRESETS[preset]).make(
        n_vocab=n_vocab, seed=seed, search=search, static=static, phrases=phrases, without=without
    )
    return drafter
