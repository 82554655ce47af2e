"""What may come next, and how surely: the conditional distribution the tree search runs on.

``Predictor`` is all of a drafter's memory as plain arrays, so that kernels take it whole. Two ways to
predict share it. `raw`: the twelve successors of the last two tokens with the weights their table
holds (preset ``paper``). Otherwise (preset ``auto``): contexts of one to ``ORDERS`` tokens, counted over
this conversation and over everything seen, are interpolated as Witten and Bell do, after how the longest
known context went on when it was the longest before; the passage that is being repeated, if any,
and a word taken up again after a break (an echo) propose their next token; calibration turns all into
hit rates.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from aded_local.drafting.calibration import (
    BUCKETS,
    ECHO_CLASS,
    ORDERS,
    RIVAL_CLASS,
    Rates,
    bucket_of,
    copy_class,
    ngram_class,
)
from aded_local.drafting.compiling import kernel
from aded_local.drafting.statistics import SUCCESSORS, Table, add, extend_hash, find

HEAD: Final = 0  # position after the newest token of the history
START: Final = 1  # position of the first token of this context
EPOCH: Final = 2  # number of contexts begun; part of the hash in the context table
COPY_AT: Final = 3  # position of the token a repeated passage proposes next, -1 for none
COPY_LENGTH: Final = 4  # tokens of that passage which already matched
RAW: Final = 5  # 1: predict from pairs only, without calibration
N_NODES: Final = 6  # nodes in the pool after the last draft
STATE_SIZE: Final = 7

COPY_MINIMUM: Final = 4
"""Tokens that must match before a passage is continued."""
COPY_LONGEST: Final = 32
"""Match lengths are told apart up to here."""

CONTEXT_WEIGHT: Final = 5.0
"""Weight of a count from this conversation, on top of the same count in the memory of everything."""
LAST_WEIGHT: Final = 1.0
"""Extra count of the successor a context was last followed by."""
ESCAPE_FLOOR: Final = 0.02
"""Shorter contexts share this much at least, or are not looked up."""
LEAST_CONDITIONAL: Final = 0.004
"""Candidates less likely than this are dropped: even a pass that costs 0.5% more per token has no use."""
MOST_CANDIDATES: Final = 40
"""Distinct candidates considered per node; five contexts rarely hold more."""

SEED_KEY: Final = np.uint64(0x243F6A8885A308D3)
LONGEST_KEY: Final = np.uint64(0x9E3779B97F4A7C15)
"""Told apart by this: how a context went on when no longer one was known."""

SPARSE_KEY: Final = np.uint64(0xD1B54A32D192ED03)
"""Told apart by this: what came two places after a token, whatever stood between."""

ECHO_SPAN: Final = 64
"""How far back an echo is looked for, in tokens: about two sentences."""
ECHO_PLACES: Final = 1024
"""Tokens whose trust in echoes is told apart, by hash."""
ECHO_TRIALS: Final = 2.0
"""Chances an echo must have had after a token before it is believed."""
ECHO_LEAST: Final = 0.3
"""Echoes that came true less often than this are left alone."""
ECHO_MEMORY: Final = 40.0
"""Trust averages over about this many latest chances."""

NODE = np.dtype(
    [
        ("token", np.int32),
        ("parent", np.int32),
        ("depth", np.int32),
        ("first_child", np.int32),
        ("n_children", np.int32),  # -1 until expanded
        ("cell", np.int32),  # calibration cell, -1 for none
        ("visits", np.int32),
        ("copy_length", np.int32),
        ("copy_at", np.int64),
        ("conditional", np.float64),  # probability given the parent
        ("path", np.float64),  # product of the conditionals down to here
        ("value", np.float64),
    ],
    align=True,
)
POOL_SIZE: Final = 4096


class Predictor(NamedTuple):
    """The arrays behind a drafter. All are changed in place.

    Attributes:
        memory: successors over everything seen.
        context: successors within this conversation; empty of use when ``raw``.
        history: the newest tokens, a ring, int32 ``(2 ** a,)``.
        positions: where a context of ``COPY_MINIMUM`` tokens was last met, by hash, int64 ``(2 ** b,)``.
        state: scalars, int64 ``(STATE_SIZE,)``.
        rates: calibration, float32 ``(2, cells)``.
        echoes: how often an echo came true after a token, and of how many chances, float32 ``(2, ECHO_PLACES)``.
        nodes: pool of tree nodes, 0 is the root, structured ``(POOL_SIZE,)``.
    """

    memory: Table
    context: Table
    history: npt.NDArray[np.int32]
    positions: npt.NDArray[np.int64]
    state: npt.NDArray[np.int64]
    rates: Rates
    echoes: npt.NDArray[np.float32]
    nodes: npt.NDArray[Any]


@kernel
def epoch_key(epoch: int) -> np.uint64:
    """Hash seed of the context table; another one for every conversation, so that none is cleared."""
    key: np.uint64 = np.uint64(epoch + 1) * np.uint64(0xD1B54A32D192ED03)
    return key


@kernel
def plant_root(model: Predictor) -> int:
    """Make node 0 the last token; returns the number of nodes, 1."""
    root = model.nodes[0]
    head = model.state[HEAD]
    root.token = model.history[(head - 1) & (model.history.shape[0] - 1)]
    root.parent = -1
    root.depth = 0
    root.n_children = -1
    root.cell = -1
    root.visits = 0
    root.value = 0.0
    root.conditional = 1.0
    root.path = 1.0
    root.copy_at = model.state[COPY_AT]
    root.copy_length = model.state[COPY_LENGTH]
    return 1


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
def gather_pairs(model: Predictor, node: int, start: int) -> int:
    """Candidates of the raw mode: successors of the last two tokens; returns their number."""
    before = token_before(model, node, 1)
    if before < 0:
        return 0
    key = extend_hash(extend_hash(SEED_KEY, model.nodes[node].token), before)
    index = find(model.memory, key)
    n = 0
    if index >= 0:
        slot = model.memory[index]
        for i in range(SUCCESSORS):
            if slot.counts[i] > 0:
                model.nodes[start + n].token = slot.tokens[i]
                model.nodes[start + n].conditional = slot.counts[i]
                model.nodes[start + n].cell = -1
                n += 1
    return n


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
    if model.state[RAW] == 1:
        n = gather_pairs(model, node, count)
    else:
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
        # The paper's adapted weights exceed 1; a path must not be likelier than its beginning.
        child.path = parent.path * min(child.conditional * scale, 1.0)
        child.copy_at = -1
        child.copy_length = 0
        if child.token == copied:
            child.copy_at = parent.copy_at + 1
            child.copy_length = min(parent.copy_length + 1, COPY_LONGEST)
    parent.n_children = n
    return count + n


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
