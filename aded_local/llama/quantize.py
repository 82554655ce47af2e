"""Quantize a GGUF file, or shorten it by layers, with llama.cpp's own quantizer."""

from __future__ import annotations

import ctypes
from pathlib import Path

from aded_local.errors import OptionError, StoreError
from aded_local.llama import logs
from aded_local.llama.backend import start_backend
from aded_local.llama.gguf import read_header
from aded_local.llama.interrupts import held_back
from aded_local.llama.loading import lib

FILE_TYPES = {
    "f32": lib.LLAMA_FTYPE_ALL_F32,
    "f16": lib.LLAMA_FTYPE_MOSTLY_F16,
    "bf16": lib.LLAMA_FTYPE_MOSTLY_BF16,
    "q8_0": lib.LLAMA_FTYPE_MOSTLY_Q8_0,
    "q2_k": lib.LLAMA_FTYPE_MOSTLY_Q2_K,
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
    parameters = lib.llama_model_quantize_default_params()
    parameters.ftype = FILE_TYPES[file_type]
    parameters.nthread = n_threads or 0
    parameters.allow_requantize = requantize
    _write(src, dst, parameters)


def keep_first_layers(src: Path, dst: Path, n_layers: int) -> None:
    """Write ``dst``: the model of ``src`` without the layers behind the first ``n_layers``, tensors as they are.

    It still writes text, and the worse the fewer layers are left.

    Raises:
        OptionError: ``src`` has not that many layers, or it would keep none.
        ModelError: ``src`` is no GGUF.
        BrokenBuildError: llama.cpp does not work on this processor.
        StoreError: llama.cpp could not read ``src`` or write ``dst``.
    """
    header = read_header(src)
    there = header.metadata.get(f"{header.architecture}.block_count")
    if not isinstance(there, int) or not 0 < n_layers <= there:
        raise OptionError(f"{src.name} has {there} layers; the first {n_layers} of them cannot be kept")
    parameters = lib.llama_model_quantize_default_params()
    parameters.only_copy = True
    dropped = [*range(n_layers, there), -1]  # llama.cpp reads up to the -1
    if len(dropped) > 1:
        parameters.prune_layers = (ctypes.c_int32 * len(dropped))(*dropped)
    _write(src, dst, parameters)


def _write(src: Path, dst: Path, parameters: ctypes.Structure) -> None:
    start_backend(verbose=False)
    logs.clear_errors()
    with held_back():
        failed = lib.llama_model_quantize(str(src).encode(), str(dst).encode(), ctypes.byref(parameters))
    if failed:
        raise StoreError(f"{dst.name} was not written: {logs.last_error() or 'llama.cpp gave no reason'}")
