"""Summary of a run: rates, ratios to plain decoding, where the time went, by pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from aded_bench.run.arms import PEER, UNKNOWN_TOKEN
from aded_bench.summary import summarize

SHORTEST_ANSWER = 2  # tokens: one token alone has no rate
PARTS = ("draft", "verify", "sample")  # of a pass's time; the rest is elsewhere

NUMBER = (int, float)
RECORD: dict[str, type | tuple[type, ...]] = {
    "pass": str,
    "sweep": int,
    "prompt": str,
    "category": str,
    "method": str,
    "tokens": list,
    "generated": int,
    "tokens_per_second": NUMBER,
    "first_seconds": NUMBER,
    "decode_seconds": NUMBER,
    "passes": int,
    "drafted": int,
    "seconds": dict,
    "draft_microseconds": dict,
    "own_tokens_per_second": (*NUMBER, type(None)),
}
"""What is read here of each answer's record."""


def check_records(records: Sequence[dict[str, Any]]) -> None:
    """Look at records from a file before hours of measuring are added to them.

    Raises:
        KeyError, TypeError: something is missing, or of another type.
    """
    for record in records:
        for key, kind in RECORD.items():
            if not isinstance(record[key], kind):
                raise TypeError(f"{key} of an answer is {record[key]!r}")
        split = record["seconds"]
        times = [*(split[part] for part in PARTS if split), *record["draft_microseconds"].values()]
        if not all(isinstance(time, NUMBER) for time in times):
            raise TypeError(f"{record['prompt']}: times are numbers")


def evaluate(runs: Sequence[dict[str, Any]], methods: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """Summary of the runs of each pass; the base of ratios is ``off``, and that has ``llama-cpp``."""
    passes = dict.fromkeys(run["pass"] for run in runs)
    return {which: _evaluate_pass([r for r in runs if r["pass"] == which], methods, seed) for which in passes}


def _evaluate_pass(runs: Sequence[dict[str, Any]], methods: Sequence[str], seed: int) -> dict[str, Any]:
    found: dict[str, Any] = {"methods": {}, "ratios": {}}
    ran = {run["method"] for run in runs}
    methods = [method for method in methods if method in ran]
    for method in methods:
        own = [run for run in runs if run["method"] == method]
        found["methods"][method] = _evaluate_method(own, seed)
    for method, base in (*((m, "off") for m in methods if m != "off"), ("off", PEER)):
        if method in methods and base in methods:
            found["ratios"][f"{method}/{base}"] = _ratio(runs, method, base, seed)
    return found


def _evaluate_method(runs: Sequence[dict[str, Any]], seed: int) -> dict[str, Any]:
    rated = [run for run in runs if run["generated"] >= SHORTEST_ANSWER]
    found: dict[str, Any] = {
        "answers": len(runs),
        "tokens_per_second": _summary_of(rated, lambda run: run["tokens_per_second"], seed),
        "first_token_ms": _summary_of(runs, lambda run: 1e3 * run["first_seconds"], seed),
    }
    own_clock = [run for run in rated if run["own_tokens_per_second"] is not None]
    if own_clock:
        found["own_tokens_per_second"] = _summary_of(
            own_clock, lambda run: run["own_tokens_per_second"], seed
        )
    stepped = [run for run in runs if run["passes"]]
    if not stepped:
        return found
    passes = sum(run["passes"] for run in stepped)
    found["tokens_per_pass"] = sum(run["generated"] - 1 for run in stepped) / passes
    found["nodes_per_pass"] = sum(run["drafted"] for run in stepped) / passes
    split = [run for run in stepped if run["seconds"]]
    if split:
        found |= _time_split(split)
    # Only each answer's own figures are known here: so medians of medians and of 99th percentiles.
    for key in ("median", "p99"):
        values = [r["draft_microseconds"][key] for r in stepped if key in r["draft_microseconds"]]
        if values:
            found[f"draft_microseconds_{key}"] = float(np.median(values))
    return found


def _time_split(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    passes = sum(run["passes"] for run in runs)
    decode = sum(run["decode_seconds"] for run in runs)
    parts = {part: sum(run["seconds"][part] for run in runs) for part in PARTS}
    parts["elsewhere"] = max(0.0, decode - sum(parts.values()))
    return {
        "microseconds_per_pass": {part: 1e6 * seconds / passes for part, seconds in parts.items()},
        "share_outside_llama_decode": 1 - parts["verify"] / decode if decode else 0.0,
    }


def _summary_of(
    runs: Iterable[dict[str, Any]], value: Callable[[dict[str, Any]], float], seed: int
) -> dict[str, Any] | None:
    by_prompt = _median_by_prompt({(run["prompt"], run["sweep"]): value(run) for run in runs})
    return _dict(list(by_prompt.values()), seed)


def _median_by_prompt(values: dict[tuple[str, int], float]) -> dict[str, float]:
    by_prompt: dict[str, list[float]] = {}
    for (prompt, _), value in values.items():
        by_prompt.setdefault(prompt, []).append(value)
    return {prompt: float(np.median(found)) for prompt, found in by_prompt.items()}


def _ratio(runs: Sequence[dict[str, Any]], method: str, base: str, seed: int) -> dict[str, Any]:
    """Rate of ``method`` over that of ``base``: paired within a sweep, then the median over sweeps."""
    by_arm: dict[str, dict[tuple[str, int], dict[str, Any]]] = {method: {}, base: {}}
    for run in runs:
        if run["method"] in by_arm:
            by_arm[run["method"]][run["prompt"], run["sweep"]] = run
    pairs = {key: (run, by_arm[base][key]) for key, run in by_arm[method].items() if key in by_arm[base]}
    rated = {
        key: (a, b) for key, (a, b) in pairs.items() if a["tokens_per_second"] and b["tokens_per_second"]
    }
    ratios = _median_by_prompt(
        {key: a["tokens_per_second"] / b["tokens_per_second"] for key, (a, b) in rated.items()}
    )
    category_of = {prompt: run["category"] for (prompt, _), (run, _) in rated.items()}
    by_category: dict[str, list[float]] = {}
    for prompt, ratio in ratios.items():
        by_category.setdefault(category_of[prompt], []).append(ratio)
    return {
        "by_prompt": ratios,
        "by_category": {category: _dict(values, seed) for category, values in by_category.items()},
        "summary": _dict(list(ratios.values()), seed),
        "same_tokens": sum(same_tokens(a["tokens"], b["tokens"]) for a, b in pairs.values()),
        "pairs": len(pairs),
    }


def _dict(values: list[float], seed: int) -> dict[str, Any] | None:
    found = summarize(values, seed)
    return None if found is None else found.to_dict()


def same_tokens(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two answers are the same, as far as their ids are known."""
    pairs = zip(one, other, strict=False)
    return len(one) == len(other) and all(a == b or UNKNOWN_TOKEN in (a, b) for a, b in pairs)
