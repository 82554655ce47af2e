"""The rows of a decode: tokens, positions and sequences, in memory that NumPy and llama.cpp share."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

from aded_local.llama.loading import lib
from aded_local.tree import IntArray


class Batch:
    """What one context decodes. At rest every row carries every sequence, and gets logits.

    Args:
        capacity: rows at most.
        n_sequences: sequences of the context.

    Attributes:
        capacity: as given.
        struct: llama.cpp's view of it.
    """

    def __init__(self, capacity: int, n_sequences: int) -> None:
        self.capacity = capacity
        self._n_sequences = n_sequences
        self._tokens = np.zeros(capacity, np.int32)
        self._positions = np.zeros(capacity, np.int32)
        self._n_sequence_ids = np.full(capacity, n_sequences, np.int32)
        self._wanted = np.ones(capacity, np.int8)
        self._all_sequences = np.arange(n_sequences, dtype=np.int32)
        self._sequence_ids = np.tile(self._all_sequences, (capacity, 1))
        row_type = ctypes.POINTER(lib.llama_seq_id)
        address = self._sequence_ids.ctypes.data
        stride = self._sequence_ids.strides[0]
        self._rows = (row_type * capacity)(
            *(ctypes.cast(address + i * stride, row_type) for i in range(capacity))
        )
        self.struct = lib.llama_batch(
            0,
            self._tokens.ctypes.data_as(ctypes.POINTER(lib.llama_token)),
            None,
            self._positions.ctypes.data_as(ctypes.POINTER(lib.llama_pos)),
            self._n_sequence_ids.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            self._rows,
            self._wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )
        # So many rows may carry some sequences only, or get no logits. Both are noted before they are so, and made good
        # at the next beginning: a Ctrl-C may come at any instant.
        self._placed = self._skipped = 0
        # Single items are written through these: NumPy's way is longer, and after a pass all of it has to come back
        # into the caches.
        self._token_items = self._tokens.data
        self._position_items = self._positions.data

    def begin(self) -> None:
        """Let every row carry every sequence again, and get logits."""
        if self._placed:
            self._n_sequence_ids[: self._placed] = self._n_sequences
            self._sequence_ids[: self._placed] = self._all_sequences
            self._placed = 0
        if self._skipped:
            self._wanted[: self._skipped] = 1
            self._skipped = 0

    def put_one(self, token: int, position: int) -> None:
        """Put a token into the first row."""
        self._token_items[0] = token
        self._position_items[0] = position

    def put(
        self,
        tokens: IntArray | Sequence[int],
        positions: IntArray | Sequence[int],
        sequences: Sequence[Sequence[int]] = (),
        row: int = 0,
    ) -> None:
        """Put tokens into the rows from ``row`` on.

        Args:
            tokens: ids, ``(n,)``.
            positions: of each.
            sequences: that each carries; none given for all sequences.
            row: the first.
        """
        stop = row + len(tokens)
        if sequences:
            self._placed = stop
        self._tokens[row:stop] = tokens
        self._positions[row:stop] = positions
        for at, ids in enumerate(sequences, start=row):
            self._n_sequence_ids[at] = len(ids)
            self._sequence_ids[at, : len(ids)] = ids

    def skip_logits(self, n: int) -> None:
        """Let the first ``n`` rows get no logits until the next beginning."""
        self._skipped = n
        self._wanted[:n] = 0
