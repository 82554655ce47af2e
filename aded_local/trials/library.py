"""Finds the llama.cpp library that this process would load, and what distinguishes its build; does not load it."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
from pathlib import Path

from aded_local.files import cache_folder, read_private, write_privately

PACKAGE = "llama_cpp"
DISTRIBUTION = "llama-cpp-python"

OVERRIDE = "LLAMA_CPP_LIB_PATH"
"""Environment variable that names another folder of libraries, for llama_cpp as for us."""

COMPUTING = re.compile(r"(lib)?(llama|ggml-base|ggml-cpu[\w-]*)(\.\d+)*\.(so|dylib|dll)(\.\d+)*")
"""Names of the libraries that compute on the CPU, on Linux, macOS and Windows. Those for GPUs have hundreds of
megabytes, and do not depend on the processor."""

COMPILERS = (rb"GCC: \([^)\0]*\) [\w.]+", rb"(?:Apple |Debian |Ubuntu )*clang version [\w.]+")
"""What compilers write about themselves into a library (section .comment)."""


def folder() -> Path | None:
    """Where llama_cpp looks for its libraries; None where it is not installed."""
    override = os.environ.get(OVERRIDE)
    if override is not None:
        return Path(override)
    try:
        spec = importlib.util.find_spec(PACKAGE)
    except (ImportError, ValueError):  # somebody has put another thing of this name into sys.modules
        return None
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(places[0]).absolute() / "lib" if places else None


def files() -> list[Path]:
    """The libraries that compute on the CPU, by name; empty where there are none.

    A library may have several names (``libllama.so``, ``libllama.so.0``). Wheels hold copies instead of links, and the
    system's loader chooses one, so all are listed.
    """
    place = folder()
    try:
        found = [] if place is None else [path for path in place.iterdir() if COMPUTING.fullmatch(path.name)]
    except OSError:
        found = []
    return sorted(path for path in found if path.is_file())


def fingerprint(paths: list[Path]) -> str:
    """SHA-256 over names and contents of files, in hexadecimal digits.

    Hashes of unchanged files are remembered, since every start needs them: 20 MB take 0.03 s, and 0.1 s on a processor
    without instructions for SHA.

    Raises:
        OSError: one of them cannot be read.
    """
    memo = cache_folder() / "preflight" / "hashes.json"
    known = _remembered(memo)
    digest, hashes = hashlib.sha256(), {}
    for path in paths:
        stat = path.stat()
        state = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        before = known.get(str(path))
        if isinstance(before, list) and before[:-1] == state and isinstance(before[-1], str):
            content = before[-1]
        else:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        hashes[str(path)] = [*state, content]
        digest.update(f"{path.name} {content}\n".encode())
    if any(known.get(name) != state for name, state in hashes.items()):
        kept = {name: state for name, state in known.items() if Path(name).exists()}
        with contextlib.suppress(OSError):
            write_privately(memo, json.dumps({**kept, **hashes}))
    return digest.hexdigest()


def build() -> str:
    """Which llama.cpp computes: two builds of one version may have different kernels."""
    with contextlib.suppress(OSError):
        paths = files()
        if paths:
            return fingerprint(paths)
    return importlib.metadata.version(DISTRIBUTION)


def _remembered(memo: Path) -> dict[str, object]:
    """The content of the file of hashes; empty where it cannot be used."""
    try:
        found = json.loads(read_private(memo))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def compilers(paths: list[Path]) -> list[str]:
    """The compilers named in these files, e.g. ``GCC: (Debian 12.2.0-14) 12.2.0``; none in stripped files."""
    found: dict[str, None] = {}
    for path in paths:
        with contextlib.suppress(OSError):
            data = path.read_bytes()
            for pattern in COMPILERS:
                found.update(dict.fromkeys(match.decode() for match in re.findall(pattern, data)))
    return list(found)
