"""Drafting: proposing what the target may say next, cheaply enough to be worth a look.

Every way of drafting implements ``Drafter``. A step of the generation loop is::

    tree = drafter.draft(max_nodes, cost)     # candidates below the last token
    ...                                       # the target verifies some prefix of the tree
    drafter.observe(accepted)                 # what the target emitted

Room for a second model that drafts while the target verifies (SpecBranch, arXiv 2506.01979): such a
drafter starts its work for the next step in ``observe`` or at the end of ``draft``, in a thread of its
own (llama.cpp calls and these kernels release the GIL), continues from the leaves it proposed, and in
the next ``draft`` hands over the branch that the accepted tokens selected. Therefore ``observe`` gives
the tokens, not only their number; ``draft`` may block; and nothing else is called in between.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from aded_local.errors import OptionError
from aded_local.tree import DraftTree, FloatArray, IntArray

PRESETS = ("auto", "paper")


class Drafter(Protocol):
    """What the generation loop asks of a way to draft. Not thread-safe: one generation at a time."""

    name: str

    def begin(self, tokens: IntArray) -> None:
        """A prompt: the whole context so far, int32 ``(n,)``, with the last, undecoded token.

        When it continues the conversation, only what is new is learnt.
        """
        ...

    def draft(self, max_nodes: int, cost: npt.NDArray[np.float64] | None = None) -> DraftTree:
        """Candidates below the last token, at most ``max_nodes``, likeliest path first.

        Args:
            max_nodes: upper bound of the tree's size.
            cost: seconds of a pass over i tokens, float64 ``(m,)``, index 0 unused: a drafter may stop
                where no further node can pay.
        """
        ...

    def observe(self, accepted: IntArray) -> None:
        """The tokens the target emitted in this step (matched nodes, then one more), int32 ``(m,)``, m >= 1.

        Called once per step, whether or not ``draft`` was called before and anything was verified.
        """
        ...

    def predict(self) -> tuple[IntArray, FloatArray]:
        """What comes next, as far as the drafter knows: tokens and their probabilities, likeliest first.

        For measuring how well a drafter knows the text, in bits per token; generation does not call it. Like
        ``draft``, it asks for a verdict: the next ``observe`` judges it.

        Returns:
            int32 ``(n,)``, distinct, and float32 ``(n,)``, which add up to one at most; both empty when
            nothing is known.
        """
        ...

    def reset_context(self) -> None:
        """The conversation ends; what was learnt from it stays."""
        ...

    def reset(self) -> None:
        """Forget everything."""
        ...


def kernels_are_kept() -> bool:
    """Whether kernels were compiled before and lie in the cache; otherwise the first drafter takes some 20 seconds."""
    from aded_local.drafting.compiling import CACHE_FOLDER

    return CACHE_FOLDER is not None and any(Path(CACHE_FOLDER).glob("**/*.nbc"))


def make_drafter(preset: str, *, n_vocab: int, seed: int = 0) -> Drafter:
    """The drafter of a preset, with its kernels compiled.

    Args:
        preset: ``auto`` or ``paper``.
        n_vocab: size of the target's vocabulary.
        seed: for drafters that draw random numbers.

    Raises:
        OptionError: there is no such preset.
    """
    if preset == "auto":
        from aded_local.drafting.auto import AutoDrafter

        return AutoDrafter(n_vocab=n_vocab, seed=seed)
    if preset == "paper":
        from aded_local.drafting.paper import PaperDrafter

        return PaperDrafter(n_vocab=n_vocab, seed=seed)
    raise OptionError(f"no draft preset is called {preset!r}: choose one of {', '.join(PRESETS)}")
