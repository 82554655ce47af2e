"""A prompt and its answer as token ids, and how a row of the database holds them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aded_local.tree import IntArray

LARGEST_TOKEN = 2**24
"""Ids are below this, far above any vocabulary. Nobody but a forger writes a larger one; kernels would look it up
outside their tables."""

COLUMNS = "conversation, turn, continues, at, prompt, answer, checksum"
"""Of a row, in the order of ``to_row``."""

_NUMBERS = struct.Struct("<IIBqI")


@dataclass(frozen=True, slots=True, eq=False)
class Exchange:
    """A prompt and what the model answered.

    Attributes:
        prompt: token ids, int32 ``(n,)``; with ``continues`` only those that are new since the exchange before,
            else all, but for a long beginning that another exchange has too.
        answer: token ids the model emitted, the end token included, int32 ``(m,)``.
        continues: follows the exchange ``turn - 1`` of the same conversation.
        when: seconds since 1970, whole.
        conversation: tells conversations apart, uint32.
        turn: number within the conversation, from 0, uint32.
    """

    prompt: IntArray
    answer: IntArray
    continues: bool
    when: int
    conversation: int = 0
    turn: int = 0

    @property
    def tokens(self) -> int:
        """Tokens it holds."""
        return len(self.prompt) + len(self.answer)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Exchange) and to_row(self, "") == to_row(other, "")

    def __hash__(self) -> int:
        return hash(to_row(self, ""))


def to_row(exchange: Exchange, key: str) -> tuple[Any, ...]:
    """The values of ``COLUMNS``; tokens are little-endian int32.

    The checksum begins with the file's key, so that a row of another model's file is not taken for one of this.

    Raises:
        ValueError: a token is in no vocabulary.
    """
    prompt, answer = (np.ascontiguousarray(part, "<i4") for part in (exchange.prompt, exchange.answer))
    for part in (prompt, answer):
        if len(part) and not 0 <= int(part.min()) <= int(part.max()) < LARGEST_TOKEN:
            raise ValueError("a token id is outside of any vocabulary")
    numbers = (exchange.conversation, exchange.turn, int(exchange.continues), exchange.when)
    tokens = (prompt.tobytes(), answer.tobytes())
    return (*numbers, *tokens, _checksum(numbers, *tokens, key))


def from_row(row: Sequence[Any], key: str) -> Exchange | None:
    """What ``to_row`` wrote; None for a row that is damaged, of another file, or was put together by hand."""
    conversation, turn, continues, when, prompt, answer, checksum = row
    try:
        if checksum != _checksum((conversation, turn, continues, when), prompt, answer, key):
            return None
        # A copy: kernels are compiled for arrays that may be written to, and the row's bytes may not.
        tokens = np.frombuffer(prompt + answer, "<i4").astype(np.int32)
    except (struct.error, TypeError, ValueError):
        return None
    if int(tokens.view(np.uint32).max(initial=0)) >= LARGEST_TOKEN:
        return None
    asked = len(prompt) // 4
    return Exchange(tokens[:asked], tokens[asked:], bool(continues), when, conversation, turn)


def _checksum(numbers: Sequence[int], prompt: bytes, answer: bytes, key: str) -> int:
    start = zlib.crc32(key.encode() + _NUMBERS.pack(*numbers, len(prompt)))
    return zlib.crc32(answer, zlib.crc32(prompt, start))
