"""Programs run as a user whom the system does not know, and whom modes stop: root sees no fault that they would."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest

UID = 54321
"""No system has an entry for it."""


@cache
def _prefix() -> tuple[str, ...]:
    """What runs a program as that user; it may read everywhere, for an interpreter may lie in root's home folder."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can become another user, with setpriv of util-linux")
    rights = (
        "--inh-caps=-all,+dac_read_search",
        "--ambient-caps=-all,+dac_read_search",
        "--bounding-set=-all,+dac_read_search",
    )
    for chosen in (rights, ()):
        found = ("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", *chosen)
        if (
            subprocess.run([*found, sys.executable, "-c", ""], capture_output=True, check=False).returncode
            == 0
        ):
            return found
    pytest.skip("another user may not run this interpreter")


def run(
    program: str, environment: Mapping[str, str], folder: Path, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run a Python program as that user, with nothing in its environment but what is given, in ``folder``."""
    path = ":".join(filter(None, sys.path))
    return subprocess.run(
        [*_prefix(), sys.executable, "-c", program, *arguments],
        env={"PATH": os.environ.get("PATH", ""), "PYTHONPATH": path, **environment},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def owned_by_stranger(paths: Sequence[Path]) -> None:
    """Give files to that user."""
    _prefix()
    for path in paths:
        os.chown(path, UID, UID)
