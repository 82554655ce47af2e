"""The likeliest tokens are NumPy's, whatever the logits hold: equal ones, NaN, infinities, odd sizes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from aded_local.kernels.top_k import BLOCK, NO_ROW, NO_TOKEN, TOP_K, new_rows, top_k_rows
from aded_local.tree import FloatArray, IntArray

ODD = [np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 3.4e38, -3.4e38, 1e-45, -1e-45]


def found(logits: FloatArray, k: int) -> tuple[IntArray, FloatArray]:
    tokens, shares = np.full(k, 77, np.int32), np.full(k, 7, np.float32)
    top_k_rows(logits[None], np.zeros(1, np.int32), tokens[None], shares[None])
    return tokens, shares


def expected(logits: FloatArray, k: int) -> tuple[IntArray, FloatArray]:
    finite = np.flatnonzero(np.isfinite(logits))
    best = finite[np.argsort(-logits[finite].astype(np.float64), kind="stable")[:k]]
    tokens, shares = np.full(k, NO_TOKEN, np.int32), np.zeros(k, np.float32)
    tokens[: len(best)] = best
    if len(best):
        weights = np.exp(logits[best].astype(np.float64) - float(logits[best[0]]))
        shares[: len(best)] = weights / weights.sum()
    return tokens, shares


def check(logits: FloatArray, k: int) -> None:
    tokens, shares = found(logits, k)
    right_tokens, right_shares = expected(logits, k)
    np.testing.assert_array_equal(tokens, right_tokens)
    np.testing.assert_allclose(shares, right_shares, atol=1e-6)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5 * BLOCK), st.integers(1, 12), st.floats(-60, 60))
def test_any_size_and_any_level_is_sorted_as_numpy_sorts(seed: int, n: int, k: int, level: float) -> None:
    check((np.random.default_rng(seed).normal(0, 5, n) + level).astype(np.float32), k)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4 * BLOCK), st.integers(1, 12), st.integers(-3, 3))
def test_of_equal_logits_the_first_comes_first(seed: int, n: int, k: int, level: int) -> None:
    """Few values, so that most are equal; as ``argmax``, and therefore greedy decoding, has it."""
    logits = (np.random.default_rng(seed).integers(0, 4, n) + level).astype(np.float32)
    check(logits, k)
    assert found(logits, k)[0][0] == logits.argmax()


@settings(max_examples=200, deadline=None)
@given(
    arrays.arrays(
        np.float32,
        st.integers(1, 3 * BLOCK),
        elements=st.one_of(st.sampled_from(ODD), st.floats(width=32)),
        fill=st.sampled_from(ODD),
    ),
    st.integers(1, 10),
)
def test_nan_and_infinities_count_as_absent(logits: FloatArray, k: int) -> None:
    check(logits, k)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6 * BLOCK), st.floats(0, 1))
def test_any_bits_are_survived(seed: int, n: int, share: float) -> None:
    """Random bits, some of them in blocks of nothing but NaN."""
    rng = np.random.default_rng(seed)
    logits = rng.integers(-(2**31), 2**31, n).astype(np.int32).view(np.float32)
    logits[: int(share * n)] = np.nan
    check(logits, 8)


@pytest.mark.parametrize("n_vocab", [32_000, 128_256, 256_000])
@pytest.mark.parametrize("place", ["first", "last", "together", "spread"])
def test_vocabularies_of_real_size(n_vocab: int, place: str) -> None:
    rng = np.random.default_rng(n_vocab)
    logits = rng.normal(-8, 2, n_vocab).astype(np.float32)
    start = {"first": 0, "last": n_vocab - 8, "together": 5 * BLOCK, "spread": 0}[place]
    step = n_vocab // 8 if place == "spread" else 1
    winners = start + step * rng.permutation(8)
    logits[winners] = np.arange(20, 12, -1)
    tokens, shares = found(logits, 8)
    assert tokens.tolist() == winners.tolist()
    assert shares.sum() == pytest.approx(1.0, abs=1e-6)
    assert (np.diff(shares) < 0).all()


def test_minus_zero_equals_zero() -> None:
    """Also where whole blocks hold nothing larger."""
    logits = np.full(3 * BLOCK, -5, np.float32)
    logits[[7, BLOCK + 3]] = -0.0, 0.0
    assert found(logits, 1)[0].tolist() == [7]
    assert found(logits, 3)[0].tolist() == [7, BLOCK + 3, 0]


def test_too_few_finite_logits_leave_the_rest_empty() -> None:
    tokens, shares = found(np.array([np.nan, 1.0, -np.inf, 1.0], np.float32), 4)
    assert tokens.tolist() == [1, 3, NO_TOKEN, NO_TOKEN]
    assert shares.tolist() == [0.5, 0.5, 0.0, 0.0]
    for logits in (np.full(3 * BLOCK + 5, -np.inf, np.float32), np.empty(0, np.float32)):
        tokens, shares = found(logits, 3)
        assert tokens.tolist() == [NO_TOKEN] * 3
        assert shares.tolist() == [0.0] * 3


def test_rows_are_taken_in_the_order_asked_for_and_absent_ones_are_empty() -> None:
    logits = np.random.default_rng(1).normal(size=(4, 300)).astype(np.float32)
    rows = np.array([2, NO_ROW, 0, 3, 4, 2], np.int32)
    tokens, shares = new_rows(len(rows))
    top_k_rows(logits, rows, tokens, shares)
    for line, row in enumerate(rows):
        if 0 <= row < 4:
            np.testing.assert_array_equal(tokens[line], expected(logits[row], TOP_K)[0])
            np.testing.assert_allclose(shares[line], expected(logits[row], TOP_K)[1], atol=1e-6)
        else:
            assert (tokens[line] == NO_TOKEN).all()
            assert (shares[line] == 0).all()


def test_the_logits_are_left_alone() -> None:
    logits: npt.NDArray[np.float32] = np.random.default_rng(2).normal(size=1000).astype(np.float32)
    before = logits.copy()
    found(logits, 8)
    np.testing.assert_array_equal(logits, before)
