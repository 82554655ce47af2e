"""Figures read off a replay's rows: what each part of `auto` is worth, and where it is no faster than plain decoding.

Rows may come from a file that anyone has written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from aded_bench.report.untrusted import mapping, number, objects, words

THRESHOLDS: Final = (1.0, 0.99)
"""Speed-ups of a category that are told: below plain decoding at all, and by more than one percent."""


@dataclass(frozen=True)
class Worth:
    """The drafter with something left out.

    Attributes:
        setting: what is left out; of the whole drafter its own setting.
        bits: per token; None where they are those of the whole drafter.
        speedups: by curve.
        changes: against the whole drafter, in percent, by curve.
    """

    setting: str
    bits: float | None
    speedups: Mapping[str, float]
    changes: Mapping[str, float]

    @property
    def change(self) -> float:
        """Mean over curves, in percent."""
        return sum(self.changes.values()) / len(self.changes) if self.changes else 0.0


def percent(change: float) -> str:
    """A change with its sign, of one decimal; nothing has none."""
    shown = f"{change:+.1f}%"
    return "0.0%" if shown in ("+0.0%", "-0.0%") else shown


def left_out(result: Mapping[str, Any]) -> list[str]:
    """Settings of `auto` that a result holds for its ablation."""
    found = result.get("ablation")
    return [words(name) for name in found] if isinstance(found, list) else []


def is_ablated(row: Mapping[str, Any], settings: list[str]) -> bool:
    """Whether a row belongs to the ablation, not to the methods."""
    return row.get("method") == "auto" and words(row.get("setting", "")) in settings


def worths(result: Mapping[str, Any], trace: str, phase: str) -> list[Worth]:
    """The whole drafter, then without each part, what is worth most first; empty where nothing was ablated."""
    settings = left_out(result)
    rows = [row for row in objects(result.get("rows")) if row.get("method") == "auto"]
    rows = [r for r in rows if words(r.get("trace", "")) == trace and words(r.get("phase", "")) == phase]
    whole = next((row for row in rows if not is_ablated(row, settings)), None)
    parts = [row for row in rows if is_ablated(row, settings)]
    if whole is None or not parts:
        return []
    base = _speedups(whole)
    found = [_worth(row, base) for row in parts]
    return [_worth(whole, base), *sorted(found, key=lambda one: one.change)]


def _speedups(row: Mapping[str, Any]) -> dict[str, float]:
    read = {words(c): number(mapping(f).get("speedup")) for c, f in mapping(row.get("curves")).items()}
    return {curve: value for curve, value in read.items() if value is not None and value > 0}


def _worth(row: Mapping[str, Any], base: Mapping[str, float]) -> Worth:
    speedups = _speedups(row)
    changes = {c: 100.0 * (value / base[c] - 1.0) for c, value in speedups.items() if c in base}
    return Worth(words(row.get("setting", "")), number(row.get("bits_per_token")), speedups, changes)


def below(row: Mapping[str, Any], threshold: float) -> str:
    """Categories slower than ``threshold`` on any curve, slowest first: ``koala 0.996 on q4_0-1b``, or ``none``."""
    found = []
    for curve, figures in mapping(row.get("curves")).items():
        for category, one in mapping(mapping(figures).get("categories")).items():
            speedup = number(mapping(one).get("speedup"))
            if speedup is not None and speedup < threshold:
                # Rounded down: nothing below a threshold may read as if it reached it.
                found.append((speedup, f"{words(category)} {_down(speedup)} on {words(curve)}"))
    return ", ".join(text for _, text in sorted(found)) or "none"


def _down(value: float) -> str:
    return f"{math.floor(value * 1000) / 1000:.3f}"
