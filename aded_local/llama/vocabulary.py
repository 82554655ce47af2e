"""A GGUF's vocabulary: text to token ids and back, and which tokens steer or end an answer.

Alone, without weights, it loads in a fraction of a second, from any GGUF that holds one.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from aded_local.llama.backend import load, start_backend
from aded_local.llama.controls import is_bracketed_twice
from aded_local.llama.gguf import GGUFHeader
from aded_local.llama.loading import lib
from aded_local.llama.owned import Owned
from aded_local.llama.soundness import check_vocabulary
from aded_local.llama.tokenizing import piece_of, tokenized
from aded_local.tree import IntArray

_KINDS: int = (
    lib.LLAMA_TOKEN_ATTR_UNKNOWN
    | lib.LLAMA_TOKEN_ATTR_UNUSED
    | lib.LLAMA_TOKEN_ATTR_NORMAL
    | lib.LLAMA_TOKEN_ATTR_CONTROL
    | lib.LLAMA_TOKEN_ATTR_USER_DEFINED
    | lib.LLAMA_TOKEN_ATTR_BYTE
)
"""Further bits say how texts around a token are stripped."""


class Vocabulary:
    """The vocabulary of one GGUF.

    Args:
        path: any GGUF, of a model that writes text or not.

    Raises:
        ModelNotFoundError: no such file, a folder.
        ModelFormatError: not a GGUF, or without a sound vocabulary.
        ForkedError: a model was loaded before this process was forked.
    """

    def __init__(self, path: Path) -> None:
        header = check_vocabulary(path)
        start_backend(verbose=False, computes=False)
        self._take(header, load(header, vocabulary_only=True))

    def _take(self, header: GGUFHeader, handle: Any) -> None:
        """Own what llama.cpp loaded."""
        self.path = header.path
        self.header = header
        self.handle = handle
        self.owned: Owned | None = Owned(handle, lib.llama_model_free)
        self._vocab = lib.llama_model_get_vocab(handle)
        self._pieces: dict[int, bytes] = {}
        self._ends: dict[int, bool] = {}

    def close(self) -> None:
        """Free what llama.cpp loaded, as soon as no context made from it is left."""
        self.owned = self.handle = None

    @cached_property
    def n_vocab(self) -> int:
        return int(lib.llama_vocab_n_tokens(self._vocab))

    @cached_property
    def bos(self) -> int:
        """Id of the beginning-of-text token, -1 without one."""
        return int(lib.llama_vocab_bos(self._vocab))

    @cached_property
    def eos(self) -> int:
        """Id of the end-of-text token, -1 without one."""
        return int(lib.llama_vocab_eos(self._vocab))

    @cached_property
    def newline(self) -> int:
        """Id of the line break's token, -1 without one."""
        return int(lib.llama_vocab_nl(self._vocab))

    @cached_property
    def infill(self) -> tuple[int, int, int] | None:
        """Ids of the tokens before a prefix, before a suffix and before what fills them in; None without them."""
        found = (
            int(lib.llama_vocab_fim_pre(self._vocab)),
            int(lib.llama_vocab_fim_suf(self._vocab)),
            int(lib.llama_vocab_fim_mid(self._vocab)),
        )
        return None if min(found) < 0 else found

    @cached_property
    def adds_bos(self) -> bool:
        return bool(lib.llama_vocab_get_add_bos(self._vocab))

    @cached_property
    def control_texts(self) -> tuple[str, ...]:
        """Texts of all tokens that steer, e.g. ``<|im_end|>``. Typed text must not become one."""
        return tuple(self.token_text(token) for token in sorted(self.control_tokens))

    @cached_property
    def control_tokens(self) -> frozenset[int]:
        """Ids of all tokens that steer."""
        return frozenset(token for token in range(self.n_vocab) if self._steers(token))

    @cached_property
    def defined_texts(self) -> tuple[str, ...]:
        """Texts of the other USER_DEFINED tokens, e.g. ``<think>``, an HTML tag or spaces: tokens in any text."""
        return tuple(
            self.token_text(token)
            for token in range(self.n_vocab)
            if self._attributes(token) & lib.LLAMA_TOKEN_ATTR_USER_DEFINED
            and token not in self.control_tokens
        )

    def _steers(self, token: int) -> bool:
        attributes = self._attributes(token)
        return bool(
            attributes & (lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_UNKNOWN)
            or (attributes & lib.LLAMA_TOKEN_ATTR_USER_DEFINED and is_bracketed_twice(self.token_text(token)))
            or lib.llama_vocab_is_eog(self._vocab, token)
        )

    def _attributes(self, token: int) -> int:
        return int(lib.llama_vocab_get_attr(self._vocab, token))

    def kind(self, token: int) -> int:
        """Which kinds a token is of, as bits of ``enum llama_token_attr``: unknown, unused, normal, control, user
        defined, byte."""
        return self._attributes(token) & _KINDS

    def is_unused(self, token: int) -> bool:
        """Whether a token only fills the vocabulary up, so that no text contains it."""
        return bool(self._attributes(token) & lib.LLAMA_TOKEN_ATTR_UNUSED)

    def is_end(self, token: int) -> bool:
        """Whether a token ends an answer (end of turn, end of text)."""
        known = self._ends.get(token)
        if known is None:
            known = self._ends[token] = bool(lib.llama_vocab_is_eog(self._vocab, token))
        return known

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        """Ids of all tokens that end an answer."""
        return frozenset(t for t in range(self.n_vocab) if lib.llama_vocab_is_eog(self._vocab, t))

    def token_text(self, token: int) -> str:
        """The vocabulary's own spelling of a token; empty for an id outside it."""
        if not 0 <= token < self.n_vocab:
            return ""
        return bytes(lib.llama_vocab_get_text(self._vocab, token)).decode("utf-8", errors="replace")

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of a text.

        Args:
            text: any text; lone surrogates are replaced.
            add_special: begin (and end) with the tokens the model wants around a text.
            parse_special: read control-token texts as control tokens. Never for what a person typed.

        Raises:
            DeviceError: no memory for the stack that a very long run without white space takes.
        """
        parts = tokenized(self._vocab, text, add_special=add_special, parse_special=parse_special)
        return [token for part in parts for token in part.tolist()]

    def piece(self, token: int) -> bytes:
        """The bytes a token stands for in running text; empty for control tokens."""
        known = self._pieces.get(token)
        if known is None:
            known = self._pieces[token] = piece_of(self._vocab, token, False)
        return known

    def spelling(self, token: int) -> bytes:
        """The bytes a token stands for; the text of a control token too."""
        return piece_of(self._vocab, token, True)

    @cached_property
    def longest_token(self) -> int:
        """The most bytes that one token spells; to look at them all takes a tenth of a second or more."""
        return max(len(self.spelling(token)) for token in range(self.n_vocab))

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
