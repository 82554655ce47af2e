"""A second GGUF that drafts: what it says joins the n-grams' predictions as one more source."""

from __future__ import annotations

from typing import Final, Literal

DraftMode = Literal["auto", "ngram", "serial", "parallel", "branch"]
"""When the draft model is asked.

- ``ngram``: never; n-grams alone.
- ``serial``: before each pass, as long as that is worth its time.
- ``parallel``: while the target verifies too, about what may come next.
- ``branch``: SpecBranch's own setting (arXiv 2506.01979): one chain, and several likely tokens at one point of it.
- ``auto``: the first three, by what they cost and gain here.
"""

DRAFT_MODES: Final[tuple[DraftMode, ...]] = ("auto", "ngram", "serial", "parallel", "branch")
