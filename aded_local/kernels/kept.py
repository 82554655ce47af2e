"""Where compiled kernels are kept, and whether all that an ordinary start needs lies there. Numba is not imported.

They are kept in the user's cache folder, not beside the sources (an installation may be read-only), in a subfolder
named by a hash of this package's sources. Numba only looks at the file of the outermost function to tell whether its
cache is stale, although kernels of other files are compiled into it; the hash covers all of them.

What lies there are pickles, which run whatever they say: the folder is private, and one that others could have written
to is not used; then they are kept in this user's own folder among temporary files. Where that cannot be either, kernels
are compiled anew in every process, which takes seconds and changes nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import IO, Final

from aded_local.files import (
    KERNELS_VARIABLE,
    PRIVATE_FOLDER,
    cache_folder,
    is_private_folder,
    make_private_folder,
    open_private,
    read_private,
    refusal,
    temporary_folder,
    write_privately,
)

VERSIONS_KEPT: Final = 3
"""Kernel folders of other versions left alone: a megabyte each."""

LONGEST_WAIT: Final = 300.0
"""Seconds for which another process that compiles is waited for, which may have been stopped: twenty times what it
takes."""
RETRY_SECONDS: Final = 0.05


PACKAGES: Final = ("kernels", "ngrams", "drafters")
"""Folders of ``aded_local`` whose sources hold kernels, or types that kernels are compiled for."""


def sources() -> list[Path]:
    """The files of these packages."""
    root = Path(os.path.abspath(__file__)).parent.parent
    return sorted(path for name in PACKAGES for path in (root / name).rglob("*.py"))


def sources_fingerprint() -> str:
    """Sixteen hexadecimal digits that change whenever one of ``sources`` does."""
    digest = hashlib.sha256()
    for path in sources():
        digest.update(f"{path.parent.name}/{path.name}".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def usable_folder() -> Path | None:
    """The folder for compiled kernels, made if need be; None where none can be written that is closed to others."""
    name = f"kernels-{sources_fingerprint()}"
    meant = Path(os.environ.get(KERNELS_VARIABLE) or cache_folder()) / name
    if _is_usable(meant):
        return meant
    temporary = temporary_folder()
    return temporary / name if temporary is not None and _is_usable(temporary / name) else None


def _is_usable(folder: Path) -> bool:
    try:
        make_private_folder(folder)
        if not is_private_folder(folder):
            return False
        folder.chmod(PRIVATE_FOLDER)  # one made by an earlier version may be open to readers
    except OSError:
        return False
    if refusal(folder) is not None:
        return False
    remove_old(folder)
    return True


def remove_old(current: Path) -> None:
    """Remove the kernels of former versions, save the newest few, which other installations may use."""
    times: dict[Path, float] = {}
    for path in current.parent.glob("kernels-*"):
        with contextlib.suppress(OSError):  # another program removed it meanwhile
            if path != current:
                times[path] = path.lstat().st_mtime
    for old in sorted(times, key=lambda path: times[path], reverse=True)[VERSIONS_KEPT:]:
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


def kernels_are_kept(search: str = "best-first") -> bool:
    """Whether all kernels of a start with this search were compiled before and lie in the cache; see ``ahead``."""
    if FOLDER is None:
        return False
    try:
        names = json.loads(read_private(stamp(FOLDER, search)))
        return bool(names) and all((FOLDER / name).stat().st_size > 0 for name in names)
    except (OSError, ValueError, TypeError, RecursionError):
        return False  # no stamp, a damaged one, or one of files that are gone


def stamp(folder: Path, search: str = "best-first") -> Path:
    """The file that names what a complete compilation left: a list of paths within ``folder``, as JSON."""
    return folder / f"complete-{search}-{origin()}.json"


def put_stamp(folder: Path, search: str = "best-first") -> None:
    """Say that all is kept, now that it is.

    Raises:
        OSError: it cannot be written.
    """
    names = sorted(str(path.relative_to(folder)) for path in folder.glob("*/*.nb[ci]"))
    write_privately(stamp(folder, search), json.dumps(names))


def somebody_compiles() -> bool:
    """Whether another process compiles ahead into the folder now."""
    if FOLDER is None:
        return False
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        with _lock_file(FOLDER) as file:
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
    with _lock_file(folder) as file:
        deadline = time.monotonic() + LONGEST_WAIT
        while not _locked(file.fileno()) and time.monotonic() < deadline:
            time.sleep(RETRY_SECONDS)
        yield


def _lock_file(folder: Path) -> IO[bytes]:
    return open(open_private(folder / "lock", os.O_RDWR | os.O_CREAT), "r+b")


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
