"""All a drafter remembers, so that kernels take it whole, and the nodes a search grows."""

from __future__ import annotations

from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from aded_local.drafters.ngram.calibration import BUCKETS, CLASSES
from aded_local.drafters.ngram.candidates import CELLS, EVIDENCE, SOURCES, Evidence
from aded_local.drafters.ngram.components import PARTS
from aded_local.drafters.ngram.mixing import SETS
from aded_local.kernels.compiling import kernel
from aded_local.ngrams.table import Table

Integers = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


class State(Protocol):
    """Where a drafter stands: a record of ``STATE``.

    Attributes:
        head: position after the newest token of the history.
        start: position of the first token of this context.
        epoch: number of contexts begun; part of the hash in the context table.
        copy_at: position of the token a repeated passage proposes next, -1 for none.
        copy_length: tokens of that passage which already matched.
        copy_record: of the latest copied tokens, a bit each: 1 where it was another.
        n_nodes: nodes in the pool after the last draft.
        n_vocab: token ids are below it; what a file claims is not believed.
        n_told: statements that a draft model made.
    """

    head: int
    start: int
    epoch: int
    copy_at: int
    copy_length: int
    copy_record: int
    n_nodes: int
    n_vocab: int
    n_told: int


STATE = np.dtype([(name, np.int64) for name in State.__annotations__])

NODE = np.dtype(
    [
        ("token", np.int32),
        ("parent", np.int32),
        ("depth", np.int32),
        ("first_child", np.int32),
        ("n_children", np.int32),  # -1 until expanded
        ("visits", np.int32),
        ("copy_length", np.int32),
        ("kind", np.int32),  # class of its calibration
        ("source", np.int32),  # of candidates.SOURCES, that which says most for it
        ("copy_at", np.int64),
        ("mixed", np.float64),  # log-odds given the parent, before calibration
        ("conditional", np.float64),  # probability given the parent
        ("path", np.float64),  # product of the conditionals down to here
        ("rank", np.float64),  # the search takes the nodes of the highest first
    ],
    align=True,
)
POOL_SIZE: Final = 4096

NAMED: Final = 8
"""Tokens that a draft model names behind a place, as ``top_k`` finds them."""
STATEMENTS: Final = 4096
"""What a draft model said of so many places is remembered: of tens of steps beside which a fast one is asked for a
hundred places each. Chosen, so that newer ones hardly ever have to give way."""

STATEMENT = np.dtype(
    [
        ("key", np.uint64),  # of the place, 0 for none
        ("tokens", np.int32, NAMED),  # -1 for none
        ("cells", np.int32, NAMED),  # their evidence
        ("absent", np.int32),  # that of all others
        ("sure", np.int32),  # class of how likely the first one is
        ("told", np.int64),  # statements before it
    ],
    align=True,
)

MOST_NODES: Final = 64
"""Nodes of the largest draft, as in the paper."""

HISTORY_BITS: Final = 20
POSITION_BITS: Final = 18


class Predictor(Protocol):
    """What a drafter remembers beside its tables, and room to work in: a record of ``PREDICTOR``, changed in place.

    One address is handed from kernel to kernel. When it was thirty arrays, every call from Python took seven
    microseconds longer; ``compiling`` says what else.

    Attributes:
        history: the newest tokens, a ring, int32 ``(2 ** HISTORY_BITS,)``.
        positions: where a context of ``match_model.ANCHOR`` tokens was last met, by hash, int64.
        state: where it stands.
        rates: how often evidence came true, see ``candidates``; float32 ``(3, SOURCES, CELLS)``.
        weights: of the mixing, see ``mixing``; float32 ``(SETS, SOURCES)``.
        statements: what a draft model said, by place, see ``statements``; structured ``(STATEMENTS,)``.
        finals: final calibration, see ``calibration``; float32 ``(2, CLASSES, BUCKETS)``.
        used: parts that take part, see ``components``; uint8 ``(PARTS,)``.
        evidence: of the node looked at last.
        nodes: pool of tree nodes, 0 is the root, structured ``(POOL_SIZE,)``.
        means, bonuses: of the same nodes, see ``puct``; float32 ``(POOL_SIZE,)``.
        heap: of places in the pool, scratch for a search, int32 ``(POOL_SIZE,)``.
        chosen: places of the nodes chosen for the draft, int32 ``(MOST_NODES,)``.
        tree: the draft: tokens, parents and depths, int32 ``(3, MOST_NODES)``.
        sources: what foresaw its nodes, see ``components.KIND_OF_SOURCE``, uint8 ``(MOST_NODES,)``.
        probabilities: of its paths, float32 ``(MOST_NODES,)``.
    """

    history: Integers
    positions: npt.NDArray[np.int64]
    state: State
    rates: Floats
    weights: Floats
    finals: Floats
    used: npt.NDArray[np.uint8]
    statements: npt.NDArray[Any]
    evidence: Evidence
    nodes: npt.NDArray[Any]
    means: Floats
    bonuses: Floats
    heap: Integers
    chosen: Integers
    tree: Integers
    sources: npt.NDArray[np.uint8]
    probabilities: Floats


def predictor_type(
    history_bits: int = HISTORY_BITS, position_bits: int = POSITION_BITS, pool_size: int = POOL_SIZE
) -> np.dtype[Any]:
    """The type of a record of these sizes. Kernels are compiled for one: others are for tests of what overflows."""
    return np.dtype(
        [
            ("positions", np.int64, 1 << position_bits),
            ("history", np.int32, 1 << history_bits),
            ("nodes", NODE, pool_size),
            ("means", np.float32, pool_size),
            ("bonuses", np.float32, pool_size),
            ("heap", np.int32, pool_size),
            ("chosen", np.int32, MOST_NODES),
            ("tree", np.int32, (3, MOST_NODES)),
            ("sources", np.uint8, MOST_NODES),
            ("probabilities", np.float32, MOST_NODES),
            ("rates", np.float32, (3, SOURCES, CELLS)),
            ("weights", np.float32, (SETS, SOURCES)),
            ("finals", np.float32, (2, CLASSES, BUCKETS)),
            ("statements", STATEMENT, STATEMENTS),
            ("evidence", EVIDENCE),
            ("state", STATE),
            ("used", np.uint8, PARTS),
        ],
        align=True,
    )


PREDICTOR: Final = predictor_type()

Block = npt.NDArray[Any]
"""A record as Python holds it: an array of ``PREDICTOR``, ``(1,)``."""


class Tables(NamedTuple):
    """What followed what, see ``ngrams.table``.

    Attributes:
        memory: over everything seen.
        context: within each conversation.
        soft: what the target found likely, see ``logit_counts``.
        static: in a corpus of one's own, counted beforehand; may lie in a mapped file, and is never changed.
        phrases: in shipped phrases, likewise; asked where ``static`` does not know a context.
    """

    memory: Table
    context: Table
    soft: Table
    static: Table
    phrases: Table


@kernel
def epoch_key(epoch: int) -> np.uint64:
    """Hash seed of the context table; another one for every conversation, so that none is cleared."""
    key: np.uint64 = np.uint64(epoch + 1) * np.uint64(0xD1B54A32D192ED03)
    return key


@kernel
def plant_root(model: Predictor) -> int:
    """Make node 0 the last token; returns the number of nodes: 1, or 0 before any token of this context."""
    root = model.nodes[0]
    state = model.state
    state.n_nodes = 0
    if state.head == state.start:
        return 0
    root.token = model.history[(state.head - 1) & (model.history.shape[0] - 1)]
    root.parent = -1
    root.depth = 0
    root.n_children = -1
    root.visits = 0
    root.conditional = root.path = root.rank = 1.0
    root.copy_at = state.copy_at
    root.copy_length = state.copy_length
    return 1


@kernel
def token_at(model: Predictor, node: int, position: int) -> int:
    """The token at a position of the history, or beyond it on the path to ``node``; -1 for none."""
    head = model.state.head
    if position < head:
        if position < 0 or position <= head - model.history.shape[0]:
            return -1
        return int(model.history[position & (model.history.shape[0] - 1)])
    depth = position - head + 1
    while node > 0 and model.nodes[node].depth > depth:
        node = model.nodes[node].parent
    return int(model.nodes[node].token) if model.nodes[node].depth == depth else -1


@kernel
def latest_tokens(model: Predictor, node: int) -> int:
    """Write the tokens up to ``node`` to ``evidence.latest``, as many as it holds; returns how many there are."""
    latest = model.evidence.latest
    n = 0
    while node > 0 and n < latest.shape[0]:
        latest[n] = model.nodes[node].token
        node = model.nodes[node].parent
        n += 1
    position = model.state.head - 1
    while n < latest.shape[0] and position >= model.state.start:
        latest[n] = model.history[position & (model.history.shape[0] - 1)]
        position -= 1
        n += 1
    return n
