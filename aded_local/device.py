"""Defaults that fit the machine: threads, context length, folders."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import psutil

from aded_local.target import Model
from aded_local.target.context import SMALLEST_CONTEXT

LARGEST_DEFAULT_CONTEXT = 8192
"""Tokens of context unless more is asked for: the project's rule, so that a cache never surprises."""

CACHE_SHARE = 0.5
"""Share of the memory still free after loading that a KV cache may take; the rest is for everyone else."""


def physical_threads() -> int:
    """Physical cores this process may run on: a second thread per core slows matrix products down."""
    cores = _performance_cores() or psutil.cpu_count(logical=False) or os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    return max(1, min(cores, allowed))


def _performance_cores() -> int | None:
    """Fast cores of an Apple chip, None elsewhere: the slow ones would hold the others up at every product."""
    if sys.platform != "darwin":
        return None
    command = ["sysctl", "-n", "hw.perflevel0.physicalcpu"]
    try:
        return int(subprocess.run(command, capture_output=True, check=True, text=True, timeout=5).stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def default_context(model: Model) -> int:
    """The smaller of what the model was trained on, what memory holds, and the default limit, in tokens."""
    fits = int(psutil.virtual_memory().available * CACHE_SHARE) // model.kv_bytes_per_cell
    trained = model.n_ctx_train or LARGEST_DEFAULT_CONTEXT
    return max(SMALLEST_CONTEXT, min(trained, fits, LARGEST_DEFAULT_CONTEXT))


def device_name() -> str:
    """The processor's name, as its maker writes it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
