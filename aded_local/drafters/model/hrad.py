"""Predicts how much of a drafted chain the target will accept, as SpecBranch's H-RAD does (arXiv 2506.01979).

Three classes: none, some, all of it. The features are the target's hidden state at the last accepted token and what
the draft model said along the chain. In the middle class the draft's own confidence picks the branch point. The paper
trains offline; here a small network learns from each chain as its outcome becomes known, and starts from what it
learnt before.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from aded_local.drafters.model import numbers
from aded_local.files import failure
from aded_local.tree import FloatArray

FORMAT: Final = 2
"""Version of the file's layout; a file of another version is not used."""
FOLDER: Final = "hrad"
"""In the cache folder."""

PROJECTED: Final = 32
"""Numbers that a hidden state is projected to, at random. Origin of this and the next three: 767 chains of four tokens,
SmolLM2 drafted by its own q2_k. What the draft says gives the right class in 0.62 of the second half by itself; with
the hidden state, 64 numbers, 32 units and no decay that is 0.55 (learnt by heart), with these 0.60."""

UNITS: Final = 16
"""Of the network's hidden layer. The paper has 256 and 64, for 20,480 features and offline training."""

HIDDEN_SCALE: Final = 0.5
"""Of a hidden state's numbers, against those of the draft model."""

DECAY: Final = 0.01
"""Share of the weights that each step of learning takes away."""

RATE: Final = 3e-3
"""Adam's step size: three times its authors' default, as examples are few."""

BATCH: Final = 16
"""Examples of a step of learning: the newest, and others from memory."""

REMEMBERED: Final = 512
"""Examples that are learnt from again: some minutes of text."""

SETTLED: Final = 32
"""Examples before which the draft's confidence decides alone: two batches."""

LEAST_CONFIDENCE: Final = 0.4
"""A token that the draft model holds less likely is a branch point."""

SMALLEST: Final = 1e-6
"""Probabilities are cut here before their logarithm is taken."""


class Acceptance(IntEnum):
    """How much of a drafted chain the target accepts."""

    NONE = 0
    SOME = 1
    ALL = 2


def outcome(chain: Sequence[int], came: Sequence[int]) -> Acceptance | None:
    """What became of a chain of at least one token, by the text that came in its place; None while that is open."""
    for place, token in enumerate(chain):
        if place == len(came):
            return None
        if came[place] != token:
            return Acceptance.SOME if place else Acceptance.NONE
    return Acceptance.ALL


def branch_point(
    probabilities: Sequence[float], expected: Acceptance, least: float = LEAST_CONFIDENCE
) -> int:
    """How many tokens of a chain are verified before branches start.

    Args:
        probabilities: what the draft model gave each token of the chain.
        expected: what is expected of the chain.
        least: below it a token is no longer trusted.
    """
    if expected is Acceptance.NONE:
        return 0
    if expected is Acceptance.ALL:
        return len(probabilities)
    return next((place for place, p in enumerate(probabilities) if p < least), len(probabilities))


def draft_features(probabilities: Sequence[float], entropies: Sequence[float]) -> FloatArray:
    """What the draft model says of its chain, as features: float32 ``(DRAFT_FEATURES,)``.

    Args:
        probabilities: of each token of the chain, at least one.
        entropies: of the distribution that each was taken from, in nats.
    """
    logs = np.log(np.maximum(np.asarray(probabilities, np.float64), SMALLEST))
    return np.array([logs[0], logs.min(), logs.sum(), entropies[0], max(entropies), len(logs)], np.float32)


DRAFT_FEATURES: Final = 6
"""Numbers that ``draft_features`` makes of a chain."""


class Hrad:
    """The classifier.

    Args:
        n_hidden: numbers of the target's hidden state; 0 to do without it.
        seed: of the projection, the first weights and the choice of remembered examples.

    Attributes:
        n_seen: examples that were learnt from, earlier sessions' included.
    """

    def __init__(self, n_hidden: int, seed: int = 0) -> None:
        self.n_hidden, self.seed = n_hidden, seed
        self._random = np.random.default_rng(seed)
        width = (PROJECTED if n_hidden else 0) + DRAFT_FEATURES
        # The same for each start, so that weights which were kept still fit.
        self._projection = np.random.default_rng((seed, n_hidden)).standard_normal(
            (n_hidden, PROJECTED if n_hidden else 0), np.float32
        ) / np.float32(max(1.0, n_hidden**0.5))
        self.n_seen = 0
        self._mean, self._square = np.zeros(width, np.float32), np.ones(width, np.float32)
        first = self._random.standard_normal((width, UNITS), np.float32) / np.float32(width**0.5)
        self._weights = [first, np.zeros(UNITS, np.float32), np.zeros((UNITS, len(Acceptance)), np.float32),
                         np.zeros(len(Acceptance), np.float32)]  # fmt: skip
        self._moments = [(np.zeros_like(each), np.zeros_like(each)) for each in self._weights]
        self._inputs = np.zeros((REMEMBERED, width), np.float32)
        self._classes = np.zeros(REMEMBERED, np.int64)
        self._n_steps = 0

    @property
    def is_settled(self) -> bool:
        """Whether it has learnt enough to be asked."""
        return self.n_seen >= SETTLED

    def predict(self, hidden: FloatArray | None, draft: FloatArray) -> npt.NDArray[np.float32]:
        """Probabilities of the three classes, float32 ``(3,)``.

        Args:
            hidden: the target's hidden state at the last accepted token, float32 ``(n_hidden,)``; None without one.
            draft: see ``draft_features``.
        """
        inputs = self._standard(self._features(hidden, draft)[None])
        found: FloatArray = self._forward(inputs)[1][0]
        return found

    def expected(self, hidden: FloatArray | None, draft: FloatArray) -> Acceptance:
        """The likeliest class; SOME, which lets the draft's confidence decide, before enough is learnt."""
        if not self.is_settled:
            return Acceptance.SOME
        return Acceptance(int(self.predict(hidden, draft).argmax()))

    def learn(self, hidden: FloatArray | None, draft: FloatArray, came: Acceptance) -> None:
        """Learn what became of a chain with these features."""
        features = self._features(hidden, draft)
        place = self._n_steps % REMEMBERED
        self._inputs[place], self._classes[place] = features, came
        self.n_seen += 1
        self._n_steps += 1
        share = np.float32(1 / min(self.n_seen, REMEMBERED))
        self._mean += share * (features - self._mean)
        self._square += share * ((features - self._mean) ** 2 - self._square)
        there = min(self._n_steps, REMEMBERED)
        chosen = self._random.integers(0, there, BATCH)
        chosen[0] = place
        self._step(self._standard(self._inputs[chosen]), self._classes[chosen])

    def _features(self, hidden: FloatArray | None, draft: FloatArray) -> FloatArray:
        if not self.n_hidden or hidden is None:
            state = np.zeros(self._projection.shape[1], np.float32)
        else:
            # Of a root mean square of one, as behind a norm without weights: models differ in scale.
            scale = float(np.sqrt(np.mean(np.square(hidden, dtype=np.float64))))
            state = (hidden / np.float32(max(scale, SMALLEST))) @ self._projection
        found: FloatArray = np.nan_to_num(np.concatenate([state, draft]), nan=0.0, posinf=0.0, neginf=0.0)
        return found

    def _standard(self, features: FloatArray) -> FloatArray:
        found: FloatArray = np.clip((features - self._mean) / np.sqrt(self._square + 1e-4), -5.0, 5.0)
        found[:, : self._projection.shape[1]] *= np.float32(HIDDEN_SCALE)
        return found

    def _forward(self, inputs: FloatArray) -> tuple[FloatArray, FloatArray]:
        """What the hidden layer gives, and the probabilities of the classes."""
        w1, b1, w2, b2 = self._weights
        between = np.maximum(inputs @ w1 + b1, 0.0)
        odds = between @ w2 + b2
        odds = np.exp(odds - odds.max(axis=1, keepdims=True))
        return between, odds / odds.sum(axis=1, keepdims=True)

    def _step(self, inputs: FloatArray, classes: npt.NDArray[np.int64]) -> None:
        """One step of Adam on the cross-entropy (Kingma and Ba 2015, with their decays)."""
        between, found = self._forward(inputs)
        found[np.arange(len(classes)), classes] -= 1.0
        error = found / np.float32(len(classes))
        back = (error @ self._weights[2].T) * (between > 0)
        slopes = [inputs.T @ back, back.sum(axis=0), between.T @ error, error.sum(axis=0)]
        warm = RATE * (1 - 0.999**self._n_steps) ** 0.5 / (1 - 0.9**self._n_steps)
        for weights, slope, (first, second) in zip(self._weights, slopes, self._moments, strict=True):
            first += np.float32(0.1) * (slope - first)
            second += np.float32(0.001) * (slope * slope - second)
            weights *= np.float32(1 - DECAY)
            weights -= np.float32(warm) * first / (np.sqrt(second) + np.float32(1e-8))

    # --- kept ------------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write what was learnt, readable by its owner alone.

        Raises:
            StoreError: it cannot be written; what was there stays.
        """
        try:
            numbers.save(path, self._kept())
        except OSError as error:
            raise failure("write", path, error) from None

    def load(self, path: Path) -> bool:
        """Go on from what ``save`` wrote; False, with nothing changed, where that is missing, damaged or another's."""
        wanted = self._kept()
        found = numbers.fitting(numbers.load(path), wanted)
        if found is None or not np.array_equal(found["kind"], wanted["kind"]):
            return False
        if np.any(found["square"] < 0) or found["n_seen"] < 0:
            return False
        self.n_seen = int(found["n_seen"])
        self._mean, self._square = found["mean"], found["square"]
        self._weights = [found[f"weights{i}"] for i in range(len(self._weights))]
        return True

    def _kept(self) -> dict[str, Any]:
        weights = {f"weights{i}": each for i, each in enumerate(self._weights)}
        kind = np.array([FORMAT, self.n_hidden, self.seed, PROJECTED, UNITS, DRAFT_FEATURES], np.int64)
        seen = np.array(self.n_seen, np.int64)
        return {"kind": kind, "n_seen": seen, "mean": self._mean, "square": self._square, **weights}


def opened(path: Path, n_hidden: int, seed: int = 0) -> Hrad:
    """The classifier kept at ``path``; a new one where there is none that can be used."""
    found = Hrad(n_hidden, seed)
    found.load(path)
    return found
