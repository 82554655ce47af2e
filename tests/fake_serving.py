"""A model for the server's tests that says what it is told to, as fast as it is told to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from patience import PATIENCE

from aded_local.asking import ChatPrompt
from aded_local.chat.style import PLAIN
from aded_local.continuation import common_prefix
from aded_local.decode import Tally
from aded_local.logprobs import TokenLogprob
from aded_local.request import require_short
from aded_local.result import Piece, stats_of

WORDS = 5


def stats(prompt: list[int], said: int) -> Any:
    """What a fake answer took."""
    tally = Tally(prompt_tokens=len(prompt), generated_tokens=said, passes=said)
    return stats_of(tally, 0.0, "fa-off/f16", same_words=True, answer_tokens=said)


class FakeSession:
    """Says a word for each of ``model.words``; a prompt is a list of characters' numbers."""

    def __init__(self, model: FakeModel) -> None:
        self._model = model
        self._cancelled = False
        self._held: list[int] = []

    def overlap(self, prompt: Any) -> tuple[int, int]:
        return common_prefix(np.array(self._held, np.int32), prompt), len(self._held)

    def kept_bytes(self) -> int:
        return len(self._held)

    def chat_prompt(self, messages: Any, *, tools: Any, tool_choice: Any) -> ChatPrompt:
        self._model.offered.append((tools, tool_choice))
        return ChatPrompt(
            [ord(letter) for message in messages for letter in message["content"]], self._model.style
        )

    def text_tokens(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def stream_chat(self, prompt: ChatPrompt, **options: Any) -> Iterator[Piece]:
        return self.stream(prompt.tokens, **options)

    def stream(self, prompt: list[int], **options: Any) -> Iterator[Piece]:
        model = self._model
        self._cancelled = False
        model.asked.append(("".join(map(chr, prompt)), options))
        if model.failure is not None:
            raise model.failure
        said = 0
        for number, word in enumerate(model.says or [f"w{n} " for n in range(model.words)]):
            if not model.may_go_on.wait(PATIENCE):
                raise AssertionError("nobody let it go on")
            if model.steps:  # before the word is heard of, or who answers it at once would be forgotten
                model.may_go_on.clear()
            if self._cancelled:
                break
            said += 1
            model.said.append(number)
            likely = (TokenLogprob(number, -0.5, ((number, -0.5), (99, -1.0))),)
            yield Piece(word, (number,), logprobs=likely if "logprobs" in options else None)
        self._held = prompt
        reason = "cancelled" if self._cancelled else "stop"
        yield Piece("", (), reason, stats(prompt, said))

    def cancel(self) -> None:
        self._cancelled = True


class FakeModel:
    """``LocalADED`` as the server sees it.

    Attributes:
        asked: prompt and options of each answer that began.
        offered: tools, and the choice among them, of each chat.
        says: what is said instead of words.
        said: numbers of the words that were said.
        may_go_on: each word waits for it; with ``steps`` each word takes it back.
    """

    n_ctx = 512
    preparing = "ready"

    def __init__(self, words: int = WORDS) -> None:
        self.words = words
        self.steps = False
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.offered: list[tuple[Any, Any]] = []
        self.says: list[str] | None = None
        self.style = PLAIN
        self.said: list[int] = []
        self.failure: Exception | None = None
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.closed = False

    def __enter__(self) -> FakeModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def session(self, like: Any = None) -> FakeSession:
        return FakeSession(self)

    def piece(self, token: int) -> bytes:
        return f"w{token} ".encode()

    def longest_token(self) -> int:
        return 8

    def require_short(self, given: object) -> None:
        require_short(given, self.n_ctx, self.longest_token)

    def description(self) -> dict[str, Any]:
        return {"model": "/models/fake-model.gguf"}
