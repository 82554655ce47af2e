"""Summary of a run: rates, ratios to plain decoding, where the time went, by pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aded_bench.extra import pandas
from aded_bench.run.arms import UNKNOWN_TOKEN
from aded_bench.run.methods import PEER
from aded_bench.summary import summarize

SHORTEST_ANSWER = 2  # tokens: one token alone has no rate
PARTS = ("draft", "verify", "sample")  # of a pass's time; the rest is elsewhere
DRAFT_MODEL = ("target_waited", "draft_idle", "decodes", "asked", "dropped")
"""What a draft model did, in the order of ``_of_draft_model``."""
TEXTS = ("pass", "prompt", "category", "method")
NUMBERS = ("sweep", "generated", "tokens_per_second", "first_seconds", "decode_seconds", "passes", "drafted")
MAYBE = (
    "own_tokens_per_second",
    *(f"seconds.{part}" for part in PARTS),
    *(f"draft_microseconds.{key}" for key in ("median", "p99")),
)
"""Columns of ``frame_of``, beside the lists ``tokens``: numbers that an arm may not tell are NaN."""


def frame_of(records: Sequence[dict[str, Any]]) -> pandas.DataFrame:
    """Answers as rows. What an earlier run left is looked at here, before hours of measuring are added to it.

    Raises:
        KeyError, TypeError, ValueError: something is missing, or of another type.
    """
    frame = pandas.json_normalize(list(records))
    if not records:
        return frame
    frame = frame.reindex(columns=[*frame.columns, *(key for key in MAYBE if key not in frame)])
    numbers = [*NUMBERS, *MAYBE]
    frame[numbers] = frame[numbers].apply(pandas.to_numeric)
    if not frame[[*TEXTS]].map(lambda value: isinstance(value, str)).all(axis=None):
        raise TypeError(f"{', '.join(TEXTS)} are texts")
    if (
        frame[[*NUMBERS]].isna().any(axis=None)
        or not frame["tokens"].map(lambda v: isinstance(v, list)).all()
    ):
        raise TypeError("every answer has its tokens and times")
    return frame


def evaluate(records: Sequence[dict[str, Any]], methods: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """Summary of the runs of each pass; the base of ratios is ``off``, and that has ``llama-cpp``."""
    if not records:
        return {}
    passes = frame_of(records).groupby("pass", sort=False)
    return {str(which): _of_pass(rows, methods, seed) for which, rows in passes}


def _of_pass(rows: pandas.DataFrame, methods: Sequence[str], seed: int) -> dict[str, Any]:
    by_method = {method: part for method, part in rows.groupby("method")}
    ran = [method for method in methods if method in by_method]
    pairs = [*((method, "off") for method in ran if method != "off"), ("off", PEER)]
    return {
        "methods": {method: _of_method(by_method[method], seed) for method in ran},
        "ratios": {
            f"{method}/{base}": _ratio(by_method[method], by_method[base], seed)
            for method, base in pairs
            if method in ran and base in ran
        },
    }


def _of_method(rows: pandas.DataFrame, seed: int) -> dict[str, Any]:
    rated = rows[rows["generated"] >= SHORTEST_ANSWER]
    found: dict[str, Any] = {
        "answers": len(rows),
        "tokens_per_second": _summary(rated, "tokens_per_second", seed),
        "first_token_ms": _summary(
            rows.assign(milliseconds=1e3 * rows["first_seconds"]), "milliseconds", seed
        ),
    }
    own_clock = rated.dropna(subset="own_tokens_per_second")
    if len(own_clock):
        found["own_tokens_per_second"] = _summary(own_clock, "own_tokens_per_second", seed)
    stepped = rows[rows["passes"] > 0]
    if not len(stepped):
        return found
    sums = stepped[["generated", "drafted", "passes"]].sum()
    found["tokens_per_pass"] = float((sums["generated"] - len(stepped)) / sums["passes"])
    found["nodes_per_pass"] = float(sums["drafted"] / sums["passes"])
    split = stepped.dropna(subset=[f"seconds.{part}" for part in PARTS])
    if len(split):
        times = split[["decode_seconds", *(f"seconds.{part}" for part in PARTS)]].sum()
        whole, *known = map(float, times)
        parts = dict(zip(PARTS, known, strict=True)) | {"elsewhere": max(0.0, whole - sum(known))}
        each = 1e6 / float(split["passes"].sum())
        found["microseconds_per_pass"] = {part: each * seconds for part, seconds in parts.items()}
        found["share_outside_llama_decode"] = 1 - parts["verify"] / whole if whole else 0.0
    found |= _of_draft_model(stepped)
    # Only each answer's own figures are known here: so medians of medians and of 99th percentiles.
    for key in ("median", "p99"):
        values = stepped[f"draft_microseconds.{key}"].dropna()
        if len(values):
            found[f"draft_microseconds_{key}"] = float(values.median())
    return found


def _of_draft_model(rows: pandas.DataFrame) -> dict[str, Any]:
    """Who waited for whom, as shares of the time, and what was drafted for nothing; {} without a draft model."""
    if "draft_model.asked" not in rows:
        return {}
    told = rows.dropna(subset=[f"draft_model.{key}" for key in DRAFT_MODEL])
    if not len(told):
        return {}
    sums = told[["decode_seconds", "generated", *(f"draft_model.{key}" for key in DRAFT_MODEL)]].sum()
    seconds, generated, waited, idle, decodes, asked, dropped = map(float, sums)
    steps = [name for name in told if str(name).startswith("draft_model.steps.")]
    return {
        "draft_model": {
            "target_waits": waited / seconds if seconds else 0.0,
            "draft_idle": idle / seconds if seconds else 0.0,
            "decodes_per_token": decodes / generated,
            "asked_per_token": asked / generated,
            "dropped_per_token": dropped / generated,
            "steps": {str(name).rpartition(".")[2]: int(told[name].sum()) for name in steps},
        }
    }


def _ratio(rows: pandas.DataFrame, base: pandas.DataFrame, seed: int) -> dict[str, Any]:
    """Rate over that of ``base``: paired within a sweep, then the median over sweeps."""
    pairs = rows.merge(base, on=["prompt", "sweep"], suffixes=("", "_base"))
    rated = pairs[(pairs["tokens_per_second"] > 0) & (pairs["tokens_per_second_base"] > 0)]
    rated = rated.assign(ratio=rated["tokens_per_second"] / rated["tokens_per_second_base"])
    return {
        "by_prompt": _by_prompt(rated, "ratio"),
        "by_category": {
            str(category): _summary(part, "ratio", seed)
            for category, part in rated.groupby("category", sort=False)
        },
        "summary": _summary(rated, "ratio", seed),
        "same_tokens": sum(map(same_tokens, pairs["tokens"], pairs["tokens_base"])),
        "pairs": len(pairs),
    }


def _by_prompt(rows: pandas.DataFrame, column: str) -> dict[str, float]:
    """Each prompt's median over sweeps."""
    medians = rows.groupby("prompt", sort=False)[column].median()
    return {str(prompt): float(value) for prompt, value in medians.items()}


def _summary(rows: pandas.DataFrame, column: str, seed: int) -> dict[str, Any] | None:
    found = summarize(list(_by_prompt(rows, column).values()), seed)
    return None if found is None else found.to_dict()


def same_tokens(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two answers are the same, as far as their ids are known."""
    pairs = zip(one, other, strict=False)
    return len(one) == len(other) and all(a == b or UNKNOWN_TOKEN in (a, b) for a, b in pairs)
