"""Words that the tables of several commands and the report share."""

from __future__ import annotations


def attention(on: object) -> str:
    """How a setting of flash attention is called."""
    return "flash attention" if on else "no flash attention"
