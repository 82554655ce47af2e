"""Drafting: proposing what the target may say next, cheaply enough to be worth a look.

Every way of drafting implements ``Drafter``. A step of the generation loop is::

    tree = drafter.draft(max_nodes, cost)     # candidates below the last token
    ...                                       # the target verifies some prefix of the tree
    drafter.learn_distributions(tree, tokens, shares)   # what it would have said at every node, now and then
    drafter.observe(accepted)                 # what the target emitted

Room for a second model that drafts while the target verifies (SpecBranch, arXiv 2506.01979): such a
drafter starts its work for the next step in ``observe`` or at the end of ``draft``, in a thread of its
own (llama.cpp calls and these kernels release the GIL), continues from the leaves it proposed, and in
the next ``draft`` hands over the branch that the accepted tokens selected. Therefore ``observe`` gives
the tokens, not only their number; ``draft`` may block; and nothing else is called in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from aded_local.errors import OptionError
from aded_local.tree import DraftTree, FloatArray, IntArray

PRESETS = ("auto", "paper")
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

    def learn_distributions(self, tree: DraftTree, tokens: IntArray, shares: FloatArray) -> None:
        """The target's likeliest next tokens at every verified node, whether it was accepted or not.

        Called after verification and before the ``observe`` of the same step, or not at all in that step.

        Args:
            tree: as verified, perhaps less or (padded) more than ``draft`` proposed; without nodes where decoding
                was plain. Its root is the last token that the drafter has observed.
            tokens: int32 ``(n_nodes + 1, k)``, likeliest first; row 0 follows the root, row i + 1 node i. -1 means
                none; rows to skip hold nothing else.
            shares: float32 of the same shape: each token's part of the probability of its row's k tokens, so rows
                add up to one; 0 where there is no token. From the raw logits, before any sampler.
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
    """Whether the kernels of ``auto`` were compiled before and are kept; otherwise its first drafter takes some ten
    seconds, and ``ahead.compile_all`` does the same in a process of its own."""
    from aded_local.kernels import kept

    return kept.kernels_are_kept()


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
        preset: ``auto`` or ``paper``.
        n_vocab: size of the target's vocabulary.
        seed: for drafters that draw random numbers.
        search, static, phrases, without: see ``AutoDrafter``; ``paper`` has its own search and no other source.

    Raises:
        OptionError: there is no such preset, or no such part to leave out.
    """
    if preset == "auto":
        from aded_local.drafters.ahead import compile_all
        from aded_local.drafters.ngram.drafter import AutoDrafter

        compile_all()
        return AutoDrafter(
            n_vocab=n_vocab, seed=seed, search=search, static=static, phrases=phrases, without=without
        )
    if preset == "paper":
        from aded_local.drafters.paper.drafter import PaperDrafter

        return PaperDrafter(n_vocab=n_vocab, seed=seed)
    raise OptionError(f"no draft preset is called {preset!r}: choose one of {', '.join(PRESETS)}")
