"""Numbers of bytes for people."""

from __future__ import annotations


def size_text(count: int) -> str:
    """Bytes in decimal units, as file managers and the Hugging Face Hub show them."""
    size = float(count)
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
