"""A cache of compiled kernels that is damaged or full costs time, never the program."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from aded_local.drafting.compiling import forgive


class _Cache:
    """Stands in for Numba's cache of one function."""

    def __init__(self, failure: Exception | None) -> None:
        self.failure = failure
        self.flushed = False

    def load_overload(self, *_: Any) -> str:
        if self.failure is not None:
            raise self.failure
        return "compiled"

    def save_overload(self, *_: Any) -> None:
        if self.failure is not None:
            raise self.failure

    def flush(self) -> None:
        self.flushed = True
        if isinstance(self.failure, OSError):
            raise self.failure


@pytest.mark.parametrize(
    "failure",
    [
        EOFError(),
        pickle.UnpicklingError("truncated"),
        ValueError("bad"),
        OSError(28, "No space left on device"),
    ],
)
def test_what_cannot_be_read_is_compiled_anew(failure: Exception) -> None:
    cache = _Cache(failure)
    forgive(cache)
    assert cache.load_overload("signature", "target") is None and cache.flushed


def test_what_cannot_be_kept_is_not() -> None:
    cache = _Cache(OSError(28, "No space left on device"))
    forgive(cache)
    cache.save_overload("signature", "code")


def test_what_is_sound_is_taken_as_it_is() -> None:
    cache = _Cache(None)
    forgive(cache)
    assert cache.load_overload("signature", "target") == "compiled" and not cache.flushed
    forgive(None)  # a kernel without a cache
