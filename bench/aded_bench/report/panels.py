"""What a report draws and writes, as plain data: panels of charts, tables, sections, and the colours of methods.

Nothing here needs matplotlib; charts.py draws panels, write.py writes sections.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aded_bench.extra import pandas
from aded_bench.tables import MISSING

# The Okabe–Ito palette (Okabe and Ito 2008), made for all kinds of colour vision; orange, green, pink and sky are
# darkened for white paper and all are lightened for dark, so that each has a contrast of 3:1 or more (WCAG 1.4.11).
LIGHT = {
    "surface": "#fefefe", "ink": "#1b1f24", "muted": "#57606a", "grid": "#d8dee4",
    "blue": "#0072b2", "vermilion": "#d55e00", "green": "#00875f", "orange": "#a86f00",
    "pink": "#b5588a", "sky": "#2a86bd", "slate": "#6e5fa8", "grey": "#6b7078",
}  # fmt: skip
DARK = {
    "surface": "#15191e", "ink": "#e8ebee", "muted": "#a5adb6", "grid": "#363d46",
    "blue": "#5cb0ec", "vermilion": "#ff8b4d", "green": "#2fce9f", "orange": "#f2b53a",
    "pink": "#e59cc7", "sky": "#8ad2f7", "slate": "#b8a9f2", "grey": "#9aa1a9",
}  # fmt: skip
SERIES = ("blue", "vermilion", "green", "orange", "pink", "sky", "slate", "grey")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "p")
DASHES = ("-", "--", "-.", ":")

# A method looks the same in every chart of every report: colour and marker, never colour alone.
STYLES = {
    "auto": ("blue", "o"),
    "auto-no-top-k": ("sky", "h"),
    "paper": ("vermilion", "s"),
    "off": ("grey", "d"),
    "llama-cpp": ("slate", "D"),
    "prompt-lookup": ("orange", "^"),
    "llama-cpp-lookup": ("orange", "^"),
    "draftretriever": ("green", "v"),
    "suffix": ("pink", "P"),
    "server": ("sky", "X"),
    "ngram-simple": ("sky", "<"),
    "ngram-map-k": ("green", ">"),
    "ngram-map-k4v": ("pink", "p"),
    "ngram-mod": ("vermilion", "h"),
    "ngram-cache": ("orange", "*"),
    "spec-default": ("slate", "*"),
}


def style_of(method: str) -> tuple[str, str]:
    """Colour role and marker of a method. A name not known here gets a fixed one from its letters."""
    if method in STYLES:
        return STYLES[method]
    known = [name for name in STYLES if method.endswith(name)]  # server-ngram-mod, llama-server:ngram-mod
    if known:
        return STYLES[max(known, key=len)]
    number = zlib.crc32(method.encode())
    return SERIES[number % len(SERIES)], MARKERS[number // len(SERIES) % len(MARKERS)]


FEWEST = 20  # nodes proposed at a depth, or in a bin: fewer say nothing about a rate
WIDE = 6  # largest over smallest ratio from which an axis of ratios doubles instead of adding
LEAST_RATIO = 1e-3  # on such an axis
EDGE = 0.04  # of the axis, left free beyond the outermost value


@dataclass(frozen=True)
class Dot:
    """A method's figure with its interval; ``hollow`` tells the first of two phases from the second."""

    label: str
    method: str
    value: float
    low: float | None = None
    high: float | None = None
    hollow: bool = False


@dataclass(frozen=True)
class Dots:
    """A dot plot: labels downwards, a figure to the right, on an axis that panels share.

    ``reference`` is where a line is drawn, 1.0 for ratios.
    """

    title: str
    dots: tuple[Dot, ...]
    axis: str
    limits: tuple[float, float]
    reference: float | None = None

    @property
    def rows(self) -> dict[str, list[Dot]]:
        """Dots by label, hollow ones first."""
        rows: dict[str, list[Dot]] = {dot.label: [] for dot in self.dots}
        for dot in sorted(self.dots, key=lambda dot: not dot.hollow):
            rows[dot.label].append(dot)
        return rows


@dataclass(frozen=True)
class Line:
    """A line; ``marked`` are the x drawn with a filled sign, None marks every point.

    ``style`` is a method, or a number for lines that are no methods.
    """

    label: str
    style: str | int
    x: tuple[float, ...]
    y: tuple[float, ...]
    marked: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Lines:
    """A line chart. ``doubling``: both axes are logarithmic with ticks at powers of two."""

    title: str
    lines: tuple[Line, ...]
    x_axis: str
    y_axis: str
    doubling: bool = False
    y_limits: tuple[float, float] | None = None


@dataclass(frozen=True)
class Reliability:
    """Predicted against observed hit rate; ``bins`` are (predicted, observed, count)."""

    title: str
    method: str
    bins: tuple[tuple[float, float, int], ...]
    ece: float | None = None


Panel = Dots | Lines | Reliability


@dataclass(frozen=True)
class Chart:
    """Panels that belong together. ``key`` names the files: letters, digits and hyphens.

    ``legend`` says what a hollow and a filled dot mean.
    """

    key: str
    title: str
    description: str
    panels: tuple[Panel, ...]
    legend: tuple[str, str] | None = None


Table = tuple[str, pandas.DataFrame]
"""Caption and texts; the first column heads the rows."""


@dataclass(frozen=True)
class Section:
    """A kind of result, or one file's origin: sentences, charts, tables."""

    key: str
    title: str
    notes: Sequence[str] = ()
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True)
class Source:
    """A result file, read and checked. ``name`` is unique among those of a report."""

    name: str
    path: Path
    result: dict[str, Any]

    @property
    def label(self) -> str:
        """The name, and whether the run was interrupted."""
        return self.name if self.result["complete"] else f"{self.name} (interrupted)"


def prefix(source: Source, sources: Sequence[Source]) -> str:
    """What panels and captions begin with, so that files side by side can be told apart."""
    if len(sources) > 1:
        return f"{source.label}: "
    return "" if source.result["complete"] else "interrupted: "


def dot_chart(
    key: str,
    title: str,
    description: str,
    panels: Sequence[tuple[str, Sequence[Dot]]],
    axis: str,
    reference: float | None = None,
    legend: tuple[str, str] | None = None,
) -> list[Chart]:
    """A chart of panels, title and dots each, on one axis; those without a dot are left out. None of none."""
    drawn = [(head, tuple(dots)) for head, dots in panels if dots]
    if not drawn:
        return []
    shown = [end for _, dots in drawn for dot in dots for end in (dot.value, dot.low, dot.high)]
    ends = [end for end in (*shown, reference) if end is not None]
    low, high = min(ends), max(ends)
    margin = EDGE * (high - low) or 0.1
    limits = (low - margin, high + margin)
    if reference and low > LEAST_RATIO and high / low > WIDE:
        limits = (low / (1 + EDGE) ** 2, high * (1 + EDGE) ** 2)
    made = tuple(Dots(head, dots, axis, limits, reference) for head, dots in drawn)
    return [Chart(key, title, description, made, legend)]


def side_by_side(cells: dict[str, dict[str, str]], sources: Sequence[Source]) -> pandas.DataFrame:
    """A column per file of ``cells``, texts by row and file's name; nothing for one file."""
    if len(sources) < 2 or not cells:
        return pandas.DataFrame()
    return pandas.DataFrame(
        {
            "method": row,
            **{source.label: found.get(source.name, MISSING) for source in sources},
        }
        for row, found in cells.items()
    )
