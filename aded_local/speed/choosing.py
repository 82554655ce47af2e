"""Which setting of attention and cache suits a turn, from what was tried so far."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from aded_local.speed.exactness import Exactness
from aded_local.speed.measurements import Measurements
from aded_local.speed.pricing import (
    EXPECTED_ANSWER,
    TRIAL_FILLS,
    WIDEST,
    Choice,
    Same,
    Setting,
    Trial,
    choose,
    saving,
)

TRIAL_ROUNDS: Final = 2
"""Rounds of a trial. Each round times every setting, so that a machine that slows down slows all of them."""

OPENING_FILL: Final = 384
"""Cells at which a setting is chosen before a prompt is known. Chosen: a chat's first turn, of some 100 tokens of
prompt and some 200 of answer, and a little more."""


class Choosing:
    """What is known of the settings, and what follows from it.

    Args:
        candidates: the settings that are tried.
        same: what is asked of the words.
        n_ctx: tokens of context.
        kept: what was measured at earlier starts.
    """

    def __init__(self, candidates: Sequence[Setting], same: Same, n_ctx: int, kept: Measurements) -> None:
        self._candidates = candidates
        self._same: Same = same
        self._n_ctx = n_ctx
        self.kept: Final = kept
        self._trials: dict[Setting, Trial] = {
            each: kept.trials[each.name] for each in candidates if each.name in kept.trials
        }
        self._failed = {each for each in candidates if each.name in kept.failed}
        if len(self._failed) == len(candidates):
            self._failed.clear()  # something else was wrong then
        self._settled = False

    @property
    def settled(self) -> bool:
        """Whether all is known that a choice needs, at any length of the text."""
        if not self._settled:
            self._settled = self._is_tried and not self._unknown_sizes(self._fills())
        return self._settled

    @property
    def _is_tried(self) -> bool:
        return all(
            each in self._failed or (each in self._trials and self._trials[each].rounds >= TRIAL_ROUNDS)
            for each in self._candidates
        )

    def _fills(self) -> list[int]:
        if self._same == "exact":
            return [OPENING_FILL]  # it stays in one setting
        return [fill for fill in (OPENING_FILL, *TRIAL_FILLS) if fill < self._n_ctx] or [1]

    def choice(self, fill: float = OPENING_FILL) -> Choice | None:
        """What suits after ``fill`` cells; None while not all candidates were tried."""
        if not self._is_tried or not self._trials:
            chosen = [each for each in self._candidates if each.name == self.kept.chosen]
            return Choice(chosen[0], True, 0.0, 0.0) if self._same == "exact" and chosen else None
        return choose(self._trials, self._sizes(), self._same, fill)

    def _sizes(self) -> dict[Setting, Iterable[int]]:
        """Exact sizes of each candidate; where they are not known yet, as many as there may be."""
        return {
            each: self.kept.exact[each.name].sizes if each.name in self.kept.exact else range(1, WIDEST + 1)
            for each in self._trials
        }

    def _unknown_sizes(self, fills: Iterable[float]) -> list[Setting]:
        """Settings that would be chosen for their exact sizes, which are not known yet."""
        if self._same == "off" or not self._trials:
            return []
        found = [choose(self._trials, self._sizes(), self._same, fill) for fill in fills]
        # A setting that is chosen for its speed alone may be so since another one seemed to keep more than it does.
        return [each.setting for each in found if each.exact and each.setting.name not in self.kept.exact]

    def turn(self, now: Setting, n_prompt: int, n_cached: int, most: int) -> Choice | None:
        """What a turn is answered in; None while that is not known.

        Depends on what was measured and on the turn alone, so that the same turns are answered alike.

        Args:
            now: the present setting. ``exact`` keeps its attention and cache: it promises the same words for the same
                prompt, whatever was said before.
            n_prompt: tokens of the prompt.
            n_cached: of those, in the cells already.
            most: tokens of the answer at most.
        """
        fill = n_prompt + min(most, EXPECTED_ANSWER) / 2
        staying = self.staying(now, fill)
        if staying is None or self._same == "exact":
            return staying
        best = choose(self._trials, self._sizes(), self._same, fill)
        if best.setting[:2] == now[:2]:
            return best  # the cells stay
        rates = staying.rate, best.rate
        old, new = self._trials[staying.setting], self._trials[best.setting]
        gain = saving(old, new, rates, (n_prompt, n_cached), most)
        return best if gain > 0.0 else staying

    def staying(self, now: Setting, fill: float) -> Choice | None:
        """What suits without another attention or cache, so that the cells stay, after ``fill`` of them; None while it
        is not known."""
        if not self.settled or now not in self._trials:
            return None
        alike = {each: trial for each, trial in self._trials.items() if each[:2] == now[:2]}
        return choose(alike, self._sizes(), self._same, fill)

    def as_it_is(self, now: Setting, fill: float) -> Choice | None:
        """What holds in a setting that stays as it is; None while that is not known."""
        if not self.settled or now not in self._trials:
            return None
        return choose({now: self._trials[now]}, self._sizes(), self._same, fill)

    def exactness(self, setting: Setting) -> Exactness | None:
        """What equals one-token decoding in a setting; None while that is not known."""
        return self.kept.exact.get(setting.name)

    def worth_knowing(self) -> list[Choice]:
        """The choices at the lengths that were tried, each setting once, the opening's first."""
        found: dict[Setting, Choice] = {}
        for fill in self._fills():
            each = self.choice(fill)
            if each is not None:
                found.setdefault(each.setting, each)
        return list(found.values())

    @property
    def lacks_curves(self) -> bool:
        """Whether the curve of a setting that longer texts want is not known."""
        return any(each.setting.name not in self.kept.curves for each in self.worth_knowing())
