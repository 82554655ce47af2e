"""Where files of a user live, and how those that are ours are opened. Imports nothing heavy.

In a container there may be no home folder, one that cannot be written, or a user whom the system does not know. Then
what can be made again goes to a private folder among temporary files, what was said is not kept, and ``unkept``
says so.

What lies where a file of ours should be may be anything: a link to a file that means something to somebody, a pipe, a
device that never ends, another user's file, gigabytes. ``open_private`` takes no such file, and all reading is bounded.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import platformdirs

from aded_local.errors import OptionError, StoreError

APP: Final = "aded-local"

CACHE_VARIABLE, DATA_VARIABLE = "ADED_CACHE_DIR", "ADED_DATA_DIR"
KERNELS_VARIABLE: Final = "NUMBA_CACHE_DIR"
"""Numba's own, which stands above the cache folder for compiled kernels."""

NOWHERE: Final = Path(os.devnull, "nowhere")
"""A folder that cannot be: there is nothing to read in it, and writing fails as on a disk that refuses."""

PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700

SMALL: Final = 4 << 20
"""Bytes of a small file of ours at most: a hundred times what measurements of one model take."""

UNFINISHED: Final = ".new-"
"""What follows a file's name in one that is being written, before what makes it unique."""

LONGEST_PREFIX: Final = 200
"""Bytes of a file's name that one being written begins with: systems allow 255 in all."""

SHOWN_OF_A_PATH: Final = 200
"""Characters of a path that cannot be one, as far as it is shown."""

PROBED_BYTES: Final = 4096
"""Written to see whether a folder takes a file: an empty one fits on a full disk."""


# --- where ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """A folder to use.

    Attributes:
        path: the folder; ``NOWHERE`` where there is none.
        problem: why it is not the one that was meant, or that one cannot be written; None where all is well.
    """

    path: Path
    problem: str | None


def cache_folder() -> Path:
    """Where things lie that can be made again: measurements, compiled kernels. ``ADED_CACHE_DIR`` overrides.

    Always a path; where nothing can be kept, reading from it and writing to it fail.
    """
    return cache().path


def cache() -> Place:
    """The cache folder, and what was wrong with the one that was meant.

    One that cannot be written is replaced by ``temporary_folder``; where that is impossible too, it is at least read.
    """
    return _chosen_cache(*meant_folder(CACHE_VARIABLE, platformdirs.user_cache_dir), temporary_path())


@functools.cache
def _chosen_cache(meant: Path | None, problem: str, _temporary: Path | None) -> Place:
    """Choose once in a process: where things lie must not change because a disk fills up meanwhile."""
    if meant is not None:
        reason = refusal(meant)
        if reason is None:
            return Place(meant, None)
        problem = f"{meant}: {reason}"
    temporary = temporary_folder()
    if temporary is not None:
        return Place(temporary, problem)
    return Place(meant if meant is not None and os.path.isdir(meant) else NOWHERE, problem)


def data_folder() -> Path:
    """Where what a person wrote lies. ``ADED_DATA_DIR`` overrides.

    Raises:
        StoreError: there is no such place.
    """
    folder, problem = meant_folder(DATA_VARIABLE, platformdirs.user_data_dir)
    if folder is None:
        raise StoreError(f"{problem}; set {DATA_VARIABLE} to a folder that can be written")
    return folder


def data_problem() -> str | None:
    """Why nothing can be kept in the data folder, which is not made for the question; None where it can."""
    folder, problem = meant_folder(DATA_VARIABLE, platformdirs.user_data_dir)
    if folder is None:
        return problem
    there = folder
    while not os.path.lexists(there) and there.parent != there:
        there = there.parent
    if os.path.isdir(there) and os.access(there, os.W_OK | os.X_OK):
        return None
    return f"{folder} cannot be made or written"


def temporary_folder() -> Path | None:
    """A private folder of this user among temporary files, made if need be; None where there can be none.

    Its name is always the same, so that the next start finds what this one left there, and so does a child process that
    goes on when this one ends. Another user may have taken the name: such a folder is not used.
    """
    folder = temporary_path()
    if folder is None:
        return None
    try:
        make_private_folder(folder)
        if not is_private_folder(folder):
            return None
        folder.chmod(PRIVATE_FOLDER)
    except OSError:
        return None
    return folder if refusal(folder) is None else None


def temporary_path() -> Path | None:
    """Where that folder is, or would be."""
    try:
        return Path(tempfile.gettempdir(), f"{APP}-{os.geteuid()}" if hasattr(os, "geteuid") else APP)
    except OSError:  # no folder takes temporary files
        return None


def refusal(folder: Path) -> str | None:
    """Why no file can be kept in ``folder``, which is made if need be; None where one can."""
    try:
        make_private_folder(folder)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(PROBED_BYTES))
            file.flush()
    except OSError as error:
        return error.strerror or str(error)
    return None


def meant_folder(variable: str, default: Callable[..., str]) -> tuple[Path | None, str]:
    """The folder that a variable of the environment names, else the usual one; None where there is none, and why.

    Args:
        variable: its name.
        default: one of platformdirs' functions.
    """
    given = os.environ.get(variable)
    unknown = "no home folder is known"
    try:
        path = os.path.expanduser(given or default(APP, appauthor=False))
    except RuntimeError:  # newer versions of platformdirs; older ones leave the path as it was
        return None, unknown
    head = path.split(os.sep)[0]
    if head.startswith("~"):
        return None, f"{variable} is {given}, and there is no such user" if head != "~" else unknown
    try:
        return Path(os.path.abspath(path)), ""
    except OSError as error:  # relative, and the current folder is gone
        return (
            None,
            f"{variable} is {path}, and the current folder cannot be found: {error.strerror or error}",
        )


def given_path(name: str, given: object, what: str) -> Path:
    """The path that a caller gave, with ``~`` for their home folder; whether there is a file is not looked at.

    Args:
        name: the argument's.
        given: its value, which may be anything.
        what: what the file is to be, such as "a GGUF".

    Raises:
        OptionError: it is no path, is empty, or no file can have such a name.
    """
    said = repr(given)
    said = f"{name} is {said if len(said) <= SHOWN_OF_A_PATH else said[:SHOWN_OF_A_PATH] + '…'}"
    path = os.fspath(given) if isinstance(given, (str, os.PathLike)) else None
    if not isinstance(path, str) or not path:
        raise OptionError(f"{said}; it must be the path of {what}")
    try:
        sound = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        sound = False
    if not sound:
        raise OptionError(f"{said}; no file can have such a name, so give the path of {what}")
    return Path(os.path.expanduser(path))  # Path.expanduser fails where there is no such user


# --- how files of ours are opened ----------------------------------------------------------------

# No link is followed, since a rewrite would replace the link; a pipe is not waited for.
_CAREFUL: Final = (
    getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_BINARY", 0)
)


def make_private_folder(folder: Path) -> None:
    """Make a folder of mode 0700, and its parents where they are missing, likewise.

    A folder that exists keeps its mode: it may serve other purposes too.

    Raises:
        OSError: it cannot be made.
    """
    if folder.is_dir():
        return
    if folder.parent != folder:
        make_private_folder(folder.parent)
    try:
        os.mkdir(folder, PRIVATE_FOLDER)
    except FileExistsError as error:
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from error
        return  # another program was quicker
    os.chmod(folder, PRIVATE_FOLDER)  # whatever the umask took away


def is_private_folder(folder: Path) -> bool:
    """Whether ``folder`` is a folder of this user (no link to one) that nobody else may write to, or replace.

    Raises:
        OSError: it cannot be looked at.
    """
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        return False
    if not hasattr(os, "geteuid"):  # Windows, where modes mean nothing
        return True
    if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return False
    # Who may write to a folder above, and is not held back by the sticky bit, can put another one in its place.
    above = (each.stat().st_mode for each in Path(os.path.realpath(folder)).parents)
    return not any(mode & stat.S_IWOTH and not mode & stat.S_ISVTX for mode in above)


def open_private(path: Path, flags: int) -> int:
    """A descriptor of a regular file that only its owner may read; with ``os.O_CREAT`` made if need be.

    What is written to is this user's own; what is read may be the system administrator's.

    Raises:
        OSError: it cannot be opened, is a link, no regular file, or another user's.
    """
    try:
        handle = os.open(path, flags | _CAREFUL, PRIVATE_FILE)
    except OSError as error:
        if error.errno == errno.ELOOP and os.path.islink(path):
            raise OSError(errno.ELOOP, "it is a symbolic link", str(path)) from error
        raise
    try:
        writes = bool(flags & (os.O_WRONLY | os.O_RDWR))
        found = _require_ours(path, os.fstat(handle), writes=writes)
        if writes and hasattr(os, "fchmod") and stat.S_IMODE(found.st_mode) != PRIVATE_FILE:
            os.fchmod(handle, PRIVATE_FILE)  # an odd umask, or a copy that came with a wider mode
    except BaseException:
        os.close(handle)
        raise
    return handle


def look_at_private(path: Path, *, writes: bool) -> os.stat_result | None:
    """What ``open_private`` would find, without opening it; None where there is no file.

    For a library that opens the file itself, and whose locks would go with any descriptor of it that is closed.

    Raises:
        OSError: it cannot be looked at, is a link, no regular file, or another user's.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(found.st_mode):
        raise OSError(errno.ELOOP, "it is a symbolic link", str(path))
    _require_ours(path, found, writes=writes)
    if writes and os.name != "nt" and stat.S_IMODE(found.st_mode) != PRIVATE_FILE:
        os.chmod(path, PRIVATE_FILE)
    return found


def _require_ours(path: Path, found: os.stat_result, *, writes: bool) -> os.stat_result:
    if not stat.S_ISREG(found.st_mode):
        number = errno.EISDIR if stat.S_ISDIR(found.st_mode) else errno.EINVAL
        raise OSError(number, "it is not a regular file", str(path))
    if hasattr(os, "geteuid") and found.st_uid not in ({os.geteuid()} if writes else {os.geteuid(), 0}):
        raise OSError(errno.EPERM, "it belongs to another user", str(path))
    return found


def read_private(path: Path, most: int = SMALL) -> bytes:
    """All bytes of a file of ours.

    Raises:
        OSError: there is none, it has more than ``most`` bytes, or ``open_private`` refuses it.
    """
    with open(open_private(path, os.O_RDONLY), "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes", str(path))
    return data


def read_ends(path: Path, first: int, last: int) -> tuple[bytes, bytes, int]:
    """The beginning and the end of a file of ours, and its size in bytes.

    Args:
        path: the file.
        first, last: bytes of each at most; a file that has no more than both together is a beginning only.

    Raises:
        OSError: there is none, or ``open_private`` refuses it.
    """
    with open(open_private(path, os.O_RDONLY), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= first + last:
            return file.read(first + last), b"", size
        beginning = file.read(first)
        file.seek(size - last)
        return beginning, file.read(last), size


@contextlib.contextmanager
def replacing(path: Path, *, lasting: bool = False) -> Iterator[IO[bytes]]:
    """A file to write, mode 0600, that takes the place of ``path`` when the block ends well, and else vanishes.

    Args:
        path: the file, in a folder that is there. A link in its place is replaced, not followed.
        lasting: it is on the disk when the block has ended, and a power failure does not lose it.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    # Its name is known before it is there, so that whatever interrupts its making removes it too.
    name = path.parent / f"{path.name[:LONGEST_PREFIX]}{UNFINISHED}{secrets.token_hex(4)}"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(name, flags, PRIVATE_FILE)
        with open(handle, "wb") as file:
            if hasattr(os, "fchmod"):
                os.fchmod(handle, PRIVATE_FILE)  # whatever the umask took away
            yield file
            file.flush()
            if lasting:
                os.fsync(handle)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    if lasting:
        with contextlib.suppress(OSError):  # the name too; not every system lets a folder be opened
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def write_privately(path: Path, data: str | bytes) -> None:
    """Write a small file, readable by its owner alone, in one step: a reader finds the old content or the new.

    Args:
        path: the file; its folder is made if need be. A link in its place is replaced, not followed.
        data: its content; text in UTF-8.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    make_private_folder(path.parent)
    with replacing(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def failure(
    doing: str, path: Path | str, error: OSError, *, otherwise: str = "write elsewhere"
) -> StoreError:
    """An error of the system as one line: what, why, what to do.

    Args:
        doing: what failed, as in "cannot read".
        path: the file or folder, or what else was written to.
        error: why.
        otherwise: what helps where nothing can be written.
    """
    remedies = {
        errno.ENOSPC: f"free some space, or {otherwise}",
        errno.EDQUOT: f"free some space, or {otherwise}",
        errno.EFBIG: f"raise the limit on the size of files, or {otherwise}",
        errno.EROFS: otherwise,
        errno.ELOOP: f"put the file itself there, or {otherwise}",
        errno.EPERM: f"move it away, or {otherwise}",
    }
    remedy = remedies.get(error.errno or 0, f"check the path and its permissions, or {otherwise}")
    return StoreError(f"cannot {doing} {path}: {error.strerror or error}; {remedy}")
