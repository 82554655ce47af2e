"""Result files → one report: Markdown, charts and a page. What they hold is anybody's word, and only ever text."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from aded_bench.report.panels import Chart, Section, Table
from aded_bench.report.replay_sections import replay_section
from aded_bench.report.sections import Source, curve_section, lossless_section, run_section
from aded_bench.report.untrusted import mapping, words
from aded_local.errors import OptionError, StoreError

KINDS: Mapping[str, Callable[[Sequence[Source]], Section]] = {
    "run": run_section,
    "replay": replay_section,
    "curve": curve_section,
    "lossless": lossless_section,
}
MARKDOWN_SIGNS = re.compile(r"([\\`*\[\]|~#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")
MARKDOWN, PAGE, CHARTS = "report.md", "report.html", "charts"  # file names in the folder


@dataclass(frozen=True)
class Report:
    """What is written: the files read, and the sections made of them."""

    created: str
    sources: tuple[Source, ...]
    sections: tuple[Section, ...]


def read(path: Path) -> Source:
    """One result file; its name is the file's without the ending.

    Raises:
        OptionError: there is none, or it is no result file.
    """
    refused = f"{words(path)} is no result file of aded-bench"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"{words(path)} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{refused}: {words(error) or 'nested too deeply'}") from None
    if not isinstance(found, dict) or "kind" not in found:
        raise OptionError(f"{refused}: it names no kind")
    if str(found["kind"]) not in KINDS:
        kind = words(found["kind"])[:40]
        raise OptionError(f"{refused} that a report can show: kind {kind!r}, not one of {', '.join(KINDS)}")
    return Source(words(path.stem), path, found["kind"], found.get("complete") is True, found)


def collect(paths: Sequence[Path]) -> Report:
    """Read the files and make the sections, those of a kind together.

    Raises:
        OptionError: a file is no result file.
    """
    sources = _named_apart([read(path) for path in dict.fromkeys(paths)])
    kinds = [(kind, [s for s in sources if s.kind == kind]) for kind in KINDS]
    sections = [KINDS[kind](of_kind) for kind, of_kind in kinds if of_kind]
    created = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return Report(created, tuple(sources), (*sections, origin_section(sources)))


def _named_apart(sources: Sequence[Source]) -> list[Source]:
    """Files of one name get their folder's before it, and where that is the same too, their number."""
    counts = Counter(source.name for source in sources)
    longer = [
        f"{words(s.path.resolve().parent.name)}/{s.name}" if counts[s.name] > 1 else s.name for s in sources
    ]
    again, found = Counter(longer), []
    for index, (source, name) in enumerate(zip(sources, longer, strict=True), 1):
        unique = name if again[name] == 1 else f"{name} {index}"
        found.append(Source(unique, source.path, source.kind, source.complete, source.result))
    return found


def origin_section(sources: Sequence[Source]) -> Section:
    """Where each file's numbers come from: versions, hashes, device, seeds, command line."""
    tables = []
    for source in sources:
        head = [("file", words(source.path.name)), ("kind", source.kind)]
        head.append(("complete", "yes" if source.complete else "no: interrupted, this is what there was"))
        pairs = [*head, *_flat(mapping(source.result.get("provenance")))]
        if len(pairs) == len(head):
            pairs.append(("provenance", "none in the file"))
        tables.append(Table(source.label, ("what", "value"), tuple(pairs)))
    return Section("origin", "Where the numbers come from", tables=tuple(tables))


def _flat(found: Mapping[str, Any], head: str = "") -> list[tuple[str, str]]:
    """Leaves of nested objects by dotted name; arrays in one piece."""
    pairs: list[tuple[str, str]] = []
    for key, value in found.items():
        name = f"{head}{words(key)}"
        if isinstance(value, dict) and head.count(".") < 3:
            pairs += _flat(value, f"{name}.")
        elif key == "command_line" and isinstance(value, list):
            pairs.append((name, words(" ".join(map(str, value)))))
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            for index, item in enumerate(value, 1):
                pairs += _flat(item, f"{name} {index}.")
        elif isinstance(value, (dict, list)):
            pairs.append((name, words(json.dumps(value, ensure_ascii=False))))
        else:
            pairs.append((name, "–" if value is None else words(value)))
    return pairs


def write(report: Report, folder: Path, charts: bool = True) -> list[Path]:
    """Write report.md, report.html and, with ``charts``, the pictures; the paths written.

    Raises:
        OptionError: charts are wanted and matplotlib is missing.
        StoreError: the folder cannot be written.
    """
    from aded_bench.report import charts as drawing
    from aded_bench.report.page import render

    if charts:
        drawing.check()
    written = []
    try:
        (folder / CHARTS if charts else folder).mkdir(parents=True, exist_ok=True)
        if charts:
            for chart in (chart for section in report.sections for chart in section.charts):
                for dark in (False, True):
                    path = folder / picture(chart, dark)
                    drawing.write_png(chart, path, dark)
                    written.append(path)
        for name, text in ((MARKDOWN, markdown(report, charts)), (PAGE, render(report, charts))):
            (folder / name).write_text(text, encoding="utf-8")
            written.append(folder / name)
    except OSError as error:
        raise StoreError(f"{words(folder)} cannot be written: {error.strerror or error}") from None
    return written


def picture(chart: Chart, dark: bool) -> str:
    """A chart's file, relative to the report's folder."""
    return f"{CHARTS}/{chart.key}-{'dark' if dark else 'light'}.png"


def escaped(text: str) -> str:
    """Text that Markdown shows as it is."""
    plain = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return MARKDOWN_SIGNS.sub(r"\\\1", plain)


def markdown(report: Report, charts: bool) -> str:
    """The report as Markdown: tables, and charts as pictures beside the file."""
    parts = ["# aded-bench report", f"Made {report.created} of {_names(report)}."]
    interrupted = [source.name for source in report.sources if not source.complete]
    if interrupted:
        names = escaped(", ".join(interrupted))
        parts.append(f"**Interrupted, and shown as far as they got: {names}.**")
    for section in report.sections:
        parts += [f"## {escaped(section.title)}", *map(escaped, section.notes)]
        for chart in section.charts if charts else ():
            parts += [f"### {escaped(chart.title)}", escaped(_described(chart)), _picture_element(chart)]
        for table in section.tables:
            parts += [f"**{escaped(table.caption)}**", _markdown_table(table)]
    return "\n\n".join(parts) + "\n"


def _names(report: Report) -> str:
    return escaped(", ".join(f"{source.label} ({source.kind})" for source in report.sources))


def _described(chart: Chart) -> str:
    return chart.description + (
        f" Hollow: {chart.legend[0]}. Filled: {chart.legend[1]}." if chart.legend else ""
    )


def _picture_element(chart: Chart) -> str:
    alternative = escaped(chart.title).replace('"', "&quot;")
    dark = f'<source media="(prefers-color-scheme: dark)" srcset="{picture(chart, True)}">'
    return f'<picture>{dark}<img alt="{alternative}" src="{picture(chart, False)}"></picture>'


def _markdown_table(table: Table) -> str:
    lines = [table.columns, tuple("---" for _ in table.columns), *table.rows]
    cells = [[cell if index == 1 else escaped(cell) for cell in line] for index, line in enumerate(lines)]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
