"""Values of a result file, which anyone may have written: the type asked for, or a default; never an exception."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aded_local.shown import one_line

LONGEST = 2_000  # characters of one value shown
SMALLEST, LARGEST = (
    1e-12,
    1e15,
)  # beside 0: drawing adds, multiplies and takes logarithms, and stays far from infinity


def number(value: Any) -> float | None:
    """A number that something measured can have been, else None. True and False are no numbers."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    is_possible = value == 0 or SMALLEST <= abs(value) <= LARGEST  # false of nan, and right of any int
    return float(value) if is_possible else None


def mapping(value: Any) -> Mapping[str, Any]:
    """A JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def objects(value: Any) -> list[Mapping[str, Any]]:
    """The objects in a JSON array; whatever else is in it is passed over."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def words(value: Any) -> str:
    """A value as one line of text, cut where it is absurdly long."""
    line = one_line(str(value)[: LONGEST + 1])
    return line if len(line) <= LONGEST else line[:LONGEST] + "…"


def shown(value: Any, digits: int = 2, missing: str = "–") -> str:
    """A number with so many decimals, else a dash."""
    found = number(value)
    return missing if found is None else f"{found:,.{digits}f}"


def interval(found: Mapping[str, Any], key: str, digits: int = 3) -> str:
    """``1.08 (1.04 to 1.12)``, as far as it is known."""
    low, high = number(found.get("low")), number(found.get("high"))
    middle = shown(found.get(key), digits)
    return middle if low is None or high is None else f"{middle} ({low:,.{digits}f} to {high:,.{digits}f})"
