"""Results of kind "branch" → the section about them: simulated speed-ups with a draft model."""

from __future__ import annotations

from collections.abc import Sequence

from aded_bench.branch.table import DESCRIPTION, panels, tables
from aded_bench.report.panels import Chart, Section, Source, prefix
from aded_bench.report.sections import missing_tables


def branch_section(sources: Sequence[Source]) -> Section:
    """Simulations of every file."""
    drawn = tuple(panel for s in sources for panel in panels(s.result, prefix(s, sources)))
    charts = (
        [Chart("branch", "Draft model beside the target (simulated)", DESCRIPTION, drawn)] if drawn else []
    )
    found = [
        (f"{prefix(s, sources)}{caption}", table) for s in sources for caption, table in tables(s.result)
    ]
    return Section(
        "branch",
        "A second model drafts (simulated)",
        charts=charts,
        tables=[*found, *missing_tables(sources)],
    )
