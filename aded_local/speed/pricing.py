"""How fast a setting of attention and cache is expected to answer, and which setting suits: from costs measured.

A setting is worth the tokens per second that drafting makes of its costs. How often which drafts are met is taken from
recorded answers; the number of nodes is chosen for each kind of draft as the budget would.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Seconds = npt.NDArray[np.float64]

Same = Literal["exact", "cheap", "off"]
"""What is asked of the words: those of plain decoding always, wherever that costs little, or not at all."""
SAMES: tuple[Same, ...] = ("exact", "cheap", "off")

TRIAL_FILLS: Final = (256, 1024, 4096)
"""Cells at which settings are timed: a chat's first turn, a long chat, a file to work on. Two cores with AMX show why:
with flash attention and BF16, SmolLM2 takes 5.2, 9.9 and 34 ms a token after 256, 1,024 and 2,048; without, and F16,
6.5, 10.8 and 13.9."""

WIDEST: Final = 16
"""Tokens of the widest pass that is priced: wider ones hardly ever pay on a CPU."""

CHEAP: Final = 0.05
"""Share of the fastest setting's speed that ``cheap`` gives for the words of plain decoding. Given by the issue that
asked for it; a twentieth is less than one start of the program differs from the next on a shared machine."""


DRAFTS: Final = (
    (0.336, (0.05, 0.02, 0.02, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.00, 0.00)),
    (0.298, (0.15, 0.06, 0.04, 0.03, 0.02, 0.02, 0.02, 0.02, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01)),
    (0.144, (0.29, 0.12, 0.07, 0.05, 0.04, 0.03, 0.03, 0.02, 0.02, 0.02, 0.02, 0.02, 0.01, 0.01, 0.01)),
    (0.089, (0.48, 0.21, 0.12, 0.08, 0.06, 0.05, 0.04, 0.03, 0.03, 0.03, 0.02, 0.02, 0.02, 0.02, 0.02)),
    (0.079, (0.63, 0.37, 0.21, 0.15, 0.11, 0.09, 0.07, 0.06, 0.05, 0.04, 0.04, 0.03, 0.03, 0.03, 0.02)),
    (0.037, (0.76, 0.57, 0.40, 0.29, 0.22, 0.17, 0.13, 0.11, 0.09, 0.08, 0.07, 0.06, 0.05, 0.05, 0.04)),
    (0.016, (0.86, 0.76, 0.65, 0.54, 0.43, 0.34, 0.27, 0.22, 0.18, 0.16, 0.14, 0.12, 0.11, 0.10, 0.09)),
    (0.001, (0.95, 0.91, 0.87, 0.80, 0.68, 0.63, 0.58, 0.51, 0.44, 0.33, 0.25, 0.21, 0.19, 0.17, 0.16)),
)
"""Kinds of drafts: the share of steps that meet one, and the mean probability of each of its nodes, likeliest first.
Measured: ``auto`` over 240 recorded answers, 200 tokens each, of four chat models of 7 to 8B parameters, 45,035 drafts
in eight groups by what they promise."""

CHAINS: Final = (
    (0.336, (0.05, 0.01, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00)),
    (0.298, (0.15, 0.04, 0.02, 0.01, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00)),
    (0.144, (0.29, 0.11, 0.05, 0.03, 0.02, 0.01, 0.01, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00)),
    (0.089, (0.48, 0.20, 0.11, 0.06, 0.04, 0.02, 0.01, 0.01, 0.01, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00)),
    (0.079, (0.63, 0.36, 0.20, 0.13, 0.08, 0.06, 0.04, 0.02, 0.02, 0.01, 0.01, 0.00, 0.00, 0.00, 0.00)),
    (0.037, (0.76, 0.57, 0.39, 0.27, 0.19, 0.14, 0.09, 0.07, 0.05, 0.04, 0.03, 0.02, 0.01, 0.01, 0.00)),
    (0.016, (0.86, 0.76, 0.65, 0.54, 0.42, 0.32, 0.24, 0.17, 0.13, 0.10, 0.08, 0.06, 0.04, 0.03, 0.02)),
    (0.001, (0.95, 0.91, 0.87, 0.80, 0.68, 0.63, 0.58, 0.50, 0.41, 0.30, 0.19, 0.15, 0.11, 0.09, 0.06)),
)
"""The same drafts cut to their likeliest chain: exact drafts are chains."""

EXPECTED_ANSWER: Final = 200
"""Tokens that a change of the setting has to pay within, where the caller wants no fewer: a chat's usual answer."""

REOPEN_SECONDS: Final = 0.15
"""What making a context anew takes, beside decoding its tokens again: 0.13 to 0.19 s for SmolLM2 and 8,192 cells."""


class Setting(NamedTuple):
    """How attention is computed, in what numbers keys and values are kept, and whether a few tokens are multiplied as
    one is (``llama.rows``)."""

    flash_attention: bool
    cache_type: str
    row_by_row: bool = False

    @property
    def name(self) -> str:
        """How it is called in files and tables, e.g. ``fa-on/bf16`` or ``fa-off/f16/rows``."""
        rows = "/rows" if self.row_by_row else ""
        return f"fa-{'on' if self.flash_attention else 'off'}/{self.cache_type}{rows}"


@dataclass(frozen=True, slots=True)
class Trial:
    """What was measured of a setting.

    Attributes:
        seconds: of a pass, by cells before it and by tokens in it. The smallest number of cells has the most sizes.
        prompt_token: seconds for a token of a prompt.
        rounds: so many measurements were made; each time is the shortest of them.
    """

    seconds: Mapping[int, Mapping[int, float]]
    prompt_token: float
    rounds: int = 1

    def and_again(self, other: Trial) -> Trial:
        """Both together, the shorter time of each pass: other programs only make a pass slower."""
        return Trial(
            {
                fill: {n: min(taken, other.seconds.get(fill, {}).get(n, taken)) for n, taken in sizes.items()}
                for fill, sizes in self.seconds.items()
            },
            min(self.prompt_token, other.prompt_token),
            self.rounds + other.rounds,
        )

    def at(self, fill: float) -> Seconds:
        """Seconds of a pass by its tokens after ``fill`` cells, float64 ``(WIDEST + 1,)``; index 0 is 0."""
        every = np.arange(WIDEST + 1)
        fills = sorted(self.seconds)
        least = self.seconds[fills[0]]
        sizes = sorted(least)
        base = np.interp(every, sizes, [least[n] for n in sizes])
        beyond = every > sizes[-1]
        base[beyond] *= every[beyond] / sizes[-1]
        rows = [base, *(base + _dearer(least, self.seconds[further], every) for further in fills[1:])]
        base[0] = 0.0
        if len(fills) > 1 and fill > fills[-1]:
            # Attention over further cells goes on as between the last two.
            slope = (rows[-1] - rows[-2]) / (fills[-1] - fills[-2])
            found: Seconds = rows[-1] + np.maximum(slope, 0.0) * (fill - fills[-1])
        else:
            found = np.array([np.interp(fill, fills, [row[n] for row in rows]) for n in every])
        found[0] = 0.0
        return found


def _dearer(near: Mapping[int, float], far: Mapping[int, float], every: npt.NDArray[np.int64]) -> Seconds:
    """What passes cost more with further cells: measured for a few sizes, in proportion beyond them."""
    sizes = sorted(set(near) & set(far))
    more = [max(0.0, far[n] - near[n]) for n in sizes]
    found = np.interp(every, [0, *sizes], [0.0, *more])
    beyond = every > sizes[-1]
    found[beyond] = more[-1] * every[beyond] / sizes[-1]
    return found


def rate(seconds: Seconds, sizes: Collection[int] | None = None) -> float:
    """Tokens per second that drafting is expected to reach.

    Args:
        seconds: of a pass by its tokens, float64 ``(WIDEST + 1,)``.
        sizes: the only ones a pass may have, of chains then; None for all, and trees.
    """
    drafts = DRAFTS if sizes is None else CHAINS
    allowed = [n for n in range(1, WIDEST + 1) if sizes is None or n in sizes or n == 1]
    cost = seconds[allowed]
    shares = np.array([share for share, _ in drafts])
    tokens = np.array([[1.0 + sum(row[: n - 1]) for n in allowed] for _, row in drafts])
    best = 1.0 / float(seconds[1])
    for _ in range(8):  # each time the best sizes at a price of a second; it settles after three or four
        which = np.argmax(tokens - best * cost, axis=1)
        better = float(shares @ tokens[np.arange(len(drafts)), which]) / float(shares @ cost[which])
        if better <= best:
            break
        best = better
    return best


@dataclass(frozen=True, slots=True)
class Choice:
    """What suits.

    Attributes:
        setting: of attention and cache.
        exact: verify nothing but chains of sizes that equal one-token decoding.
        rate: tokens per second expected.
        loss: share of the fastest setting's speed that exactness costs, or would cost.
    """

    setting: Setting
    exact: bool
    rate: float
    loss: float


def choose(
    trials: Mapping[Setting, Trial], exact_sizes: Mapping[Setting, Iterable[int]], same: Same, fill: float
) -> Choice:
    """The setting that suits after ``fill`` cells.

    Args:
        trials: of each candidate that works here.
        exact_sizes: that equal one-token decoding, of each of them.
        same: what is asked of the words.
        fill: cells at which answers are expected.
    """
    costs = {setting: trial.at(fill) for setting, trial in trials.items()}
    for setting, cost in costs.items():
        # A pass over one token is the same pass with either way to multiply: the shorter time is nearer to the truth.
        cost[1] = min(float(other[1]) for each, other in costs.items() if each[:2] == setting[:2])
    free = {setting: rate(cost) for setting, cost in costs.items()}
    keeping = {setting: rate(cost, set(exact_sizes.get(setting, ()))) for setting, cost in costs.items()}
    fastest = max(free, key=lambda each: free[each])
    best = max(keeping, key=lambda each: keeping[each])
    loss = max(0.0, 1.0 - keeping[best] / free[fastest])
    if same == "exact" or (same == "cheap" and loss <= CHEAP):
        return Choice(best, True, keeping[best], loss)
    return Choice(fastest, False, free[fastest], loss)


def saving(old: Trial, new: Trial, rates: tuple[float, float], prompt: tuple[int, int], most: int) -> float:
    """Seconds that a change of the setting before a turn saves in it; negative where it costs.

    Args:
        old, new: trials of the settings.
        rates: tokens per second expected of each.
        prompt: its tokens, and how many of them the cache holds already: they are decoded again.
        most: tokens of the answer at most.
    """
    n_prompt, n_cached = prompt
    answering = min(most, EXPECTED_ANSWER) * (1.0 / rates[0] - 1.0 / rates[1])
    reading = (n_prompt - n_cached) * old.prompt_token - n_prompt * new.prompt_token
    return answering + reading - REOPEN_SECONDS
