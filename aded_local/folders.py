"""Where files of a user live. Imports nothing heavy."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import platformdirs

APP = "aded-local"


def cache_folder() -> Path:
    """Where things lie that can be made again: measurements, compiled kernels. ``ADED_CACHE_DIR`` overrides."""
    return Path(
        os.environ.get("ADED_CACHE_DIR") or platformdirs.user_cache_dir(APP, appauthor=False)
    ).expanduser()


def data_folder() -> Path:
    """Where what a person wrote lies. ``ADED_DATA_DIR`` overrides."""
    return Path(
        os.environ.get("ADED_DATA_DIR") or platformdirs.user_data_dir(APP, appauthor=False)
    ).expanduser()


def write_privately(path: Path, text: str) -> None:
    """Write a small file, readable by its owner alone, in one step: a reader finds the old text or the new.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, suffix=".tmp", delete=False, encoding="utf-8"
    ) as file:
        try:
            file.write(text)
            file.close()
            os.replace(file.name, path)
        except BaseException:
            file.close()
            Path(file.name).unlink(missing_ok=True)
            raise
