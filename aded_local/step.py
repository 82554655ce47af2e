"""What passes between a target and what drafts for it: where a turn begins, and what each step was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from aded_local.tree import EMPTY_TREE, DraftTree, FloatArray, IntArray, Source, chain


@dataclass(frozen=True, slots=True)
class Forced:
    """Tokens that come next as far as a constraint knows, one after the other.

    Attributes:
        tokens: int32 ``(n,)``.
        chances: of each behind the one before, float32 ``(n,)``.
    """

    tokens: IntArray
    chances: FloatArray

    def tree(self, most: int) -> DraftTree:
        """Them alone as a draft, ``most`` at most."""
        tree = chain(self.tokens[:most], np.cumprod(self.chances[:most], dtype=np.float32))
        return replace(tree, sources=np.full(len(tree), Source.FORCED, np.uint8))


NO_TOKENS: Final[IntArray] = np.zeros(0, np.int32)

NOTHING_FORCED: Final = Forced(NO_TOKENS, np.zeros(0, np.float32))


class Constraint(Protocol):
    """What an answer has to keep to, as far as drafts are concerned: they should not be what the target may not say.

    It is told of every token of the answer, in order, whoever drafts.
    """

    def advance(self, tokens: Sequence[int]) -> None:
        """The answer goes on with ``tokens``."""
        ...

    def forced(self, most: int) -> Forced:
        """What comes next as far as that is known, ``most`` tokens at most."""
        ...

    def allowed(self, after: IntArray, tree: DraftTree) -> npt.NDArray[np.bool_]:
        """Which nodes of a tree below the tokens ``after`` may come, bool ``(n,)``; none below one that may not."""
        ...


@dataclass(frozen=True, slots=True)
class Beginning:
    """A turn begins: a prompt, and the target's first token after it.

    Attributes:
        session: names the conversation; a drafter may serve several, by turns.
        past: tokens of this conversation that the drafter has learnt and that still hold, oldest first, int32 ``(n,)``;
            none where a new conversation begins. Where the oldest turns were dropped from the prompt they may still be
            among them.
        new: what follows, int32 ``(m,)``: once the target has said its first token, that is the last of them.
        undone: so many of the tokens that the drafter learnt last in this conversation hold no longer: an answer that
            is asked for again, a message that was changed.
        constraint: what the answer has to keep to; None where that is nothing.
    """

    session: int
    past: IntArray
    new: IntArray
    undone: int = 0
    constraint: Constraint | None = None

    def and_then(self, token: int) -> Beginning:
        """The same with the target's first token."""
        return replace(self, new=np.append(self.new, np.int32(token)))


@dataclass(frozen=True, slots=True)
class Likely:
    """The target's likeliest next tokens after the root and after each node of a verified tree.

    From the raw logits, before any sampler.

    Attributes:
        tokens: int32 ``(n_nodes + 1, k)``, likeliest first; row 0 follows the root, row i + 1 node i. -1 means none;
            rows that were skipped hold nothing else.
        shares: float32 of the same shape: each token's part of the probability of its row's k tokens, so rows add up
            to one; 0 where there is no token.
    """

    tokens: IntArray
    shares: FloatArray


@dataclass(frozen=True, slots=True)
class StepResult:
    """One step: a tree was verified, and the target said some tokens.

    Attributes:
        tree: as verified, padding included; without nodes where decoding was plain.
        tokens: what the target chose, at least one; the last one is not in the cache.
        path: accepted nodes, from the first level down, ``len(tokens) - 1`` of them.
        n_cells: cells in use before the step.
        likely: None where it was not read.
        search_seconds: of drafting the tree and deciding how much of it to verify.
        verify_seconds: inside llama.cpp.
        sample_seconds: of choosing the tokens.
        read_seconds: of reading ``likely``.
        total_seconds: of the whole step until the cache held the path; learning from it comes after.
        hidden: the target's last state, which the last token was chosen from, float32 ``(n_hidden,)``; None where
            it is not read.
    """

    tree: DraftTree
    tokens: list[int]
    path: list[int]
    n_cells: int
    likely: Likely | None = None
    search_seconds: float = 0.0
    verify_seconds: float = 0.0
    sample_seconds: float = 0.0
    read_seconds: float = 0.0
    total_seconds: float = 0.0
    hidden: FloatArray | None = None

    @property
    def n_drafted(self) -> int:
        """Nodes that were proposed; padding is not."""
        return len(self.tree) - self.tree.padding


def said(tokens: list[int], n_cells: int = 0) -> StepResult:
    """A step without a draft that brought ``tokens``; or several plain steps in one."""
    return StepResult(EMPTY_TREE, tokens, [], n_cells)
