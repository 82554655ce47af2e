"""A simulation as tables for people and as panels to draw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console

from aded_bench.extra import pandas
from aded_bench.report.panels import Chart, Line, Lines
from aded_bench.tables import interval, number, show

DESCRIPTION = (
    "Simulated: real texts and real statements of both models, and a clock on which target and draft model work at the "
    "same time, each by the cost curve. Tokens a second over plain decoding, by how many times longer the target takes "
    "for a token than the draft model."
)

Cells = Sequence[Mapping[str, Any]]


def groups(result: Mapping[str, Any], *, rules: bool) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    """Cells by draft and curve, each with a heading; those that compare rules for branch points, or the others."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for cell in result["cells"]:
        if (cell["rule"] is not None) == rules:
            found.setdefault(heading(result, cell), []).append(cell)
    yield from found.items()


def heading(result: Mapping[str, Any], cell: Mapping[str, Any]) -> str:
    """``first-20 (0.61 of tokens), gpu-like``."""
    share = result["agreement"].get(cell["draft"])
    known = "" if share is None else f" (likeliest token right: {share:.2f})"
    return f"draft {cell['draft']}{known}, curve {cell['curve']}"


def speed_table(cells: Cells) -> pandas.DataFrame:
    """A row for each ratio, a column for each mode: speed-up."""
    rows: dict[float, dict[str, str]] = {}
    for cell in cells:
        row = rows.setdefault(cell["ratio"], {"target/draft time": f"{cell['ratio']:g}"})
        row[cell["mode"]] = interval(cell, "speedup", 2)
    return pandas.DataFrame(list(rows.values()))


def detail_table(cells: Cells) -> pandas.DataFrame:
    """A row for each ratio and mode: what the passes were, who waited, and what was drafted for nothing."""
    return pandas.DataFrame(
        {
            "target/draft time": f"{cell['ratio']:g}",
            "mode": cell["mode"],
            "speed-up": number(cell["speedup"], 2),
            "tokens/pass": number(cell["tokens_per_pass"], 2),
            "nodes/pass": number(cell["nodes_per_pass"], 2),
            "target waits": f"{cell['target_waits']:.0%}",
            "draft idle": f"{cell['draft_idle']:.0%}",
            "draft decodes/token": number(cell["decodes_per_token"], 2),
            "dropped/token": number(cell["dropped_per_token"], 2),
        }
        for cell in cells
    )


def rule_table(cells: Cells) -> pandas.DataFrame:
    """A row for each rule of where branches start."""
    return pandas.DataFrame(
        {
            "branch point by": cell["rule"],
            "speed-up (95%)": interval(cell, "speedup", 2),
            "tokens/pass": number(cell["tokens_per_pass"], 2),
            "dropped/token": number(cell["dropped_per_token"], 2),
            "classes right": number(cell.get("class_accuracy"), 2),
            "commonest class": number(cell.get("commonest_class"), 2),
        }
        for cell in cells
    )


def tables(result: Mapping[str, Any]) -> Iterator[tuple[str, pandas.DataFrame]]:
    """Every table with its caption."""
    for name, cells in groups(result, rules=False):
        yield f"Simulated speed-up (95%): {name}", speed_table(cells)
    for name, cells in groups(result, rules=True):
        yield f"Simulated, where branches start, ratio {cells[0]['ratio']:g}: {name}", rule_table(cells)
    for name, cells in groups(result, rules=False):
        yield f"Simulated passes: {name}", detail_table(cells)


def panels(result: Mapping[str, Any], head: str = "") -> tuple[Lines, ...]:
    """A panel for each draft and curve: a line for each mode."""
    found = []
    for name, cells in groups(result, rules=False):
        by_mode: dict[str, list[tuple[float, float]]] = {}
        for cell in cells:
            by_mode.setdefault(cell["mode"], []).append((cell["ratio"], cell["speedup"]))
        lines = []
        for style, (mode, points) in enumerate(by_mode.items()):
            x, y = zip(*sorted(points), strict=True)
            lines.append(Line(mode, mode if mode == "auto" else style + 1, x, y))
        found.append(
            Lines(
                f"{head}simulated: {name}",
                tuple(lines),
                "target time / draft time",
                "speed-up",
                doubling=True,
            )
        )
    return tuple(found)


def chart(result: Mapping[str, Any]) -> Chart | None:
    """All panels; None of nothing."""
    drawn = panels(result)
    return Chart("branch", "Draft model beside the target (simulated)", DESCRIPTION, drawn) if drawn else None


def print_branch(result: dict[str, Any], out: Console) -> None:
    """All tables."""
    state = "" if result["complete"] else " (interrupted)"
    out.print(f"{result['provenance']['model']['file']}{state}", highlight=False)
    for caption, table in tables(result):
        show(table, caption, console=out)
