"""Embeddings by a model that writes: a second context, so that the cells of conversations stay as they are."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from aded_local.errors import DeviceError
from aded_local.llama import logs
from aded_local.llama.interrupts import held_back
from aded_local.llama.loading import lib
from aded_local.llama.model import Model
from aded_local.llama.owned import Owned
from aded_local.llama.rows import row_by_row

POOLINGS: Final = {"none": 0, "mean": 1, "cls": 2, "last": 3}
"""How the vectors of a text's tokens become one, as ``enum llama_pooling_type`` numbers them; ``none`` keeps them."""

MODELS_OWN: Final = -1
"""The pooling that the file asks for; for models that write, that is mostly none."""


class Embedder:
    """A context that gives the last layer's vectors; one thread at a time uses it.

    Args:
        model: weights and vocabulary, which stay with it.
        n_batch: tokens of a text at most.
        n_threads: CPU threads.
        pooling: a value of ``POOLINGS``, or ``MODELS_OWN``.

    Attributes:
        n_batch: as given.
        pools: one vector comes for a text, not one for each token.

    Raises:
        DeviceError: llama.cpp could not make the context.
    """

    def __init__(self, model: Model, *, n_batch: int, n_threads: int, pooling: int = MODELS_OWN) -> None:
        params = lib.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = n_batch
        params.n_seq_max = 1
        params.n_threads = params.n_threads_batch = n_threads
        params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_DISABLED  # as llama-cpp-python embeds
        params.pooling_type = pooling
        params.embeddings = True
        params.no_perf = True
        logs.clear_errors()
        with held_back():
            handle = lib.llama_init_from_model(model.handle, params)
            if not handle:
                reason = logs.last_error() or "out of memory"
                raise DeviceError(f"llama.cpp could not make a context for embeddings: {reason}")
            self._owned = Owned(handle, lib.llama_free, model.owned)
        self._width = model.n_embd
        self.n_batch = n_batch
        self.pools = int(lib.llama_pooling_type(handle)) != POOLINGS["none"]
        self._tokens = np.zeros(n_batch, np.int32)
        self._positions = np.arange(n_batch, dtype=np.int32)
        self._counts = np.ones(n_batch, np.int32)
        self._wanted = np.ones(n_batch, np.int8)
        self._sequence = np.zeros(1, np.int32)
        row = ctypes.POINTER(lib.llama_seq_id)
        pointer = self._sequence.ctypes.data_as(row)
        self._rows = (row * n_batch)(*([pointer] * n_batch))
        self._batch = lib.llama_batch(
            0,
            self._tokens.ctypes.data_as(ctypes.POINTER(lib.llama_token)),
            None,
            self._positions.ctypes.data_as(ctypes.POINTER(lib.llama_pos)),
            self._counts.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            self._rows,
            self._wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def embed(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """The vectors of one text: float32 ``(n_tokens, n_embd)``, or ``(1, n_embd)`` where they are pooled.

        Args:
            tokens: 1 to ``n_batch`` ids.

        Raises:
            DeviceError: llama.cpp refused.
        """
        n, handle = len(tokens), self._owned.handle
        self._tokens[:n] = tokens
        self._batch.n_tokens = n
        lib.llama_memory_clear(lib.llama_get_memory(handle), True)
        with row_by_row(False):
            status = lib.llama_decode(handle, self._batch)
        if status != 0:
            raise DeviceError(
                f"llama.cpp could not embed {n} tokens: {logs.last_error() or f'status {status}'}"
            )
        found = lib.llama_get_embeddings_seq(handle, 0) if self.pools else lib.llama_get_embeddings(handle)
        if not found:
            raise DeviceError("llama.cpp gave no embeddings; another model may")
        rows = np.ctypeslib.as_array(found, shape=(1 if self.pools else n, self._width))
        return np.array(rows, np.float32)
