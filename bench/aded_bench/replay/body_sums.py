"""What a trace-driven run adds up: per answer as it goes, then in total, by category, and against the curve."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from aded_bench.extra import pandas
from aded_bench.replay.sweep import by_category, gains, spread


def answer_sums(
    category: str, steps: Sequence[Mapping[str, float]], plain: Sequence[Mapping[str, float]]
) -> dict[str, Any]:
    """Sums over one answer: ``schema.Answer``. Seconds unless named otherwise.

    Args:
        steps: of each drafted step ``nodes, tokens``, ``draft`` (searching and learning), ``verify`` (in llama.cpp),
            ``seconds`` in all, ``modelled`` (as the curve prices the pass) and ``modelled_plain`` (one-token passes for
            the same tokens).
        plain: of each plain step timed in between what it took, ``timed``, and what the curve says, ``predicted``.
    """
    drafted, timed = pandas.DataFrame(steps), pandas.DataFrame(plain)
    sums, took = drafted.sum(), timed.sum()
    sizes = drafted.assign(passes=1).groupby(drafted["nodes"] + 1)[["passes", "verify", "modelled"]].sum()
    microseconds = (drafted["draft"] * 1e6).round().astype(int).value_counts()
    return {
        "category": category,
        **{key: int(sums[key]) for key in ("tokens", "nodes")},
        "passes": len(drafted),
        **{key: float(sums[key]) for key in ("seconds", "verify", "modelled", "modelled_plain")},
        "plain_passes": len(timed),
        **{f"plain_{key}": float(took[key]) for key in ("timed", "predicted")},
        "sizes": {str(int(n)): [int(p), float(v), float(m)] for n, p, v, m in sizes.itertuples()},
        "draft_microseconds": {str(key): int(count) for key, count in microseconds.items()},
    }


def summed(answers: Mapping[str, Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """All answers together.

    Args:
        answers: ``answer_sums`` by id, at least one.
        seed: of the bootstrap over answers.
    """
    frame = pandas.DataFrame.from_dict(answers, orient="index")
    # Plain decoding of the same tokens, from the passes timed in between.
    frame["plain"] = frame["tokens"] * frame["plain_timed"] / frame["plain_passes"]
    frame["cost"] = frame["seconds"]
    total = frame.drop(columns=["category", "sizes", "draft_microseconds"]).sum()
    drafting = [
        float(key)
        for found in frame["draft_microseconds"]
        for key, count in found.items()
        for _ in range(count)
    ]
    sizes = _sizes(frame["sizes"])
    return {
        **{key: int(total[key]) for key in ("tokens", "passes", "nodes")},
        "nodes_per_pass": float(total["nodes"] / total["passes"]),
        "seconds": float(total["seconds"]),
        "plain_seconds": float(total["plain"]),
        "plain_passes_timed": int(total["plain_passes"]),
        **gains(frame, seed),
        "modelled": float(total["modelled_plain"] / total["modelled"]),
        "draft_microseconds": spread(drafting),
        "categories": by_category(frame, seed),
        "sizes": sizes,
        **_gap(total, sizes),
    }


def _sizes(by_answer: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, dict[str, float]]:
    """Passes by batch size: how many, mean milliseconds in llama.cpp, mean predicted by the curve."""
    rows = [(int(size), *sums) for answer in by_answer for size, sums in answer.items()]
    sums = pandas.DataFrame(rows, columns=["size", "passes", "verify", "predicted"]).groupby("size").sum()
    return {
        str(n): {
            "passes": int(count),
            "measured_ms": 1e3 * verify / count,
            "predicted_ms": 1e3 * predicted / count,
        }
        for n, count, verify, predicted in sums.itertuples()
    }


def _gap(total: Mapping[str, float], sizes: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Why wall clock and model differ: factors whose product, ``plain / (passes * outside)``, is their ratio."""
    factors = {
        "plain": float(total["plain"] / total["modelled_plain"]),
        "passes": float(total["verify"] / total["modelled"]),
        "outside": float(total["seconds"] / total["verify"]),
    }
    apart = {n: one["passes"] * (one["measured_ms"] - one["predicted_ms"]) for n, one in sizes.items()}
    size = max(apart, key=lambda n: abs(apart[n]))
    here = sizes[size]["measured_ms"] / sizes[size]["predicted_ms"] - 1
    outside = 1e6 * (total["seconds"] - total["verify"]) / total["passes"]
    said = {
        "plain": f"plain steps differ from the curve by {factors['plain'] - 1:+.1%}",
        "passes": f"drafted passes differ from the curve by {factors['passes'] - 1:+.1%}, "
        f"most of it at {size} tokens ({here:+.1%})",
        "outside": f"{outside:.0f} us per pass are spent outside llama.cpp ({factors['outside'] - 1:.1%})",
    }
    return {"gap": factors, "largest_gap": said[max(factors, key=lambda name: abs(math.log(factors[name])))]}
