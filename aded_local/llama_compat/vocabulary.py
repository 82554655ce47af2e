"""The part of ``Llama`` that is about text and token ids, under llama-cpp-python's names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from aded_local.request import token_ids

if TYPE_CHECKING:
    from aded_local.engine import Engine


class LlamaVocabulary:
    """See ``Llama``, which makes it."""

    _engine: Engine

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = False) -> list[int]:
        """Token ids of a text.

        Args:
            text: UTF-8.
            add_bos: put around it what the model wants around a text.
            special: read control-token texts as control tokens.
        """
        decoded = text if isinstance(text, str) else bytes(text).decode("utf-8", errors="replace")
        with self._engine.access.reading():
            return self._engine.model.tokenize(decoded, add_special=add_bos, parse_special=special)

    def detokenize(
        self, tokens: Sequence[int], prev_tokens: Sequence[int] | None = None, special: bool = False
    ) -> bytes:
        """The bytes of token ids.

        Args:
            tokens: any ids of the vocabulary.
            prev_tokens: passed over, as there.
            special: write control tokens as their texts, else leave them out.
        """
        model = self._engine.model
        with self._engine.access.reading():
            ids = token_ids(tokens, model.n_vocab)
            raw = b"".join(map(model.spelling if special else model.piece, ids))
        # SentencePiece puts a space before the first word.
        return raw[1:] if ids and ids[0] == model.bos and raw.startswith(b" ") else raw

    def tokenizer(self) -> LlamaTokenizer:
        """The same as an object."""
        return LlamaTokenizer(self)

    def token_bos(self) -> int:
        """Id of the beginning-of-text token, -1 without one."""
        return self._engine.model.bos

    def token_eos(self) -> int:
        """Id of the end-of-text token, -1 without one."""
        return self._engine.model.eos

    def token_nl(self) -> int:
        """Id of the line break's token, -1 without one."""
        return self._engine.model.newline

    def n_ctx(self) -> int:
        """Tokens of context."""
        return self._engine.n_ctx

    def n_vocab(self) -> int:
        """Ids of the vocabulary."""
        return self._engine.model.n_vocab

    def n_embd(self) -> int:
        """Numbers of an embedding."""
        return self._engine.model.n_embd


class LlamaTokenizer:
    """A ``Llama``'s vocabulary, with the names of ``llama_cpp.LlamaTokenizer``."""

    def __init__(self, llama: LlamaVocabulary) -> None:
        self._llama = llama

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = True) -> list[int]:
        """See ``Llama.tokenize``."""
        return self._llama.tokenize(text, add_bos, special)

    def detokenize(
        self, tokens: Sequence[int], prev_tokens: Sequence[int] | None = None, special: bool = False
    ) -> bytes:
        """See ``Llama.detokenize``."""
        return self._llama.detokenize(tokens, prev_tokens, special)

    def encode(self, text: str, add_bos: bool = True, special: bool = True) -> list[int]:
        """Token ids of a text."""
        return self.tokenize(text.encode("utf-8", errors="ignore"), add_bos, special)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids; what is no UTF-8 is left out."""
        return self.detokenize(tokens).decode("utf-8", errors="ignore")
