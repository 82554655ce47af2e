"""Finds the batch sizes that equal one-token decoding: their logits are compared with its own, bit for bit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from aded_local.speed.probe import PREFIX, PROBE_SEED, Probe

CHAIN = 16
"""Tokens decoded one by one: they give the cost of one, and the reference for exactness."""

EXACT_SIZES: Final = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
"""Batch sizes whose exactness is probed: a draft in between is padded. Each costs a second or two (SmolLM2)."""

EXACT_POSITIONS = 1024
"""A size counts as exact after so many tokens were decoded one by one and in batches with equal logits, where the
context has room. Kernels for one row and for several may differ only where a value lies just between two quantized
ones: with the built-in model's Q8_0 weights that is about one token in a hundred, and 300 in a row have shown none."""
EXACT_SECONDS = 1.5
EXACT_VALUES: Final = 256 * 30 * 576
LEAST_EXACT_POSITIONS: Final = 64
"""On a slow model: as many tokens as are decoded one by one in these seconds, at least as many as have these values
between layers (256 tokens of SmolLM2), and at least this number. Any value can show a difference, and a token of a
7B model has 7.6 times as many as one of SmolLM2. To compare 64 of its tokens takes 94 s (Q4_0, two cores)."""
EXACT_FILLS = (256, 512, 2048)
"""Cells at which exactness is probed: llama.cpp changes kernels at 512 (split KV, ggml-cpu/ops.cpp)."""
STEADY_TOKENS: Final = 4
"""Tokens by which thread counts are compared: where they change bits, as the split-KV kernels do, every token shows it
(SmolLM2: 1.0 logits)."""


Told = Callable[[int, int], None]
"""Told how many parts of the work are done, and how many there are."""


def _untold(_done: int, _all: int) -> None:
    """Nobody waits."""


class Exactness(NamedTuple):
    """What equals one-token decoding to the last bit.

    Attributes:
        sizes: of batches, ascending.
        fills: cells at which that was seen.
        steady: one-token decoding itself is the same with one thread as with all.
    """

    sizes: list[int]
    fills: list[int]
    steady: bool


class ExactnessProbe(Probe):
    """Compares batches in a context of its own, and times them."""

    def exact_sizes(self, sizes: Iterable[int], n_cells: int, *, longest: int = CHAIN) -> set[int]:
        """Batch sizes up to ``longest`` equal to one-token decoding, bit for bit, after ``n_cells`` cells."""
        limit = min(longest, self.largest_size)
        self._fill(n_cells)
        chain = self._tokens[PREFIX : PREFIX + limit]
        reference = []
        for i in range(limit):
            self._gate.wait()
            self._context.prefill(chain[i : i + 1])
            reference.append(self._context.logits(-1).copy())
        exact = {1}
        for n in sizes:
            if 1 < n <= limit:
                self._gate.wait()
                self._rewind(PREFIX)
                self._context.probe_batch(chain[:n])
                if all(np.array_equal(self._context.logits(i), reference[i]) for i in range(n)):
                    exact.add(n)
        self._context.clear()
        return exact

    def lasting_sizes(
        self, sizes: Collection[int], positions: int = EXACT_POSITIONS, *, told: Told = _untold
    ) -> set[int]:
        """Batch sizes that equal one-token decoding, bit for bit, at each of ``positions`` tokens in a row; at fewer
        where that takes longer than ``EXACT_SECONDS``.

        Args:
            sizes: to compare.
            positions: tokens at most.
            told: how many of the sizes are done, before each, and how many there are.
        """
        positions = min(positions, self.largest_fill)
        model = self._context.model
        least = max(LEAST_EXACT_POSITIONS, EXACT_VALUES // (model.n_layer * model.n_embd))
        started = self._clock()
        tokens = model.random_tokens(PREFIX + positions, PROBE_SEED)
        chain = tokens[PREFIX:]
        self._context.clear()
        self._context.prefill(tokens[:PREFIX], want_logits=False)
        reference = []
        for i in range(positions):
            if i >= least and self._clock() - started > EXACT_SECONDS:
                break
            self._gate.wait()
            self._context.prefill(chain[i : i + 1])
            reference.append(_digest(self._context.logits(-1)))
        positions = len(reference)
        exact = {1}
        for done, n in enumerate(sizes):
            told(done, len(sizes))
            if not 1 < n <= positions:
                continue
            self._context.roll_back(PREFIX)
            for start in range(0, positions - n + 1, n):
                self._gate.wait()
                self._context.probe_batch(chain[start : start + n])
                if any(_digest(self._context.logits(i)) != reference[start + i] for i in range(n)):
                    break
            else:
                exact.add(n)
        self._context.clear()
        return exact

    def exactness(self, told: Told = _untold) -> Exactness:
        """Which of ``EXACT_SIZES`` are exact at every fill the context can have; ``told`` as for ``lasting_sizes``."""
        fills = [fill for fill in EXACT_FILLS if fill <= self.largest_fill] or [PREFIX]
        holding = set(EXACT_SIZES)
        for fill in fills:
            if len(holding) > 1:
                holding &= self.exact_sizes(sorted(holding), fill)
        if self._rewinds and len(holding) > 1:
            holding &= self.lasting_sizes(sorted(holding), told=told)
        return Exactness(sorted(holding), fills, all(self._is_steady(fill) for fill in fills))

    def _is_steady(self, n_cells: int) -> bool:
        """Whether tokens decoded one by one after ``n_cells`` cells have the logits of one thread with all too."""
        threads = self._context.settings.n_threads
        found: list[list[bytes]] = []
        for count in (1, threads):
            self._context.set_threads(count)
            self._fill(n_cells)
            found.append([])
            for token in self._tokens[PREFIX : PREFIX + STEADY_TOKENS]:
                self._gate.wait()
                self._context.prefill(token[None])
                found[-1].append(_digest(self._context.logits(-1)))
        self._context.set_threads(threads)
        self._context.clear()
        return all(each == found[0] for each in found)


def _digest(logits: npt.NDArray[np.float32]) -> bytes:
    """A short value that differs where logits differ in a bit."""
    return hashlib.blake2b(np.ascontiguousarray(logits).view(np.uint8).data, digest_size=16).digest()
