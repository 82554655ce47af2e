"""How a model is to be opened, checked once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aded_local.drafters import PRESETS, SEARCHES, Search
from aded_local.drafters.model import DRAFT_MODES, DraftMode
from aded_local.errors import OptionError
from aded_local.llama import ALL_LAYERS, CACHE_TYPES
from aded_local.request import require_flags
from aded_local.speed.pricing import SAMES, Same

OFF = "off"
"""The preset that does not draft: plain decoding."""

DRAFTS = (*PRESETS, OFF)
"""What ``draft`` may be."""

Say = Callable[[str], None]
"""Takes a line for the person who waits."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How to open a model; see ``LocalADED`` for each.

    Raises:
        OptionError: one is none of its choices, or two contradict each other.
    """

    draft: str
    same: Same
    n_ctx: int | None
    n_threads: int | None
    n_gpu_layers: int
    flash_attention: bool | None
    cache_type: str | None
    verbose: bool
    memory: bool = False
    store: Path | None = None
    top_k: bool = True
    search: Search = "best-first"
    chat_template: str | None = None
    draft_model: Path | None = None
    draft_mode: DraftMode = "auto"
    draft_threads: int | None = None
    draft_gpu_layers: int = ALL_LAYERS
    draft_max: int | None = None

    def __post_init__(self) -> None:
        require_flags(
            flash_attention=self.flash_attention,
            memory=self.memory,
            top_k_learning=self.top_k,
            verbose=self.verbose,
        )
        for name, value, choices in (
            ("draft", self.draft, DRAFTS),
            ("search", self.search, SEARCHES),
            ("same", self.same, SAMES),
            ("draft_mode", self.draft_mode, DRAFT_MODES),
            ("cache_type", self.cache_type, (None, *CACHE_TYPES)),
        ):
            if value not in choices:
                known = ", ".join(each for each in choices if each is not None)
                raise OptionError(f"{name} is {value!r}; it must be one of {known}")
        if self.draft_model is None:
            for is_given, name in (
                (self.draft_mode != "auto", "draft_mode"),
                (self.draft_threads is not None, "draft_threads"),
                (self.draft_gpu_layers != ALL_LAYERS, "draft_gpu_layers"),
            ):
                if is_given:
                    raise OptionError(
                        f"{name} is about a draft model, and none was given: give draft_model, or leave it out"
                    )
        if self.draft != "auto":
            for is_given, name, lacks in (
                (self.store is not None, "store", "does not draft from a store"),
                (self.search != "best-first", "search", "has no choice of search"),
                (self.draft_model is not None, "draft_model", "asks no draft model"),
            ):
                if is_given:
                    raise OptionError(f"draft={self.draft!r} {lacks}; leave {name} out, or take draft='auto'")
