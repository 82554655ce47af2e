"""Tries llama.cpp on this processor; ``aded_local.trials.preflight`` runs it in a child process.

    python -m aded_local.llama.preflight_trial FOLDER      quantize and decode tiny models, in FOLDER
    python -m aded_local.llama.preflight_trial --describe  print what llama.cpp says of its build

Each kernel family of ggml's CPU backend is tried once: a type of weights, one token and several (plain products and
tiled ones, AMX among the latter), both kinds of attention and cache, one thread and many.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from llama_cpp import llama_cpp as lib

from aded_local.errors import DeviceError
from aded_local.llama import logs
from aded_local.llama.backend import start_backend
from aded_local.llama.context_settings import CACHE_TYPES
from aded_local.llama.quantize import FILE_TYPES
from aded_local.trials.preflight import NOT_FINITE
from aded_local.trials.processor import physical_threads
from aded_local.trials.trial import step
from aded_models import builtin_path

FAMILIES = ("q4_0", "q8_0", "q4_k_m", "bf16", "f16")
"""One type of each family for which ggml has its own kernels (ggml-cpu: repack.cpp, amx/mmq.cpp, vec.cpp,
llamafile/)."""

BATCHES = (1, 2, 8, 40)
"""Tokens decoded together: one; a small draft, on both sides of AMX's and repacking's smallest tiles; a prompt, longer
than a tile of 32."""

ATTENTIONS = ((False, "f16", ()), (True, "bf16", (40,)))
"""(flash attention, cache type), which differ by their kernels as the settings do that a Tuner tries; and the batches
that several threads decode as well. They wait for each other by spinning, after each of some twenty operations: beside
three busy programs on two cores a batch took 0.3 s, by one thread 0.005 s, and no other instruction is met."""

DROPPED_LAYERS = (1, 2, 3, -1)
"""All layers of the built-in model but the first, and the end of the list (llama.h): more do nothing new."""

CACHE_CELLS = 256
"""KV cells: what llama.cpp pads a smaller cache to."""

FIRST_TOKEN = 100
"""Id of the first token decoded; any id serves."""


def main(arguments: list[str]) -> int:
    """Try, or describe; returns the exit code."""
    start_backend(verbose=False)
    if arguments == ["--describe"]:
        print(lib.llama_print_system_info().decode(errors="replace").strip(" |\n"), flush=True)
        return 0
    folder = Path(arguments[0])
    for file_type in FAMILIES:
        path = folder / f"{file_type}.gguf"
        step(f"quantizing to {file_type}")
        make(path, file_type)
        is_sound = decodes(path, file_type)
        path.unlink()
        if not is_sound:
            print(NOT_FINITE, flush=True)
            return 1
    return 0


def make(path: Path, file_type: str) -> None:
    """Write a model of one layer: the first of the built-in model, in llama.cpp's mixture for ``file_type``.

    Raises:
        DeviceError: llama.cpp did not write it.
    """
    params = lib.llama_model_quantize_default_params()
    params.ftype = FILE_TYPES[file_type]
    params.nthread = 1
    params.allow_requantize = True
    dropped = (ctypes.c_int32 * len(DROPPED_LAYERS))(*DROPPED_LAYERS)
    params.prune_layers = dropped
    source = os.fsencode(builtin_path())
    if lib.llama_model_quantize(source, os.fsencode(path), ctypes.byref(params)):
        raise DeviceError(f"llama.cpp could not write {path}: {logs.last_error()}")


def decodes(path: Path, name: str) -> bool:
    """Decode some tokens in every way; whether all logits are finite."""
    step(f"loading a {name} model")
    params = lib.llama_model_default_params()
    params.n_gpu_layers = 0
    model = lib.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise DeviceError(f"llama.cpp could not load {path}: {logs.last_error()}")
    try:
        return all(_decodes_with(model, name, *attention) for attention in ATTENTIONS)
    finally:
        lib.llama_model_free(model)


def _decodes_with(
    model: object, name: str, flash_attention: bool, cache_type: str, shared: Sequence[int]
) -> bool:
    setting = f"flash attention {'on' if flash_attention else 'off'}, {cache_type} cache"
    step(f"making a context of a {name} model, {setting}")
    params = lib.llama_context_default_params()
    params.n_ctx = CACHE_CELLS
    params.n_batch = params.n_ubatch = params.n_outputs_max = max(BATCHES)
    params.n_seq_max = 1
    params.flash_attn_type = (
        lib.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash_attention else lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
    )
    params.type_k = params.type_v = CACHE_TYPES[cache_type]
    # A GPU would take the larger batches over.
    params.offload_kqv = params.op_offload = False
    context = lib.llama_init_from_model(model, params)
    if not context:
        raise DeviceError(f"llama.cpp could not make a context: {logs.last_error()}")
    batch = lib.llama_batch_init(max(BATCHES), 0, 1)
    try:
        alone = [(n, 1) for n in BATCHES]
        together = [(n, physical_threads()) for n in shared if physical_threads() > 1]
        for n, n_threads in alone + together:
            lib.llama_set_n_threads(context, n_threads, n_threads)
            step(
                f"decoding {counted(n, 'token')} of a {name} model, {setting}, {counted(n_threads, 'thread')}"
            )
            if not _are_finite(model, context, batch, n):
                return False
    finally:
        lib.llama_batch_free(batch)
        lib.llama_free(context)
    return True


def counted(n: int, what: str) -> str:
    """A number and what it counts: ``1 token``, ``2 tokens``."""
    return f"{n} {what}" + ("" if n == 1 else "s")


def _are_finite(model: object, context: object, batch: lib.llama_batch, n: int) -> bool:
    """Decode ``n`` tokens at the start of an empty cache, and look at the logits of each."""
    lib.llama_memory_clear(lib.llama_get_memory(context), False)
    batch.n_tokens = n
    for i in range(n):
        batch.token[i], batch.pos[i], batch.logits[i] = FIRST_TOKEN + i, i, True
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
    status = lib.llama_decode(context, batch)
    if status != 0:
        raise DeviceError(f"llama.cpp could not decode {n} tokens: {logs.last_error() or status}")
    n_vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
    rows = (lib.llama_get_logits_ith(context, i) for i in range(n))
    return all(np.isfinite(np.ctypeslib.as_array(row, shape=(n_vocab,))).all() for row in rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
