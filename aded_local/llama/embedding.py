"""Embeddings by a model that writes: a second context, so that the cells of conversations stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from aded_local.errors import DeviceError
from aded_local.llama import logs
from aded_local.llama.batch import Batch
from aded_local.llama.context_settings import open_context
from aded_local.llama.loading import lib
from aded_local.llama.model import Model
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
        self._owned = open_context(model, params, "for embeddings")
        self._width = model.n_embd
        self.n_batch = n_batch
        self.pools = int(lib.llama_pooling_type(self._owned.handle)) != POOLINGS["none"]
        self._batch = Batch(n_batch, 1)

    def embed(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """The vectors of one text: float32 ``(n_tokens, n_embd)``, or ``(1, n_embd)`` where they are pooled.

        Args:
            tokens: 1 to ``n_batch`` ids.

        Raises:
            DeviceError: llama.cpp refused.
        """
        n, handle = len(tokens), self._owned.handle
        self._batch.put(tokens, range(n))
        self._batch.struct.n_tokens = n
        lib.llama_memory_clear(lib.llama_get_memory(handle), True)
        with row_by_row(False):
            status = lib.llama_decode(handle, self._batch.struct)
        if status != 0:
            raise DeviceError(
                f"llama.cpp could not embed {n} tokens: {logs.last_error() or f'status {status}'}"
            )
        found = lib.llama_get_embeddings_seq(handle, 0) if self.pools else lib.llama_get_embeddings(handle)
        if not found:
            raise DeviceError("llama.cpp gave no embeddings; another model may")
        rows = np.ctypeslib.as_array(found, shape=(1 if self.pools else n, self._width))
        return np.array(rows, np.float32)
