"""Where compiled kernels are kept, and whether all that an ordinary start needs lies there. Numba is not imported.

They are kept in the user's cache folder, not beside the sources (an installation may be read-only), in a subfolder
named by a hash of this package's sources. Numba only looks at the file of the outermost function to tell whether its
cache is stale, although kernels of other files are compiled into it; the hash covers all of them. Where no folder can
be written, kernels are compiled anew in every process, which takes seconds and changes nothing else.

What lies there are pickles, which run whatever they say: the folder is private, and one that others could have written
to is not used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Final

from aded_local.folders import cache_folder

VERSIONS_KEPT: Final = 3
"""Kernel folders of other versions left alone: a megabyte each."""

PRIVATE: Final = 0o700

LONGEST_WAIT: Final = 300.0
"""Seconds for which another process that compiles is waited for, which may have been stopped: twenty times what it
takes."""
RETRY_SECONDS: Final = 0.05


def sources() -> list[Path]:
    """The files of this package."""
    return sorted(Path(os.path.abspath(__file__)).parent.glob("*.py"))


def sources_fingerprint() -> str:
    """Sixteen hexadecimal digits that change whenever a source file of this package does."""
    digest = hashlib.sha256()
    for path in sources():
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def usable_folder() -> Path | None:
    """The folder for compiled kernels, made if need be; None when it cannot be written, or others could write to it."""
    folder = Path(os.environ.get("NUMBA_CACHE_DIR") or cache_folder()) / f"kernels-{sources_fingerprint()}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=PRIVATE)
        if not is_own(folder):
            return None
        folder.chmod(PRIVATE)  # one made by an earlier version may be open to readers
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))  # an empty file fits on a full disk
            file.flush()
            remove_old(folder)
            return folder
    except OSError:
        return None


def is_own(folder: Path) -> bool:
    """Whether ``folder`` is a folder of this user (no link to one) that nobody else may write to.

    Raises:
        OSError: it cannot be looked at.
    """
    found = folder.lstat()
    owned = not hasattr(os, "getuid") or found.st_uid == os.getuid()
    return owned and stat.S_ISDIR(found.st_mode) and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def remove_old(current: Path) -> None:
    """Remove the kernels of former versions, save the newest few, which other installations may use."""
    others = [path for path in current.parent.glob("kernels-*") if path != current]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for old in others[VERSIONS_KEPT:]:
        shutil.rmtree(old, ignore_errors=True)


FOLDER: Final = usable_folder()
"""Where this process keeps its kernels; None for nowhere."""


def origin() -> str:
    """All that Numba compares before it takes a kept kernel, as sixteen hexadecimal digits.

    Where the sources lie and when they changed, the versions of the compilers, the processor, and what the environment
    asks of Numba.
    """
    from llvmlite import binding

    files = [(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in sources()]
    versions = [sys.implementation.cache_tag, *(version(name) for name in ("numba", "llvmlite", "numpy"))]
    processor = [binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten()]
    asked = sorted(item for item in os.environ.items() if item[0].startswith("NUMBA_"))
    return hashlib.sha256(repr((files, versions, processor, asked)).encode()).hexdigest()[:16]


def kernels_are_kept() -> bool:
    """Whether all kernels of an ordinary start were compiled before and lie in the cache; see ``ahead``."""
    if FOLDER is None:
        return False
    try:
        names = json.loads(stamp(FOLDER).read_text("utf-8"))
        return bool(names) and all((FOLDER / name).stat().st_size > 0 for name in names)
    except (OSError, ValueError, TypeError):
        return False  # no stamp, a damaged one, or one of files that are gone


def stamp(folder: Path) -> Path:
    """The file that names what a complete compilation left: a list of paths within ``folder``, as JSON."""
    return folder / f"complete-{origin()}.json"


def put_stamp(folder: Path) -> None:
    """Say that all is kept, now that it is.

    Raises:
        OSError: it cannot be written.
    """
    names = sorted(str(path.relative_to(folder)) for path in folder.glob("*/*.nb[ci]"))
    handle, name = tempfile.mkstemp(dir=folder)
    try:
        with open(handle, "w", encoding="utf-8") as file:
            json.dump(names, file)
        os.replace(name, stamp(folder))
    except BaseException:
        os.unlink(name)
        raise


def somebody_compiles() -> bool:
    """Whether another process compiles ahead into the folder now."""
    if FOLDER is None:
        return False
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        with open(FOLDER / "lock", "wb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    return False


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Within the block no other process compiles ahead into ``folder``: each would compile the same.

    Where a file system has no locks, or after ``LONGEST_WAIT``, they do, which costs time only. A process that is
    killed lets the next one in.

    Raises:
        OSError: the lock file cannot be made.
    """
    with open(folder / "lock", "wb") as file:
        deadline = time.monotonic() + LONGEST_WAIT
        while not _locked(file.fileno()) and time.monotonic() < deadline:
            time.sleep(RETRY_SECONDS)
        yield


def _locked(handle: int) -> bool:
    """Take the lock of a file; False where another process has it."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        pass  # there are no locks here
    return True
