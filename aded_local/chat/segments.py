"""What a prompt is made of, and its token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from aded_local.llama.controls import Controls


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a prompt.

    Attributes:
        text: what to tokenize; control texts in it become control tokens. Empty where ``tokens`` are given.
        tokens: an answer's own ids, used as they are; empty for text.
        continues: text stands directly before this, so that no space may be put in front.
    """

    text: str
    tokens: tuple[int, ...] = ()
    continues: bool = False


class Tokenizer(Protocol):
    """What a vocabulary offers; ``aded_local.llama.Model`` is one."""

    @property
    def adds_bos(self) -> bool: ...

    @property
    def bos(self) -> int: ...

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]: ...

    def piece(self, token: int) -> bytes: ...


class FencedTokenizer(Tokenizer, Protocol):
    """A tokenizer that lists its control tokens."""

    @property
    def control_texts(self) -> tuple[str, ...]: ...

    @property
    def control_tokens(self) -> frozenset[int]: ...


def segment_tokens(segments: Sequence[Segment], tokenizer: Tokenizer) -> list[int]:
    """Token ids of a rendered conversation.

    Where the model wants BOS, it stands first exactly once, whether or not the template wrote it.

    Args:
        segments: in order.
        tokenizer: the model's.
    """
    ids: list[int] = []
    puts_space = any(segment.continues for segment in segments) and _puts_space(tokenizer)
    for segment in segments:
        if segment.tokens:
            ids.extend(segment.tokens)
        elif segment.continues and puts_space:
            ids.extend(_behind_text(segment.text, tokenizer, parse_special=True))
        else:
            ids.extend(tokenizer.tokenize(segment.text, add_special=False, parse_special=True))
    if ids and tokenizer.adds_bos and tokenizer.bos >= 0 and ids[0] != tokenizer.bos:
        ids.insert(0, tokenizer.bos)
    return ids


def text_tokens(text: str, tokenizer: FencedTokenizer) -> list[int]:
    """Token ids of a raw prompt, with the tokens the model wants around a text; control texts stay text."""
    whole = tokenizer.tokenize(text, add_special=True, parse_special=False)
    around = tokenizer.tokenize("", add_special=True, parse_special=False)
    before = 1 if tokenizer.adds_bos else 0
    after = len(whole) - (len(around) - before)
    if tokenizer.control_tokens.isdisjoint(whole[before:after]):
        return whole
    puts_space = _puts_space(tokenizer)
    first, *rest = Controls(tokenizer.control_texts).split(text)
    ids = tokenizer.tokenize(first, add_special=False, parse_special=False)
    for piece in rest:
        if puts_space:
            ids += _behind_text(piece, tokenizer, parse_special=False)
        else:
            ids += tokenizer.tokenize(piece, add_special=False, parse_special=False)
    return [*whole[:before], *ids, *whole[after:]]


def _puts_space(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer puts a space in front of a text, as SentencePiece vocabularies do."""
    probe = tokenizer.tokenize("a", add_special=False, parse_special=False)
    return b"".join(map(tokenizer.piece, probe)) == b" a"


def _behind_text(text: str, tokenizer: Tokenizer, *, parse_special: bool) -> list[int]:
    """Ids of text in the middle of text, without the space in front."""
    # In vocabularies that put a space in front, a line break joins with no other text, so it can be removed again.
    anchor = tokenizer.tokenize("\n", add_special=False, parse_special=False)
    behind = tokenizer.tokenize("\n" + text, add_special=False, parse_special=parse_special)
    if behind[: len(anchor)] == anchor:
        return behind[len(anchor) :]
    return tokenizer.tokenize(text, add_special=False, parse_special=parse_special)
