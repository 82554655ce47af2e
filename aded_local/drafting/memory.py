"""A drafter's memory as plain arrays, so that kernels take it whole, and the nodes a search grows."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from aded_local.drafting.compiling import kernel
from aded_local.drafting.evidence import Evidence
from aded_local.drafting.related import Conversations
from aded_local.drafting.statistics import Table

HEAD: Final = 0  # position after the newest token of the history
START: Final = 1  # position of the first token of this context
EPOCH: Final = 2  # number of contexts begun; part of the hash in the context table
COPY_AT: Final = 3  # position of the token a repeated passage proposes next, -1 for none
COPY_LENGTH: Final = 4  # tokens of that passage which already matched
RESUME_AT: Final = 5  # the same for a passage that was left a moment ago, -1 for none
RESUME_HITS: Final = 6  # tokens it foretold since
RESUME_MISSES: Final = 7  # and did not
COPY_RECORD: Final = 8  # of the latest copied tokens, a bit each: 1 where it was another
ASKED: Final = 9  # position after the first prompt of this context
N_NODES: Final = 10  # nodes in the pool after the last draft
N_VOCAB: Final = 11  # token ids are below it; what a file claims is not believed
STATE_SIZE: Final = 12

Integers = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]

NODE = np.dtype(
    [
        ("token", np.int32),
        ("parent", np.int32),
        ("depth", np.int32),
        ("first_child", np.int32),
        ("n_children", np.int32),  # -1 until expanded
        ("visits", np.int32),
        ("copy_length", np.int32),
        ("resume_hits", np.int32),
        ("kind", np.int32),  # class of its calibration
        ("copy_at", np.int64),
        ("resume_at", np.int64),
        ("mixed", np.float64),  # log-odds given the parent, before calibration
        ("conditional", np.float64),  # probability given the parent
        ("path", np.float64),  # product of the conditionals down to here
        ("value", np.float64),
    ],
    align=True,
)
POOL_SIZE: Final = 4096


class Predictor(NamedTuple):
    """The arrays behind a drafter. All but ``static``, ``phrases`` and ``used`` are changed in place.

    Attributes:
        memory: successors over everything seen.
        context: successors within this conversation.
        soft: what the target would have said, see ``soft``.
        static: successors in a corpus of one's own, counted beforehand; may lie in a mapped file.
        phrases: successors in shipped phrases; asked where ``static`` does not know a context.
        history: the newest tokens, a ring, int32 ``(2 ** a,)``.
        positions: where a context of ``passages.ANCHOR`` tokens was last met, by hash, int64 ``(2 ** b,)``.
        state: scalars, int64 ``(STATE_SIZE,)``.
        rates: how often evidence came true, see ``evidence``; float32 ``(3, SOURCES, CELLS)``.
        weights: of the mixing, see ``mixing``; float32 ``(SETS, SOURCES)``.
        finals: final calibration, see ``calibration``; float32 ``(2, CLASSES, BUCKETS)``.
        shifts: what it adds below the first candidates, see ``calibration``; float64 ``(2, GROUPS)``.
        used: parts that take part, see ``ingredients``; uint8 ``(PARTS,)``.
        evidence: of the node looked at last.
        conversations: earlier ones, see ``related``.
        nodes: pool of tree nodes, 0 is the root, structured ``(POOL_SIZE,)``.
    """

    memory: Table
    context: Table
    soft: Table
    static: Table
    phrases: Table
    history: Integers
    positions: npt.NDArray[np.int64]
    state: npt.NDArray[np.int64]
    rates: Floats
    weights: Floats
    finals: Floats
    shifts: npt.NDArray[np.float64]
    used: npt.NDArray[np.uint8]
    evidence: Evidence
    conversations: Conversations
    nodes: npt.NDArray[Any]


@kernel
def epoch_key(epoch: int) -> np.uint64:
    """Hash seed of the context table; another one for every conversation, so that none is cleared."""
    key: np.uint64 = np.uint64(epoch + 1) * np.uint64(0xD1B54A32D192ED03)
    return key


@kernel
def related_key(epoch: int) -> np.uint64:
    """The same for what was counted again from related conversations."""
    key: np.uint64 = np.uint64(epoch + 1) * np.uint64(0x94D049BB133111EB)
    return key


@kernel
def plant_root(model: Predictor) -> int:
    """Make node 0 the last token; returns the number of nodes, 1."""
    root = model.nodes[0]
    state = model.state
    root.token = model.history[(state[HEAD] - 1) & (model.history.shape[0] - 1)]
    root.parent = -1
    root.depth = 0
    root.n_children = -1
    root.visits = 0
    root.value = 0.0
    root.conditional = 1.0
    root.path = 1.0
    root.copy_at = state[COPY_AT]
    root.copy_length = state[COPY_LENGTH]
    root.resume_at = state[RESUME_AT]
    root.resume_hits = state[RESUME_HITS]
    return 1


@kernel
def token_at(model: Predictor, node: int, position: int) -> int:
    """The token at a position of the history, or beyond it on the path to ``node``; -1 for none."""
    head = model.state[HEAD]
    if position < head:
        if position < 0 or position <= head - model.history.shape[0]:
            return -1
        return int(model.history[position & (model.history.shape[0] - 1)])
    depth = position - head + 1
    while node > 0 and model.nodes[node].depth > depth:
        node = model.nodes[node].parent
    return int(model.nodes[node].token) if model.nodes[node].depth == depth else -1


@kernel
def latest_tokens(model: Predictor, node: int, latest: Integers) -> int:
    """Write the tokens up to ``node``, newest first, as many as ``latest`` holds; returns how many there are."""
    n = 0
    while node > 0 and n < latest.shape[0]:
        latest[n] = model.nodes[node].token
        node = model.nodes[node].parent
        n += 1
    position = model.state[HEAD] - 1
    while n < latest.shape[0] and position >= model.state[START]:
        latest[n] = model.history[position & (model.history.shape[0] - 1)]
        position -= 1
        n += 1
    return n
