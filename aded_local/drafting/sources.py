"""Where candidates come from: contexts of all orders, a repeated passage, an echo.

Each source adds its candidates behind those before and leaves the evidence for each in ``cell``.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from aded_local.drafting.calibration import (
    BUCKETS,
    ECHO_CLASS,
    ORDERS,
    RIVAL_CLASS,
    bucket_of,
    copy_class,
    ngram_class,
)
from aded_local.drafting.compiling import kernel
from aded_local.drafting.memory import (
    ECHO_PLACES,
    EPOCH,
    HEAD,
    LONGEST_KEY,
    SEED_KEY,
    SPARSE_KEY,
    START,
    Predictor,
    epoch_key,
)
from aded_local.drafting.statistics import SUCCESSORS, extend_hash, find

CONTEXT_WEIGHT: Final = 5.0
"""Weight of a count from this conversation, on top of the same count in the memory of everything."""
LAST_WEIGHT: Final = 1.0
"""Extra count of the successor a context was last followed by."""
ESCAPE_FLOOR: Final = 0.02
"""Shorter contexts share this much at least, or are not looked up."""
MOST_CANDIDATES: Final = 40
"""Distinct candidates considered per node; five contexts rarely hold more."""

ECHO_SPAN: Final = 64
"""How far back an echo is looked for, in tokens: about two sentences."""
ECHO_TRIALS: Final = 2.0
"""Chances an echo must have had after a token before it is believed."""
ECHO_LEAST: Final = 0.3
"""Echoes that came true less often than this are left alone."""


@kernel
def token_before(model: Predictor, node: int, back: int) -> int:
    """The token ``back`` places before the end of the path to ``node`` (0: the node's own); -1 for none."""
    nodes = model.nodes
    while back > 0 and node > 0:
        node = nodes[node].parent
        back -= 1
    if back == 0:
        return int(nodes[node].token)
    position = model.state[HEAD] - 1 - back
    if position < model.state[START]:
        return -1
    return int(model.history[position & (model.history.shape[0] - 1)])


@kernel
def collect(nodes: npt.NDArray[Any], start: int, n: int, token: int, share: float) -> int:
    """Add ``share`` to ``token`` among the ``n`` candidates from ``start``; returns their number."""
    for i in range(start, start + n):
        if nodes[i].token == token:
            nodes[i].conditional += share
            return n
    if n == MOST_CANDIDATES:
        return n
    nodes[start + n].token = token
    nodes[start + n].conditional = share
    return n + 1


@kernel
def gather_orders(model: Predictor, node: int, start: int) -> int:
    """Candidates of all orders, interpolated, with their class in ``cell``; returns their number."""
    memory, context, nodes = model.memory, model.context, model.nodes
    in_memory = np.empty(ORDERS + 1, np.int64)
    in_context = np.empty(ORDERS + 1, np.int64)
    memory_key = SEED_KEY
    context_key = epoch_key(model.state[EPOCH])
    order = 0
    longest_key = memory_key
    for k in range(1, ORDERS + 1):
        token = token_before(model, node, k - 1)
        if token < 0:
            break
        memory_key = extend_hash(memory_key, token)
        context_key = extend_hash(context_key, token)
        in_memory[k] = find(memory, memory_key)
        in_context[k] = find(context, context_key)
        if in_memory[k] < 0 and in_context[k] < 0:
            break  # whoever met a longer context has met this one
        order = k
        longest_key = memory_key
    n = 0
    remaining = 1.0
    if 0 < order < ORDERS:
        # A context whose longer forms are all new goes on as it did when they were new before.
        index = find(memory, longest_key ^ LONGEST_KEY)
        if index >= 0:
            slot = memory[index]
            share = 1.0 / (slot.total + slot.distinct)
            for i in range(SUCCESSORS):
                if slot.counts[i] == 0:
                    break
                n = collect(nodes, start, n, slot.tokens[i], share * slot.counts[i])
            remaining = slot.distinct * share
    if order < 2:
        # The last pair of tokens is new: what usually comes two places after the first of them?
        before = token_before(model, node, 1)
        index = find(memory, extend_hash(SPARSE_KEY, before)) if before >= 0 else -1
        if index >= 0:
            slot = memory[index]
            share = remaining / (slot.total + slot.distinct)
            for i in range(SUCCESSORS):
                if slot.counts[i] == 0:
                    break
                n = collect(nodes, start, n, slot.tokens[i], share * slot.counts[i])
            remaining *= slot.distinct / (slot.total + slot.distinct)
    for k in range(order, 0, -1):
        total = 0.0
        distinct = 0
        if in_memory[k] >= 0:
            slot = memory[in_memory[k]]
            total += slot.total
            distinct = slot.distinct
        if in_context[k] >= 0:
            slot = context[in_context[k]]
            total += CONTEXT_WEIGHT * slot.total + LAST_WEIGHT
            distinct = max(distinct, slot.distinct)
        share = remaining / (total + distinct)
        if in_context[k] >= 0:
            slot = context[in_context[k]]
            n = collect(nodes, start, n, slot.last, share * LAST_WEIGHT)
            for i in range(SUCCESSORS):
                if slot.counts[i] == 0:
                    break
                n = collect(nodes, start, n, slot.tokens[i], share * CONTEXT_WEIGHT * slot.counts[i])
        if in_memory[k] >= 0:
            slot = memory[in_memory[k]]
            for i in range(SUCCESSORS):
                if slot.counts[i] == 0:
                    break
                n = collect(nodes, start, n, slot.tokens[i], share * slot.counts[i])
        remaining *= distinct / (total + distinct)
        if remaining < ESCAPE_FLOOR:
            break
    local = 1 if order > 0 and in_context[order] >= 0 else 0
    best = start
    for i in range(start, start + n):
        nodes[i].cell = ngram_class(order, local, 0)
        if nodes[i].conditional > nodes[best].conditional:
            best = i
    if n > 0:
        nodes[best].cell = ngram_class(order, local, 1)
    return n


@kernel
def gather_copy(model: Predictor, node: int, start: int, n: int) -> int:
    """Let the passage repeated at ``node``, if any, propose its next token; returns the new ``n``."""
    nodes = model.nodes
    position = nodes[node].copy_at
    if position < 0 or position >= model.state[HEAD]:
        return n
    token = model.history[position & (model.history.shape[0] - 1)]
    n = collect(nodes, start, n, token, 0.0)
    own = -1
    for i in range(start, start + n):
        if nodes[i].token == token:
            own = i
        else:
            nodes[i].cell = RIVAL_CLASS
    if own >= 0:
        local = 1 if position >= model.state[START] else 0
        nodes[own].cell = copy_class(nodes[node].copy_length, local)
    return n


@kernel
def echo(model: Predictor, last: int, before: int) -> int:
    """What followed ``before`` when something else than ``last`` did, most recently in this context; -1 for none.

    A word taken up again after a break: "`tar xf a.tar`, newline" brings back what the first backtick brought.
    """
    history = model.history
    mask = history.shape[0] - 1
    head = model.state[HEAD]
    lowest = max(model.state[START], head - ECHO_SPAN)
    for position in range(head - 2, lowest - 1, -1):
        if history[position & mask] == before:
            token = history[(position + 1) & mask]
            if token != last:
                return int(token)
    return -1


@kernel
def gather_echo(model: Predictor, node: int, start: int, n: int) -> int:
    """Let an echo propose its token, where echoes have come true after such a token; returns the new ``n``."""
    nodes = model.nodes
    last = nodes[node].token
    before = token_before(model, node, 1)
    if before < 0:
        return n
    place = last & (ECHO_PLACES - 1)
    trials = model.echoes[1, place]
    if trials < ECHO_TRIALS:
        return n
    rate = model.echoes[0, place] / (trials + 1.0)
    if rate < ECHO_LEAST:
        return n
    token = echo(model, last, before)
    if token < 0:
        return n
    n = collect(nodes, start, n, token, 0.0)
    for i in range(start, start + n):
        if nodes[i].token == token:
            known = 0.0
            if nodes[i].conditional > 0.0:
                known = model.rates[0, nodes[i].cell * BUCKETS + bucket_of(nodes[i].conditional)]
            if model.rates[0, ECHO_CLASS * BUCKETS + bucket_of(rate)] > known:
                nodes[i].cell = ECHO_CLASS
                nodes[i].conditional = rate
    return n
