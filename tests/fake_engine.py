"""An engine without a model, for the chat's tests: it says what it is told to, one piece at a time.

Run as a program it is aded-chat over this engine; FAKE_* variables choose what the engine does.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aded_local.chat.style import AnswerStyle
from aded_local.errors import ContextOverflowError


@dataclass(frozen=True)
class FakeStats:
    prompt_tokens: int = 5
    reused_tokens: int = 0
    generated_tokens: int = 4
    target_passes: int = 2
    tokens_per_pass: float = 2.0
    drafted: int = 6
    accepted: int = 2
    seconds: dict[str, float] = field(default_factory=lambda: {"draft": 0.1, "verify": 0.2})
    tokens_per_second: float = 12.5
    time_to_first_token: float = 0.3
    threads: int = 2
    contended: bool = False
    setting: str = "fa-off/f16"
    same_words: bool = True
    pass_sizes: tuple[tuple[int, int], ...] = ()
    sources: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        found = asdict(self)
        del found["pass_sizes"], found["sources"]
        return found


@dataclass(frozen=True)
class FakePiece:
    text: str
    tokens: list[int]
    finish_reason: str | None = None
    stats: FakeStats | None = None


class FakeEngine:
    """LocalADED as the chat sees it: a word is a token, and an answer echoes the last message unless told."""

    def __init__(self, model: str | None = None, **options: Any) -> None:
        self.model = model
        self.options = options
        self.n_ctx = options.get("n_ctx") or 4096
        self.says: list[str] | None = None
        self.pause = 0.0
        self.reason = "stop"
        self.at_the_end: Callable[[], None] = lambda: None
        self.failure: BaseException | None = None
        self.calls: list[tuple[str, Any, dict[str, Any]]] = []
        self.resets = 0
        self.closed = False
        self.saved: list[Path] = []
        self.refusal: str | None = None  # why what the cells hold is not kept or used
        self.words: list[str] = []  # of the last answer
        self.foreseen: tuple[tuple[tuple[int, int], ...], tuple[str, ...]] = ((), ())
        self.drafts: list[str] = []
        self.threads: list[tuple[int, bool]] = []  # what the next answers end with, and whether others ran
        self._cancelled = False

    preparing = "ready"

    def __enter__(self) -> FakeEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def _pieces(self, words: list[str]) -> Any:
        self._cancelled = False
        if self.failure is not None:
            raise self.failure
        self.words = []
        for number, word in enumerate(words):
            self.words.append(word)
            if self._cancelled:
                break
            yield FakePiece(word, [number])
            time.sleep(self.pause)
        self.at_the_end()
        threads, contended = self.threads.pop(0) if self.threads else (2, False)
        sizes, sources = self.foreseen
        stats = FakeStats(threads=threads, contended=contended, pass_sizes=sizes, sources=sources)
        yield FakePiece("", [], "cancelled" if self._cancelled else self.reason, stats)

    def stream(self, prompt: str, **sampling: Any) -> Any:
        self.calls.append(("stream", prompt, sampling))
        return self._pieces(self.says or [" and", " so", " on"])

    def stream_chat(self, messages: Any, **sampling: Any) -> Any:
        self.calls.append(("stream_chat", [dict(m) for m in messages], sampling))
        if self.count_chat_tokens(messages) > self.n_ctx:
            raise ContextOverflowError("the prompt is longer than the context")
        return self._pieces(self.says or ["you", " said ", messages[-1]["content"]])

    def kept(self, messages: Any, settings: Any = None) -> Any:
        from aded_local.conversations import KeptConversation

        return KeptConversation.of(messages, answers={}, settings=settings)

    def save(self, path: Path, messages: Any, settings: Any = None) -> str | None:
        from aded_local.conversations import write

        write(path, self.kept(messages, settings))
        self.saved.append(path)
        return self.refusal

    def resume(self, path: Path) -> Any:
        from aded_local.conversations import read
        from aded_local.resuming import Resumed

        return Resumed(read(path), 0 if self.refusal else 7, self.refusal)

    def answer_style(self, messages: Any) -> AnswerStyle:
        return AnswerStyle(reasoning=("<think>", "</think>"))

    def require_short(self, given: Any) -> None:
        if len(str(given)) > 1000:  # what decides it takes half a second to import
            from aded_local.request import require_short

            require_short(given, self.n_ctx, lambda: 1000)

    def count_chat_tokens(self, messages: Any) -> int:
        return sum(len(m["content"].split()) for m in messages)

    def piece(self, token: int) -> bytes:
        return self.words[token].encode()

    def use_draft(self, preset: str) -> None:
        self.drafts.append(preset)

    def measure_exactness(self) -> None:
        self.measured = True

    measured = False

    def cancel(self) -> None:
        self._cancelled = True

    def reset(self) -> None:
        self.resets += 1

    def description(self) -> dict[str, Any]:
        return {
            "model": f"/models/{self.model}",
            "architecture": "fa\x1bke",
            "size_bytes": 12345,
            "exact_sizes": [1, 2],
            "draft": "auto",
        }


def _from_environment(settings: Any, _say: Any) -> FakeEngine:
    engine = FakeEngine(settings.model, **settings.engine)
    if "FAKE_SAYS" in os.environ:
        engine.says = os.environ["FAKE_SAYS"].split("|")
    if "FAKE_WORDS" in os.environ:
        engine.says = [f"w{n} " for n in range(int(os.environ["FAKE_WORDS"]))]
    engine.pause = float(os.environ.get("FAKE_PAUSE", "0"))
    if "FAKE_FILE" in os.environ:  # its text, in pieces of a few characters
        text = Path(os.environ["FAKE_FILE"]).read_text(encoding="utf-8")
        engine.says = [text[at : at + 3] for at in range(0, len(text), 3)]
    if "FAKE_FAILURE" in os.environ:
        engine.failure = RuntimeError(os.environ["FAKE_FAILURE"])
    if "FAKE_NOTICE" in os.environ:
        engine.at_the_end = lambda: display.notices(os.environ["FAKE_NOTICE"])
    return engine


if __name__ == "__main__":
    from aded_cli import chat, display

    chat.open_model = _from_environment
    chat.main(sys.argv[1:], prog_name="aded-chat")
