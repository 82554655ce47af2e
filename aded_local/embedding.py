"""Texts to embeddings, beside the conversations of a loaded model."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from aded_local.errors import ContextOverflowError, EmptyPromptError, OptionError, PromptError
from aded_local.llama.embedding import MODELS_OWN, POOLINGS, Embedder
from aded_local.llama.teams import give_team_back

if TYPE_CHECKING:
    from aded_local.engine import Engine

LONGEST_TEXT: Final = 512
"""Tokens of a text where no other number is given: llama.cpp's own batch, and llama-cpp-python's limit."""


class TextEmbedder:
    """Embeds texts in a context of its own, which is made with the first. Threads that embed wait for each other.

    Args:
        engine: the loaded model.
        longest: tokens of a text at most.
        pooling: ``none`` (a vector for each token), ``mean``, ``cls`` or ``last``; None for what the model asks for.

    Raises:
        OptionError: there is no such pooling, or no such length.
    """

    def __init__(self, engine: Engine, *, longest: int = LONGEST_TEXT, pooling: str | None = None) -> None:
        if pooling is not None and pooling not in POOLINGS:
            raise OptionError(f"pooling is {pooling!r}; it must be one of {', '.join(POOLINGS)}")
        if not isinstance(longest, int) or longest < 1:
            raise OptionError(f"a text has {longest!r} tokens at most; it must be a whole number from 1")
        self._engine = engine
        self._longest = longest
        self._pooling = MODELS_OWN if pooling is None else POOLINGS[pooling]
        self._embedding = threading.Lock()
        self._embedder: Embedder | None = None

    def embed(
        self, texts: Sequence[str], *, normalize: bool = False, truncate: bool = True
    ) -> tuple[list[Any], int]:
        """The embeddings of texts.

        Args:
            texts: what to embed; control-token texts stay text.
            normalize: scale each vector to the length 1.
            truncate: leave out what is longer than ``longest``.

        Returns:
            For each text a list of numbers, or without pooling one such list for each token; and the tokens of all.

        Raises:
            PromptError: something is no text.
            EmptyPromptError: a text has no token.
            ContextOverflowError: one is too long, and may not be cut.
            BusyError: the model is closed.
            DeviceError: there is no memory for the context.
        """
        found: list[Any] = []
        total = 0
        with self._embedding, self._engine.access.reading():
            model = self._engine.model
            for text in texts:
                if not isinstance(text, str):
                    raise PromptError(f"only texts are embedded, not {type(text).__name__}")
                tokens = model.tokenize(text, add_special=True, parse_special=False)
                if not tokens:
                    raise EmptyPromptError("an empty text has no embedding; leave it out")
                if len(tokens) > self._longest:
                    if not truncate:
                        raise ContextOverflowError(
                            f"a text has {len(tokens)} tokens, and {self._longest} can be embedded; cut it in parts"
                        )
                    tokens = tokens[: self._longest]
                total += len(tokens)
                embedder = self._opened()
                rows = embedder.embed(tokens)
                if normalize:
                    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
                    rows /= np.where(lengths == 0.0, 1.0, lengths)
                found.append(rows[0].tolist() if embedder.pools else rows.tolist())
            give_team_back()
        return found, total

    def _opened(self) -> Embedder:
        if self._embedder is None:
            self._embedder = Embedder(
                self._engine.model,
                n_batch=self._longest,
                n_threads=self._engine.target.settings.n_threads,
                pooling=self._pooling,
            )
        return self._embedder

    def close(self) -> None:
        """Free the context; embedding opens another."""
        with self._embedding:
            self._embedder = None
