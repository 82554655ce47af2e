"""ADED Local: a quantized language model answers faster by drafting, and verifies every token itself.

``LocalADED`` and what it takes and gives are the whole public API, with the errors. Nothing heavy is imported before it
is asked for, so that a program can show its ``--help`` without loading NumPy, Numba or llama.cpp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aded_local.errors import (
    ADEDError,
    BrokenBuildError,
    BusyError,
    ContextOverflowError,
    DeviceError,
    EmptyPromptError,
    ForkedError,
    GrammarError,
    ModelError,
    ModelFormatError,
    ModelKindError,
    ModelNotFoundError,
    OptionError,
    PairingError,
    PromptError,
    StoreError,
    TemplateError,
    TemplateLimitError,
)

__version__ = "0.1.0"

if TYPE_CHECKING:
    from aded_local.api import (
        AsyncStream,
        LocalADED,
        Options,
        Piece,
        Reply,
        Resumed,
        Session,
        Stats,
        Stream,
        TokenLogprob,
    )
    from aded_local.llama_compat import Llama

__all__ = [
    "ADEDError",
    "AsyncStream",
    "BrokenBuildError",
    "BusyError",
    "ContextOverflowError",
    "DeviceError",
    "EmptyPromptError",
    "ForkedError",
    "GrammarError",
    "Llama",
    "LocalADED",
    "ModelError",
    "ModelFormatError",
    "ModelKindError",
    "ModelNotFoundError",
    "OptionError",
    "Options",
    "PairingError",
    "Piece",
    "PromptError",
    "Reply",
    "Resumed",
    "Session",
    "Stats",
    "StoreError",
    "Stream",
    "TemplateError",
    "TemplateLimitError",
    "TokenLogprob",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name == "Llama":
        from aded_local.llama_compat import Llama

        return Llama
    if name in __all__:
        from aded_local import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
