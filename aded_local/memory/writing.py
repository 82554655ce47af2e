"""A lock between programs that write the same file, and what went wrong with one in a line."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from pathlib import Path

from aded_local.errors import StoreError
from aded_local.files import make_private_folder, open_private

LOCK_SECONDS = 3.0
"""How long to wait for another program that writes: the longest work under the lock, a rewrite, takes a tenth."""

RETRY_SECONDS = 0.005

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
"""What a file system without locks (some network shares) answers."""


def failure(doing: str, path: Path, error: OSError) -> StoreError:
    """An error of the system as one line: what, why, what to do."""
    remedies = {
        errno.ENOSPC: "free some space",
        errno.EDQUOT: "free some space",
        errno.EFBIG: "raise the limit on the size of files",
        errno.EROFS: "set ADED_DATA_DIR to a folder that can be written",
        errno.ELOOP: "put the file itself there, or set ADED_DATA_DIR to the folder that is meant",
        errno.EPERM: "move it away, or set ADED_DATA_DIR",
    }
    remedy = remedies.get(error.errno or 0, "check the path and its permissions, or set ADED_DATA_DIR")
    return StoreError(f"cannot {doing} {path}: {error.strerror or error}; {remedy}")


class Lock:
    """Keeps other programs (and other threads) from writing while inside ``with``.

    Attributes:
        held: False where the file system has no locks; then nothing is kept out.

    Args:
        path: the lock file; made if need be, and gone after ``remove``.

    Raises:
        OSError: on entering: the lock file cannot be made, or another program does not give it back.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.held = False
        self._handle = -1

    def __enter__(self) -> Lock:
        make_private_folder(self.path.parent)
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            self._handle = open_private(self.path, os.O_RDWR | os.O_CREAT)
            try:
                self.held = _lock(self._handle, deadline)
                # One that was removed while this waited keeps nobody out.
                if _is_same(self._handle, self.path):
                    return self
            except BaseException:
                self._close()
                raise
            self._close()

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        os.close(self._handle)  # which gives the lock back
        self.held = False

    def remove(self) -> None:
        """Remove the lock file; to be called inside, last. Whoever waits for it makes another."""
        with contextlib.suppress(PermissionError):  # Windows keeps a file that is open
            self.path.unlink(missing_ok=True)


def _is_same(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _lock(handle: int, deadline: float) -> bool:
    """Take the lock; False where there are none."""
    while True:
        try:
            _try_lock(handle)
            return True
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return False
            if error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK):
                raise
            if time.monotonic() > deadline:
                raise OSError(errno.EBUSY, "another program does not stop writing to it") from error
        time.sleep(RETRY_SECONDS)


if sys.platform == "win32":
    import msvcrt

    def _try_lock(handle: int) -> None:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _try_lock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
