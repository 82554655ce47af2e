"""Result files → one report: Markdown, charts and a page. Texts in them are anybody's, and only ever text."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.resources import files
from pathlib import Path
from typing import Any

from aded_bench.extra import pandas
from aded_bench.report.branch_section import branch_section
from aded_bench.report.panels import DARK, LIGHT, Chart, Section, Source
from aded_bench.report.replay_section import replay_section
from aded_bench.report.run_section import run_section
from aded_bench.report.sections import curve_section, lossless_section, sameness_section, schemas_section
from aded_bench.results import read_result
from aded_bench.schema import KINDS, check
from aded_bench.tables import MISSING
from aded_local.errors import StoreError
from aded_local.shown import one_line

SECTIONS: Mapping[str, Callable[[Sequence[Source]], Section]] = {
    "run": run_section,
    "replay": replay_section,
    "curve": curve_section,
    "lossless": lossless_section,
    "sameness": sameness_section,
    "schemas": schemas_section,
    "branch": branch_section,
}
MARKDOWN_SIGNS = re.compile(r"([\\`*\[\]|~#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")
MARKDOWN, PAGE, TEMPLATE, CHARTS = "report.md", "report.html", "page.html.j2", "charts"
LONGEST = 2_000  # characters of one text


@dataclass(frozen=True)
class Report:
    """What is written: the files read, and the sections made of them."""

    created: str
    sources: tuple[Source, ...]
    sections: tuple[Section, ...]


def collect(paths: Sequence[Path]) -> Report:
    """Read the files and make the sections, those of a kind together.

    Raises:
        StoreError: a file is no result file.
    """
    sources = _named_apart([(path, _read(path)) for path in dict.fromkeys(paths)])
    kinds = {kind: [s for s in sources if s.result["kind"] == kind] for kind in SECTIONS}
    sections = [SECTIONS[kind](of_kind) for kind, of_kind in kinds.items() if of_kind]
    created = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return Report(created, tuple(sources), (*sections, origin_section(sources)))


def _read(path: Path) -> dict[str, Any]:
    found = read_result(path)
    kind = found.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise StoreError(
            f"{path} is no result file of aded-bench that a report can show: kind {kind!r:.40}, not one of "
            f"{', '.join(KINDS)}"
        )
    try:
        check(found, KINDS[kind])
    except ValueError as error:
        raise StoreError(f"{path} is no result file that this version of aded-bench wrote: {error}") from None
    cleaned: dict[str, Any] = _cleaned(found)
    return cleaned


def _cleaned(value: Any) -> Any:
    """The same, every text on one line, nothing in it that a terminal obeys, and cut where it is absurdly long."""
    if isinstance(value, dict):
        return {_cleaned(key): _cleaned(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_cleaned(inner) for inner in value]
    return one_line(value[:LONGEST]) if isinstance(value, str) else value


def _named_apart(results: Sequence[tuple[Path, dict[str, Any]]]) -> list[Source]:
    """Files of one name get their folder's before it, and where that is the same too, their number."""
    counts = Counter(path.stem for path, _ in results)
    names = [
        f"{path.resolve().parent.name}/{path.stem}" if counts[path.stem] > 1 else path.stem
        for path, _ in results
    ]
    again = Counter(names)
    unique = [name if again[name] == 1 else f"{name} {number}" for number, name in enumerate(names, 1)]
    return [Source(one_line(name), path, found) for name, (path, found) in zip(unique, results, strict=True)]


def origin_section(sources: Sequence[Source]) -> Section:
    """Where each file's numbers come from: versions, hashes, device, seeds, command line."""
    tables = []
    for source in sources:
        complete = "yes" if source.result["complete"] else "no: interrupted, this is what there was"
        head = [("file", one_line(source.path.name)), ("kind", source.result["kind"]), ("complete", complete)]
        told = list(_flat(source.result["provenance"])) or [("provenance", "none in the file")]
        tables.append((source.label, pandas.DataFrame([*head, *told], columns=["what", "value"])))
    return Section("origin", "Where the numbers come from", tables=tables)


def _flat(found: Mapping[str, Any], head: str = "") -> Iterator[tuple[str, str]]:
    """Leaves of nested objects by dotted name; arrays in one piece."""
    for key, value in found.items():
        name = f"{head}{key}"
        if isinstance(value, dict) and head.count(".") < 3:
            yield from _flat(value, f"{name}.")
        elif key == "command_line" and isinstance(value, list):
            yield name, " ".join(map(str, value))
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            for index, item in enumerate(value, 1):
                yield from _flat(item, f"{name} {index}.")
        elif isinstance(value, (dict, list)):
            yield name, json.dumps(value, ensure_ascii=False)
        else:
            yield name, MISSING if value is None else str(value)


def write(report: Report, folder: Path, charts: bool = True) -> list[Path]:
    """Write report.md, report.html and, with ``charts``, the pictures; the paths written.

    Raises:
        OptionError: charts are wanted and matplotlib is missing.
        StoreError: the folder cannot be written.
    """
    written = []
    try:
        if charts:
            from aded_bench.report import charts as drawing

            drawing.check()
            (folder / CHARTS).mkdir(parents=True, exist_ok=True)
            for chart in (chart for section in report.sections for chart in section.charts):
                for dark in (False, True):
                    path = folder / picture(chart, dark)
                    drawing.write_png(chart, path, dark)
                    written.append(path)
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in ((MARKDOWN, markdown(report, charts)), (PAGE, page(report, folder, charts))):
            (folder / name).write_text(text, encoding="utf-8")
            written.append(folder / name)
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {error.strerror or error}") from None
    return written


def picture(chart: Chart, dark: bool) -> str:
    """A chart's file, relative to the report's folder."""
    return f"{CHARTS}/{chart.key}-{'dark' if dark else 'light'}.png"


def page(report: Report, folder: Path, charts: bool) -> str:
    """One page that asks for nothing else: style, tables and pictures are all in it. Every text is escaped."""
    import jinja2

    def data(chart: Chart, dark: bool) -> str:
        return (
            "data:image/png;base64," + base64.b64encode((folder / picture(chart, dark)).read_bytes()).decode()
        )

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    text = files("aded_bench.report").joinpath(TEMPLATE).read_text(encoding="utf-8")
    rendered: str = environment.from_string(text).render(
        report=report, charts=charts, data=data, described=_described, light=LIGHT, dark=DARK
    )
    return rendered


def escaped(text: object) -> str:
    """Text that Markdown shows as it is."""
    plain = str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return MARKDOWN_SIGNS.sub(r"\\\1", plain)


def markdown(report: Report, charts: bool) -> str:
    """The report as Markdown: tables, and charts as pictures beside the file."""
    names = ", ".join(f"{source.label} ({source.result['kind']})" for source in report.sources)
    parts = ["# aded-bench report", f"Made {report.created} of {escaped(names)}."]
    if interrupted := [source.name for source in report.sources if not source.result["complete"]]:
        parts.append(f"**Interrupted, and shown as far as they got: {escaped(', '.join(interrupted))}.**")
    for section in report.sections:
        parts += [f"## {escaped(section.title)}", *map(escaped, section.notes)]
        for chart in section.charts if charts else ():
            parts += [f"### {escaped(chart.title)}", escaped(_described(chart)), _picture(chart)]
        for caption, table in section.tables:
            lines = [list(table), ["---"] * table.shape[1], *table.fillna(MISSING).itertuples(index=False)]
            cells = [[cell if cell == "---" else escaped(cell) for cell in line] for line in lines]
            parts += [f"**{escaped(caption)}**", "\n".join(f"| {' | '.join(line)} |" for line in cells)]
    return "\n\n".join(parts) + "\n"


def _described(chart: Chart) -> str:
    legend = f" Hollow: {chart.legend[0]}. Filled: {chart.legend[1]}." if chart.legend else ""
    return chart.description + legend


def _picture(chart: Chart) -> str:
    alternative = escaped(chart.title).replace('"', "&quot;")
    dark = f'<source media="(prefers-color-scheme: dark)" srcset="{picture(chart, True)}">'
    return f'<picture>{dark}<img alt="{alternative}" src="{picture(chart, False)}"></picture>'
