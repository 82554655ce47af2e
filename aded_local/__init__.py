"""ADED Local: a quantized language model answers faster by drafting, and verifies every token itself.

``LocalADED`` is the whole public API; it is imported when first asked for, so that a program can show its
``--help`` without loading NumPy, Numba or llama.cpp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from aded_local.api import LocalADED, Options, Piece, Reply, Session, Stats

__all__ = ["LocalADED", "Options", "Piece", "Reply", "Session", "Stats", "__version__"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from aded_local import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
