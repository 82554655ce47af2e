"""A cache of compiled kernels that is damaged or full costs time, never the program."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from aded_local.kernels import kept
from aded_local.kernels.compiling import entry, failures, forgive, kernel
from aded_local.tree import IntArray


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
    assert failures.pop() is cache.failure  # so that nobody says all was kept


def test_what_is_sound_is_taken_as_it_is() -> None:
    cache = _Cache(None)
    forgive(cache)
    assert cache.load_overload("signature", "target") == "compiled" and not cache.flushed
    forgive(None)  # a kernel without a cache


@pytest.fixture
def compiling_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "FOLDER", None)


@pytest.mark.usefixtures("compiling_anew")
def test_a_kernel_is_compiled_once_whatever_integers_it_is_handed() -> None:
    @kernel
    def doubled(number: int) -> int:
        return 2 * number

    @entry
    def add_doubled(short: IntArray, long: npt.NDArray[np.int64]) -> int:
        return doubled(short[0]) + doubled(long[0]) + doubled(1) + doubled(2)

    assert add_doubled(np.full(1, 10, np.int32), np.full(1, 100, np.int64)) == 226
    assert len(doubled._compiled.signatures) == 1  # type: ignore[attr-defined]
    assert doubled(4) == 8  # from Python too, which compiles it once more


@pytest.mark.usefixtures("compiling_anew")
def test_numbers_that_are_not_whole_keep_their_precision() -> None:
    @kernel
    def halved(number: float) -> float:
        return number / 2

    @entry
    def halve_both(single: npt.NDArray[np.float32], double: npt.NDArray[np.float64]) -> None:
        single[0], double[0] = halved(single[0]), halved(double[0])

    halve_both(np.ones(1, np.float32), np.ones(1, np.float64))
    assert len(halved._compiled.signatures) == 2  # type: ignore[attr-defined]
