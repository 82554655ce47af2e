"""A grammar that an answer keeps to: llama.cpp's own grammar sampler, asked safely.

llama.cpp ends the process where a token is accepted that its grammar does not allow, and prints a grammar that it
cannot read. So a text is checked first (``gbnf``), and nothing is accepted that was not asked about.

A grammar describes text. Control tokens are none, though llama.cpp would let one pass for its name within a string.
"""

from __future__ import annotations

import codecs
import ctypes
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from aded_local.errors import GrammarError
from aded_local.llama import logs
from aded_local.llama.gbnf import check
from aded_local.llama.loading import lib
from aded_local.llama.model import Model
from aded_local.llama.owned import Owned
from aded_local.llama.schemas import gbnf_of
from aded_local.llama.tokenizing import piece_of
from aded_local.shown import one_line
from aded_local.tree import IntArray

BoolArray = npt.NDArray[np.bool_]

ROOT: Final = b"root"
"""The rule that a whole answer follows."""

SLOWEST_CHOICE: Final = 5.0
"""Seconds of processor time that a grammar may take over one token: hundreds of times what the slowest of
docs/schemas.md takes. A grammar with ever more readings would take ever more."""

WHITE: Final = (9, 10, 13)
"""Bytes of white space beside the space."""

END: Final = 256
"""In place of a byte: the answer ends."""

FEW: Final = 512
"""Tokens that are judged at once; of more, only those that begin with a byte that may come. It takes longer to find out
which may than to judge these."""

CANDIDATE: Final = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
"""``llama_token_data`` (llama.h)."""


def unfinished(raw: bytes) -> bytes | None:
    """The half character that ends a text in UTF-8; None where it cannot become one."""
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    try:
        decoder.decode(raw)
    except UnicodeDecodeError:
        return None
    half = decoder.getstate()[0]
    # Python waits for the third byte of half a UTF-16 pair before it refuses it.
    return None if half[:1] == b"\xed" and half[1:2] >= b"\xa0" else half


class Pieces:
    """The texts of a vocabulary's tokens as llama.cpp's grammars read them; read once for each model.

    Attributes:
        bytes_: the token that stands for each byte alone, int32 ``(256,)``, -1 where there is none.
        ends: ids of the tokens that end an answer, int32 ``(n,)``.
        usual_end: the one that most answers end with; -1 where there is none.
        forbidden: tokens that no grammar allows, bool ``(n_vocab,)``: those that steer, save ``ends``, and those
            without a text.
        broken: tokens whose text begins or ends within a character, or is none at all, bool ``(n_vocab,)``.
        starting: those that may follow whole characters, bool ``(n_vocab,)``.
        first: the first byte of each token's text, int16 ``(n_vocab,)``; ``END`` for ``ends``.
        plain, beyond: the bytes that have a token, of visible ASCII, white space and ``END``, and beyond ASCII; int64
            ``(n,)``.
        plain_tokens, beyond_tokens: those tokens, int32 ``(n,)``.
    """

    _of: ClassVar[weakref.WeakKeyDictionary[Model, Pieces]] = weakref.WeakKeyDictionary()

    def __init__(self, model: Model) -> None:
        n_vocab = model.n_vocab
        vocab = lib.llama_model_get_vocab(model.handle)
        self.ends: IntArray = np.array(sorted(model.end_tokens), np.int32)
        self.forbidden: BoolArray = np.zeros(n_vocab, np.bool_)
        self.forbidden[sorted(model.control_tokens - model.end_tokens)] = True
        self.bytes_: IntArray = np.full(256, -1, np.int32)
        self.broken: BoolArray = np.zeros(n_vocab, np.bool_)
        self.starting: BoolArray = np.ones(n_vocab, np.bool_)
        self.first: npt.NDArray[np.int16] = np.full(n_vocab, END, np.int16)
        for token in range(n_vocab):
            if self.forbidden[token] or token in model.end_tokens:
                continue
            piece = piece_of(vocab, token, True)
            if not piece:
                self.forbidden[token] = True
                continue
            self.first[token] = piece[0]
            if not piece.isascii():
                half = unfinished(piece)
                self.broken[token], self.starting[token] = half != b"", half is not None
            if len(piece) == 1 and self.bytes_[piece[0]] < 0:
                self.bytes_[piece[0]] = token
        known = np.flatnonzero(self.bytes_ >= 0)
        seen = (known >= 32) | np.isin(known, WHITE)
        self.plain, self.beyond = known[(known < 127) & seen], known[known >= 128]
        self.plain_tokens, self.beyond_tokens = self.bytes_[self.plain], self.bytes_[self.beyond]
        usual = [int(lib.llama_vocab_eot(vocab)), model.eos, *self.ends.tolist()]
        self.usual_end = next((token for token in usual if token in model.end_tokens), -1)
        if len(self.ends):
            self.plain = np.append(self.plain, END)
            self.plain_tokens = np.append(self.plain_tokens, self.ends[0])

    @classmethod
    def of(cls, model: Model) -> Pieces:
        """Those of a model."""
        known = cls._of.get(model)
        if known is None:
            known = cls._of[model] = cls(model)
        return known


@lru_cache(maxsize=64)
def _checked(text: str) -> bytes:
    check(text)
    return text.encode()


@dataclass(frozen=True, eq=False)
class Grammar:
    """A grammar, made ready for one model's vocabulary.

    Attributes:
        model: whose tokens it judges.
        gbnf: its text.
    """

    model: Model
    gbnf: str

    @classmethod
    def of(
        cls, model: Model, *, gbnf: str | None = None, schema: Mapping[str, Any] | str | None = None
    ) -> Grammar:
        """The grammar of a GBNF text, or of a JSON schema.

        Args:
            model: whose tokens it judges.
            gbnf: llama.cpp's notation, with a rule ``root``.
            schema: a JSON schema, or its JSON text; an empty one stands for any JSON object.

        Raises:
            GrammarError: it cannot be followed, or both or neither are given.
        """
        if (gbnf is None) == (schema is None):
            raise GrammarError("give a grammar or a JSON schema, one of them")
        text = gbnf if schema is None else gbnf_of(schema)
        if not isinstance(text, str):
            raise GrammarError(f"a grammar is a text, not {type(text).__name__}")
        _checked(text)
        grammar = cls(model, text)
        grammar.sampler()  # what llama.cpp alone knows is told now
        return grammar

    def sampler(self) -> Owned:
        """A fresh grammar sampler of llama.cpp, at the beginning of an answer.

        Raises:
            GrammarError: llama.cpp refuses it.
        """
        logs.clear_errors()
        vocab = lib.llama_model_get_vocab(self.model.handle)
        handle = lib.llama_sampler_init_grammar(vocab, _checked(self.gbnf), ROOT)
        if not handle:
            reason = one_line(logs.last_error() or "it gave no reason")
            raise GrammarError(f"llama.cpp cannot follow the grammar: {reason}")
        return Owned(handle, lib.llama_sampler_free, self.model.owned)

    def state(self) -> GrammarState:
        """The beginning of an answer."""
        return GrammarState(self, self.sampler(), _Asking())

    @cached_property
    def pieces(self) -> Pieces:
        """The vocabulary's texts."""
        return Pieces.of(self.model)


class _Asking:
    """Candidates as llama.cpp takes them; kept, since to make them anew takes longer than to ask."""

    def __init__(self) -> None:
        self.array = lib.llama_token_data_array()
        self.reference = ctypes.byref(self.array)
        self._make_room(256)
        self._one = np.zeros(1, np.int32)

    def _make_room(self, n: int) -> None:
        self.candidates = np.zeros(n, CANDIDATE)
        self.ids, self.logits = self.candidates["id"], self.candidates["logit"]
        self.array.data = self.candidates.ctypes.data_as(ctypes.POINTER(lib.llama_token_data))

    def ask(self, handle: Any, tokens: IntArray) -> BoolArray:
        """Which of ``tokens`` a grammar sampler allows, bool ``(n,)``."""
        n = len(tokens)
        if n > len(self.candidates):
            self._make_room(n)
        self.ids[:n] = tokens
        self.logits[:n] = 0.0
        self.array.size, self.array.selected, self.array.sorted = n, -1, False
        lib.llama_sampler_apply(handle, self.reference)
        allowed: BoolArray = self.logits[:n] == 0.0
        return allowed

    def ask_one(self, handle: Any, token: int) -> bool:
        """Whether it allows ``token``."""
        self.ids[0] = token
        self.logits[0] = 0.0
        self.array.size, self.array.selected, self.array.sorted = 1, -1, False
        lib.llama_sampler_apply(handle, self.reference)
        return bool(self.logits[0] == 0.0)


class GrammarState:
    """Where an answer stands in its grammar. One thread at a time uses a state and its clones."""

    __slots__ = ("_asking", "_half", "_handle", "_owned", "grammar")

    def __init__(self, grammar: Grammar, owned: Owned, asking: _Asking, half: bytes = b"") -> None:
        self.grammar = grammar
        self._half = half  # of a character, that ends the text
        self._owned = owned
        self._handle = owned.handle
        self._asking = asking

    def clone(self) -> GrammarState:
        """The same place, from which another way may be gone."""
        handle = lib.llama_sampler_clone(self._handle)
        owned = Owned(handle, lib.llama_sampler_free, self.grammar.model.owned)
        return GrammarState(self.grammar, owned, self._asking, self._half)

    def allows(self, token: int) -> bool:
        """Whether ``token`` may come next; the id of one that ends the answer where it may end."""
        pieces = self.grammar.pieces
        if pieces.forbidden[token] or not self._asking.ask_one(self._handle, token):
            return False
        # llama.cpp takes any bytes for characters: 0xFF, and long forms of short ones.
        if self._half:
            return bool(pieces.broken[token]) and self._after(token) is not None
        return bool(pieces.starting[token])

    def _after(self, token: int) -> bytes | None:
        """The half character that the text ends with behind a token; None where it is no UTF-8 then."""
        return unfinished(self._half + self.grammar.model.piece(token))

    def allowed(self, tokens: IntArray) -> BoolArray:
        """Which of ``tokens`` may come next: int32 ``(n,)`` to bool ``(n,)``.

        Raises:
            GrammarError: the grammar is so ambiguous that this takes too long.
        """
        pieces = self.grammar.pieces
        before = time.thread_time()
        allowed = ~pieces.forbidden[tokens]
        if len(tokens) > FEW:
            allowed &= self._may_begin()[pieces.first[tokens]]
        asked = np.flatnonzero(allowed)
        if len(asked):
            allowed[asked] = self._asking.ask(self._handle, tokens[asked])
        if self._half:
            allowed &= pieces.broken[tokens]
            for place in np.flatnonzero(allowed):
                allowed[place] = self._after(int(tokens[place])) is not None
        else:
            allowed &= pieces.starting[tokens]
        if time.thread_time() - before > SLOWEST_CHOICE:
            raise GrammarError(
                f"the grammar took over {SLOWEST_CHOICE:.0f} s to judge one token; make it less ambiguous"
            )
        return allowed

    def _may_begin(self) -> BoolArray:
        """The first bytes that a token may have, bool ``(257,)``; ``END`` stands for a token that ends the answer."""
        pieces = self.grammar.pieces
        # llama.cpp judges half a character by what is excluded of it, and a whole one by itself: so all of those may.
        may = np.ones(END + 1, np.bool_)
        may[pieces.plain] = self._asking.ask(self._handle, pieces.plain_tokens)
        may[END] = True
        return may

    def takes(self, token: int) -> bool:
        """Go on by ``token`` where it is allowed; tells whether it was."""
        if not self.allows(token):
            return False
        lib.llama_sampler_accept(self._handle, token)
        if self._half or self.grammar.pieces.broken[token]:
            self._half = self._after(token) or b""
        return True

    def accept(self, token: int) -> None:
        """Go on by ``token``.

        Raises:
            GrammarError: it is not allowed here; nothing has happened.
        """
        if not self.takes(token):
            raise GrammarError(f"the grammar does not allow the token {token} here")

    @property
    def is_complete(self) -> bool:
        """Whether the answer may end here."""
        ends = self.grammar.pieces.ends
        return len(ends) > 0 and self.allows(int(ends[0]))

    def next_bytes(self) -> BoolArray:
        """Which bytes the text may go on with, and at ``END`` whether it may end: bool ``(257,)``.

        Bytes beyond ASCII are asked about where no other may come; one that no token stands for alone counts as
        impossible.
        """
        pieces = self.grammar.pieces
        possible = np.zeros(END + 1, np.bool_)
        possible[pieces.plain] = self._asking.ask(self._handle, pieces.plain_tokens)
        if not possible.any():
            possible[pieces.beyond] = self.allowed(pieces.beyond_tokens)
        if self._half:
            possible[END] = False
        return possible
