"""Preset ``paper``: ADED as published."""

from __future__ import annotations

from aded_local.drafters import Drafter


def make(*, n_vocab: int, seed: int, **_others: object) -> Drafter:
    """See ``make_drafter``; the drafter has its own search and no source but the text."""
    from aded_local.drafters.paper.drafter import PaperDrafter

    return PaperDrafter(n_vocab=n_vocab, seed=seed)
