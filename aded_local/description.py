"""What holds for a loaded model on this machine: told to a person, and asked by whoever measures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from aded_local.access import Access, reads
from aded_local.engine import Engine
from aded_local.errors import ContextOverflowError
from aded_local.llama import Model
from aded_local.request import token_ids


class Described:
    """What a ``LocalADED`` tells of its model."""

    _engine: Engine
    _model: Model
    _access: Access

    @property
    def n_ctx(self) -> int:
        """Tokens of context."""
        return self._engine.n_ctx

    @reads
    def description(self) -> dict[str, Any]:
        """What holds for the loaded model on this machine, as plain data."""
        return self._engine.describe()

    def measure_exactness(self) -> None:
        """Find which batch sizes are exact, for ``description``; takes seconds on a large model, once.

        Raises:
            BusyError, DeviceError
        """
        with self._access.alone():
            self._engine.measure_exactness()

    def logits_after(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits after ``tokens``, the last one decoded alone: float32 ``(n_vocab,)``. For measuring.

        Raises:
            PromptError, ContextOverflowError, BusyError
        """
        with self._access.alone():
            ids = token_ids(tokens, self._model.n_vocab)
            if not ids or len(ids) > self.n_ctx:
                raise ContextOverflowError(f"{len(ids)} tokens do not fit a context of {self.n_ctx}")
            return self._engine.target.logits_after(np.array(ids, np.int32))

    @reads
    def foreseen(self, n_prompt: int, max_tokens: int) -> tuple[bool, str, bool, tuple[int, ...] | None]:
        """What a new conversation's first turn would be answered in now. For measuring.

        Args:
            n_prompt: tokens of the prompt.
            max_tokens: of the answer.

        Returns:
            Flash attention on or off, the cache type, whether drafts are multiplied row by row, and the only numbers of
            tokens a pass may have; None for any.
        """
        setting, sizes = self._engine.foreseen(n_prompt, max_tokens)
        return *setting, sizes

    @reads
    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for in running text; none for control tokens.

        Raises:
            PromptError: there is no such token.
        """
        return self._model.piece(token)

    @reads
    def longest_token(self) -> int:
        """The most bytes that one token spells; to look at them all takes a tenth of a second or more, once."""
        return self._model.longest_token

    @reads
    def end_tokens(self) -> frozenset[int]:
        """Ids of all tokens that end an answer. For measuring: another program must stop where this one does."""
        return self._model.end_tokens
