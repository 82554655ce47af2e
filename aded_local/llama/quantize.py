"""Quantize a GGUF file with llama.cpp's own quantizer."""

from __future__ import annotations

import ctypes
from pathlib import Path

from aded_local.errors import OptionError, StoreError
from aded_local.llama import logs
from aded_local.llama.interrupts import held_back
from aded_local.llama.loading import lib
from aded_local.llama.model import start_backend

FILE_TYPES = {
    "f32": lib.LLAMA_FTYPE_ALL_F32,
    "f16": lib.LLAMA_FTYPE_MOSTLY_F16,
    "bf16": lib.LLAMA_FTYPE_MOSTLY_BF16,
    "q8_0": lib.LLAMA_FTYPE_MOSTLY_Q8_0,
    "q4_0": lib.LLAMA_FTYPE_MOSTLY_Q4_0,
    "q4_1": lib.LLAMA_FTYPE_MOSTLY_Q4_1,
    "q4_k_m": lib.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "q5_k_m": lib.LLAMA_FTYPE_MOSTLY_Q5_K_M,
    "q6_k": lib.LLAMA_FTYPE_MOSTLY_Q6_K,
}


def quantize(
    src: Path, dst: Path, file_type: str, n_threads: int | None = None, *, requantize: bool = False
) -> None:
    """Write ``dst``: the tensors of ``src`` in llama.cpp's mixture for ``file_type``.

    Args:
        file_type: a key of ``FILE_TYPES``.
        n_threads: None means all of the machine's.
        requantize: take tensors that are quantized already, too; else ``src`` must be F32, F16 or BF16.

    Raises:
        OptionError: unknown file type.
        BrokenBuildError: llama.cpp does not work on this processor.
        StoreError: llama.cpp could not read ``src`` or write ``dst``.
    """
    if file_type not in FILE_TYPES:
        raise OptionError(f"unknown file type {file_type!r}; choose from {', '.join(FILE_TYPES)}")
    start_backend(verbose=False)
    logs.clear_errors()
    parameters = lib.llama_model_quantize_default_params()
    parameters.ftype = FILE_TYPES[file_type]
    parameters.nthread = n_threads or 0
    parameters.allow_requantize = requantize
    with held_back():
        failed = lib.llama_model_quantize(str(src).encode(), str(dst).encode(), ctypes.byref(parameters))
    if failed:
        raise StoreError(f"{dst.name} was not written: {logs.last_error() or 'llama.cpp gave no reason'}")
