"""The devices that llama.cpp can use: the GPUs here, and other machines' through its RPC servers."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Sequence
from typing import Final

from aded_local.errors import DeviceError, OptionError
from aded_local.llama.loading import ggml, lib, threads_begin
from aded_local.llama.model import ALL_LAYERS
from aded_local.trials.preflight import require_sound_build

GPU_KINDS = (1, 2)
"""GGML_BACKEND_DEVICE_TYPE_GPU and _IGPU, in ggml-backend.h."""

REACHING_SECONDS: Final = 5.0
"""How long a server may take to accept a connection. Chosen."""


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


def layers_on_gpus(asked: int) -> int | str:
    """How many of a model's layers are on GPUs where so many were asked for: ``all``, a number, or 0 for a build
    without GPUs."""
    if not lib.llama_supports_gpu_offload():
        return 0
    return "all" if asked == ALL_LAYERS else asked


def use_rpc_servers(endpoints: Sequence[str]) -> None:
    """Let models that are loaded from now on put layers on llama.cpp's RPC servers, before the devices here.

    llama.cpp ends the process when it loses such a server, so each is reached for once before it is told of it.

    Args:
        endpoints: ``host:port`` of each.

    Raises:
        OptionError: one is no ``host:port``.
        DeviceError: this build has no RPC backend, or a server does not answer.
        BrokenBuildError, ForkedError: see ``gpu_names``.
    """
    places = [_endpoint(each) for each in endpoints]
    require_sound_build()
    # Where llama.cpp ends the process it would run a debugger first, some seconds long.
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    lib.llama_backend_init()
    threads_begin()
    ggml.ggml_backend_reg_by_name.argtypes = [ctypes.c_char_p]
    ggml.ggml_backend_reg_by_name.restype = ctypes.c_void_p
    ggml.ggml_backend_reg_get_proc_address.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    ggml.ggml_backend_reg_get_proc_address.restype = ctypes.c_void_p
    ggml.ggml_backend_register.argtypes = [ctypes.c_void_p]
    backend = ggml.ggml_backend_reg_by_name(b"RPC")
    if not backend:
        raise DeviceError(
            "this build of llama.cpp has no RPC backend: build llama-cpp-python again with "
            'CMAKE_ARGS="-DGGML_RPC=ON" (docs/scale.md), or leave out --rpc'
        )
    found = ggml.ggml_backend_reg_get_proc_address(backend, b"ggml_backend_rpc_add_server")
    add_server = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_char_p)(found)
    for host, port in places:
        try:
            socket.create_connection((host, port), REACHING_SECONDS).close()
        except OSError as error:
            why = error.strerror or error
            raise DeviceError(f"the RPC server {host}:{port} cannot be reached: {why}; start it") from None
        server = add_server(f"{host}:{port}".encode())
        if not server:
            raise DeviceError(f"{host}:{port} is no RPC server of this version of llama.cpp; start its own")
        ggml.ggml_backend_register(server)


def _endpoint(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise OptionError(f"{text!r} is no RPC server; name it as HOST:PORT")
    return host, int(port)
