"""One curve of a result file as plain data: made of times, read back, named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from aded_bench.results import ResultFile
from aded_local.errors import StoreError

Setting = tuple[bool, str]
"""Flash attention, cache type."""
Entry = dict[str, Any]
"""One curve: see ``entry_of``."""

SCALARS: dict[str, Any] = {
    "flash_attention": bool,
    "cache_type": str,
    "prefix": int,
    "rounds": int,
    "note": (str, type(None)),
}
BY_SIZE = ("milliseconds", "ratio", "low", "high")
"""Keys of a curve in a result file and their types; ``BY_SIZE`` are numbers by tokens in the pass."""


def name_of(setting: Setting) -> str:
    """A setting in words."""
    return f"flash attention {'on' if setting[0] else 'off'}, {setting[1]} cache"


def entry_of(
    setting: Setting, prefix: int, samples: dict[int, list[float]], note: str | None = None
) -> Entry:
    """One curve as plain data: medians and quartiles in milliseconds by batch size, ratios to one token."""
    quartiles = {
        n: [1e3 * float(v) for v in np.percentile(taken, (25, 50, 75))]
        for n, taken in sorted(samples.items())
    }
    one = quartiles[1][1] if quartiles else 1.0
    return {
        "flash_attention": setting[0],
        "cache_type": setting[1],
        "prefix": prefix,
        "milliseconds": {str(n): round(q[1], 4) for n, q in quartiles.items()},
        "ratio": {str(n): round(q[1] / one, 4) for n, q in quartiles.items()},
        "low": {str(n): round(q[0], 4) for n, q in quartiles.items()},
        "high": {str(n): round(q[2], 4) for n, q in quartiles.items()},
        "rounds": min((len(taken) for taken in samples.values()), default=0),
        "exact": None,
        "note": note,
    }


def curves_of(earlier: dict[str, Any] | None, file: ResultFile) -> list[Entry]:
    """The curves of what ``resume`` returned; none where that is None.

    Raises:
        StoreError: they are not what ``entry_of`` makes.
    """
    found = earlier["curves"] if earlier is not None else []
    if not all(_is_entry(entry) for entry in found):
        raise StoreError(f"{file.path} holds curves that are damaged; name another file or remove it")
    return list(found)


def _is_entry(found: Mapping[str, Any]) -> bool:
    if not {*SCALARS, *BY_SIZE, "exact"} <= found.keys():
        return False
    sizes = found["milliseconds"].keys() if isinstance(found["milliseconds"], dict) else ()
    return (
        all(isinstance(found[key], kind) for key, kind in SCALARS.items())
        and all(isinstance(found[key], dict) and found[key].keys() == sizes for key in BY_SIZE)
        and all(n.isdecimal() for n in sizes)
        and all(isinstance(value, (int, float)) for key in BY_SIZE for value in found[key].values())
        and isinstance(found["exact"], (list, type(None)))
    )
