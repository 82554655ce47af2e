"""How a context is made: its settings, as llama.cpp wants them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aded_local.errors import DeviceError
from aded_local.llama import logs
from aded_local.llama.interrupts import held_back
from aded_local.llama.loading import lib
from aded_local.llama.model import Model
from aded_local.llama.owned import Owned

CACHE_TYPES = {"f16": 1, "q8_0": 8, "bf16": 30, "f32": 0}
"""KV cache types by name, as ``enum ggml_type`` numbers them (ggml.h)."""

PREFILL_CHUNK = 512
"""Prompt tokens per decode: llama.cpp's own default physical batch (``n_ubatch``)."""

LARGEST_PASS = 65
"""Tokens of one verification at most: the paper's largest tree, 64 nodes, and its root. llama.cpp reserves memory
for the logits of as many tokens as it is told to expect, half a megabyte each with a large vocabulary."""


@dataclass(frozen=True, slots=True)
class ContextSettings:
    """How a context is made.

    Attributes:
        n_ctx: KV cells.
        n_threads: CPU threads.
        n_threads_batch: of passes over several tokens, prompts among them; 0 for as many as of others.
        flash_attention: fused attention kernels on or off.
        cache_type: key of ``CACHE_TYPES``.
        row_by_row: drafts are multiplied as one token is; see ``rows``. What is read of a prompt is not, so that plain
            decoding is the same with it and without.
        n_sequences: branches a tree may have.
        n_rollback: state snapshots asked for, recurrent and hybrid memory only.
    """

    n_ctx: int
    n_threads: int
    flash_attention: bool
    cache_type: str
    n_sequences: int
    n_rollback: int = 0
    n_threads_batch: int = 0
    row_by_row: bool = False

    @property
    def n_batch(self) -> int:
        """Tokens of a decode at most."""
        return min(PREFILL_CHUNK, self.n_ctx)

    def params(self) -> Any:
        """The same as llama.cpp takes it, a ``llama_context_params``."""
        params = lib.llama_context_default_params()
        params.n_ctx = self.n_ctx
        params.n_batch = self.n_batch
        params.n_ubatch = params.n_batch
        params.n_seq_max = self.n_sequences
        params.n_outputs_max = min(LARGEST_PASS, params.n_batch)
        params.n_rs_seq = self.n_rollback
        params.n_threads = self.n_threads
        params.n_threads_batch = self.n_threads_batch or self.n_threads
        params.flash_attn_type = (
            lib.LLAMA_FLASH_ATTN_TYPE_ENABLED if self.flash_attention else lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        params.type_k = params.type_v = CACHE_TYPES[self.cache_type]
        params.kv_unified = True
        # A window-sized cache forgets cells a rollback may need.
        params.swa_full = True
        params.no_perf = True
        params.pooling_type = lib.LLAMA_POOLING_TYPE_NONE  # of hidden states, where they are read
        return params


def open_context(model: Model, params: Any, what: str, *, remedy: str = "") -> Owned:
    """A context of llama.cpp's.

    Args:
        model: its weights and vocabulary, which are not freed before it.
        params: a ``llama_context_params``.
        what: of which size or for what, in the words of an error.
        remedy: what helps where there is no memory for it.

    Raises:
        DeviceError: llama.cpp could not make it.
    """
    logs.clear_errors()
    with held_back():  # until somebody owns it
        handle = lib.llama_init_from_model(model.handle, params)
        if not handle:
            reason = logs.last_error() or "out of memory"
            raise DeviceError(f"llama.cpp could not make a context {what}: {reason}{remedy}")
        return Owned(handle, lib.llama_free, model.owned)
