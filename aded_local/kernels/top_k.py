"""The target's k likeliest next tokens, read from its logits in the microseconds a drafter can spare.

Two looks. The first takes the maximum of every block of ``BLOCK`` logits and remembers the k blocks with
the largest; it is one vectorised pass and costs less than NumPy's ``argmax``. The second looks into those k
blocks alone: a token in any other block has k better ones, the maxima, before it.

Example, k = 2, blocks of three: ``[1 5 2] [0 3 4] [9 1 7]`` has the maxima 5, 4 and 9; the last and the first
block are looked into, and 9 and 7 are found in the last.

Shares are a softmax over the k tokens alone, so they add up to one whatever the others would have got: an
exponential for every token of the vocabulary would cost more than the draft it improves saves.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from aded_local.kernels.compiling import entry, kernel
from aded_local.tree import FloatArray, IntArray

TOP_K: Final = 8
"""Tokens taken from each distribution: Token Recycling keeps as many successors (arXiv 2408.08696), and the first
look in the field notes was taken with as many."""

Longs = npt.NDArray[np.int64]

NO_TOKEN: Final = -1
"""In place of a token where there are fewer than k finite logits, and throughout a row that was skipped."""

NO_ROW: Final = -1
"""In place of a row that is to be skipped."""

BLOCK: Final = 128
"""Logits whose maximum is taken at once. 64 costs a third more time on AVX2 (more maxima to look at), 256 saves a tenth
of the first look and doubles the second."""

INFINITY_BITS: Final = 0x7F800000
"""Bits of positive infinity as float32; those of positive NaNs are above. The negative ones come below every finite
number in ``order_of`` and need no test of their own."""
NOTHING: Final = -0x80000000
"""Below the order of every logit. As bits of a float32, read as a signed integer, minus zero."""


@kernel
def order_of(bits: int) -> int:
    """An integer that orders finite float32 numbers, given as ``bits``, as their values do."""
    if bits >= 0:
        return bits
    # Negative numbers come in reverse; minus zero equals zero.
    return 0 if bits == NOTHING else bits ^ 0x7FFFFFFF


@kernel
def block_maximum(bits: IntArray) -> int:
    """Bits of the largest of ``BLOCK`` logits, bits int32 ``(BLOCK,)``, at the processor's full width.

    Compilers vectorise the maximum of integers; that of floats they do not, since NaNs forbid it. Where a logit
    is not negative, the largest integer is the largest float; where all are, it is the smallest integer.
    With a positive NaN or infinity among them the result is such a one.

    They come as an array of their own: with an offset Numba would look at each index for whether it counts from the
    end, and the width would be lost (half the speed).
    """
    highest = np.int32(-0x80000000)
    lowest = np.int32(0x7FFFFFFF)
    for i in range(BLOCK):
        value = bits[i]
        highest = max(highest, value)
        lowest = min(lowest, value)
    found: int = highest if highest >= 0 else lowest
    return found


@kernel
def careful_maximum(bits: IntArray, start: int, stop: int) -> int:
    """``order_of`` the largest logit from ``start`` to before ``stop`` that is no positive NaN or infinity.

    ``NOTHING`` where there is none; less than that of any finite logit where all are NaN or infinite.
    """
    largest = NOTHING
    for i in range(start, stop):
        if bits[i] < INFINITY_BITS:
            largest = max(largest, order_of(bits[i]))
    return largest


@kernel
def top_k(logits: FloatArray, bits: IntArray, tokens: IntArray, shares: FloatArray, blocks: Longs) -> None:
    """The largest logits, the first of equal ones first, as ``argmax`` and llama.cpp's greedy sampler have it.

    Args:
        logits: float32 ``(n_vocab,)``. What is not finite counts as absent.
        bits: the same memory as int32.
        tokens: written, int32 ``(k,)``: token ids, likeliest first; ``NO_TOKEN`` beyond the finite logits.
        shares: written, float32 ``(k,)``: softmax over these k alone; 0 for ``NO_TOKEN``.
        blocks: room for the largest maxima of blocks and where these start, int64 ``(2, k)``.
    """
    k = tokens.shape[0]
    maxima, starts = blocks[0], blocks[1]
    n_vocab = bits.shape[0]
    n = 0
    for start in range(0, n_vocab, BLOCK):
        stop = min(start + BLOCK, n_vocab)
        value = block_maximum(bits[start:stop]) if start + BLOCK <= n_vocab else INFINITY_BITS
        maximum = order_of(value) if value < INFINITY_BITS else careful_maximum(bits, start, stop)
        if maximum == NOTHING or (n == k and maximum <= maxima[k - 1]):
            continue
        place = n if n < k else k - 1
        while place > 0 and maxima[place - 1] < maximum:
            maxima[place] = maxima[place - 1]
            starts[place] = starts[place - 1]
            place -= 1
        maxima[place] = maximum
        starts[place] = start
        n = min(n + 1, k)

    found = 0
    after = -1
    for _ in range(n):
        # In the vocabulary's order, so that of equal logits the first stays first.
        start = n_vocab
        for i in range(n):
            if after < starts[i] < start:
                start = starts[i]
        after = start
        for token in range(start, min(start + BLOCK, n_vocab)):
            # Shares hold logits until all are found.
            logit = logits[token]
            if found == k and logit <= shares[k - 1]:
                continue
            if bits[token] & INFINITY_BITS == INFINITY_BITS:  # infinite, or no number
                continue
            place = found if found < k else k - 1
            while place > 0 and shares[place - 1] < logit:
                shares[place] = shares[place - 1]
                tokens[place] = tokens[place - 1]
                place -= 1
            shares[place] = logit
            tokens[place] = token
            found = min(found + 1, k)
    if found > 0:
        largest = shares[0]
        total = np.float32(0)
        for i in range(found):
            shares[i] = math.exp(shares[i] - largest)
            total += shares[i]
        for i in range(found):
            shares[i] /= total
    clear_from(found, tokens, shares)


@kernel
def clear_from(start: int, tokens: IntArray, shares: FloatArray) -> None:
    """No token from ``start`` on."""
    for i in range(start, tokens.shape[0]):
        tokens[i] = NO_TOKEN
        shares[i] = 0.0


@entry
def fill_rows(
    logits: FloatArray, bits: IntArray, rows: IntArray, tokens: IntArray, shares: FloatArray, blocks: Longs
) -> None:
    """See ``top_k_rows``, and ``top_k`` for ``bits`` and ``blocks``."""
    for i in range(rows.shape[0]):
        row = rows[i]
        if 0 <= row < logits.shape[0]:
            top_k(logits[row], bits[row], tokens[i], shares[i], blocks)
        else:
            clear_from(0, tokens[i], shares[i])


def top_k_rows(logits: FloatArray, rows: IntArray, tokens: IntArray, shares: FloatArray) -> None:
    """``top_k`` of several rows in one call.

    Args:
        logits: float32 ``(n_rows, n_vocab)``, contiguous.
        rows: the row for each line of the result, int32 ``(m,)``; for ``NO_ROW``, or a row that is not there,
            the line is all ``NO_TOKEN``.
        tokens: written, int32 ``(m, k)``.
        shares: written, float32 ``(m, k)``.
    """
    blocks = np.empty((2, tokens.shape[1]), np.int64)
    fill_rows(logits, logits.view(np.int32), rows, tokens, shares, blocks)


def new_rows(n: int) -> tuple[IntArray, npt.NDArray[np.float32]]:
    """Room for the result of ``top_k_rows``, not initialised: int32 and float32 ``(n, TOP_K)``."""
    return np.empty((n, TOP_K), np.int32), np.empty((n, TOP_K), np.float32)


def warm_up() -> None:
    """Compile the kernels, or load them from the cache: seconds that no answer should wait for."""
    top_k_rows(np.zeros((1, BLOCK), np.float32), np.zeros(1, np.int32), *new_rows(1))
