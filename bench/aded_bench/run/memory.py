"""What each arm holds in memory: growth of this process while it works, and what its KV cache takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aded_local.errors import OptionError

CELL_BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32}  # per element; q8_0 has a scale per 32

ATTENTION = ("head_count", "head_count_kv", "key_length", "value_length")
KEYS = ("block_count", "embedding_length", *(f"attention.{key}" for key in ATTENTION))
"""In a GGUF's header, after the architecture's name."""


class Meter:
    """Charges each arm with the growth of this process's resident memory while that arm works.

    The arms of a run take turns in one thread, so whatever grows while one works is its own: weights it reads,
    cache, drafting tables, and once per run compiled kernels. An arm that shares another's weights grows little.
    """

    def __init__(self) -> None:
        self.grown: dict[str, float] = {}
        self.highest: dict[str, float] = {}

    @contextmanager
    def charge(self, name: str) -> Iterator[None]:
        """Whatever grows inside is ``name``'s."""
        before = resident()
        try:
            yield
        finally:
            self.grown[name] = self.grown.get(name, 0.0) + resident() - before
            self.highest[name] = max(self.highest.get(name, 0.0), self.grown[name])


def resident() -> float:
    """Resident memory of this process, in MB."""
    import psutil

    return float(psutil.Process().memory_info().rss) / 1e6


def private() -> float:
    """Resident memory of this process behind which no mapped file stands, in MB; with the others but on Linux."""
    import psutil

    found = psutil.Process().memory_info()
    return float(found.rss - getattr(found, "shared", 0)) / 1e6


def free() -> float:
    """Memory that programs may have, in MB: unused, or of files that can be read again."""
    import psutil

    return float(psutil.virtual_memory().available) / 1e6


def require_room(method: str, megabytes: float) -> None:
    """Refuse to load a model once more where it would not fit: the system would end this program.

    Args:
        method: that is to be opened.
        megabytes: what another one took.

    Raises:
        OptionError: less is free.
    """
    if megabytes > (left := free()):
        raise OptionError(
            f"{method} would load the model once more, which takes {megabytes:,.0f} MB, and {left:,.0f} MB are free: "
            "name fewer --methods"
        )


def cache_megabytes(model: Path, n_ctx: int, cache_type: str) -> float | None:
    """Size of a KV cache of ``n_ctx`` cells, in MB; None where the file does not tell (running states too)."""
    from aded_local.llama.gguf import read_header

    header = read_header(model)
    known: dict[str, Any] = {key: header.metadata.get(f"{header.architecture}.{key}") for key in KEYS}
    layers, width, heads, kv_heads, *lengths = known.values()
    try:  # lists of numbers by layer, and what is absent, are of other types
        values = sum(length or width // heads for length in lengths)
        return float(float(n_ctx) * layers * (kv_heads or heads) * values * CELL_BYTES[cache_type] / 1e6)
    except (TypeError, ZeroDivisionError):
        return None
