"""What an interrupted replay left in its file, checked before it is continued; what an opened body says of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aded_bench.report.untrusted import number
from aded_bench.results import ResultFile
from aded_local.errors import StoreError

ROW_NAMES = ("trace", "method", "setting", "phase")
SPREADS = ("draft_microseconds", "learn_microseconds")
FIGURES = ("tokens_per_pass", "nodes_per_pass", "speedup")
BODY_FIGURES = (*FIGURES, "modelled", "seconds", "plain_seconds")
ENGINE = ("quantization", "flash_attention", "cache_type", "threads", "context", "gpu_layers")
"""Of a body's figures, what belongs to where the numbers come from."""


def rows_of(earlier: Mapping[str, Any] | None, file: ResultFile) -> dict[str, Any]:
    """``rows`` and ``peers`` of what ``resume`` returned; empty where that is None.

    Raises:
        StoreError: rows are not what a replay writes.
    """
    if earlier is None:
        return {"rows": [], "peers": {}}
    rows, peers = earlier["rows"], earlier["peers"]
    if not all(_is_row(row) for row in rows):
        raise StoreError(f"{file.path} holds a replay that is damaged; name another file or remove it")
    return {"rows": rows, "peers": peers}


def _is_row(row: Mapping[str, Any]) -> bool:
    if not all(isinstance(row.get(name), str) for name in ROW_NAMES):
        return False
    bits, body, curves = row.get("bits_per_token"), row.get("body"), row.get("curves")
    return (
        all(name in row and _is_spread(row[name]) for name in SPREADS)
        and "bits_per_token" in row
        and (bits is None or number(bits) is not None)
        and "body" in row
        and (body is None or (isinstance(body, dict) and _has(body, BODY_FIGURES)))
        and isinstance(curves, dict)
        and all(_is_figures(found) for found in curves.values())
    )


def _is_figures(found: Any) -> bool:
    if not isinstance(found, dict) or not _has(found, FIGURES):
        return False
    judged = found.get("calibration", False)
    return (
        all(found.get(end) is None or number(found[end]) is not None for end in ("low", "high"))
        and all(name in found and _is_spread(found[name]) for name in SPREADS)
        and (judged is None or (isinstance(judged, dict) and number(judged.get("ece")) is not None))
    )


def _is_spread(found: Any) -> bool:
    return found is None or (isinstance(found, dict) and _has(found, ("median", "p99", "mean")))


def _has(found: Mapping[str, Any], names: Sequence[str]) -> bool:
    return all(number(found.get(name)) is not None for name in names)


def note_engine(provenance: dict[str, Any], body: Mapping[str, Any]) -> None:
    """Write what the first engine opened says of itself where a run says where its numbers come from."""
    found = {key: body[key] for key in ENGINE if key in body}
    if provenance["engine"] is not None or not found:
        return
    provenance |= {"engine": found, "threads": found.get("threads"), "gpu_layers": found.get("gpu_layers")}
    if provenance["model"] is not None:
        provenance["model"]["quantization"] = found.get("quantization")
