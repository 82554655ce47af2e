"""Drafters for tests, texts for them, and what every draft must be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from aded_local.drafters import Drafter
from aded_local.drafters.ngram.drafter import NgramDrafter, Search
from aded_local.ngrams.table import Table
from aded_local.step import Beginning, Likely, StepResult
from aded_local.tree import EMPTY_TREE, DraftTree, IntArray


def ids(*tokens: int) -> IntArray:
    return np.array(tokens, np.int32)


def auto(
    n_vocab: int = 1000,
    *,
    without: Iterable[str] = (),
    search: Search = "best-first",
    static: Table | None = None,
    phrases: Table | None = None,
) -> NgramDrafter:
    """A drafter that starts from nothing: what was learnt before shipping must not decide a test."""
    return NgramDrafter(
        n_vocab=n_vocab, without=("priors", *without), search=search, static=static, phrases=phrases
    )


def begin(
    drafter: Drafter, new: IntArray, *, past: IntArray | None = None, session: int = 0, undone: int = 0
) -> None:
    """Begin a turn: of a new conversation, unless there is a ``past``."""
    drafter.begin(Beginning(session, ids() if past is None else past, new, undone))


def observe(
    drafter: Drafter, tokens: IntArray, tree: DraftTree = EMPTY_TREE, likely: Likely | None = None
) -> None:
    """A step brought ``tokens``, and perhaps what the target found likely at each node of ``tree``."""
    drafter.observe(StepResult(tree, tokens.tolist(), [], 0, likely))


def record(kind: np.dtype[Any]) -> Any:
    """A record of zeros, as kernels take it."""
    return np.zeros(1, kind).view(np.recarray)[0]


def assert_is_a_tree(tree: DraftTree, limit: int, n_vocab: int) -> None:
    n = len(tree)
    assert n <= limit
    assert len(tree.parents) == len(tree.depths) == len(tree.probabilities) == n
    assert np.all(tree.tokens >= 0) and np.all(tree.tokens < n_vocab)
    assert np.all(tree.probabilities >= 0) and np.all(tree.probabilities <= 1)
    assert np.all(np.diff(tree.probabilities) <= 0)  # so no node is likelier than its parent either
    children: dict[int, float] = {}
    seen = set()
    for i in range(n):
        parent = int(tree.parents[i])
        assert -1 <= parent < i  # any prefix is a tree
        assert tree.depths[i] == (1 if parent < 0 else tree.depths[parent] + 1)
        assert (parent, int(tree.tokens[i])) not in seen
        seen.add((parent, int(tree.tokens[i])))
        children[parent] = children.get(parent, 0.0) + float(tree.probabilities[i])
    for parent, total in children.items():
        assert total <= (1.0 if parent < 0 else float(tree.probabilities[parent])) + 1e-5


def replay(
    drafter: Drafter, stream: Sequence[int], lengths: Iterable[int], max_nodes: int
) -> Iterator[DraftTree]:
    """Draft and observe through a stream in steps of the given lengths."""
    begin(drafter, ids(*stream[:1]))
    at = 1
    for length in lengths:
        yield drafter.draft(max_nodes)
        if stream[at : at + length]:
            observe(drafter, ids(*stream[at : at + length]))
        at += length


def chances(drafter: Drafter) -> dict[int, float]:
    """The next token's distribution."""
    tokens, shares = drafter.predict()
    return dict(zip(tokens.tolist(), shares.tolist(), strict=True))


def main_chain(tree: DraftTree) -> list[int]:
    """The tokens of the likeliest path."""
    found: list[int] = tree.with_leaves(1).tokens.tolist()
    return found


def learn_copying(drafter: Drafter, times: int = 30, length: int = 40, first: int = 100) -> None:
    """Conversations that quote what was just read, so that the drafter learns to trust a passage."""
    rng = np.random.default_rng(5)
    for _ in range(times):
        passage = rng.integers(first, first + 800, length).astype(np.int32)
        begin(drafter, np.concatenate((passage, ids(7), passage[:5])))
        for at in range(5, length, 5):
            drafter.draft(8)
            observe(drafter, passage[at : at + 5])
