"""What a bug report needs to know of a machine and an installation. Loads neither llama.cpp nor a model."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from aded_local.errors import ModelNotFoundError, StoreError
from aded_local.files import NOWHERE, cache, data_folder, data_problem
from aded_local.trials import library, preflight, trial
from aded_local.trials.preflight import Examination
from aded_local.trials.processor import physical_threads, processor
from aded_models import NAMES

DISTRIBUTIONS = ("aded-local", library.DISTRIBUTION, "numpy", "numba", "llvmlite")

GGML_FLAGS = re.compile(
    r"sse3|ssse3|avx.*|amx.*|f16c|fma|bmi2"  # x86
    r"|neon|asimd|asimd(dp|hp|fhm|bf16)|i8mm|bf16|sve.*|sme\d?"  # ARM on Linux
    r"|AdvSIMD|neon_.*|FEAT_(DotProd|BF16|I8MM|FP16|SME\w*)"  # Apple
    r"|rv\w+|vxe\d?|nnpa",  # RISC-V, s390
    re.IGNORECASE,
)
"""Flags of a processor that ggml's CPU backend has code for."""

OPENMP = re.compile(r"(OMP|GOMP|KMP)_\w+")
"""Environment variables that OpenMP's libraries read."""

DESCRIBE_LIMIT = 30.0
"""Seconds for the child that prints llama.cpp's build options: it computes nothing."""


def facts(examination: Examination) -> dict[str, Any]:
    """All there is to know, as for JSON.

    Args:
        examination: of llama.cpp, just made.
    """
    return {
        "verdict": _verdict(examination),
        "versions": _versions(),
        "processor": _processor(),
        "memory": _memory(),
        "llama_cpp": _llama_cpp(),
        "openmp": {name: value for name, value in sorted(os.environ.items()) if OPENMP.fullmatch(name)},
        "folders": _folders(),
        "kernels_compiled": _kernels_compiled(),
        "models": {name: _model(name) for name in NAMES},
    }


def _verdict(examination: Examination) -> dict[str, Any]:
    verdict = examination.verdict
    kept = None if examination.kept is None else str(examination.kept)
    if verdict is None:
        return {"sound": None, "reason": examination.reason, "kept": kept}
    return {
        "sound": verdict.sound,
        "what": verdict.what,
        "step": verdict.step,
        "seconds": verdict.seconds,
        "kept": kept,
    }


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {name: _installed(name) for name in DISTRIBUTIONS}
    libc = " ".join(part for part in platform.libc_ver() if part)
    return {
        **found,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "python_executable": sys.executable,
        "system": platform.platform(),
        "libc": libc or None,
    }


def _installed(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _processor() -> dict[str, Any]:
    here = processor()
    return {
        "name": here.name,
        "machine": platform.machine(),
        "physical_threads": physical_threads(),
        "logical_processors": os.cpu_count(),
        "flags_for_ggml": [flag for flag in here.flags if GGML_FLAGS.fullmatch(flag)],
        "flags": list(here.flags),
    }


def _memory() -> dict[str, int]:
    import psutil

    memory = psutil.virtual_memory()
    return {"total_bytes": memory.total, "available_bytes": memory.available}


def _llama_cpp() -> dict[str, Any]:
    paths = library.files()
    place = library.folder()
    try:
        fingerprint = library.fingerprint(paths) if paths else None
    except OSError:
        fingerprint = None
    described = trial.run(preflight.PREFLIGHT_MODULE, ["--describe"], limit=DESCRIBE_LIMIT)
    is_fine = described.ending is trial.Ending.FINE
    return {
        "folder": None if place is None else str(place),
        "named_by": library.OVERRIDE if library.OVERRIDE in os.environ else None,
        "files": [path.name for path in paths],
        "sha256": fingerprint,
        "compilers": library.compilers(paths),
        "system_info": " ".join(described.said) if is_fine else None,
        "system_info_failure": None if is_fine else f"{described.ending.value} {described.cause}".strip(),
    }


def _folders() -> dict[str, dict[str, Any]]:
    place = cache()
    try:
        data: Path | None = data_folder()
    except StoreError:
        data = None
    return {
        "cache": _folder(None if place.path == NOWHERE else place.path, place.problem),
        "data": _folder(data, data_problem()),
    }


def _folder(path: Path | None, problem: str | None) -> dict[str, Any]:
    there = next((one for one in (path, *path.parents) if os.path.exists(one)), path) if path else None
    return {
        "path": None if path is None else str(path),
        "exists": path is not None and os.path.isdir(path),
        "writable": there is not None and os.access(there, os.W_OK | os.X_OK),
        "problem": problem,
    }


def _kernels_compiled() -> bool | None:
    """Whether the drafter's kernels are compiled; None where that cannot be told, since Numba does not load."""
    try:
        from aded_local.kernels.kept import kernels_are_kept

        return kernels_are_kept()
    except Exception:  # a broken installation of Numba or NumPy may raise anything
        return None


def _model(name: str) -> dict[str, Any]:
    try:
        path = NAMES[name]()
        return {"path": str(path), "bytes": path.stat().st_size}
    except (ModelNotFoundError, OSError) as error:
        return {"path": None, "reason": str(error)}


def rows(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The same for people: names and values."""
    versions, here, llama = found["versions"], found["processor"], found["llama_cpp"]
    memory = found["memory"]
    shown = [("llama.cpp works", _verdict_text(found["verdict"]))]
    shown += [(name, value or "not installed") for name, value in versions.items() if name != "libc"]
    shown += [
        ("libc", versions["libc"] or "unknown"),
        ("processor", f"{here['name']} ({here['machine']})"),
        ("its flags for ggml", " ".join(here["flags_for_ggml"]) or "unknown"),
        ("threads", f"{here['physical_threads']} physical, {here['logical_processors']} logical"),
        ("memory", f"{_gigabytes(memory['total_bytes'])}, {_gigabytes(memory['available_bytes'])} available"),
        ("library", (llama["folder"] or "none") + (f" ({llama['named_by']})" if llama["named_by"] else "")),
        ("its SHA-256", llama["sha256"] or "unknown"),
        ("its compiler", "; ".join(llama["compilers"]) or "unknown"),
        ("its options", llama["system_info"] or f"unknown: {llama['system_info_failure']}"),
        (
            "OpenMP",
            " ".join(f"{name}={value}" for name, value in found["openmp"].items())
            or "nothing set by the user",
        ),
    ]
    for name, folder in found["folders"].items():
        state = "writable" if folder["writable"] else "cannot be written"
        why = "" if folder["problem"] is None else f"; {folder['problem']}"
        shown.append((f"{name} folder", f"{folder['path'] or 'none'} ({state}{why})"))
    kernels = {True: "compiled", False: "not compiled yet", None: "unknown: Numba does not load"}
    shown.append(("draft kernels", kernels[found["kernels_compiled"]]))
    for name, model in found["models"].items():
        is_there = model["path"] is not None
        shown.append(
            (f"model {name}", f"{model['path']} ({model['bytes']:,} bytes)" if is_there else model["reason"])
        )
    return shown


def _verdict_text(verdict: Mapping[str, Any]) -> str:
    if verdict["sound"] is None:
        return f"not tried: {verdict['reason']}"
    seconds = f"tried for {verdict['seconds']:.1f} s"
    if verdict["sound"]:
        return f"yes ({seconds})"
    return f"NO: it {verdict['what']} while {verdict['step']} ({seconds})"


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
