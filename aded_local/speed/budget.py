"""How much of a draft is worth verifying now, and when to stop drafting.

A pass over n + 1 tokens verifies n nodes. If the drafter gives node i the probability p_i of lying on
the target's path, the pass is expected to yield 1 + p_1 + ... + p_n tokens, and the best n is the one
with the most expected tokens per second. Costs are jagged (3 tokens may cost more than 4), so a pass may
be padded up to a cheaper size. Budgets change speed only, never the text.

All decisions follow from the timings handed in; nothing here reads a clock.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Seconds = npt.NDArray[np.float64]

DRAFT_MARGIN: Final = 0.02
"""A draft must promise this much more speed than plain decoding. Origin: replays of 150 answers each of two chat models
and a code model, on the field notes' Q4_0 and BF16 curves. 0.10 reached 2 to 5% less speed than 0.02, and the slowest
of 300 answers was no faster with it (0.96 of plain decoding)."""


@dataclass(frozen=True, slots=True)
class PassPrices:
    """What a target pass costs when it may be padded.

    Attributes:
        seconds: of the cheapest allowed pass that holds i tokens, float64 ``(m + 1,)``; never smaller for a larger
            i. Index 0 is 0; infinite where no allowed size is large enough.
        batch: the size of that pass, int64 ``(m + 1,)``.
        most_nodes: the largest draft that fits into an allowed pass.
        plain: ``seconds`` as Python's floats.
    """

    seconds: Seconds
    batch: npt.NDArray[np.int64]
    most_nodes: int
    plain: list[float]


def price(cost: Seconds, allowed: npt.ArrayLike | None = None) -> PassPrices:
    """Prices from measured costs.

    Args:
        cost: seconds of a pass over exactly i tokens, float64 ``(m + 1,)``, index 0 unused.
        allowed: the allowed sizes (exact mode); all when None. One token is always allowed.
    """
    seconds = np.array(cost, np.float64)
    if allowed is not None:
        barred = np.ones(len(seconds), np.bool_)
        sizes = np.asarray(allowed, np.int64)
        barred[sizes[(sizes > 0) & (sizes < len(seconds))]] = False
        barred[1] = False
        seconds[barred] = np.inf
    seconds[0] = 0.0
    batch = np.arange(len(seconds), dtype=np.int64)
    for i in range(len(seconds) - 2, 0, -1):
        # One token is never padded: it is plain decoding, with which drafts are compared.
        if i > 1 and seconds[i + 1] < seconds[i]:
            seconds[i] = seconds[i + 1]
            batch[i] = batch[i + 1]
    return PassPrices(seconds, batch, int(np.count_nonzero(np.isfinite(seconds))) - 2, seconds.tolist())


def choose(
    probabilities: npt.NDArray[np.float32],
    prices: PassPrices,
    draft_seconds: float = 0.0,
    extra_seconds: float = 0.0,
    margin: float = DRAFT_MARGIN,
) -> int:
    """The number of nodes to verify; 0 for plain decoding.

    Args:
        probabilities: of the draft's nodes, not increasing, float32 ``(n,)``.
        prices: of the passes.
        draft_seconds: already spent on this step.
        extra_seconds: what verifying costs outside the pass, and plain decoding does not cost (matching,
            trimming the cache).
        margin: by how much drafting must be expected to beat plain decoding; see ``Guard.margin``.
    """
    n = min(len(probabilities), prices.most_nodes)
    if n < 1:
        return 0
    overhead = draft_seconds + extra_seconds
    best, best_rate = 0, (1.0 + margin) / (prices.plain[1] + draft_seconds)
    expected = 1.0
    # A loop over Python's floats: faster than NumPy for the few nodes of a draft.
    for i, probability in enumerate(probabilities[:n].tolist(), start=1):
        expected += probability
        rate = expected / (prices.plain[i + 1] + overhead)
        if rate > best_rate:
            best, best_rate = i, rate
    return best


WARY_MARGIN: Final = 0.1
"""The margin while drafting has lost more than ``WARY_FROM`` plain steps: a short answer whose first draft failed takes
fewer risks. In the same replays 0.1 costs 0.1% of the mean speed, and 0.5 costs 3 to 5%."""
WARY_FROM: Final = 0.2
FORGIVEN: Final = 0.005
"""Taken off the loss with each step, in plain steps, so that old failures stop counting. Smaller than the cost of a
search that is worth a pause."""

LOSS_LIMIT: Final = 2.0
"""What drafting may lose before it pauses, in plain steps. Good drafts fail twice in a row now and then; that loses 1.4
plain steps at four tokens on the Q4_0 curve."""
SEARCH_LOSS_LIMIT: Final = 0.3
"""What searching may waste before it pauses, in plain steps, while no draft gains: ten searches where a pass takes a
quarter of a millisecond, hundreds where it takes twenty."""
STEP_LOSS_LIMIT: Final = 1.2
"""The most that one step can add to the loss: one interruption of the machine does not stop drafting, two do."""
FIRST_PAUSE: Final = 4
LONGEST_PAUSE: Final = 128
"""Steps without drafting after a loss."""
PAUSE_GROWTH: Final = 3
"""How many times longer the next pause is, until a gain has made up for the loss. With 2 a drafter that is always wrong
costs 3.2% of 400 tokens on the AMX curve, with 3 2.6%, and texts that come in bursts gain 2 to 5% more; others nothing
(tests/test_beside.py's texts, eight of each kind)."""
LONGEST_SEARCH_PAUSE: Final = 32
"""The same where only searching was wasted: short, so that drafting notices a text that begins to repeat itself."""
PLAIN_STEPS: Final = 9
"""The median of so many recent plain steps says how fast plain decoding is now."""


STEPS_TO_A_PACE: Final = 3
"""Plain steps after a change of prices. Chosen: the least that have a median."""


class Guard:
    """Compares drafting with what plain decoding would have cost, and pauses drafting when it loses.

    The loss is counted in plain steps. Each step adds the time it took beyond plain decoding of its tokens; a gain is
    subtracted. The loss never falls below zero, so a change for the worse shows within a few steps, however much was
    gained before. How fast plain decoding is now follows from recent plain steps, each relative to what the cost curve
    predicted for its number of cells.
    """

    def __init__(self) -> None:
        """No losses and no plain steps yet."""
        self._plain_ratios: deque[float] = deque(maxlen=PLAIN_STEPS)
        self._plain_ratio = 1.0
        self._ratios: deque[float] = deque(maxlen=PLAIN_STEPS)
        self._loss = 0.0
        self._waste = 0.0
        self._pause = FIRST_PAUSE
        self._paused_for = 0

    def rest(self, ratio: float) -> None:
        """Take note of a step within a pause, which took so many times what the curve says."""
        self._paused_for = max(0, self._paused_for - 1)
        self._see(ratio)

    def _see(self, ratio: float) -> None:
        self._plain_ratios.append(ratio)
        self._plain_ratio = _median(self._plain_ratios)

    def forget_pace(self) -> None:
        """Plain steps are priced by another curve from here on: some of them say how fast they are, before the next
        draft."""
        self._paused_for = max(self._paused_for, STEPS_TO_A_PACE)
        self._plain_ratios.clear()
        self._plain_ratio = 1.0
        self._ratios.clear()

    @property
    def paused(self) -> bool:
        """Whether the next step goes without the drafter's search."""
        return self._paused_for > 0

    @property
    def margin(self) -> float:
        """How much faster than plain decoding the next draft must promise to be, as a share."""
        return WARY_MARGIN if self._loss > WARY_FROM else DRAFT_MARGIN

    def record(
        self,
        *,
        tokens: int,
        seconds: float,
        plain_seconds: float,
        nodes: int = 0,
        draft_seconds: float = 0.0,
        ratio: float | None = None,
        alone: bool = True,
    ) -> None:
        """Take note of one step of the loop.

        Args:
            tokens: emitted by the step.
            seconds: all the step took, drafting and everything outside the target included.
            plain_seconds: what the cost curve says a one-token pass takes at this cache fill.
            nodes: verified; 0 for a plain step.
            draft_seconds: of ``seconds``, what the drafter's search took; 0 when it was not called.
            ratio: what the pass took over what the curve says of its size; None where that is not known.
            alone: nothing of ours worked beside the pass, so that a plain one says how fast plain decoding is.
        """
        if plain_seconds <= 0.0:
            return
        if ratio is not None:
            self._ratios.append(ratio)
        if nodes == 0 and alone:
            self._see((seconds - draft_seconds) / plain_seconds)
        self._loss = max(0.0, self._loss - FORGIVEN)
        if self._paused_for > 0:
            self._paused_for -= 1
            return
        if nodes == 0 and draft_seconds <= 0.0:
            return
        yardstick = plain_seconds * self._plain_ratio
        if self._ratios:
            # Drafted passes that are faster than the curve says show that plain ones would be, too.
            yardstick = min(yardstick, plain_seconds * _median(self._ratios))
        if nodes == 0:
            # In a plain step only the search is counted: drafting did not cause noise in the pass.
            self._waste += draft_seconds / yardstick
        else:
            gain = tokens - seconds / yardstick
            self._loss = (
                max(0.0, self._loss - gain) if gain > -STEP_LOSS_LIMIT else self._loss + STEP_LOSS_LIMIT
            )
            self._waste = max(0.0, self._waste - max(0.0, gain))
            if self._loss == 0.0 and self._waste == 0.0:
                self._pause = FIRST_PAUSE
        if self._loss > LOSS_LIMIT or self._waste > SEARCH_LOSS_LIMIT:
            longest = LONGEST_PAUSE if self._loss > LOSS_LIMIT else LONGEST_SEARCH_PAUSE
            self._paused_for = min(self._pause, longest)
            self._pause = min(PAUSE_GROWTH * self._pause, LONGEST_PAUSE)
            # After the pause only half of each limit is left.
            self._loss = min(self._loss, LOSS_LIMIT / 2)
            self._waste = min(self._waste, SEARCH_LOSS_LIMIT / 2)


def _median(values: deque[float]) -> float:
    return sorted(values)[len(values) // 2]
