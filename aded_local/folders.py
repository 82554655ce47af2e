"""Where files of a user live. Imports nothing heavy."""

from __future__ import annotations

import os
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
