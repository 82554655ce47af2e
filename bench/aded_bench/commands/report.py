"""`aded-bench report`: result files as Markdown, charts and one page."""

from __future__ import annotations

from pathlib import Path

import click

from aded_bench.options import PATH, say


@click.command(name="report")
@click.argument("paths", nargs=-1, required=True, type=PATH, metavar="RESULT.json...")
@click.option("-o", "--out", "folder", required=True, type=PATH, metavar="FOLDER", help="Where it goes.")
@click.option("--charts/--no-charts", default=True, help="Draw charts; needs matplotlib.")
def command(paths: tuple[Path, ...], folder: Path, charts: bool) -> None:
    """Make a report of result files: Markdown tables, PNG charts, and one self-contained HTML page.

    Takes results of curve, replay, run, lossless and sameness; several of a kind stand side by side.
    """
    from aded_bench.report.write import collect, write

    for path in write(collect(paths), folder, charts):
        say(str(path))
