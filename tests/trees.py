"""Random draft trees for property tests."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from aded_local.tree import ROOT, DraftTree


@st.composite
def draft_trees(draw: st.DrawFn, max_nodes: int = 24, n_tokens: int = 40) -> DraftTree:
    """Trees with distinct siblings, parents first."""
    n = draw(st.integers(0, max_nodes))
    parents: list[int] = []
    tokens: list[int] = []
    depths: list[int] = []
    taken: set[tuple[int, int]] = set()
    for node in range(n):
        parent = draw(st.integers(ROOT, node - 1))
        free = [token for token in range(n_tokens) if (parent, token) not in taken]
        if not free:
            break
        token = draw(st.sampled_from(free))
        taken.add((parent, token))
        parents.append(parent)
        tokens.append(token)
        depths.append(1 if parent == ROOT else depths[parent] + 1)
    probabilities = np.linspace(1.0, 0.1, len(tokens), dtype=np.float32)
    return DraftTree(
        np.array(tokens, np.int32), np.array(parents, np.int32), np.array(depths, np.int32), probabilities
    )
