"""What was learnt, as a small JSON file of numbers. What a file says is checked before it is used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from aded_local.files import cache_folder, read_private, write_privately

Array = npt.NDArray[Any]

LARGEST: Final = 1e9
"""Nothing that is learnt comes near it."""

MOST_BYTES: Final = 1 << 20
"""Of a file. That of a pair of models takes 58 kB."""


def path_of(folder: str, *of_what: str) -> Path:
    """Where a file of this kind is kept.

    Args:
        folder: in the cache folder.
        of_what: tells one file from another; its hash is the name.
    """
    name = hashlib.sha256(" ".join(of_what).encode()).hexdigest()[:24]
    return cache_folder() / folder / f"{name}.json"


def save(path: Path, found: Mapping[str, Any]) -> None:
    """Write a file, readable by its owner alone.

    Args:
        found: by name, arrays or what JSON has.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    plain = {name: each.tolist() if isinstance(each, np.ndarray) else each for name, each in found.items()}
    write_privately(path, json.dumps(plain))


def load(path: Path) -> dict[str, Any]:
    """What is in a file; nothing where there is none, or what is there is no such file."""
    try:
        found = json.loads(read_private(path, MOST_BYTES))
    except Exception:  # of all that a stranger's file may cause, nothing matters: learning begins anew
        return {}
    return found if isinstance(found, dict) else {}


def fitting(found: Mapping[str, Any], like: Mapping[str, Array]) -> dict[str, Array] | None:
    """The arrays of a file; None where one is missing, has another shape or holds a number that nobody learnt.

    Args:
        like: arrays of the shapes and types that are wanted.
    """
    arrays = {}
    for name, wanted in like.items():
        try:
            with np.errstate(all="ignore"):
                array = np.array(found[name], wanted.dtype)
        except (LookupError, ValueError, TypeError, OverflowError):
            return None
        if array.shape != wanted.shape or not np.all(np.abs(array) <= LARGEST):
            return None
        arrays[name] = array
    return arrays
