"""One llama.cpp context: batch, KV cache and logits of a loaded model.

At rest every cell of the cache carries every sequence id and positions run from 0 without a gap; the
invariant is what lets any tree start from any point without copying the prefix (llama.cpp, seen from
``llama_memory_seq_cp``, scans all cells for each call).
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from aded_local.errors import DeviceError
from aded_local.llama import logs
from aded_local.llama.batch import Batch
from aded_local.llama.context_settings import LARGEST_PASS, ContextSettings, open_context
from aded_local.llama.layout import PLAIN, Layout, lay_out
from aded_local.llama.loading import lib
from aded_local.llama.model import Model
from aded_local.llama.owned import Owned
from aded_local.llama.rows import row_by_row
from aded_local.tree import DraftTree

SMALLEST_CONTEXT = 256
"""Cells below which a context is of no use; also what llama.cpp pads the cache to."""


class Context:
    """A cache of decoded tokens that grows by verified paths and shrinks by rollback.

    Attributes:
        n_past: cells in use; positions ``0 … n_past - 1`` are decoded.
        n_threads: threads of the next pass.
        reads_hidden: verifications keep hidden states too (``hidden``); logits are the same to the last bit.

    Raises:
        DeviceError: llama.cpp could not make the context (memory, or a combination it does not support).
    """

    def __init__(self, model: Model, settings: ContextSettings) -> None:
        self.model = model
        self.settings = settings
        self.n_past = 0
        self.n_threads = settings.n_threads
        self.reads_hidden = False
        self._keeps_hidden: bool | None = False  # whether the last decode did; None where that is not known
        self._last_start = 0  # cells before the last decode
        self._n_verified = 0  # rows of the last decode, where it was a verification
        self._logit_views: dict[int, npt.NDArray[np.float32]] = {}
        self._verified_views: dict[tuple[int, int], npt.NDArray[np.float32]] = {}
        # -1 means every sequence, but running states are rolled back by number only.
        self._everywhere = 0 if settings.n_sequences == 1 else -1
        self._owned: Owned | None = open_context(
            model, settings.params(), f"of {settings.n_ctx} tokens", remedy="; ask for less with -c"
        )
        self._handle = self._owned.handle
        self._memory = lib.llama_get_memory(self._handle)
        # llama.cpp rounds up; what was asked for may be all the positions a model has learnt.
        self.n_ctx = min(int(lib.llama_n_ctx(self._handle)), settings.n_ctx)
        self.n_rollback = int(lib.llama_n_rs_seq(self._handle))
        self._batch = Batch(settings.n_batch, settings.n_sequences)

    def close(self) -> None:
        """Free cache and buffers."""
        self._owned = self._handle = None

    def set_threads(self, n: int) -> None:
        """Let later passes use ``n`` threads; where that is all, those over several tokens as the settings say."""
        if n != self.n_threads:
            several = self.settings.n_threads_batch if n == self.settings.n_threads else 0
            self.set_thread_counts(n, several or n)

    def set_thread_counts(self, one: int, several: int) -> None:
        """Let later passes over one token, and over several, use so many threads."""
        self.n_threads = 0  # a Ctrl-C may come before both agree
        lib.llama_set_n_threads(self._handle, one, several)
        self.n_threads = one

    @property
    def is_closed(self) -> bool:
        """Whether its memory was freed, so that nothing can be decoded."""
        return self._handle is None

    @property
    def batch_capacity(self) -> int:
        return self._batch.capacity

    # --- decoding ----------------------------------------------------------------------------

    def _require_open(self) -> None:
        if self.is_closed:
            raise DeviceError(
                "there is no context: its memory could not be had; end other programs and ask again"
            )

    def _decode(self, n: int, *, by_row: bool = False, keep_hidden: bool = False) -> float:
        self._require_open()
        if keep_hidden != self._keeps_hidden:
            # Not for prompts: llama.cpp would compute the logits of every token.
            self._keeps_hidden = None  # a Ctrl-C may come before both agree
            lib.llama_set_embeddings(self._handle, keep_hidden)
            self._keeps_hidden = keep_hidden
        batch = self._batch.struct
        batch.n_tokens = n
        self._last_start = self.n_past
        self._n_verified = 0
        with row_by_row(by_row):
            started = time.perf_counter()
            status = lib.llama_decode(self._handle, batch)
            # On a GPU decode returns before the work is done.
            lib.llama_synchronize(self._handle)
            elapsed = time.perf_counter() - started
        if status != 0:
            reason = logs.last_error() or f"status {status}"
            raise DeviceError(
                f"llama.cpp could not decode {n} tokens after {self.n_past}: {reason}; ask for less with -c"
            )
        return elapsed

    def prefill(
        self,
        tokens: npt.NDArray[np.int32],
        *,
        want_logits: bool = True,
        cancelled: Callable[[], bool] | None = None,
    ) -> float:
        """Decode prompt tokens behind what is cached, in chunks.

        Args:
            tokens: int32 ``(n,)``, ``n_past + n <= n_ctx``.
            want_logits: compute the logits of the last token (``logits(-1)`` afterwards).
            cancelled: asked before each chunk but the first; stops there, with ``n_past`` at what is decoded.

        Returns:
            Seconds in llama.cpp.

        Raises:
            DeviceError: llama.cpp refused; the cache is as before the failing chunk.
        """
        seconds = 0.0
        for start in range(0, tokens.shape[0], self.batch_capacity):
            chunk = tokens[start : start + self.batch_capacity]
            if start and cancelled is not None and cancelled():
                break
            n = chunk.shape[0]
            self._batch.begin()
            self._batch.put(chunk, np.arange(self.n_past, self.n_past + n))
            is_last = start + n == tokens.shape[0]
            self._batch.skip_logits(n - 1 if want_logits and is_last else n)
            seconds += self._decode(n)
            self.n_past += n
        return seconds

    def verify(self, root: int, tree: DraftTree) -> tuple[Layout, float]:
        """Decode the root and every node of ``tree`` in one pass.

        Cells are written but ``n_past`` does not move: call ``accept`` with the path that the target took.
        ``logits(0)`` are the root's and ``logits(layout.row_of[node])`` a node's.

        Args:
            root: the last accepted token, not decoded yet.
            tree: nodes below it; at most ``settings.n_sequences`` leaves.

        Returns:
            Where each node lies, and the seconds in llama.cpp.

        Raises:
            DeviceError: llama.cpp refused.
        """
        n = len(tree)
        self._batch.begin()
        self._batch.put_one(root, self.n_past)
        layout = PLAIN
        if n:
            layout = lay_out(tree, self.settings.n_sequences)
            if layout.is_chain:
                self._batch.put(tree.tokens, self.n_past + tree.depths, row=1)
            else:
                order = np.array(layout.order, np.int64)
                carried = [layout.sequences[node] for node in layout.order]
                self._batch.put(tree.tokens[order], self.n_past + tree.depths[order], carried, row=1)
        seconds = self._decode(n + 1, by_row=self.settings.row_by_row, keep_hidden=self.reads_hidden)
        self._n_verified = n + 1
        return layout, seconds

    def decode_placed(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        sequences: Sequence[Sequence[int]],
        wanted: int,
    ) -> float:
        """Decode tokens of several branches in one batch; ``n_past`` does not move, since the caller keeps the cells.

        Args:
            tokens: at most ``batch_capacity``.
            positions: of each.
            sequences: of each, at least one; the cells before it carry them all.
            wanted: the last so many rows get logits, at most ``LARGEST_PASS``: ``logits(row)`` by batch row.

        Returns:
            Seconds in llama.cpp.

        Raises:
            DeviceError: llama.cpp refused, and what the cells hold is not known any more.
        """
        n = len(tokens)
        self._batch.begin()
        self._batch.put(tokens, positions, sequences)
        self._batch.skip_logits(n - wanted)
        return self._decode(n)

    def share(self, source: int, sequence: int, start: int, end: int) -> None:
        """Let ``sequence`` have the cells of ``source`` from position ``start`` to before ``end``, uncomputed."""
        lib.llama_memory_seq_cp(self._memory, source, sequence, start, end)

    def drop(self, sequence: int, start: int) -> None:
        """Take the cells from position ``start`` on away from ``sequence``; -1 for every one.

        Raises:
            DeviceError: the memory cannot roll back.
        """
        self._remove(sequence, start, -1)

    def accept(self, tree: DraftTree, layout: Layout, path: list[int]) -> None:
        """Keep the root and the nodes of ``path``, drop the other nodes of the verified tree.

        Args:
            tree: what was verified.
            layout: what ``verify`` returned.
            path: node indices from the first level down; empty keeps the root alone.

        Raises:
            DeviceError: the memory could not roll back (cannot happen within ``n_rollback``).
        """
        start = self.n_past + 1
        end = start + len(path)
        if len(path) < len(tree):
            self._remove(self._everywhere, end, -1)
        if not layout.is_chain and path:
            winner = layout.sequences[path[-1]][0]
            carried = [set(layout.sequences[node]) for node in path]
            for sequence in range(self.settings.n_sequences):
                depth = sum(sequence in ids for ids in carried)
                if depth < len(path):
                    # This branch left the path: its nodes go, the accepted ones become its own.
                    self._remove(sequence, start + depth, end)
                    lib.llama_memory_seq_cp(self._memory, winner, sequence, start + depth, end)
        self.n_past = end

    def _remove(self, sequence: int, start: int, end: int) -> None:
        if not lib.llama_memory_seq_rm(self._memory, sequence, start, end):
            raise DeviceError(
                f"llama.cpp could not roll the {self.model.header.architecture} memory back; use --draft off"
            )

    def can_roll_back_to(self, n: int) -> bool:
        """Whether ``roll_back(n)`` keeps the first ``n`` tokens instead of clearing everything."""
        if n >= self.n_past or n == 0:
            return True
        if self.model.is_recurrent or self.model.is_hybrid:
            # llama.cpp also accepts to go back into an earlier batch, and then restores a wrong state.
            return n > self._last_start and self.n_past - n <= self.n_rollback
        return True

    def roll_back(self, n: int) -> int:
        """Forget all but the first ``n`` tokens; everything where the memory cannot.

        Returns:
            Tokens still cached: ``n`` or 0.
        """
        if n >= self.n_past:
            return self.n_past
        if (
            n > 0
            and self.can_roll_back_to(n)
            and lib.llama_memory_seq_rm(self._memory, self._everywhere, n, -1)
        ):
            self.n_past = n
        else:
            lib.llama_memory_clear(self._memory, False)
            self.n_past = 0
        return self.n_past

    def logits(self, row: int) -> npt.NDArray[np.float32]:
        """Logits of a batch row of the last decode, a view: float32 ``(n_vocab,)``.

        Valid until the next decode. ``-1`` is the last row that has logits.
        """
        self._require_open()
        pointer = lib.llama_get_logits_ith(self._handle, row)
        if not pointer:
            raise DeviceError(f"llama.cpp kept no logits for row {row}")
        # llama.cpp's buffer seldom moves, and wrapping it anew costs more than finding the arg-max in it.
        address = ctypes.addressof(pointer.contents)
        view = self._logit_views.get(address)
        if view is None:
            if len(self._logit_views) > 4 * LARGEST_PASS:
                self._logit_views.clear()
            view = np.ctypeslib.as_array(pointer, shape=(self.model.n_vocab,))
            self._logit_views[address] = view
        return view

    def verified_logits(self) -> npt.NDArray[np.float32]:
        """Logits of the pass just verified by batch row, a view: float32 ``(n_nodes + 1, n_vocab)``, contiguous.

        Valid until the next decode.

        Raises:
            DeviceError: the last decode was no verification, or llama.cpp's rows are not where they should be.
        """
        n = self._n_verified
        first = lib.llama_get_logits_ith(self._handle, 0) if n else None
        last = lib.llama_get_logits_ith(self._handle, n - 1) if n > 1 else first
        if not first or not last:
            raise DeviceError(f"llama.cpp kept no logits for {n} verified rows")
        address = ctypes.addressof(first.contents)
        # One buffer, in the batch's order (llama-context.cpp, output_reorder), as long as every row is wanted.
        stride = self.model.n_vocab * ctypes.sizeof(ctypes.c_float)
        if ctypes.addressof(last.contents) != address + (n - 1) * stride:
            raise DeviceError(f"llama.cpp's logits of {n} verified rows do not lie side by side")
        view = self._verified_views.get((address, n))
        if view is None:
            if len(self._verified_views) > 4 * LARGEST_PASS:
                self._verified_views.clear()
            view = np.ctypeslib.as_array(first, shape=(n, self.model.n_vocab))
            self._verified_views[address, n] = view
        return view

    def hidden(self, row: int) -> npt.NDArray[np.float32]:
        """The last layer's state at a batch row of the pass just verified, a copy: float32 ``(n_hidden,)``.

        Raises:
            DeviceError: the last decode was no verification, or ``reads_hidden`` was not set before it.
        """
        self._require_open()
        kept = self._keeps_hidden and 0 <= row < self._n_verified
        pointer = lib.llama_get_embeddings_ith(self._handle, row) if kept else None
        if not pointer:
            raise DeviceError(f"llama.cpp kept no hidden state for row {row}")
        return np.array(np.ctypeslib.as_array(pointer, shape=(self.model.n_hidden,)))

    @property
    def handle(self) -> object:
        """llama.cpp's context, for the sampler chain of this package."""
        return self._handle

    # --- leaving and coming back -------------------------------------------------------------

    def state_size(self) -> int:
        """Bytes of ``state``."""
        return int(lib.llama_state_seq_get_size(self._handle, 0))

    def state(self) -> npt.NDArray[np.uint8]:
        """What the cells hold, as llama.cpp writes it: uint8 ``(n_bytes,)``."""
        state = np.empty(self.state_size(), np.uint8)
        pointer = state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        written = lib.llama_state_seq_get_data(self._handle, pointer, state.size, 0)
        return state[:written]

    def restore(self, state: npt.NDArray[np.uint8], n_past: int) -> bool:
        """Put a state back into empty cells; tells whether llama.cpp took it, and leaves them empty where not.

        Args:
            state: of a context with the same model and settings.
            n_past: cells that were in use then.
        """
        pointer = state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        if n_past == 0 or not lib.llama_state_seq_set_data(self._handle, pointer, state.size, 0):
            self.clear()
            return n_past == 0
        for sequence in range(1, self.settings.n_sequences):
            lib.llama_memory_seq_cp(self._memory, 0, sequence, -1, -1)
        self.n_past = self._last_start = n_past  # snapshots of running states are not part of it
        return True

    # --- for the probe -----------------------------------------------------------------------

    def fill_by_copy(self, n_cells: int) -> None:
        """Fill the cache with ``n_cells`` cells in all, by copying what is there: no decoding.

        The copies share positions with the originals, so the text they stand for makes no sense, but
        attention reads them all, which is what a cost probe needs. ``clear`` afterwards.
        """
        state = self.state()
        buffer, size = state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)), state.size
        n_prefix = self.n_past
        cells = n_prefix
        while cells + n_prefix <= n_cells:
            # Sequence 1 receives a copy in cells of its own, hands them to all and is emptied for the next.
            if not lib.llama_state_seq_set_data(self._handle, buffer, size, 1):
                raise DeviceError("llama.cpp could not restore a sequence's state")
            for sequence in range(self.settings.n_sequences):
                if sequence != 1:
                    lib.llama_memory_seq_cp(self._memory, 1, sequence, -1, -1)
            cells += n_prefix
        # Restoring took sequence 1 away from the cells before; all sequences must hold the same.
        lib.llama_memory_seq_cp(self._memory, 0, 1, -1, -1)

    def probe_batch(self, tokens: npt.NDArray[np.int32]) -> float:
        """Decode ``tokens`` as one batch with logits for each, as a verified chain does; seconds."""
        n = tokens.shape[0]
        self._batch.begin()
        self._batch.put(tokens, np.arange(self.n_past, self.n_past + n))
        seconds = self._decode(n, by_row=self.settings.row_by_row)
        self.n_past += n
        return seconds

    def clear(self) -> None:
        """Forget everything."""
        if not self.is_closed:
            lib.llama_memory_clear(self._memory, False)
        self.n_past = 0
