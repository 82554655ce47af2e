"""Lists the GPUs that llama.cpp can use here."""

from __future__ import annotations

import ctypes

from aded_local.llama.loading import ggml, lib, threads_begin
from aded_local.trials.preflight import require_sound_build

GPU_KINDS = (1, 2)
"""GGML_BACKEND_DEVICE_TYPE_GPU and _IGPU, in ggml-backend.h."""


def gpu_names() -> list[str]:
    """Descriptions of the GPUs that this build of llama.cpp can use; empty for a build for the CPU alone.

    Raises:
        BrokenBuildError: llama.cpp does not work on this processor.
        ForkedError: llama.cpp ran before this process was forked.
    """
    require_sound_build()
    lib.llama_backend_init()
    if lib.llama_supports_gpu_offload():
        threads_begin()
    ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    ggml.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    ggml.ggml_backend_dev_get.restype = ctypes.c_void_p
    ggml.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    ggml.ggml_backend_dev_description.argtypes = [ctypes.c_void_p]
    ggml.ggml_backend_dev_description.restype = ctypes.c_char_p
    devices = [ggml.ggml_backend_dev_get(i) for i in range(ggml.ggml_backend_dev_count())]
    gpus = (device for device in devices if ggml.ggml_backend_dev_type(device) in GPU_KINDS)
    return [ggml.ggml_backend_dev_description(gpu).decode("utf-8", errors="replace") for gpu in gpus]
