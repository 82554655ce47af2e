"""The distribution of the next token, on which the tree search runs: candidates are gathered, mixed and calibrated.

After each token all three learn.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from aded_local.drafters.ngram.calibration import (
    calibrated,
    class_of,
    teach,
)
from aded_local.drafters.ngram.candidates import MOST_CANDIDATES, SEEN_ORDERS, SPARSES, log_odds
from aded_local.drafters.ngram.components import CALIBRATION, MIXING, RATES
from aded_local.drafters.ngram.logit_counts import list_contexts, soften
from aded_local.drafters.ngram.lookup import LONGEST_KEY, gather, sparse_key
from aded_local.drafters.ngram.match_model import follow
from aded_local.drafters.ngram.mixing import learn_mix, mix
from aded_local.drafters.ngram.state import (
    Block,
    Predictor,
    Tables,
    epoch_key,
    latest_tokens,
    plant_root,
    token_at,
)
from aded_local.kernels.compiling import entry, kernel
from aded_local.ngrams.table import ORDERS, SEED_KEY, UNIT, WIDE_ORDERS, add, extend_hash

LEAST_CONDITIONAL = 0.004
"""Candidates less likely than this are dropped: even a pass that costs 0.5% more per token has no use."""

UNJUDGED: Final = -1
"""Kind of a node that is not a prediction of this drafter's."""

LEAST_PATH = 0.001
"""Nor is anything done for paths less likely than this, save a copied passage, which may be long."""


@kernel
def distribution(model: Predictor, tables: Tables, node: int) -> int:
    """Gather and mix: the candidates, and chances that add up to one at most, lie in ``model.evidence`` afterwards.

    Returns:
        The place of the likeliest candidate, -1 for none.
    """
    evidence = model.evidence
    gather(model, tables, node)
    mix(evidence, model.rates, model.weights)
    n = evidence.n_candidates
    total = 0.0
    best = -1
    for i in range(n):
        total += evidence.raw[i]
        if best < 0 or evidence.raw[i] > evidence.raw[best]:
            best = i
    for i in range(n):
        evidence.chances[i] = evidence.raw[i] / max(1.0, total)
        if total > 1.0:
            evidence.odds[i] = log_odds(evidence.chances[i])
    return best


@kernel
def copied_token(model: Predictor, node: int) -> int:
    """What the passage followed at ``node`` proposes, -1 for nothing."""
    at = model.nodes[node].copy_at
    return token_at(model, node, at) if at >= 0 else -1


@kernel
def expand(model: Predictor, tables: Tables, node: int, count: int) -> int:
    """Append the candidates after ``node`` to the pool of ``count`` nodes, likeliest first.

    Returns:
        The new number of nodes; unchanged when nothing is known or the pool is full.
    """
    nodes, evidence = model.nodes, model.evidence
    parent = nodes[node]
    parent.first_child = count
    parent.n_children = 0
    if count + MOST_CANDIDATES > nodes.shape[0]:
        return count
    best = distribution(model, tables, node)
    copied = copied_token(model, node)
    matched = parent.copy_length - parent.depth
    order, chances = evidence.order, evidence.calibrated
    path, depth = parent.path, parent.depth + 1
    kind = class_of(depth, False, 0, evidence.spoke)
    copied_kind = class_of(depth, False, matched, evidence.spoke)
    kept = 0
    total = 0.0
    for i in range(evidence.n_candidates):
        p = evidence.chances[i]
        copies = evidence.tokens[i] == copied
        if p < LEAST_CONDITIONAL or (path * p < LEAST_PATH and not copies):
            continue
        if model.used[CALIBRATION]:
            own_kind = (copied_kind if copies else kind) + (1 if i == best else 0)
            p = calibrated(model.finals, own_kind, evidence.odds[i])
        chances[i] = p
        total += p
        place = kept
        while place > 0 and chances[order[place - 1]] < p:
            order[place] = order[place - 1]
            place -= 1
        order[place] = i
        kept += 1
    scale = 1.0 / max(1.0, total)
    for place in range(kept):
        i = order[place]
        child = nodes[count + place]
        child.token = evidence.tokens[i]
        child.conditional = chances[i]
        child.mixed = evidence.odds[i]
        child.source = evidence.said_by[i]
        child.kind = (copied_kind if child.token == copied else kind) + (1 if i == best else 0)
        child.parent = node
        child.depth = depth
        child.n_children = -1
        child.visits = 0
        child.copy_at = -1
        child.copy_length = 0
        if child.token == copied:
            child.copy_at = parent.copy_at + 1
            child.copy_length = parent.copy_length + 1
        # Whatever rounding does: a path must not be likelier than its beginning.
        child.path = path * min(child.conditional * scale, 1.0)
        child.rank = child.path
    parent.n_children = kept
    return count + kept


@entry
def predict_next(
    block: Block, tables: Tables, tokens: npt.NDArray[np.int32], chances: npt.NDArray[np.float32]
) -> int:
    """Write the candidates after the last token, likeliest first; returns their number.

    Args:
        tokens: room for ``MOST_CANDIDATES``, int32.
        chances: the same, float32.
    """
    model = block[0]
    if plant_root(model) == 0:
        return 0
    count = expand(model, tables, 0, 1)
    for i in range(1, count):
        tokens[i - 1] = model.nodes[i].token
        chances[i - 1] = model.nodes[i].path
    model.state.n_nodes = count
    return int(count - 1)


@kernel
def teach_predictor(model: Predictor, tables: Tables, token: int) -> None:
    """Judge what would be predicted now by the ``token`` that comes: rates, weights, calibration."""
    if plant_root(model) == 0:
        return
    best = distribution(model, tables, 0)
    evidence = model.evidence
    if model.used[CALIBRATION]:
        copied = copied_token(model, 0)
        matched = model.nodes[0].copy_length
        for i in range(evidence.n_candidates):
            candidate = evidence.tokens[i]
            kind = class_of(1, i == best, matched if candidate == copied else 0, evidence.spoke)
            teach(model.finals, kind, evidence.odds[i], candidate == token)
    learn_mix(evidence, model.rates, model.weights, token, model.used[MIXING], model.used[RATES])


@kernel
def count(model: Predictor, tables: Tables, token: int) -> None:
    """Count ``token`` in every context that ends the history."""
    state = model.state
    head = state.head
    latest = model.evidence.latest
    n = min(latest_tokens(model, 0), ORDERS)
    key = SEED_KEY
    context_key = epoch_key(state.epoch)
    add(tables.memory, key, True, token, UNIT, head)
    longest = 0
    longest_key = key
    for k in range(1, min(n, SEEN_ORDERS) + 1):
        key = extend_hash(key, latest[k - 1])
        context_key = extend_hash(context_key, latest[k - 1])
        wide = k <= WIDE_ORDERS
        before = add(tables.memory, key, wide, token, UNIT, head)
        add(tables.context, context_key, wide, token, UNIT, head)
        if before > 0 and longest == k - 1:
            longest = k
            longest_key = key
    if 0 < longest < SEEN_ORDERS:
        add(tables.memory, longest_key ^ LONGEST_KEY, False, token, UNIT, head)
    for kind in range(SPARSES):
        key = sparse_key(kind, latest, n)
        if key != 0:
            add(tables.memory, key, False, token, UNIT, head)


@kernel
def append(model: Predictor, token: int, since: int) -> None:
    """Make ``token`` the newest of the history; passages before the position ``since`` are not followed."""
    state, history = model.state, model.history
    history[state.head & (history.shape[0] - 1)] = token
    state.head += 1
    follow(model, token, since)


LAID: Final = 0
"""How a text is learnt: as history alone, since it was counted before."""
READ: Final = 1
"""It is counted, as a prompt."""
SAID: Final = 2
"""The target said it. It also judges the last draft, and the prediction of each token."""


@kernel
def judge_draft(model: Predictor, tokens: npt.NDArray[np.int32]) -> None:
    """Teach the calibration how the last draft fared: candidates whose parent came.

    The first candidates are left to ``teach_predictor``, which knows them at every token.
    """
    nodes = model.nodes
    n = model.state.n_nodes
    model.state.n_nodes = 0
    if n == 0 or not model.used[CALIBRATION]:
        return
    node = 0
    for token in tokens:
        if nodes[node].n_children <= 0:
            return
        first = nodes[node].first_child
        found = -1
        for child in range(first, first + nodes[node].n_children):
            hit = nodes[child].token == token
            if node > 0 and nodes[child].kind != UNJUDGED:
                teach(model.finals, nodes[child].kind, nodes[child].mixed, hit)
            if hit:
                found = child
        if found < 0:
            return
        node = found


@entry
def learn(
    block: Block,
    tables: Tables,
    text: npt.NDArray[np.int32],
    how: int,
    parents: npt.NDArray[np.int32],
    drafted: npt.NDArray[np.int32],
    contexts: npt.NDArray[np.uint64],
    tokens: npt.NDArray[np.int32],
    shares: npt.NDArray[np.float32],
) -> None:
    """Learn a text, and what the target found likely: in one call, since after a pass of a large model every call finds
    its code and data gone from the caches.

    Args:
        text: int32 ``(m,)``.
        how: ``LAID``, ``READ`` or ``SAID``.
        parents, drafted: the verified tree, int32 ``(n,)``.
        contexts: room for those of the tree, see ``logit_counts.list_contexts``.
        tokens, shares: what it found likely, see ``logit_counts.soften``; without rows where that was not read.
    """
    model = block[0]
    list_contexts(model, parents, drafted, contexts)
    if how == SAID:
        judge_draft(model, text)
    # A text that was laid before would otherwise follow its own earlier copy to the end, and beyond.
    since = model.state.start if how == LAID else 0
    for token in text:
        if how == SAID:
            teach_predictor(model, tables, token)
        if how != LAID:
            count(model, tables, token)
        append(model, token, since)
    soften(model, tables, contexts, tokens, shares)
