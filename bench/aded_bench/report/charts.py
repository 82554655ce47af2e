"""Panels drawn with matplotlib (the `bench` extra), without pyplot and its global state: PNG files and inline SVG."""

from __future__ import annotations

import contextlib
import io
import math
import re
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
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
    DotRow,
    Dots,
    Line,
    Lines,
    Panel,
    Reliability,
    style_of,
)
from aded_bench.report.sections import curve_description, curve_panels
from aded_local.errors import OptionError, StoreError

Theme = Mapping[str, str]  # role -> colour

WIDTH = 4.6  # inches of a panel: at 96 to the inch, text still reads on a screen 375 px wide
ROW = 0.27  # inches of a dot plot's row: two dots and nine-point text beneath each other
FRAME = 1.0  # inches of a dot plot's title and axis
TITLE_LINE = 0.17  # inches of a title's second line
LINE_HEIGHT, KEY_HEIGHT = 3.0, 0.22  # inches of a line chart, and of one line of its legend
RELIABILITY_HEIGHT = 4.4  # inches
COLUMNS = 3  # panels beside each other in a PNG
DPI = 144
DODGE = 0.17  # rows between the hollow dot above and the filled one below
LONGEST_LABEL, LONGEST_TITLE = 30, 54  # characters that fit at the font sizes below
FAINT = 0.35  # opacity of bins with fewer than FEWEST nodes
SETTINGS = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "svg.fonttype": "none",  # text stays text: it can be searched, read aloud, and takes the page's font
    "text.parse_math": False,  # names from result files may hold dollar signs
    "axes.unicode_minus": True,
}


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
    write_png(Chart("cost", "What a pass costs", curve_description(), panels), path, dark)


def write_png(chart: Chart, path: Path, dark: bool = False) -> None:
    """All panels of a chart in one picture.

    Raises:
        StoreError: the file cannot be written.
    """
    theme = DARK if dark else LIGHT
    columns = min(COLUMNS, len(chart.panels))
    rows = [chart.panels[i : i + columns] for i in range(0, len(chart.panels), columns)]
    heights = [max(height_of(panel) for panel in row) for row in rows]
    head = 0.6 + (0.3 if chart.legend else 0)
    with _settings():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(WIDTH * columns, head + sum(heights)), facecolor=theme["surface"])
        figure.text(0.012, 1 - 0.3 / figure.get_figheight(), _cut(chart.title, LONGEST_TITLE * columns // 2 + 12),
                    color=theme["ink"], size=13, weight="bold", va="center")  # fmt: skip
        if chart.legend:
            names = f"○ {chart.legend[0]}    ● {chart.legend[1]}"
            figure.text(0.012, 1 - 0.62 / figure.get_figheight(), names, color=theme["muted"], va="center")
        top = head
        for row, height in zip(rows, heights, strict=True):
            for column, panel in enumerate(row):
                own = height_of(panel)  # panels keep their own scale, aligned at the top
                _draw(figure, panel, theme, (WIDTH * column, top, WIDTH, own))
            top += height
        _write(figure, path)


def svg(panel: Panel, key: str) -> str:
    """One panel as an SVG element whose colours are CSS variables ``--c-ROLE``; ``key`` makes its ids unique."""
    with _settings():
        from matplotlib.figure import Figure

        height = height_of(panel)
        figure = Figure(figsize=(WIDTH, height), facecolor="none")
        _draw(figure, panel, LIGHT, (0, 0, WIDTH, height))
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", text, flags=re.S)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r'\1 aria-hidden="true" focusable="false"', text, count=1)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{key}-", text)
    text = re.sub(r"(font: [^;\"]*?px) [^;\"]*", r"\1 var(--font)", text)
    roles = {colour: f"var(--c-{role})" for role, colour in LIGHT.items()}
    return re.sub(r"#[0-9a-f]{6}\b", lambda found: roles.get(found[0], found[0]), text)


def height_of(panel: Panel) -> float:
    """Inches a panel needs."""
    below_title = TITLE_LINE * (len(_title(panel)) - 1)
    if isinstance(panel, Dots):
        return below_title + FRAME + ROW * len(panel.rows)
    if isinstance(panel, Lines):
        return (
            below_title + LINE_HEIGHT + KEY_HEIGHT * math.ceil(len(panel.lines) / _key_columns(panel.lines))
        )
    return below_title + RELIABILITY_HEIGHT


def _title(panel: Panel) -> list[str]:
    """A title on one or two lines; of a longer one the beginning and the end, which tells panels apart."""
    lines = textwrap.wrap(panel.title, LONGEST_TITLE) or [""]
    return (
        lines
        if len(lines) <= 2
        else [_cut(lines[0], LONGEST_TITLE - 1) + "…", panel.title[2 - LONGEST_TITLE :]]
    )


@contextlib.contextmanager
def _settings() -> Iterator[None]:
    """Our fonts, for these drawings only; letters the font lacks are no reason for warnings in a terminal."""
    import matplotlib

    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def _write(figure: Any, path: Path) -> None:
    try:
        figure.savefig(path, format="png", dpi=DPI)
    except OSError as error:
        raise StoreError(f"{path} was not written: {error.strerror or error}") from None


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _draw(figure: Any, panel: Panel, theme: Theme, place: tuple[float, float, float, float]) -> None:
    """Draw a panel at (left, top, width, height) inches of the figure."""
    title = _title(panel)
    for number, line in enumerate(title):
        y = 0.2 + TITLE_LINE * number
        _text(figure, place, 0.12, y, line, color=theme["ink"], weight="bold", size=9.5, va="center")
    lower = TITLE_LINE * (len(title) - 1)
    place = (place[0], place[1] + lower, place[2], place[3] - lower)
    if isinstance(panel, Dots):
        _draw_dots(_axes(figure, place, (1.95, 0.42, 0.78, 0.52), theme), panel, theme)
    elif isinstance(panel, Lines):
        key = place[3] - LINE_HEIGHT
        _draw_lines(_axes(figure, place, (0.6, 0.42, 0.2, 0.56 + key), theme), panel, theme, key)
    else:
        above = _axes(figure, place, (0.6, 0.42, 0.2, 1.5), theme)
        below = _axes(figure, place, (0.6, RELIABILITY_HEIGHT - 1.36, 0.2, 0.5), theme)
        _draw_reliability(above, below, panel, theme)


def _text(
    figure: Any, place: tuple[float, float, float, float], x: float, y: float, text: str, **how: Any
) -> None:
    width, height = figure.get_size_inches()
    figure.text((place[0] + x) / width, 1 - (place[1] + y) / height, text, **how)


def _axes(figure: Any, place: Sequence[float], margins: Sequence[float], theme: Theme) -> Any:
    """Axes in a panel, inside margins (left, top, right, bottom) in inches, in the theme's colours."""
    width, height = figure.get_size_inches()
    left, top = place[0] + margins[0], place[1] + margins[1]
    inner = (place[2] - margins[0] - margins[2], place[3] - margins[1] - margins[3])
    box = (left / width, 1 - (top + inner[1]) / height, inner[0] / width, inner[1] / height)
    axes = figure.add_axes(box, facecolor="none")
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(theme["muted"])
    axes.tick_params(colors=theme["muted"], labelcolor=theme["ink"], length=3)
    axes.xaxis.label.set_color(theme["ink"])
    axes.yaxis.label.set_color(theme["ink"])
    axes.grid(True, color=theme["grid"], linewidth=0.7)
    axes.set_axisbelow(True)
    return axes


def _draw_dots(axes: Any, panel: Dots, theme: Theme) -> None:
    for index, row in enumerate(panel.rows):
        _draw_row(axes, index, row, theme)
    if panel.reference is not None:
        axes.axvline(panel.reference, color=theme["ink"], linewidth=1.1, zorder=1)
    if panel.limits:
        axes.set_xlim(*panel.limits)
    axes.set_ylim(len(panel.rows) - 0.4, -0.6)
    axes.set_yticks(range(len(panel.rows)), [_cut(row.label, LONGEST_LABEL) for row in panel.rows])
    axes.tick_params(axis="y", length=0)
    if panel.reference and panel.limits and 0 < panel.limits[0] * WIDE < panel.limits[1]:
        axes.set_xscale("log", base=2)
        _double(axes.xaxis, *panel.limits, most=6)
        axes.set_xlim(*panel.limits)
        axes.set_xlabel(f"{panel.axis} (doubling)")
    else:
        axes.xaxis.get_major_locator().set_params(nbins=5)
        axes.set_xlabel(panel.axis)
    for index, row in enumerate(panel.rows):
        largest = max(abs(dot.value) for dot in row.dots)
        written = " / ".join(f"{dot.value:.2f}" if largest < 100 else f"{dot.value:.0f}" for dot in row.dots)
        axes.text(1.03, index, written, transform=axes.get_yaxis_transform(), color=theme["ink"],
                  size=7.5, va="center", ha="left")  # fmt: skip


def _draw_row(axes: Any, index: int, row: DotRow, theme: Theme) -> None:
    role, marker = style_of(row.method)
    for dot in row.dots:
        y = index + (0 if len(row.dots) == 1 else -DODGE if dot.hollow else DODGE)
        if dot.low is not None and dot.high is not None:
            axes.plot([dot.low, dot.high], [y, y], color=theme[role], linewidth=1.4, solid_capstyle="butt")
        fill = theme["surface"] if dot.hollow else theme[role]
        axes.plot(
            [dot.value], [y], marker, color=theme[role], markerfacecolor=fill, markersize=5.5, clip_on=False
        )


def _key_columns(lines: Sequence[Line]) -> int:
    """Columns of the legend: long names stand alone."""
    longest = max((len(line.label) for line in lines), default=0)
    return 1 if longest > LONGEST_LABEL - 4 else 2


def _draw_lines(axes: Any, panel: Lines, theme: Theme, key: float) -> None:
    for line in panel.lines:
        _draw_line(axes, line, theme)
    if panel.doubling:
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        _doubling_ticks(axes, panel)
    else:
        axes.xaxis.get_major_locator().set_params(integer=True)
    if panel.y_limits:
        axes.set_ylim(*panel.y_limits)
    axes.set_xlabel(panel.x_axis)
    axes.set_ylabel(panel.y_axis)
    inches = LINE_HEIGHT - 0.98  # of the axes, see _draw
    axes.legend(loc="upper left", bbox_to_anchor=(-0.13, -0.5 / inches), ncols=_key_columns(panel.lines), frameon=False,
                labelcolor=theme["ink"], fontsize=8, handlelength=2.6, borderaxespad=0, columnspacing=1.2,
                labelspacing=0.55)  # fmt: skip


def _draw_line(axes: Any, line: Line, theme: Theme) -> None:
    if isinstance(line.style, str):
        (role, marker), dash = style_of(line.style), "-"
    else:
        role, marker = SERIES[line.style % len(SERIES)], MARKERS[line.style % len(MARKERS)]
        dash = DASHES[line.style % len(DASHES)]
    label = _cut(line.label, 2 * LONGEST_LABEL)
    axes.plot(line.x, line.y, dash, color=theme[role], linewidth=1.4, marker=marker, markersize=4.2,
              markerfacecolor=theme[role] if line.marked is None else theme["surface"], label=label)  # fmt: skip
    if line.marked:
        kept = [(x, y) for x, y in zip(line.x, line.y, strict=True) if x in line.marked]
        axes.plot(*zip(*kept, strict=True), marker, color=theme[role], markersize=6.5)


def _doubling_ticks(axes: Any, panel: Lines) -> None:
    """1, 2, 4, … as far as the data goes, without minor ticks."""
    for axis, limit, ends in (
        (axes.xaxis, axes.set_xlim, [x for line in panel.lines for x in line.x]),
        (axes.yaxis, axes.set_ylim, [y for line in panel.lines for y in line.y]),
    ):
        _double(axis, min(ends), max(ends), most=9)
        limit(min(ends) / 1.12, max(ends) * 1.12)


def _double(axis: Any, least: float, most_far: float, most: int) -> None:
    """Ticks at powers of two, or at every second or third of them, so that no more than ``most`` steps are taken."""
    first, last = math.floor(math.log2(least)), math.ceil(math.log2(most_far))
    step = max(1, math.ceil((last - first) / most))
    ticks = [2.0**power for power in range(-step * (-first // step), last + 1, step)]  # 1 is among them
    axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_ticks([], minor=True)


def _draw_reliability(above: Any, below: Any, panel: Reliability, theme: Theme) -> None:
    role, marker = style_of(panel.method)
    above.plot([0, 1], [0, 1], "--", color=theme["muted"], linewidth=1.1)
    above.plot(
        [p for p, _, _ in panel.bins], [o for _, o, _ in panel.bins], "-", color=theme[role], linewidth=1
    )
    for predicted, observed, count in panel.bins:
        above.plot([predicted], [observed], marker, color=theme[role], markersize=5.5, clip_on=False,
                   alpha=1 if count >= FEWEST else FAINT)  # fmt: skip
    if panel.ece is not None:
        above.text(
            0.03, 0.93, f"ECE {panel.ece:.4f}", color=theme["ink"], transform=above.transAxes, va="top"
        )
    for axes in (above, below):
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    above.tick_params(labelbottom=False)
    above.set_ylim(0, 1)
    above.set_ylabel("observed")
    largest = max(count for _, _, count in panel.bins)
    below.vlines(
        [p for p, _, _ in panel.bins], 0.8, [c for _, _, c in panel.bins], color=theme[role], linewidth=5
    )
    below.set_yscale("log")
    below.set_ylim(0.8, 3 * largest)
    top = 10 ** math.floor(math.log10(largest))
    ticks = sorted({1, round(10 ** (math.log10(top) // 2)), top})
    below.set_yticks(ticks, [f"{tick // 1000}k" if tick >= 1000 else str(tick) for tick in ticks])
    below.set_yticks([], minor=True)
    below.set_ylabel("nodes")
    below.set_xlabel("predicted")
    for axes in (above, below):
        axes.yaxis.set_label_coords(-0.1, 0.5)
