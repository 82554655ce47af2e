"""What may come next, and how surely: the conditional distribution the tree search runs on.

``Predictor`` is all of a drafter's memory as plain arrays, so that kernels take it whole. Contexts of one to
``ORDERS`` tokens, counted over this conversation and over everything seen, are interpolated as Witten and Bell
do, after how the longest known context went on when it was the longest before; the passage that is
being repeated, if any, and a word taken up again after a break (an echo) propose their next token; calibration
turns all into hit rates.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from aded_local.drafting.calibration import BUCKETS, ORDERS, RIVAL_CLASS, bucket_of
from aded_local.drafting.compiling import kernel
from aded_local.drafting.memory import (
    COPY_AT,
    COPY_LENGTH,
    ECHO_PLACES,
    EPOCH,
    HEAD,
    LONGEST_KEY,
    N_NODES,
    SEED_KEY,
    SPARSE_KEY,
    START,
    Predictor,
    epoch_key,
    plant_root,
)
from aded_local.drafting.sources import (
    MOST_CANDIDATES,
    echo,
    gather_copy,
    gather_echo,
    gather_orders,
)
from aded_local.drafting.statistics import add, extend_hash, find

COPY_MINIMUM: Final = 4
"""Tokens that must match before a passage is continued."""
COPY_LONGEST: Final = 32
"""Match lengths are told apart up to here."""

LEAST_CONDITIONAL: Final = 0.004
"""Candidates less likely than this are dropped: even a pass that costs 0.5% more per token has no use."""
ECHO_MEMORY: Final = 40.0
"""Trust averages over about this many latest chances."""


@kernel
def judge_echo(model: Predictor, token: int) -> None:
    """Note whether the echo at the end of the history foretold ``token``."""
    head = model.state[HEAD]
    if head - model.state[START] < 2:
        return
    mask = model.history.shape[0] - 1
    last = model.history[(head - 1) & mask]
    foretold = echo(model, last, model.history[(head - 2) & mask])
    if foretold < 0:
        return
    place = last & (ECHO_PLACES - 1)
    trials = model.echoes[1, place]
    if trials >= ECHO_MEMORY:
        model.echoes[0, place] *= np.float32((ECHO_MEMORY - 1.0) / trials)
        trials = np.float32(ECHO_MEMORY - 1.0)
    model.echoes[1, place] = trials + np.float32(1.0)
    if foretold == token:
        model.echoes[0, place] += np.float32(1.0)


@kernel
def calibrate(model: Predictor, start: int, n: int) -> int:
    """Turn raw probabilities into hit rates, adding up to one at most; returns how many are kept."""
    nodes, rates = model.nodes, model.rates
    kept = 0
    total = 0.0
    for i in range(start, start + n):
        node = nodes[i]
        if node.conditional < LEAST_CONDITIONAL and node.cell < RIVAL_CLASS - 12:
            continue
        cell = node.cell * BUCKETS + bucket_of(node.conditional)
        kept_node = nodes[start + kept]
        kept_node.token = node.token
        kept_node.cell = cell
        kept_node.conditional = rates[0, cell]
        total += kept_node.conditional
        kept += 1
    if total > 1.0:
        for i in range(start, start + kept):
            nodes[i].conditional /= total
    return kept


@kernel
def sort_likeliest_first(nodes: npt.NDArray[Any], start: int, n: int) -> None:
    """Order candidates (token, cell, conditional) by falling probability; insertion sort, n is small."""
    for i in range(start + 1, start + n):
        token = nodes[i].token
        cell = nodes[i].cell
        p = nodes[i].conditional
        j = i - 1
        while j >= start and nodes[j].conditional < p:
            nodes[j + 1].token = nodes[j].token
            nodes[j + 1].cell = nodes[j].cell
            nodes[j + 1].conditional = nodes[j].conditional
            j -= 1
        nodes[j + 1].token = token
        nodes[j + 1].cell = cell
        nodes[j + 1].conditional = p


@kernel
def expand(model: Predictor, node: int, count: int) -> int:
    """Append the candidates after ``node`` to the pool of ``count`` nodes, likeliest first.

    Returns:
        The new number of nodes; unchanged when nothing is known or the pool is full.
    """
    nodes = model.nodes
    parent = nodes[node]
    parent.first_child = count
    parent.n_children = 0
    if count + MOST_CANDIDATES > nodes.shape[0]:
        return count
    n = gather_orders(model, node, count)
    n = gather_copy(model, node, count, n)
    n = gather_echo(model, node, count, n)
    n = calibrate(model, count, n)
    sort_likeliest_first(nodes, count, n)
    copied = -1
    if parent.copy_at >= 0 and parent.copy_at < model.state[HEAD]:
        copied = model.history[parent.copy_at & (model.history.shape[0] - 1)]
    total = 0.0
    for i in range(count, count + n):
        total += nodes[i].conditional
    scale = 1.0 / max(1.0, total)
    for i in range(count, count + n):
        child = nodes[i]
        child.parent = node
        child.depth = parent.depth + 1
        child.n_children = -1
        child.visits = 0
        child.value = 0.0
        # Whatever rounding does: a path must not be likelier than its beginning.
        child.path = parent.path * min(child.conditional * scale, 1.0)
        child.copy_at = -1
        child.copy_length = 0
        if child.token == copied:
            child.copy_at = parent.copy_at + 1
            child.copy_length = min(parent.copy_length + 1, COPY_LONGEST)
    parent.n_children = n
    return count + n


@kernel
def predict_next(model: Predictor, tokens: npt.NDArray[np.int32], chances: npt.NDArray[np.float32]) -> int:
    """Write the candidates after the last token, likeliest first; returns their number.

    Args:
        tokens: room for ``MOST_CANDIDATES``, int32.
        chances: the same, float32.
    """
    count = expand(model, 0, plant_root(model))
    for i in range(1, count):
        tokens[i - 1] = model.nodes[i].token
        chances[i - 1] = model.nodes[i].path
    model.state[N_NODES] = count
    return int(count - 1)


@kernel
def follow_copy(model: Predictor, token: int) -> None:
    """Keep track of the repeated passage after ``token`` became the newest of the history."""
    state, history = model.state, model.history
    mask = history.shape[0] - 1
    head = state[HEAD]  # the token is at head - 1
    at = state[COPY_AT]
    if at >= 0 and history[at & mask] == token:
        state[COPY_AT] = at + 1
        state[COPY_LENGTH] = min(state[COPY_LENGTH] + 1, COPY_LONGEST)
    else:
        state[COPY_AT] = -1
        state[COPY_LENGTH] = 0
    if head - state[START] < COPY_MINIMUM:
        return
    key = SEED_KEY
    for back in range(COPY_MINIMUM):
        key = extend_hash(key, history[(head - 1 - back) & mask])
    place = np.int64(key & np.uint64(model.positions.shape[0] - 1))
    seen = model.positions[place]  # position after the earlier passage, 0 for none
    model.positions[place] = head
    if state[COPY_AT] < 0 and 0 < seen < head and seen > head - mask:
        length = 0
        while length < min(COPY_LONGEST, seen):
            if history[(seen - 1 - length) & mask] != history[(head - 1 - length) & mask]:
                break
            length += 1
        if length >= COPY_MINIMUM:
            state[COPY_AT] = seen
            state[COPY_LENGTH] = length


@kernel
def learn(model: Predictor, tokens: npt.NDArray[np.int32]) -> None:
    """Append ``tokens`` to the history and count what followed what."""
    state, history = model.state, model.history
    mask = history.shape[0] - 1
    for token in tokens:
        head = state[HEAD]
        memory_key = SEED_KEY
        context_key = epoch_key(state[EPOCH])
        longest_key = memory_key
        longest = 0
        for k in range(1, min(ORDERS, head - state[START]) + 1):
            before = history[(head - k) & mask]
            memory_key = extend_hash(memory_key, before)
            context_key = extend_hash(context_key, before)
            if longest == k - 1 and find(model.memory, memory_key) >= 0:
                longest = k
                longest_key = memory_key
            add(model.memory, memory_key, token, 1.0, np.inf, head)
            add(model.context, context_key, token, 1.0, np.inf, head)
        if 0 < longest < ORDERS:
            add(model.memory, longest_key ^ LONGEST_KEY, token, 1.0, np.inf, head)
        if head - state[START] >= 2:
            sparse_key = extend_hash(SPARSE_KEY, history[(head - 2) & mask])
            add(model.memory, sparse_key, token, 1.0, np.inf, head)
        judge_echo(model, token)
        history[head & mask] = token
        state[HEAD] = head + 1
        follow_copy(model, token)
