"""A report as one HTML page that asks for nothing else: style, tables and charts are all in it."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from aded_bench.report.panels import DARK, LIGHT, Chart, Dots, Lines, Panel

if TYPE_CHECKING:
    from aded_bench.report.write import Report

TEMPLATE = "page.html.j2"
LEADING = {"method", "store", "file", "setting", "trace", "what", "value", "note", "ratio of tokens/s"}
PROSE = {"why it is missing", "answers by category", "largest gap", "against", "prompt", "exact sizes"}


def render(report: Report, charts: bool = True) -> str:
    """The page. Everything from result files is escaped; only drawings of ours are taken as they are."""
    import jinja2
    from markupsafe import Markup

    from aded_bench.report import charts as drawing

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(
        files("aded_bench.report").joinpath(TEMPLATE).read_text(encoding="utf-8")
    )
    drawn = {
        (chart.key, index): Markup(drawing.svg(panel, f"{chart.key}-{index}"))
        for section in (report.sections if charts else ())
        for chart in section.charts
        for index, panel in enumerate(chart.panels)
    }
    return template.render(
        report=report,
        charts=charts,
        drawn=drawn,
        spoken=spoken,
        light=LIGHT,
        dark=DARK,
        interrupted=[source for source in report.sources if not source.complete],
        wordy=LEADING | PROSE,
        described=_legend,
    )


def _legend(chart: Chart) -> str:
    return f"○ {chart.legend[0]}, ● {chart.legend[1]}" if chart.legend else ""


def spoken(panel: Panel) -> str:
    """A panel in words, for those who cannot see it."""
    if isinstance(panel, Dots):
        rows = (f"{row.label} {' and '.join(f'{dot.value:.2f}' for dot in row.dots)}" for row in panel.rows)
        return f"{panel.title}. {panel.axis}: {'; '.join(rows)}."
    if isinstance(panel, Lines):
        ends = (f"{line.label} from {line.y[0]:.2f} to {line.y[-1]:.2f}" for line in panel.lines if line.y)
        return f"{panel.title}. {panel.y_axis} by {panel.x_axis}: {'; '.join(ends)}."
    distance = "" if panel.ece is None else f", mean distance from the diagonal {panel.ece:.4f}"
    return f"{panel.title}. Predicted against observed in {len(panel.bins)} bins{distance}."
