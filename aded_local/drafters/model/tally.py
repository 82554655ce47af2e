"""What a draft model did for an answer, counted."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ModelDrafting:
    """What a draft model did.

    Attributes:
        target_waited: seconds that the target waited for it.
        draft_idle: seconds of the target's passes in which it had nothing to do.
        decodes: batches that it decoded, those that read the text left out.
        asked: places that it was asked for, a token each.
        dropped: of those, places that the text did not go through: what was rolled back.
        steps: of each mode, steps that were taken in it.
    """

    target_waited: float = 0.0
    draft_idle: float = 0.0
    decodes: int = 0
    asked: int = 0
    dropped: int = 0
    steps: dict[str, int] = field(default_factory=dict)

    def since(self, before: ModelDrafting) -> ModelDrafting:
        """What came after ``before``."""
        return ModelDrafting(
            self.target_waited - before.target_waited,
            self.draft_idle - before.draft_idle,
            self.decodes - before.decodes,
            self.asked - before.asked,
            self.dropped - before.dropped,
            {
                mode: n - before.steps.get(mode, 0)
                for mode, n in self.steps.items()
                if n > before.steps.get(mode, 0)
            },
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)
