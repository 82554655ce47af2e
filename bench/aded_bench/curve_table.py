"""A curve's result as tables for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from aded_bench.curve_entries import name_of
from aded_bench.tables import literal


def print_curves(result: dict[str, Any], out: Console) -> None:
    """One table per attention, cache type and prefix; a combination that does not work has its reason."""
    of_all = f"{result['provenance']['model']['file']}, {result['provenance']['engine']['threads']} threads"
    for entry in result["curves"]:
        setting = (entry["flash_attention"], entry["cache_type"])
        title = f"{of_all}, {name_of(setting)}, after {entry['prefix']} cells"
        if result["chosen"] == {"flash_attention": setting[0], "cache_type": setting[1]}:
            title += " (the engine's choice)"
        if entry["note"] is not None:
            out.print(literal(f"{title}: {entry['note']}"), highlight=False)
            continue
        table = Table("tokens", "ms", "ratio", "quartiles", "exact")
        for n, milliseconds in entry["milliseconds"].items():
            exact = "-" if entry["exact"] is None else "yes" if int(n) in entry["exact"] else "no"
            quartiles = f"{entry['low'][n]:.2f} to {entry['high'][n]:.2f}"
            table.add_row(n, f"{milliseconds:.2f}", f"{entry['ratio'][n]:.2f}", quartiles, exact)
        out.print(literal(title), highlight=False)
        out.print(table)
