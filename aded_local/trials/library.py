"""Which llama.cpp library this process would load, and what tells one build from another.

The library itself is not loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
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
"""Names of the libraries that compute on the CPU, on Linux, macOS and Windows. Those for GPUs are hundreds of
megabytes, for another processor."""

COMPILERS = (rb"GCC: \([^)\0]*\) [\w.]+", rb"(?:Apple |Debian |Ubuntu )*clang version [\w.]+")
"""What compilers write into the libraries they make (the section .comment)."""


def folder() -> Path | None:
    """Where llama_cpp looks for its libraries; None where it is not installed."""
    override = os.environ.get(OVERRIDE)
    if override is not None:
        return Path(override)
    try:
        spec = importlib.util.find_spec(PACKAGE)
    except (ImportError, ValueError):  # something under this name was put into sys.modules by hand
        return None
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(places[0]).absolute() / "lib" if places else None


def files() -> list[Path]:
    """The libraries that compute on the CPU, by name; empty where there are none.

    All names of a library are there (``libllama.so``, ``libllama.so.0``): wheels hold copies instead of links, and the
    system's loader chooses among them.
    """
    place = folder()
    try:
        found = [] if place is None else [path for path in place.iterdir() if COMPUTING.fullmatch(path.name)]
    except OSError:
        found = []
    return sorted(path for path in found if path.is_file())


def fingerprint(paths: list[Path]) -> str:
    """SHA-256 over names and contents of files, in hexadecimal digits.

    Of files that did not change the hash is remembered: reading 20 MB takes some 0.03 s, without the processor's help
    0.1 s, and this is asked at every start.

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


def _remembered(memo: Path) -> dict[str, object]:
    """The content of the file of hashes; empty where it cannot be used."""
    try:
        found = json.loads(read_private(memo))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def compilers(paths: list[Path]) -> list[str]:
    """The compilers whose names stand in these files, e.g. ``GCC: (Debian 12.2.0-14) 12.2.0``; none where stripped."""
    found: dict[str, None] = {}
    for path in paths:
        with contextlib.suppress(OSError):
            data = path.read_bytes()
            for pattern in COMPILERS:
                found.update(dict.fromkeys(match.decode() for match in re.findall(pattern, data)))
    return list(found)
