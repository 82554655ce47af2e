"""Read off a replay's rows: what each part of `auto` is worth, and where it is no faster than plain decoding."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from aded_bench.extra import pandas

THRESHOLDS: Final = (1.0, 0.99)
"""Speed-ups of a category that are told: below plain decoding at all, and by more than one percent."""


def is_ablated(row: Mapping[str, Any], result: Mapping[str, Any]) -> bool:
    """Whether a row belongs to the ablation, not to the methods."""
    return row["method"] == "auto" and row["setting"] in result["ablation"]


def effects(result: Mapping[str, Any], trace: str, phase: str) -> pandas.DataFrame:
    """What leaving a part out does: the whole drafter first, then what is missed most.

    Returns:
        A row a part, empty where nothing was ablated. Columns: ``setting``, ``bits`` (per token; None where they are
        those of the whole drafter), ``change`` (mean over curves) and by curve ``speedup CURVE``, ``change CURVE``.
        Changes are against the whole drafter, in percent.
    """
    rows = [r for r in result["rows"] if (r["method"], r["trace"], r["phase"]) == ("auto", trace, phase)]
    found = pandas.DataFrame(
        {
            "setting": row["setting"],
            "bits": row["bits_per_token"],
            "is whole": not is_ablated(row, result),
            **{f"speedup {curve}": figures["speedup"] for curve, figures in row["curves"].items()},
        }
        for row in rows
    )
    if found.empty or found["is whole"].all() or not found["is whole"].any():
        return pandas.DataFrame()
    whole = found[found["is whole"]].iloc[0]
    speedups = [name for name in found if name.startswith("speedup ") and whole[name] > 0]
    for name in speedups:
        found[name.replace("speedup", "change", 1)] = 100.0 * (found[name] / whole[name] - 1.0)
    found["change"] = found[[name.replace("speedup", "change", 1) for name in speedups]].mean(axis=1)
    parts = found[~found["is whole"]].sort_values("change", kind="stable")
    return pandas.concat([found[found["is whole"]].head(1), parts]).drop(columns="is whole")


def effect_table(found: pandas.DataFrame) -> pandas.DataFrame:
    """``effects`` as people read them."""
    shown = pandas.DataFrame({"left out": found["setting"].str.removeprefix("without ")})
    shown.iloc[0] = found["setting"].iloc[0] or "nothing"
    shown["bits/token"] = found["bits"].map(lambda bits: "" if pandas.isna(bits) else f"{bits:.3f}")
    for name in (name for name in found if name.startswith("speedup ")):
        changes = found[name.replace("speedup", "change", 1)]
        cells = [
            "" if pandas.isna(speedup) else f"{speedup:.3f}" + (f" ({percent(change)})" if place else "")
            for place, (speedup, change) in enumerate(zip(found[name], changes, strict=True))
        ]
        shown[name.removeprefix("speedup ")] = cells
    return shown


def percent(change: float) -> str:
    """A change with its sign, of one decimal; nothing has none."""
    shown = f"{change:+.1f}%"
    return "0.0%" if shown in ("+0.0%", "-0.0%") else shown


def below(row: Mapping[str, Any], threshold: float) -> str:
    """Categories slower than ``threshold`` on any curve, slowest first: ``koala 0.996 on q4_0-1b``, or ``none``."""
    found = [
        (figures["speedup"], f"{category} {_down(figures['speedup'])} on {curve}")
        for curve, on_curve in row["curves"].items()
        for category, figures in on_curve["categories"].items()
        if figures["speedup"] < threshold
    ]
    return ", ".join(text for _, text in sorted(found)) or "none"


def _down(value: float) -> str:
    """Rounded down: nothing below a threshold may read as if it reached it."""
    return f"{math.floor(value * 1000) / 1000:.3f}"
