"""Where candidates come from: contexts of all orders in several tables, contexts with gaps, repeated passages.

``gather`` fills ``evidence`` for one node: each source enters a cell for each token it knows there.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from aded_local.drafters.ngram.candidates import (
    CONTEXT,
    COPY,
    LONGEST,
    MEMORY,
    MODEL,
    SEEN_ORDERS,
    SOFT,
    SOFT_ORDERS,
    SPARSE,
    SPARSES,
    STATIC,
    UNIGRAM,
    Evidence,
    clear,
    count_cell,
    propose,
)
from aded_local.drafters.ngram.match_model import copy_cell, length_class
from aded_local.drafters.ngram.mixing import (
    COMMON_SET,
    COPY_BUCKETS,
    FIRST_SETS,
    MODEL_COMMON_SET,
    MODEL_FIRST_SETS,
    MODEL_SECOND_SETS,
)
from aded_local.drafters.ngram.state import (
    Integers,
    Predictor,
    Tables,
    epoch_key,
    latest_tokens,
    token_at,
)
from aded_local.drafters.ngram.statements import place_key, read_statement, statement_of
from aded_local.kernels.compiling import kernel
from aded_local.kernels.prefetching import prefetch
from aded_local.ngrams.table import (
    BUCKET,
    CHECK_MASK,
    CHECK_SHIFT,
    COUNT_MASK,
    COUNT_SHIFT,
    LAST,
    ORDERS,
    SEED_KEY,
    TOKEN_MASK,
    WIDE_ORDERS,
    Table,
    check_of,
    extend_hash,
    first_entry,
)

LONGEST_KEY: Final = np.uint64(0x9E3779B97F4A7C15)
SPARSE_KEYS: Final = (
    np.uint64(0xD1B54A32D192ED03),
    np.uint64(0xE7037ED1A0B428DB),
    np.uint64(0x8EBC6AF09C88C6E3),
)
"""They tell apart the kinds of contexts that share the memory's table."""
UNIGRAM_BELOW: Final = 3
"""Frequent tokens are proposed where no context as long as this is known."""


@kernel
def total_of(table: Table, key: np.uint64, wide: bool) -> int:
    """Units counted in the context ``key``; 0 where it is unknown."""
    first = first_entry(table, key, wide)
    check = check_of(key)
    total = 0
    for i in range(first, first + (2 * BUCKET if wide else BUCKET)):
        entry = table[i]
        if entry != 0 and (entry >> CHECK_SHIFT) & CHECK_MASK == check:
            total += (entry >> COUNT_SHIFT) & COUNT_MASK
    return total


@kernel
def ask(evidence: Evidence, source: int, table: Table, key: np.uint64, wide: bool, total: int) -> None:
    """Enter what the context ``key``, of ``total`` units, says."""
    if total == 0:
        return
    evidence.absent[source] = count_cell(0, total, 0)
    first = first_entry(table, key, wide)
    check = check_of(key)
    for i in range(first, first + (2 * BUCKET if wide else BUCKET)):
        entry = table[i]
        if entry != 0 and (entry >> CHECK_SHIFT) & CHECK_MASK == check:
            count = (entry >> COUNT_SHIFT) & COUNT_MASK
            last = 1 if entry & LAST else 0
            propose(evidence, source, entry & TOKEN_MASK, count_cell(count, total - count, last))


@kernel
def sparse_key(kind: int, latest: Integers, n: int) -> np.uint64:
    """The hash of a context with a gap, 0 where the text is too short."""
    key: np.uint64 = np.uint64(0)
    if n < (2 if kind == 0 else 3):
        return key
    key = SPARSE_KEYS[kind]
    key = extend_hash(key, latest[0 if kind == 2 else 1])
    return key if kind == 0 else extend_hash(key, latest[2])


@kernel
def prefetch_context(table: Table, key: np.uint64, order: int) -> None:
    """Ask for what ``total_of`` will read."""
    wide = order <= WIDE_ORDERS
    first = first_entry(table, key, wide)
    prefetch(table, first)
    if wide:
        prefetch(table, first + BUCKET)


@kernel
def gather(model: Predictor, tables: Tables, node: int) -> None:
    """Fill ``model.evidence`` with what is known of the tokens after ``node``."""
    evidence, used = model.evidence, model.used
    clear(evidence)
    evidence.bound = model.state.n_vocab
    n = latest_tokens(model, node)
    latest, totals, orders = evidence.latest, evidence.totals, evidence.orders
    keys, context_keys, sparse_keys = evidence.keys, evidence.context_keys, evidence.sparse_keys
    own_static = 0
    keys[0] = SEED_KEY
    context_keys[0] = epoch_key(model.state.epoch)
    for k in range(1, min(ORDERS, n) + 1):
        keys[k] = extend_hash(keys[k - 1], latest[k - 1])
        prefetch_context(tables.static, keys[k], k)
        prefetch_context(tables.phrases, keys[k], k)
        if k <= SEEN_ORDERS:
            context_keys[k] = extend_hash(context_keys[k - 1], latest[k - 1])
            prefetch_context(tables.memory, keys[k], k)
            prefetch_context(tables.context, context_keys[k], k)
    for kind in range(SPARSES):
        sparse_keys[kind] = sparse_key(kind, latest, n)
        prefetch_context(tables.memory, sparse_keys[kind], ORDERS)
    for k in range(1, min(ORDERS, n) + 1):
        # A table that knows a longer context knows this one too.
        wide = k <= WIDE_ORDERS
        if k <= SEEN_ORDERS and orders[0] == k - 1 and used[CONTEXT + k - 1]:
            totals[0, k] = total_of(tables.context, context_keys[k], wide)
            orders[0] = k if totals[0, k] > 0 else orders[0]
        if k <= SEEN_ORDERS and orders[1] == k - 1 and used[MEMORY + k - 1]:
            totals[1, k] = total_of(tables.memory, keys[k], wide)
            orders[1] = k if totals[1, k] > 0 else orders[1]
        if orders[2] == k - 1 and used[STATIC + k - 1]:
            totals[2, k] = total_of(tables.static, keys[k], wide) if own_static == k - 1 else 0
            if totals[2, k] > 0:
                own_static = k
            else:
                totals[2, k] = total_of(tables.phrases, keys[k], wide)
            orders[2] = k if totals[2, k] > 0 else orders[2]
    said = -1
    if used[MODEL]:
        length = model.state.head - model.state.start + model.nodes[node].depth
        said = statement_of(model.statements, place_key(keys[min(ORDERS, n)], length))
        if said >= 0:
            read_statement(evidence, model.statements, said)
    copy_class = ask_passages(model, node)
    for k in range(ORDERS, 0, -1):
        wide = k <= WIDE_ORDERS
        if k <= SEEN_ORDERS:
            ask(evidence, CONTEXT + k - 1, tables.context, context_keys[k], wide, totals[0, k])
            ask(evidence, MEMORY + k - 1, tables.memory, keys[k], wide, totals[1, k])
        static = tables.static if k <= own_static else tables.phrases
        ask(evidence, STATIC + k - 1, static, keys[k], wide, totals[2, k])
        if k <= SOFT_ORDERS and k <= n and used[SOFT + k - 1]:
            ask(evidence, SOFT + k - 1, tables.soft, keys[k], True, total_of(tables.soft, keys[k], True))
    order = orders[1]
    if 0 < order < SEEN_ORDERS and used[LONGEST]:
        key = keys[order] ^ LONGEST_KEY
        ask(evidence, LONGEST, tables.memory, key, False, total_of(tables.memory, key, False))
    for kind in range(SPARSES):
        key = sparse_keys[kind]
        if key != 0 and used[SPARSE + kind]:
            ask(evidence, SPARSE + kind, tables.memory, key, False, total_of(tables.memory, key, False))
    if max(orders[0], orders[1]) < UNIGRAM_BELOW and used[UNIGRAM]:
        ask(evidence, UNIGRAM, tables.memory, SEED_KEY, True, total_of(tables.memory, SEED_KEY, True))
    evidence.first_set = orders[0] * (SEEN_ORDERS + 1) + orders[1]
    evidence.second_set = FIRST_SETS + copy_class * (ORDERS + 1) + orders[2]
    evidence.common_set = COMMON_SET
    evidence.spoke = 0
    if said >= 0:
        evidence.first_set = MODEL_FIRST_SETS + model.statements[said].sure
        evidence.second_set = MODEL_SECOND_SETS + copy_class
        evidence.common_set = MODEL_COMMON_SET
        evidence.spoke = 1


@kernel
def ask_passages(model: Predictor, node: int) -> int:
    """Enter the next tokens of the passages followed at ``node``; returns the copied one's class, 0 for none."""
    state, evidence = model.state, model.evidence
    found = 0
    at = model.nodes[node].copy_at
    if at >= 0 and model.used[COPY]:
        token = token_at(model, node, at)
        if token >= 0:
            length = model.nodes[node].copy_length
            local = 1 if at >= state.start else 0
            record = state.copy_record
            propose(evidence, COPY, token, copy_cell(length, local, record))
            found = 1 + length_class(length) * (COPY_BUCKETS - 1) // 16
    return found
