"""A curve's result as tables for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from aded_bench.curve import name_of
from aded_bench.extra import pandas
from aded_bench.tables import literal, show
from aded_local.speed.pricing import Setting


def print_curves(result: dict[str, Any], out: Console) -> None:
    """One table per attention, cache type and prefix; a combination that does not work has its reason."""
    of_all = f"{result['provenance']['model']['file']}, {result['provenance']['engine']['threads']} threads"
    for entry in result["curves"]:
        setting = Setting(entry["flash_attention"], entry["cache_type"])
        heading = f"{of_all}, {name_of(setting)}, after {entry['prefix']} cells"
        if result["chosen"] == {"flash_attention": setting[0], "cache_type": setting[1]}:
            heading += " (the engine's choice)"
        if entry["note"] is not None:
            heading += f": {entry['note']}"
        out.print(literal(heading), highlight=False)  # not the table's title, which would be as narrow
        if entry["milliseconds"]:
            frame = pandas.DataFrame(entry["milliseconds"].items(), columns=["tokens", "ms"])
            found = {key: frame["tokens"].map(entry[key]) for key in ("ratio", "low", "high")}
            frame = frame.assign(
                ms=frame["ms"].map("{:.2f}".format),
                ratio=found["ratio"].map("{:.2f}".format),
                quartiles=[f"{a:.2f} to {b:.2f}" for a, b in zip(found["low"], found["high"], strict=True)],
                exact="-",
            )
            if entry["exact"] is not None:
                frame["exact"] = ["yes" if int(n) in entry["exact"] else "no" for n in frame["tokens"]]
            show(frame, "", console=out)
