"""Words that the tables of several commands and the report share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def attention(on: object) -> str:
    """How a setting of flash attention is called."""
    return "flash attention" if on else "no flash attention"


def beside(result: Mapping[str, Any]) -> str:
    """What kept the machine busy during a run; empty for nothing."""
    settings = result["provenance"].get("settings")
    count = settings.get("beside") if isinstance(settings, Mapping) else None
    if not isinstance(count, int) or count < 1:
        return ""
    return f"beside {count} busy process{'es' * (count > 1)}"
