"""Compiling kernels with Numba, once per installation and machine.

Compiled code is kept in the user's cache folder, not beside the sources (an installation may be
read-only), in a subfolder named by a hash of this package's sources. Numba only looks at the file of
the outermost function to tell whether its cache is stale, although kernels of other files are
inlined into it; the hash covers all of them. Where no folder can be written, kernels are compiled
anew in every process, which takes seconds and changes nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.core import config

from aded_local.folders import cache_folder

Function = TypeVar("Function", bound=Callable[..., object])


VERSIONS_KEPT = 3
"""Kernel folders of other versions left alone: a few megabytes each."""


def sources_fingerprint() -> str:
    """Sixteen hexadecimal digits that change whenever a source file of this package does."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def writable_cache_folder() -> str | None:
    """The folder for compiled kernels, created if need be; None when it cannot be written."""
    folder = Path(os.environ.get("NUMBA_CACHE_DIR") or cache_folder()) / f"kernels-{sources_fingerprint()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))  # an empty file fits on a full disk
            file.flush()
            remove_old(folder)
            return str(folder)
    except OSError:
        return None


def remove_old(current: Path) -> None:
    """Remove the kernels of former versions, save the newest few, which other installations may use."""
    others = [path for path in current.parent.glob("kernels-*") if path != current]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for old in others[VERSIONS_KEPT:]:
        shutil.rmtree(old, ignore_errors=True)


CACHE_FOLDER = writable_cache_folder()


def kernel(function: Function) -> Function:
    """Compile ``function`` without the GIL, lazily, through the cache where there is one."""
    before = config.CACHE_DIR
    config.CACHE_DIR = CACHE_FOLDER or before  # read once, when the dispatcher is made
    try:
        compiled = numba.njit(function, nogil=True, cache=CACHE_FOLDER is not None)
    except RuntimeError:  # Numba found no cache locator after all
        compiled = numba.njit(function, nogil=True)
    finally:
        config.CACHE_DIR = before
    if CACHE_FOLDER is not None:
        forgive(getattr(compiled, "_cache", None))
    return cast(Function, compiled)


def forgive(cache: Any) -> None:
    """Make a kernel's cache one that fails softly: what cannot be read is compiled anew, what cannot be kept is not.

    Numba lets a full disk, or an index that a power cut left empty, end the program.
    """
    if cache is None:
        return
    load, save = cache.load_overload, cache.save_overload

    def load_or_compile(*arguments: Any) -> Any:
        try:
            return load(*arguments)
        except Exception:  # whatever unpickling damaged bytes may raise
            with contextlib.suppress(Exception):
                cache.flush()
            return None

    def save_or_leave(*arguments: Any) -> None:
        with contextlib.suppress(OSError):
            save(*arguments)

    cache.load_overload, cache.save_overload = load_or_compile, save_or_leave
