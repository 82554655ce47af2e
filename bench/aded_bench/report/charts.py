"""Panels drawn with matplotlib (the `bench` extra), without pyplot and its global state, as PNG files."""

from __future__ import annotations

import math
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aded_bench.report.panels import (
    DARK,
    DASHES,
    FEWEST,
    LIGHT,
    MARKERS,
    SERIES,
    WIDE,
    Chart,
    Dots,
    Line,
    Lines,
    Panel,
    Reliability,
    style_of,
)
from aded_bench.report.sections import CURVE_DESCRIPTION, curve_panels
from aded_local.errors import OptionError, StoreError

Theme = Mapping[str, str]  # role -> colour

WIDTH = 4.6  # inches of a panel
ROW = 0.27  # inches of a dot plot's row: two dots and nine-point text beneath each other
HEIGHT, KEY_HEIGHT = 3.4, 0.22  # inches of other panels, and of one line of a legend
FRAME = 1.1  # inches of a panel's title and axis
HEAD = 0.7  # inches of a chart's title
COLUMNS = 3  # panels beside each other
DPI = 144
DODGE = 0.17  # rows between the hollow dot above and the filled one below
LONGEST_LABEL, LONGEST_TITLE = 30, 54  # characters that fit at the font sizes below
FAINT = 0.35  # opacity of bins with fewer than FEWEST nodes
MOST_TICKS = 8  # on an axis that doubles


def check() -> None:
    """Is matplotlib here?

    Raises:
        OptionError: it is not.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise OptionError(
            "charts need matplotlib: pip install 'aded-local[bench]', or leave them out with --no-charts"
        ) from None


def curve_chart(result: dict[str, Any], path: Path, dark: bool = False) -> None:
    """The cost curve of a result of kind "curve" as a PNG.

    Raises:
        OptionError: matplotlib is missing, or the result has no curve.
        StoreError: the file cannot be written.
    """
    check()
    panels = curve_panels(result)
    if not panels:
        raise OptionError("the result holds no curve to draw")
    write_png(Chart("cost", "What a pass costs", CURVE_DESCRIPTION, panels), path, dark)


def write_png(chart: Chart, path: Path, dark: bool = False) -> None:
    """All panels of a chart in one picture.

    Raises:
        StoreError: the file cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    theme = DARK if dark else LIGHT
    columns = min(COLUMNS, len(chart.panels))
    heights = [_height(panel) for panel in chart.panels]
    heights = [max(heights[i : i + columns]) for i in range(0, len(heights), columns)]
    # Letters the font lacks are no reason for warnings in a terminal.
    with matplotlib.rc_context(_settings(theme)), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        figure = Figure(figsize=(WIDTH * columns, HEAD + sum(heights)), layout="constrained")
        legend = f"\n○ {chart.legend[0]}    ● {chart.legend[1]}" if chart.legend else ""
        title = textwrap.shorten(chart.title, LONGEST_TITLE * columns // 2 + 12, placeholder="…") + legend
        figure.suptitle(title, x=0.01, ha="left", size=12, weight="bold")
        places = figure.subfigures(len(heights), columns, height_ratios=heights, squeeze=False).flat
        for panel, place in zip(chart.panels, places, strict=False):
            _draw(place, panel, theme)
        try:
            figure.savefig(path, format="png", dpi=DPI)
        except OSError as error:
            raise StoreError(f"{path} was not written: {error.strerror or error}") from None


def _settings(theme: Theme) -> dict[str, Any]:
    """Fonts and colours, for these drawings only."""
    return {
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "text.parse_math": False,  # names from result files may hold dollar signs
        "figure.facecolor": theme["surface"],
        "axes.facecolor": theme["surface"],
        "axes.edgecolor": theme["muted"],
        "text.color": theme["ink"],
        "axes.labelcolor": theme["ink"],
        **{f"{axis}tick.color": theme["muted"] for axis in "xy"},
        **{f"{axis}tick.labelcolor": theme["ink"] for axis in "xy"},
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": theme["grid"],
        "grid.linewidth": 0.7,
        **{f"axes.spines.{side}": False for side in ("left", "top", "right")},
    }  # fmt: skip


def _height(panel: Panel) -> float:
    """Inches a panel needs."""
    if isinstance(panel, Dots):
        return FRAME + ROW * len(panel.rows)
    if isinstance(panel, Lines):
        return HEIGHT + KEY_HEIGHT * math.ceil(len(panel.lines) / _key_columns(panel))
    return 1.3 * HEIGHT


def _draw(place: Any, panel: Panel, theme: Theme) -> None:
    if isinstance(panel, Dots):
        _draw_dots(place.subplots(), panel, theme)
    elif isinstance(panel, Lines):
        _draw_lines(place.subplots(), panel, theme)
        place.legend(loc="outside lower left", ncols=_key_columns(panel), frameon=False, fontsize=8)
    else:
        above, below = place.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        _draw_reliability(above, below, panel, theme)
    lines = textwrap.wrap(panel.title, LONGEST_TITLE) or [""]
    if len(lines) > 2:  # the beginning and the end, which tells panels apart
        lines = [_cut(lines[0], LONGEST_TITLE - 1) + "…", panel.title[2 - LONGEST_TITLE :]]
    place.suptitle("\n".join(lines), x=0.02, ha="left", size=9.5, weight="bold")


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _draw_dots(axes: Any, panel: Dots, theme: Theme) -> None:
    for index, dots in enumerate(panel.rows.values()):
        for dot in dots:
            role, marker = style_of(dot.method)
            y = index + (0 if len(dots) == 1 else -DODGE if dot.hollow else DODGE)
            if dot.low is not None and dot.high is not None:
                axes.plot([dot.low, dot.high], [y, y], color=theme[role], linewidth=1.4)
            fill = theme["surface"] if dot.hollow else theme[role]
            axes.plot(
                dot.value, y, marker, color=theme[role], markerfacecolor=fill, markersize=5.5, clip_on=False
            )
        digits = 2 if max(abs(dot.value) for dot in dots) < 100 else 0
        written = " / ".join(f"{dot.value:.{digits}f}" for dot in dots)
        axes.text(1.03, index, written, transform=axes.get_yaxis_transform(), size=7.5, va="center")
    if panel.reference is not None:
        axes.axvline(panel.reference, color=theme["ink"], linewidth=1.1, zorder=1)
    axes.set_ylim(len(panel.rows) - 0.4, -0.6)
    axes.set_yticks(range(len(panel.rows)), [_cut(label, LONGEST_LABEL) for label in panel.rows])
    axes.tick_params(axis="y", length=0)
    low, high = panel.limits
    if panel.reference and 0 < low * WIDE < high:
        axes.set_xscale("log", base=2)
        _double(axes.xaxis, low, high)
        axes.set_xlabel(f"{panel.axis} (doubling)")
    else:
        axes.xaxis.get_major_locator().set_params(nbins=5)
        axes.set_xlabel(panel.axis)
    axes.set_xlim(low, high)


def _key_columns(panel: Lines) -> int:
    """Columns of the legend: long names stand alone."""
    return 1 if max(len(line.label) for line in panel.lines) > LONGEST_LABEL - 4 else 2


def _draw_lines(axes: Any, panel: Lines, theme: Theme) -> None:
    for line in panel.lines:
        _draw_line(axes, line, theme)
    if panel.doubling:
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        _double(axes.xaxis, *_ends([line.x for line in panel.lines]))
        _double(axes.yaxis, *_ends([line.y for line in panel.lines]))
    else:
        axes.xaxis.get_major_locator().set_params(integer=True)
    if panel.y_limits:
        axes.set_ylim(*panel.y_limits)
    axes.set_xlabel(panel.x_axis)
    axes.set_ylabel(panel.y_axis)


def _ends(values: Sequence[Sequence[float]]) -> tuple[float, float]:
    return min(map(min, values)), max(map(max, values))


def _draw_line(axes: Any, line: Line, theme: Theme) -> None:
    if isinstance(line.style, str):
        (role, marker), dash = style_of(line.style), "-"
    else:
        role, marker, dash = (kinds[line.style % len(kinds)] for kinds in (SERIES, MARKERS, DASHES))
    axes.plot(line.x, line.y, dash, color=theme[role], linewidth=1.4, marker=marker, markersize=4.2,
              markerfacecolor=theme[role] if line.marked is None else theme["surface"],
              label=_cut(line.label, 2 * LONGEST_LABEL))  # fmt: skip
    if line.marked:
        kept = [(x, y) for x, y in zip(line.x, line.y, strict=True) if x in line.marked]
        axes.plot(*zip(*kept, strict=True), marker, color=theme[role], markersize=6.5)


def _double(axis: Any, least: float, most: float) -> None:
    """Ticks at powers of two, 1 among them, or at every second or third of them where there are too many."""
    first, last = math.floor(math.log2(least)), math.ceil(math.log2(most))
    step = max(1, math.ceil((last - first) / MOST_TICKS))
    ticks = [2.0**power for power in range(-step * (-first // step), last + 1, step)]
    axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_ticks([], minor=True)


def _draw_reliability(above: Any, below: Any, panel: Reliability, theme: Theme) -> None:
    role, marker = style_of(panel.method)
    predicted, observed, counts = zip(*panel.bins, strict=True)
    above.plot([0, 1], [0, 1], "--", color=theme["muted"], linewidth=1.1)
    above.plot(predicted, observed, "-", color=theme[role], linewidth=1)
    for x, y, count in panel.bins:
        above.plot([x], [y], marker, color=theme[role], markersize=5.5, clip_on=False,
                   alpha=1 if count >= FEWEST else FAINT)  # fmt: skip
    above.text(0.03, 0.93, f"ECE {panel.ece:.4f}", transform=above.transAxes, va="top")
    above.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 0.25, 0.5, 0.75, 1], ylabel="observed")
    below.vlines(predicted, 0.8, counts, color=theme[role], linewidth=5)
    below.set(yscale="log", ylim=(0.8, 3 * max(counts)), ylabel="nodes", xlabel="predicted")
    below.yaxis.set_major_formatter("{x:,.0f}")
