"""A result of `schemas` as a table for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from aded_bench.extra import pandas
from aded_bench.tables import number, show, title


def schemas_rows(result: dict[str, Any]) -> list[dict[str, str]]:
    """One row for each arm."""
    rows = []
    for name, found in result.get("summary", {}).items():
        spelling = result["spelling"].get(name, {})
        tried = spelling.get("tried", 0)
        rows.append(
            {
                "arm": name,
                "valid": f"{found['valid']} of {found['answers']}",
                "same text as off": f"{found['same_text']} of {found['compared']}",
                "tokens/pass": number(found["tokens_per_pass"], 2),
                "nodes/pass": number(found["nodes_per_pass"], 2),
                "accepted": number(found["accepted_share"], 2),
                "tokens/s": number(found["tokens_per_second"], 1),
                "median gain": number(found["median_gain"], 2),
                "drafting": number(found["draft_share"], 3),
                "forced tokens that came": f"{spelling['came']} of {tried}" if tried else number(None),
                "spelt otherwise": str(spelling["misspelt"]) if tried else number(None),
            }
        )
    return rows


def print_schemas(result: dict[str, Any], out: Console) -> None:
    """The table of ``schemas_rows``."""
    show(
        pandas.DataFrame(schemas_rows(result)),
        title(result, f"same {result['provenance']['settings']['same']}"),
        console=out,
    )


def invalid(result: dict[str, Any]) -> list[str]:
    """A line on each answer that ended and is not valid."""
    return [
        f"{key.replace('|', ': ')} is not valid: {each['text'][:80]}"
        for key, each in result["answers"].items()
        if each["ended"] and not each["valid"]
    ]
