"""What a trace-driven run adds up: per answer as it goes, then in total, by category, and against the curve."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from aded_bench.report.untrusted import number
from aded_bench.summary import ratio_interval
from aded_local.errors import StoreError


@dataclass
class AnswerSums:
    """Sums over one answer's steps; seconds unless named otherwise.

    Attributes:
        tokens, passes, nodes: of the drafted decoding.
        seconds: of its steps, from planning to after learning.
        verify: of those, in llama.cpp.
        plain_passes: timed in between, and what they took: ``plain_timed`` as whole steps, ``plain_verify`` in
            llama.cpp, ``plain_rebuilt`` the step before each, whose graph llama.cpp had to build anew, and
            ``plain_predicted`` what the curve says for the same cells; ``plain_milliseconds`` each of them.
        modelled: the drafted passes as the curve prices them at their cells; ``modelled_plain`` one-token
            passes for the same tokens; ``..._near`` the same at the curve's first fill, whatever the cells.
        draft_microseconds: steps by microseconds of drafting, rounded.
        sizes: by batch size: passes, seconds in llama.cpp, seconds predicted.
    """

    category: str
    tokens: int = 0
    passes: int = 0
    nodes: int = 0
    seconds: float = 0.0
    verify: float = 0.0
    plain_passes: int = 0
    plain_timed: float = 0.0
    plain_verify: float = 0.0
    plain_rebuilt: float = 0.0
    plain_predicted: float = 0.0
    plain_milliseconds: list[float] = field(default_factory=list)
    modelled: float = 0.0
    modelled_plain: float = 0.0
    modelled_near: float = 0.0
    modelled_plain_near: float = 0.0
    draft_microseconds: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, list[float]] = field(default_factory=dict)

    def add_plain(self, rebuilt: float, whole: float, verify: float, predicted: float) -> None:
        """Count one timed plain pass."""
        self.plain_passes += 1
        self.plain_rebuilt += rebuilt
        self.plain_timed += whole
        self.plain_verify += verify
        self.plain_predicted += predicted
        self.plain_milliseconds.append(round(1e3 * whole, 3))

    def add_step(
        self,
        *,
        nodes: int,
        tokens: int,
        draft: float,
        verify: float,
        total: float,
        predicted: float,
        predicted_near: float,
    ) -> None:
        """Count one drafted step."""
        self.passes += 1
        self.tokens += tokens
        self.nodes += nodes
        self.seconds += total
        self.verify += verify
        self.modelled += predicted
        self.modelled_near += predicted_near
        microseconds = str(round(1e6 * draft))
        self.draft_microseconds[microseconds] = self.draft_microseconds.get(microseconds, 0) + 1
        at = self.sizes.setdefault(str(nodes + 1), [0, 0.0, 0.0])
        at[0] += 1
        at[1] += verify
        at[2] += predicted

    @property
    def plain_seconds(self) -> float:
        """Plain decoding of the same tokens, from the passes timed in between; 0 where none was."""
        return self.tokens * self.plain_timed / self.plain_passes if self.plain_passes else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for a result file; inverse of ``from_dict``."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Any) -> AnswerSums:
        """What a result file holds.

        Raises:
            StoreError: it is something else.
        """
        try:
            found = cls(**data)
            _check_types(found)
        except (TypeError, ValueError) as error:
            raise StoreError(f"the result file holds an answer that is damaged: {error}") from None
        return found


def _check_types(found: AnswerSums) -> None:
    """Raises TypeError or ValueError where a value is not of its field's kind."""
    for each in fields(found):
        value = getattr(found, each.name)
        if each.name == "category":
            sound = isinstance(value, str)
        elif each.name == "plain_milliseconds":
            sound = isinstance(value, list) and all(number(ms) is not None for ms in value)
        elif each.name == "draft_microseconds":
            sound = all(int(key) >= 0 and isinstance(count, int) for key, count in dict(value).items())
        elif each.name == "sizes":
            sound = all(int(key) > 0 and _are_sums(sums) for key, sums in dict(value).items())
        else:
            sound = number(value) is not None
        if not sound:
            raise TypeError(f"{each.name} is {value!r:.80}")


def _are_sums(values: Any) -> bool:
    """Passes, at least one, and seconds twice."""
    is_triple = isinstance(values, list) and len(values) == 3
    return is_triple and all(number(value) is not None for value in values) and bool(values[0] > 0)


def summed(answers: Mapping[str, Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """All answers together.

    Args:
        answers: ``AnswerSums.to_dict()`` by id.
        seed: of the bootstrap over answers.
    """
    found = [AnswerSums.from_dict(data) for data in answers.values()]
    total = _Totals(found)
    by_category: dict[str, list[AnswerSums]] = {}
    for answer in found:
        by_category.setdefault(answer.category, []).append(answer)
    return {
        "tokens": int(total.of("tokens")),
        "passes": int(total.of("passes")),
        "nodes": int(total.of("nodes")),
        "tokens_per_pass": _over(total.of("tokens"), total.of("passes")),
        "nodes_per_pass": _over(total.of("nodes"), total.of("passes")),
        "seconds": total.of("seconds"),
        "plain_seconds": total.of("plain_seconds"),
        "plain_passes_timed": int(total.of("plain_passes")),
        **_speedup(found, seed),
        "modelled": _over(total.of("modelled_plain"), total.of("modelled")),
        "modelled_near": _over(total.of("modelled_plain_near"), total.of("modelled_near")),
        "draft_microseconds": _drafting(found),
        "categories": {
            name: {
                "answers": len(members),
                "tokens": sum(answer.tokens for answer in members),
                "tokens_per_pass": _over(sum(a.tokens for a in members), sum(a.passes for a in members)),
                **_speedup(members, seed),
            }
            for name, members in sorted(by_category.items())
        },
        "sizes": _sizes(found),
        "outside_microseconds": {
            "drafted": 1e6 * _over(total.of("seconds") - total.of("verify"), total.of("passes")),
            "plain": 1e6
            * _over(total.of("plain_timed") - total.of("plain_verify"), total.of("plain_passes")),
        },
        "plain_milliseconds": {
            "measured": 1e3 * _over(total.of("plain_timed"), total.of("plain_passes")),
            "median": float(np.median([ms for answer in found for ms in answer.plain_milliseconds] or [0.0])),
            "after_a_rebuilt_graph": 1e3 * _over(total.of("plain_rebuilt"), total.of("plain_passes")),
            "predicted": 1e3 * _over(total.of("plain_predicted"), total.of("plain_passes")),
        },
        **_gap(total, found),
    }


class _Totals:
    """Sums over answers by the names of ``AnswerSums``."""

    def __init__(self, answers: Sequence[AnswerSums]) -> None:
        self._answers = answers

    def of(self, name: str) -> float:
        return float(sum(getattr(answer, name) for answer in self._answers))


def _over(a: float, b: float) -> float:
    return a / b if b else 0.0


def _speedup(answers: Sequence[AnswerSums], seed: int) -> dict[str, float | None]:
    plain, drafted = [a.plain_seconds for a in answers], [a.seconds for a in answers]
    if not answers:
        return {"speedup": 0.0, "low": None, "high": None}
    low, high = ratio_interval(plain, drafted, seed=seed)
    return {"speedup": _over(sum(plain), sum(drafted)), "low": low, "high": high}


def _drafting(answers: Sequence[AnswerSums]) -> dict[str, float] | None:
    """Median and 99th percentile of a step's drafting, in microseconds."""
    steps: Counter[int] = Counter()
    for answer in answers:
        steps.update({int(key): count for key, count in answer.draft_microseconds.items()})
    if not steps:
        return None
    count = sum(steps.values())

    def rank(share: float) -> float:
        left = math.ceil(share * count)
        for microseconds in sorted(steps):
            left -= steps[microseconds]
            if left <= 0:
                break
        return float(microseconds)

    return {"median": rank(0.5), "p99": rank(0.99)}


def _sizes(answers: Sequence[AnswerSums]) -> dict[str, dict[str, float]]:
    """Passes by batch size: how many, mean milliseconds in llama.cpp, mean predicted by the curve."""
    sums: dict[str, list[float]] = {}
    for answer in answers:
        for size, values in answer.sizes.items():
            sums[size] = [a + b for a, b in zip(sums.get(size, [0, 0.0, 0.0]), values, strict=True)]
    return {
        size: {"passes": int(n), "measured_ms": 1e3 * verify / n, "predicted_ms": 1e3 * predicted / n}
        for size, (n, verify, predicted) in sorted(sums.items(), key=lambda item: int(item[0]))
    }


def _gap(total: _Totals, answers: Sequence[AnswerSums]) -> dict[str, Any]:
    """Why wall clock and model differ: factors whose product, ``plain / (passes * outside)``, is their ratio."""
    if not total.of("passes") or not total.of("plain_passes"):
        return {"gap": None, "largest_gap": "nothing was measured"}
    factors = {
        "plain": total.of("plain_seconds") / total.of("modelled_plain"),
        "passes": total.of("verify") / total.of("modelled"),
        "outside": total.of("seconds") / total.of("verify"),
    }
    sizes = _sizes(answers)
    size = max(
        sizes, key=lambda n: abs(sizes[n]["passes"] * (sizes[n]["measured_ms"] - sizes[n]["predicted_ms"]))
    )
    here = sizes[size]["measured_ms"] / sizes[size]["predicted_ms"] - 1
    outside = 1e6 * (total.of("seconds") - total.of("verify")) / total.of("passes")
    said = {
        "plain": f"plain steps differ from the curve by {factors['plain'] - 1:+.1%}",
        "passes": f"drafted passes differ from the curve by {factors['passes'] - 1:+.1%}, "
        f"most of it at {size} tokens ({here:+.1%})",
        "outside": f"{outside:.0f} us per pass are spent outside llama.cpp ({factors['outside'] - 1:.1%})",
    }
    return {"gap": factors, "largest_gap": said[max(factors, key=lambda name: abs(math.log(factors[name])))]}
