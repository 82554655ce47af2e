"""Token ids in, text out: whole characters only, and no text after a stop string.

A token is a run of bytes and may end inside a character, and a stop string may span tokens. So text is emitted only
when its last character is complete and no stop string can begin in it.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from aded_local.chat.segments import Tokenizer


class TextStream:
    """Turns the token ids of one answer into text, piece by piece.

    Bytes that are not UTF-8 become U+FFFD, as in ``bytes.decode("utf-8", errors="replace")`` of the whole, as soon as
    that is certain.

    Args:
        piece_of: the bytes of a token id.
        stop: texts that end the answer at their first occurrence; they are not emitted.

    Attributes:
        stopped: a stop string was found; tokens fed afterwards are dropped.
        n_read: tokens up to the end of the answer, those of a stop string among them.
    """

    def __init__(self, piece_of: Callable[[int], bytes], stop: Sequence[str] = ()) -> None:
        self._piece_of = piece_of
        self._stop = tuple(text for text in stop if text)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = False
        self.n_read = 0
        # Tokens whose text is not emitted yet: (token, characters decoded up to its end).
        self._waiting: deque[tuple[int, int]] = deque()
        self._settled: list[int] = []
        self._decoded = 0
        self._emitted = 0

    def feed(self, tokens: Sequence[int]) -> str:
        """Text that became certain with ``tokens``, in order; may be empty."""
        if self.stopped:
            return ""
        if not self._stop and not self._waiting:
            # Nearly always: nothing is held back, and these are whole characters.
            try:
                text = b"".join([self._piece_of(token) for token in tokens]).decode()
            except UnicodeDecodeError:
                pass
            else:
                self.n_read += len(tokens)
                self._decoded += len(text)
                self._emitted += len(text)
                self._settled += tokens
                return text
        pieces: list[str] = []
        for token in tokens:
            self.n_read += 1
            text = self._decoder.decode(self._piece_of(token))
            self._decoded += len(text)
            # A token that ends inside a character is emitted with that character.
            pending = bool(self._decoder.getstate()[0])
            self._waiting.append((token, self._decoded + pending))
            pieces.append(self._release(text))
            if self.stopped:
                break
        return "".join(pieces)

    def flush(self) -> str:
        """The rest of the text at the end of the answer; half a character becomes U+FFFD."""
        if self.stopped:
            return ""
        rest = self._decoder.decode(b"", final=True)
        self._decoded += len(rest)
        text = self._release(rest)
        if not self.stopped:
            text += self._held
            self._emitted += len(self._held)
            self._held = ""
        self._settle()
        return text

    def take_tokens(self) -> tuple[int, ...]:
        """Ids whose text has been emitted whole since the last call, in order."""
        taken = tuple(self._settled)
        self._settled.clear()
        return taken

    def _release(self, text: str) -> str:
        """Add decoded text; return the text that cannot belong to a stop string."""
        held = self._held + text
        cut = min((at for at in map(held.find, self._stop) if at >= 0), default=-1)
        if cut >= 0:
            self.stopped = True
            self._held = ""
            self._waiting_after_stop(cut)
            return held[:cut]
        keep = max((overlap(held, stop) for stop in self._stop), default=0)
        emitted = held[: len(held) - keep]
        self._held = held[len(held) - keep :]
        self._emitted += len(emitted)
        self._settle()
        return emitted

    def _settle(self) -> None:
        while self._waiting and self._waiting[0][1] <= self._emitted:
            self._settled.append(self._waiting.popleft()[0])

    def _waiting_after_stop(self, cut: int) -> None:
        self._emitted += cut
        self._settle()
        self._waiting.clear()


def showing(tokenizer: Tokenizer, texts: Iterable[str]) -> Callable[[int], bytes]:
    """What gives the bytes of a token id, those of control tokens too where their texts are among ``texts``."""
    shown: dict[int, bytes] = {}
    for text in texts:
        tokens = tokenizer.tokenize(text, add_special=False, parse_special=True)
        if len(tokens) == 1 and not tokenizer.piece(tokens[0]):
            shown[tokens[0]] = text.encode()
    if not shown:
        return tokenizer.piece
    return lambda token: shown.get(token) or tokenizer.piece(token)


def overlap(text: str, stop: str) -> int:
    """Characters at the end of ``text`` that may be the beginning of ``stop``."""
    for n in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:n]):
            return n
    return 0
