"""A drafter's memory as plain arrays, so that kernels take it whole, and the nodes a search grows."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from aded_local.drafting.calibration import Rates
from aded_local.drafting.compiling import kernel
from aded_local.drafting.statistics import Table

HEAD: Final = 0  # position after the newest token of the history
START: Final = 1  # position of the first token of this context
EPOCH: Final = 2  # number of contexts begun; part of the hash in the context table
COPY_AT: Final = 3  # position of the token a repeated passage proposes next, -1 for none
COPY_LENGTH: Final = 4  # tokens of that passage which already matched
N_NODES: Final = 5  # nodes in the pool after the last draft
STATE_SIZE: Final = 6

SEED_KEY: Final = np.uint64(0x243F6A8885A308D3)
LONGEST_KEY: Final = np.uint64(0x9E3779B97F4A7C15)
"""Told apart by this: how a context went on when no longer one was known."""

SPARSE_KEY: Final = np.uint64(0xD1B54A32D192ED03)
"""Told apart by this: what came two places after a token, whatever stood between."""

ECHO_PLACES: Final = 1024
"""Tokens whose trust in echoes is told apart, by hash."""
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
        context: successors within this conversation.
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
