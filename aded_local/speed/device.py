"""Defaults that fit the machine: threads, context length."""

from __future__ import annotations

import psutil

from aded_local.llama import Model
from aded_local.llama.context import SMALLEST_CONTEXT
from aded_local.trials import processor

LARGEST_DEFAULT_CONTEXT = 8192
"""Tokens of context unless the user asks for more, so that nobody is surprised by the size of the cache."""

CACHE_SHARE = 0.5
"""Share of the memory that is free after loading which a KV cache may take; other programs need the rest."""


def physical_threads() -> int:
    """Physical cores this process may run on."""
    return processor.physical_threads()


def logical_threads() -> int:
    """Threads this process may run at once."""
    return processor.logical_threads()


def default_context(model: Model) -> int:
    """The smaller of what the model was trained on, what memory holds, and the default limit, in tokens."""
    fits = int(psutil.virtual_memory().available * CACHE_SHARE) // model.kv_bytes_per_cell
    trained = model.n_ctx_train or LARGEST_DEFAULT_CONTEXT
    return max(SMALLEST_CONTEXT, min(trained, fits, LARGEST_DEFAULT_CONTEXT))


def device_name() -> str:
    """The processor's name, as its maker writes it."""
    return processor.processor().name
