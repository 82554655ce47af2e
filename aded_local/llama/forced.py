"""What a grammar lets come next: the text that it forces, and which drafts it refuses.

A schema says most of an answer's text, but hardly a token of it: where ``"name"`` must come, so may ``"``, ``"n`` and
``"na``. So the text is looked for byte by byte, and spelt by the vocabulary's own tokenizer afterwards. The model may
spell otherwise; what is drafted here is verified like every draft.

Where two or three bytes may come, mostly a space or none, models do as they did before. That is kept (``Habits``), and
the text goes on as if forced where it is nearly sure.
"""

from __future__ import annotations

import math
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Final

import numpy as np

from aded_local.llama.grammar import END, BoolArray, Grammar, GrammarState, Pieces
from aded_local.llama.model import Model
from aded_local.step import NOTHING_FORCED, Forced
from aded_local.tree import ROOT, DraftTree, IntArray

LONGEST_AHEAD: Final = 96
"""Bytes that are looked for ahead of the text: more than a draft holds tokens."""

FEW_WAYS: Final = 4
"""Bytes that may come at a place where habits count. Chosen."""

SURE: Final = 0.7
"""Chance from which a habit is followed. Replays of 100 answers of SmolLM2, 15 tokens a draft: 0.6, 0.7, 0.8 and 0.9
draft 10,300, 9,300, 8,100 and 7,300 tokens, of which 6,660, 6,570, 6,400 and 6,100 come."""

HABIT_PRIOR: Final = 0.2
"""Times that each way counts as gone before it was seen. With it one time in a row makes two ways 0.86 and three 0.75,
two times make four 0.79. Chosen."""

MOST_HABITS: Final = 4096
"""Places that are remembered; of more, those met last."""

SPELT_BY: Final = 16
"""Bytes of a text by which it is known how the model began to spell it. Chosen."""

FIRST_RIGHT: Final = (29.0, 30.0)
"""Forced tokens that came as they were spelt, and those that were tried, before any was. Chosen."""

RIGHT_MEMORY: Final = 300.0
"""Forced tokens after which half of what was counted is forgotten. Chosen."""

FOLLOWERS: Final = b'aT0 "-[{\n}],:'
"""Bytes that stand for all that may follow a forced text: its last tokens are drafted as far as none of these changes
their spelling."""

FOLLOWERS_TRIED: Final = 4

REMEMBERED_SPELLINGS: Final = 1024

NOTHING_FOLLOWS: Final[BoolArray] = np.zeros(END + 1, np.bool_)

Place = tuple[int, bytes]
"""The byte before, and which may come, as bits."""


class Habits:
    """How one model has gone on where a grammar let it choose among few bytes, and how it spells what is forced.

    Attributes:
        tried: forced tokens that were drafted and reached.
        came: those of them that the model said.
        misspelt: those where it said the same text in other tokens.
    """

    _of: ClassVar[weakref.WeakKeyDictionary[Model, Habits]] = weakref.WeakKeyDictionary()

    def __init__(self) -> None:
        """Nothing known."""
        self._ways: OrderedDict[Place, dict[int, int]] = OrderedDict()
        self._said: OrderedDict[bytes, int] = OrderedDict()
        self.spellings: OrderedDict[tuple[bytes, bytes], tuple[int, ...]] = OrderedDict()
        self.end = -1  # the token that the last answer ended with
        self.tried = self.came = self.misspelt = 0
        self._right, self._seen = FIRST_RIGHT

    @classmethod
    def of(cls, model: Model) -> Habits:
        """Those of a model, as long as it is loaded."""
        known = cls._of.get(model)
        if known is None:
            known = cls._of[model] = cls()
        return known

    def likeliest(self, place: Place, n_ways: int) -> tuple[int, float]:
        """The way that was gone most, and its chance; -1 where none was."""
        ways = self._ways.get(place)
        if not ways:
            return -1, 0.0
        way = max(ways, key=ways.__getitem__)
        return way, (ways[way] + HABIT_PRIOR) / (sum(ways.values()) + n_ways * HABIT_PRIOR)

    def went(self, place: Place, way: int) -> None:
        """Take note of a way."""
        ways = self._ways.setdefault(place, {})
        ways[way] = ways.get(way, 0) + 1
        self._ways.move_to_end(place)
        if len(self._ways) > MOST_HABITS:
            self._ways.popitem(last=False)

    def began(self, key: bytes, token: int) -> None:
        """Take note of the token that a text ahead began with."""
        self._said[key] = token
        self._said.move_to_end(key)
        if len(self._said) > MOST_HABITS:
            self._said.popitem(last=False)

    def beginning(self, key: bytes) -> int:
        """The token that it began with last; -1 where it is new."""
        return self._said.get(key, -1)

    @property
    def right(self) -> float:
        """The share of forced tokens that come as they are spelt."""
        return self._right / self._seen

    def spelt(self, came: int, missed: bool, misspelt: bool) -> None:
        """Take note of what became of a drafted text: tokens that came, whether one did not, and why."""
        self.tried += came + missed
        self.came += came
        self.misspelt += misspelt
        self._right += came
        self._seen += came + missed
        if self._seen > RIGHT_MEMORY:
            self._right, self._seen = self._right / 2, self._seen / 2


@dataclass(slots=True)
class _Ahead:
    """A byte that is expected: its chance, and the place where it was chosen among few; None where it is forced."""

    byte: int
    chance: float
    place: Place | None


class GrammarConstraint:
    """What a grammar says about the drafts of one answer; see ``step.Constraint``."""

    def __init__(self, grammar: Grammar) -> None:
        """At the beginning of an answer."""
        self._grammar = grammar
        self._habits = Habits.of(grammar.model)
        self._lost = False  # a token came that the grammar forbids: another hand chose it
        self._waiting: list[int] = []  # said, and not looked at yet
        self._last = 0  # the last byte of the text
        self._ahead: list[_Ahead] = []
        self._front: GrammarState | None = None  # behind the bytes ahead; None before it was looked for
        self._is_closed = False  # nobody can say how it goes on behind these
        self._open_place: Place | None = None  # the choice that ends these, where it is one among few
        self._follow = NOTHING_FOLLOWS  # what may follow them; nothing where nobody knows
        self._drafted: list[int] = []
        self._is_asked = False

    @cached_property
    def _pieces(self) -> Pieces:
        return self._grammar.pieces

    @cached_property
    def _state(self) -> GrammarState:
        # Only now: where nothing is drafted, nobody asks.
        return self._grammar.state()

    def advance(self, tokens: Sequence[int]) -> None:
        """The answer goes on with ``tokens``."""
        self._waiting += tokens
        if self._is_asked and tokens and self._grammar.model.is_end(tokens[-1]):
            self._catch_up()  # nobody will ask again, and how an answer ends is a habit too

    def forced(self, most: int) -> Forced:
        """The tokens that come next as far as that is known, ``most`` at most."""
        self._catch_up()
        self._drafted = []
        if self._lost or most < 1:
            return NOTHING_FORCED
        self._look_ahead()
        if not self._ahead:
            return NOTHING_FORCED
        tokens, chances = self._spelt()
        if not tokens:
            return NOTHING_FORCED
        self._drafted = tokens[:most]
        return Forced(np.array(tokens[:most], np.int32), np.array(chances[:most], np.float32))

    def allowed(self, after: IntArray, tree: DraftTree) -> BoolArray:
        """Which nodes of a tree below the tokens ``after`` the grammar allows, bool ``(n,)``; none below one that it
        forbids."""
        self._catch_up()
        parents, tokens = tree.parents.tolist(), tree.tokens
        allowed = np.zeros(len(tree), np.bool_)
        if self._lost:
            return ~allowed
        start = self._state
        if len(after):
            start = start.clone()
            for token in after.tolist():
                if self._grammar.model.is_end(token) or not start.takes(token):
                    return allowed
        children: dict[int, list[int]] = {}
        for node, parent in enumerate(parents):
            children.setdefault(parent, []).append(node)
        states = {ROOT: start}
        for parent, nodes in children.items():  # in the order of the first child: a parent's own comes before
            state = states.get(parent)
            if state is None:
                continue
            allowed[nodes] = state.allowed(tokens[nodes])
            for node in nodes:
                token = int(tokens[node])
                if allowed[node] and node in children and not self._grammar.model.is_end(token):
                    states[node] = state.clone()
                    states[node].takes(token)
        return allowed

    # --- the text so far -----------------------------------------------------------------------------

    def _catch_up(self) -> None:
        self._is_asked = True
        waiting, self._waiting = self._waiting, []
        self._judge(waiting)
        for token in waiting:
            self._lost = self._lost or not self._state.takes(token)
            if self._lost:
                return
            if self._grammar.model.is_end(token):
                self._habits.end = token
                self._step_over(END)
                continue
            piece = self._grammar.model.piece(token)
            text = self._text_ahead()
            if text and (text.startswith(piece) or piece.startswith(text)):
                self._habits.began(self._key(text), token)
            for byte in piece:
                self._step_over(byte)

    def _step_over(self, byte: int) -> None:
        """The text goes on with a byte: is it what was expected?"""
        if self._ahead:
            expected = self._ahead[0]
            if expected.place is not None:
                self._habits.went(expected.place, byte)
            if expected.byte == byte:
                del self._ahead[0]
            else:
                self._forget_ahead()
        else:
            if self._open_place is not None:
                self._habits.went(self._open_place, byte)
            self._forget_ahead()
        self._last = byte

    def _forget_ahead(self) -> None:
        self._ahead, self._front, self._open_place, self._is_closed = [], None, None, False

    def _judge(self, said: list[int]) -> None:
        """What became of the text that was drafted last."""
        drafted, self._drafted = self._drafted, []
        if not drafted or not said:
            return
        came = 0
        for mine, other in zip(drafted, said, strict=False):
            if mine != other:
                break
            came += 1
        missed = came < len(drafted) and came < len(said)
        piece = self._grammar.model.piece
        a, b = (piece(drafted[came]), piece(said[came])) if missed else (b"", b"")
        self._habits.spelt(came, missed, missed and (a.startswith(b) or b.startswith(a)))

    # --- the text ahead ------------------------------------------------------------------------------

    def _look_ahead(self) -> None:
        """Find out how the text goes on, until more than one way is likely."""
        state = self._front or self._state
        last = self._ahead[-1].byte if self._ahead else self._last
        while not self._is_closed and len(self._ahead) < LONGEST_AHEAD:
            self._follow = possible = state.next_bytes()
            ways = np.flatnonzero(possible)
            place = None
            way, chance = (int(ways[0]), 1.0) if len(ways) == 1 else (-1, 0.0)
            if 1 < len(ways) <= FEW_WAYS:
                place = (last, np.packbits(possible).tobytes())
                way, chance = self._habits.likeliest(place, len(ways))
            self._is_closed = chance < SURE or way == END
            if chance < SURE:
                self._open_place = place
                break
            self._ahead.append(_Ahead(way, chance, place))
            if way != END:
                state = state.clone() if state is self._state else state
                state.takes(int(self._pieces.bytes_[way]))
                last = way
        if not self._is_closed:
            self._follow = NOTHING_FOLLOWS
        self._front = state

    def _spelt(self) -> tuple[list[int], list[float]]:
        """The bytes ahead as tokens, as far as their spelling does not depend on what follows, each with its chance."""
        ends = self._ahead[-1].byte == END
        text = self._text_ahead()
        piece, right = self._grammar.model.piece, self._habits.right
        tokens: list[int] = []
        chances = []
        plan: Sequence[int] = ()
        at = 0
        while at < len(text):
            token = self._habits.beginning(self._key(text[at:]))
            if token >= 0 and not text.startswith(piece(token), at):
                break  # it went beyond what is known
            if token < 0:
                plan = plan or self._spelling(text[at:], ends)
                if not plan:
                    break
                token = plan[0]
            plan = plan[1:] if plan and plan[0] == token else ()
            after = at + len(piece(token))
            tokens.append(token)
            chances.append(right * math.prod(each.chance for each in self._ahead[at:after]))
            at = after
        if ends and at == len(text) and self._pieces.ends.size:
            tokens.append(self._pieces.usual_end if self._habits.end < 0 else self._habits.end)
            chances.append(self._ahead[-1].chance * right)
        return tokens, chances

    def _key(self, text: bytes) -> bytes:
        """By what it is known how the model began to spell a text ahead: its beginning, or it and what may follow."""
        return (
            text[:SPELT_BY] if len(text) >= SPELT_BY else text + b"\0" + np.packbits(self._follow).tobytes()
        )

    def _text_ahead(self) -> bytes:
        return bytes(each.byte for each in self._ahead if each.byte != END)

    def _spelling(self, text: bytes, ends: bool) -> tuple[int, ...]:
        """The tokens of a text that ends the answer; else those of its tokens that no byte behind it would change."""
        known = self._habits.spellings
        key = (text, b"" if ends else np.packbits(self._follow).tobytes())
        tokens = known.get(key)
        if tokens is None:
            tokens = known[key] = self._spelt_out(text, ends)
            if len(known) > REMEMBERED_SPELLINGS:
                known.popitem(last=False)
        return tokens

    def _spelt_out(self, text: bytes, ends: bool) -> tuple[int, ...]:
        tokens = self._tokens(text)
        if ends:
            return tuple(tokens)
        followers = [byte for byte in FOLLOWERS if self._follow[byte]][:FOLLOWERS_TRIED]
        longer = [self._tokens(text + bytes((byte,))) for byte in followers]
        if not longer:
            return tuple(tokens[:-1])
        while tokens and any(other[: len(tokens)] != tokens for other in longer):
            tokens.pop()
        return tuple(tokens)

    def _tokens(self, text: bytes) -> list[int]:
        """The vocabulary's spelling of a text, of whole characters at its beginning."""
        whole = text.decode("utf-8", errors="ignore")
        model = self._grammar.model
        tokens = model.tokenize(whole, add_special=False, parse_special=False)
        if b"".join(map(model.piece, tokens)) == whole.encode():
            return tokens
        # The vocabulary puts a space in front of a text; not so behind a line end.
        tokens = model.tokenize("\n" + whole, add_special=False, parse_special=False)
        at = 0
        while tokens and b"\n" not in model.piece(tokens[at]) and at + 1 < len(tokens):
            at += 1
        rest = tokens[at + 1 :]
        return rest if b"".join(map(model.piece, rest)) == whole.encode() else []
