"""The child's program that loads a GGUF and decodes a token, since the file may crash the process.

    vetting_trial.py FILE model|vocabulary

``aded_local.trials.vetting`` runs it as a file in a child process. It imports llama.cpp's bindings and nothing
else, in 0.1 s; the other imports of its package would take 0.4 s more.

It tries what depends on the header: shapes, types, numbers, spellings. ``preflight_trial`` has tried the kernels. So
all of it runs on the CPU, in one thread, from mapped weights. To repack them for faster kernels would take their size
in memory, which there may not be, and as much time again.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import sys
from typing import Any

from aded_local.trials import trial
from aded_local.trials.trial import step

CACHE_CELLS = 256
"""KV cells: what llama.cpp pads a smaller cache to."""

F16, BF16 = 1, 30
"""As ``enum ggml_type`` numbers them (ggml.h)."""

TRIED_CONTEXTS = ((False, F16, 1), (True, BF16, 2))
"""(flash attention, cache type, tokens decoded). Their graphs differ, and so do those for one token and for several."""

TRIED_SEQUENCES, SNAPSHOTS = 8, 1
"""Branches of a tree, as many as the product has; or snapshots of a running state: one is enough, since large models
have large states."""

CHARACTERS = [*map(chr, range(0x800)), *map(chr, range(0x800, 0x110000, 0x333))]
EVERY_CHARACTER = "".join([*CHARACTERS, *(2 * char for char in CHARACTERS[:0x100])]).encode(errors="replace")
"""Characters with every byte of UTF-8, since each must have a token; and some twice in a row, since a tokenizer looks
neighbours up together."""

ERROR_LEVEL = 4
"""``GGML_LOG_LEVEL_ERROR`` in ggml.h."""


def main(arguments: list[str]) -> int:
    """Try; returns the exit code."""
    path, what = arguments
    lib = _bindings()
    errors: list[str] = []

    @lib.llama_log_callback
    def note(level: int, text: bytes, _user_data: ctypes.c_void_p) -> None:
        if level == ERROR_LEVEL:
            errors.append(text.decode(errors="replace"))

    lib.llama_log_set(note, ctypes.c_void_p(0))
    lib.llama_backend_init()
    step("loading it")
    model = _load(lib, path, vocabulary_only=what == "vocabulary")
    if not model:
        # It refuses politely, as it will in the parent, which would not be as short of memory.
        # "failed to allocate", "std::bad_alloc", "unable to allocate": neither ggml nor C++ have a code for it.
        if any("alloc" in line for line in errors):
            print(trial.OUT_OF_MEMORY, flush=True)
            return 1
        return 0
    step("splitting a text into its tokens")
    vocabulary = lib.llama_model_get_vocab(model)
    for special in (True, False):
        room = (lib.llama_token * (2 * len(EVERY_CHARACTER)))()
        lib.llama_tokenize(
            vocabulary, EVERY_CHARACTER, len(EVERY_CHARACTER), room, len(room), special, special
        )
    if what == "vocabulary" or not _writes(lib, model):
        return 0
    for flash_attention, cache_type, n_tokens in TRIED_CONTEXTS:
        step(f"making a context, flash attention {'on' if flash_attention else 'off'}")
        context = _open(lib, model, flash_attention, cache_type)
        if not context:
            continue
        step(f"decoding {n_tokens} token{'s' if n_tokens > 1 else ''}")
        tokens = (lib.llama_token * n_tokens)(*range(n_tokens))
        lib.llama_decode(context, lib.llama_batch_get_one(tokens, n_tokens))
        lib.llama_free(context)
    step("closing it")
    lib.llama_model_free(model)
    return 0


def _bindings() -> Any:
    """``llama_cpp.llama_cpp`` without its package's other modules, which import NumPy, Jinja and more."""
    # ggml would look for a debugger as it aborts, which takes seconds.
    os.environ["GGML_NO_BACKTRACE"] = "1"
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None:
        raise ModuleNotFoundError("there is no llama_cpp")
    sys.modules["llama_cpp"] = importlib.util.module_from_spec(spec)
    return importlib.import_module("llama_cpp.llama_cpp")


def _load(lib: Any, path: str, *, vocabulary_only: bool) -> Any:
    params = lib.llama_model_default_params()
    nowhere = (ctypes.c_void_p * 1)(None)
    params.devices = ctypes.cast(nowhere, ctypes.c_void_p)  # no GPU
    params.n_gpu_layers = 0
    params.load_mode = lib.LLAMA_LOAD_MODE_MMAP
    params.use_extra_bufts = False
    params.vocab_only = vocabulary_only
    return lib.llama_model_load_from_file(os.fsencode(path), params)


def _writes(lib: Any, model: Any) -> bool:
    """Whether it is of a kind that is decoded here; others are refused once they are loaded."""
    return bool(
        lib.llama_model_has_decoder(model)
        and not lib.llama_model_has_encoder(model)
        and not lib.llama_model_is_diffusion(model)
    )


def _open(lib: Any, model: Any, flash_attention: bool, cache_type: int) -> Any:
    """A context as ``Context`` makes it, but small; NULL where llama.cpp politely refuses."""
    has_states = lib.llama_model_is_recurrent(model) or lib.llama_model_is_hybrid(model)
    params = lib.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = CACHE_CELLS
    params.n_seq_max = 1 if has_states else TRIED_SEQUENCES
    params.n_rs_seq = SNAPSHOTS if has_states else 0
    params.n_outputs_max = TRIED_SEQUENCES
    params.n_threads = params.n_threads_batch = 1
    params.flash_attn_type = (
        lib.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash_attention else lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
    )
    params.type_k = params.type_v = cache_type
    params.kv_unified = params.swa_full = params.no_perf = True
    params.offload_kqv = params.op_offload = False
    return lib.llama_init_from_model(model, params)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
