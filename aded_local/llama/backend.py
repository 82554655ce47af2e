"""llama.cpp started, and a file loaded by it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from aded_local.errors import ModelFormatError
from aded_local.llama import logs
from aded_local.llama.gguf import GGUFHeader, unchanged
from aded_local.llama.interrupts import held_back
from aded_local.llama.loading import lib, require_not_forked, threads_begin
from aded_local.shown import one_line
from aded_local.trials.preflight import require_sound_build
from aded_local.trials.vetting import require_harmless

_backend_started = False


def start_backend(
    verbose: bool, *, computes: bool = True, progress: Callable[[str], None] | None = None
) -> None:
    """Take llama.cpp's log, and start llama.cpp if it is not running.

    Args:
        verbose: write its log to standard error.
        computes: it will compute, so its build must work on this processor.
        progress: told before the build is tried, once per build.

    Raises:
        BrokenBuildError: the build does not work on this processor.
        ForkedError: this process was forked from one in which llama.cpp had threads.
    """
    global _backend_started
    require_not_forked()
    if computes:
        require_sound_build(progress)
    logs.capture(verbose)
    if not _backend_started:
        lib.llama_backend_init()
        _backend_started = True
    if computes or lib.llama_supports_gpu_offload():
        threads_begin()


def load(
    header: GGUFHeader,
    *,
    n_gpu_layers: int = 0,
    vocabulary_only: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Any:
    """Load a file with llama.cpp, after a child process has loaded it without a crash.

    Args:
        header: as read and checked.
        n_gpu_layers: layers to put on the GPU; ``ALL_LAYERS`` for all.
        vocabulary_only: without weights.
        progress: told of a trial in a child process that may take seconds.

    Raises:
        ModelFormatError: llama.cpp refused it, a child crashed on it, or it changed meanwhile.
    """
    path = header.path
    what = "the vocabulary of " if vocabulary_only else ""
    params = lib.llama_model_default_params()
    # A build without a GPU ignores the number.
    params.n_gpu_layers = n_gpu_layers
    params.vocab_only = vocabulary_only
    handle = None
    try:
        with unchanged(header):
            require_harmless(
                path,
                " ".join(each.digest for each in header.files),
                sum(each.file_size for each in header.files),
                vocabulary_only=vocabulary_only,
                progress=progress,
            )
            logs.clear_errors()
            with held_back():
                handle = lib.llama_model_load_from_file(os.fsencode(path), params)
            if not handle:
                reason = one_line(logs.last_error() or "it gave no reason")
                raise ModelFormatError(
                    f"llama.cpp could not load {what}{path}: {reason}; "
                    "download the file again or update llama-cpp-python"
                )
    except BaseException:
        if handle:
            lib.llama_model_free(handle)
        raise
    return handle
