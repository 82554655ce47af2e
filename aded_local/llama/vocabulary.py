"""A GGUF's vocabulary alone: text to token ids and back, without weights.

Loads in a fraction of a second from any GGUF, one that holds nothing but a vocabulary included.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from aded_local.llama.gguf import GGUFHeader
from aded_local.llama.loading import lib
from aded_local.llama.model import Model, load, start_backend
from aded_local.llama.owned import Owned
from aded_local.llama.soundness import check_vocabulary
from aded_local.llama.tokenizing import tokenized
from aded_local.tree import IntArray


class Vocabulary(Model):
    """The vocabulary of one GGUF; what is about text in ``Model`` works, what is about weights does not.

    Args:
        path: any GGUF, of a model that writes text or not.

    Raises:
        ModelNotFoundError: no such file, a folder.
        ModelFormatError: not a GGUF, or without a sound vocabulary.
        ForkedError: a model was loaded before this process was forked.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header: GGUFHeader = check_vocabulary(path)
        start_backend(verbose=False, computes=False)
        self.handle = load(self.header, vocabulary_only=True)
        self.owned = Owned(self.handle, lib.llama_model_free)
        self._vocab = lib.llama_model_get_vocab(self.handle)
        self._pieces: dict[int, bytes] = {}
        self._ends: dict[int, bool] = {}

    def encode(self, text: str) -> Iterator[IntArray]:
        """Token ids of running text, int32 ``(n,)`` each; control tokens are never read from it, USER_DEFINED ones are.

        None of an empty text, else one array, save where the text has a run longer than ``tokenizing.LONGEST_RUN``.

        Raises:
            DeviceError: no memory for the stack that a very long run takes.
        """
        if text:
            yield from tokenized(self._vocab, text, add_special=False, parse_special=False)

    @cached_property
    def _adds_space(self) -> bool:
        """Whether the vocabulary puts a space before a text (SentencePiece)."""
        return self.decode(next(self.encode("a")), is_start=False) == " a"

    def decode(self, tokens: IntArray, *, is_start: bool = True) -> str:
        """The text of token ids; what is no UTF-8 is replaced, control tokens are left out.

        Args:
            tokens: ids within the vocabulary, int32 ``(n,)``.
            is_start: they are a whole text as ``encode`` gave them, whose added space is taken away again.
        """
        raw = b"".join(self.piece(token) for token in tokens.tolist())
        if is_start and self._adds_space:
            raw = raw.removeprefix(b" ")
        return raw.decode("utf-8", errors="replace")
