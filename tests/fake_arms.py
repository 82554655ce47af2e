"""A way of generating for the bench's tests: answers at once, and remembers what it was asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aded_bench.run.arms import Answer, PassSize, Setup

DESCRIPTION = {
    "context": 4096, "threads": 1, "flash_attention": False, "cache_type": "f16", "gpu_layers": 0, "device": "a cpu",
    "words": "the same", "exact_batch_sizes": [1, 2], "row_by_row": False
}  # fmt: skip


class FakeLocal:
    """LocalADED as far as the arms need it."""

    def description(self) -> dict[str, Any]:
        return DESCRIPTION


class FakeArm:
    """Answers with tokens that depend on the prompt alone, unless told to differ.

    Attributes:
        wrong_at: index of a token that is another, by ``wrong_by``.
        setting: attention and cache type that it finds best.
        allowed: the only sizes of its passes.
        stop_after: length of the log at which Ctrl-C comes.
        fail: raises what llama-cpp-python would.
    """

    ends = frozenset({0})

    def __init__(self, name: str, log: list[tuple[str, str]]) -> None:
        self.name, self.log, self.llm = name, log, FakeLocal()
        self.wrong_at: int | None = None
        self.wrong_by = 1
        self.setting: tuple[bool, str] = (False, "f16")
        self.allowed: tuple[int, ...] | None = None
        self.stop_after: int | None = None
        self.fail = False

    def setup(self, model: Path) -> Setup:
        return Setup(model, 4096, 1, *self.setting, ends=self.ends, n_vocab=46)

    def foreseen(self, n_prompt: int, max_tokens: int) -> tuple[bool, str, bool, tuple[int, ...] | None]:
        return *self.setting, False, self.allowed

    def use_threads(self, count: int) -> None:
        self.log.append((self.name, f"{count} threads"))

    def plain(self) -> FakeArm:
        return FakeArm("off", self.log)

    def render(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        return list("|".join(message["content"] for message in messages).encode())

    def speak(self, prompt: Sequence[int], max_tokens: int, temperature: float, seed: int) -> str:
        self.log.append(("history", bytes(prompt).decode()))
        return f"<{len(prompt)}>"

    def answer(self, prompt: Sequence[int], max_tokens: int, temperature: float, seed: int) -> Answer:
        if self.stop_after is not None and len(self.log) >= self.stop_after:
            raise KeyboardInterrupt
        if self.fail:
            raise RuntimeError("llama_decode returned 1")
        self.log.append((self.name, bytes(prompt).decode()))
        tokens = [(sum(prompt) + i) % 30 + 8 for i in range(8)]
        if self.wrong_at is not None:
            tokens[self.wrong_at] += self.wrong_by
        seconds = {"draft": 0.1, "verify": 0.8, "sample": 0.05, "elsewhere": 0.05, "prefill": 0.0}
        took = {"off": 2.0, "auto": 1.0}.get(self.name, 2.5)
        passes = (
            ((1, 1),) * 8 if self.name in ("off", "llama-cpp") else ((4, 3), (1, 1), (4, 2), (1, 1), (1, 1))
        )
        return Answer(tokens, True, 9, 0.1, took, 4, 6, 4, seconds, {"median": 9.0}, pass_sizes=passes)

    def forget(self) -> None:
        self.log.append((self.name, "forget"))

    def close(self) -> None:
        self.log.append((self.name, "close"))

    def text(self, token: int) -> str:
        return f"<{token}>"

    def replay(
        self, prompt: Sequence[int], answer: Sequence[int], passes: Iterable[PassSize], rows: int
    ) -> npt.NDArray[np.float32]:
        """Logits of 46 tokens that rise by 0.01; a wider pass moves that of every second token by 0.02."""
        found = np.tile(np.arange(46, dtype=np.float32) * 0.01, (rows, 1))
        wide = [False] + [size > 1 for size, kept in passes for _ in range(kept)]
        for row, is_wide in zip(found, wide, strict=False):
            row[::2] += 0.02 * is_wide
        return found
