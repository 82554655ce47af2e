"""Earlier conversations in the API and the chat: recalled at the start, appended after each answer."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from aded_local import LocalADED, opening
from aded_local.drafters import Drafter
from aded_local.memory import ConversationMemory, Exchange, memories
from aded_local.memory.conversations import memory_folder
from aded_local.memory.rows import Rows
from aded_local.tree import EMPTY_TREE, DraftTree, IntArray

pytestmark = pytest.mark.usefixtures("measured_once")

PROMPT = "one two three one two three"
Recalled = Sequence[tuple[IntArray, IntArray, bool]]


class Listener(Drafter):
    """Drafts nothing; remembers what it was told before the first prompt."""

    name = "listener"

    def __init__(self) -> None:
        self.recalled: list[Recalled] = []
        self.began = 0

    def begin(self, tokens: IntArray) -> None:
        self.began += 1

    def draft(self, max_nodes: int, cost: npt.NDArray[np.float64] | None = None) -> DraftTree:
        return EMPTY_TREE

    def recall(self, exchanges: Recalled) -> None:
        assert not self.began
        self.recalled.append(exchanges)


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    made = Listener()

    def make_drafter(preset: str, *, n_vocab: int, **_tables: object) -> Listener:
        made.began = 0
        return made

    monkeypatch.setattr(opening, "make_drafter", make_drafter)
    yield made


def opened(model: Path, **options: Any) -> LocalADED:
    return LocalADED(model, **{"n_ctx": 512, "n_threads": 1, "memory": True, "draft": "off", **options})


def kept() -> list[Exchange]:
    [path] = memories()
    return ConversationMemory.at(path).exchanges()


def turn(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


# What is kept


def test_an_answer_is_kept_as_the_token_ids_that_were_used(tiny: dict[str, Path]) -> None:
    with opened(tiny["llama"]) as llm:
        reply = llm.generate([5, 300, 301, 302], max_tokens=12, temperature=0.0)
        [exchange] = kept()  # at once, not when closed
        assert exchange.prompt.tolist() == [5, 300, 301, 302]
        assert exchange.answer[: len(reply.tokens)].tolist() == reply.tokens
        assert len(exchange.answer) == reply.stats.generated_tokens
        assert not exchange.continues


def test_without_being_asked_to_the_api_keeps_nothing(tiny: dict[str, Path]) -> None:
    with LocalADED(tiny["llama"], n_ctx=512, n_threads=1, draft="off") as llm:
        llm.generate(PROMPT, max_tokens=5)
        assert "remembered" not in llm.description()
    assert memories() == []


def test_a_later_turn_keeps_only_what_is_new(tiny: dict[str, Path]) -> None:
    with opened(tiny["llama"]) as llm:
        messages = [turn("one two")]
        first = llm.chat(messages, max_tokens=20, temperature=0.0)
        messages += [{"role": "assistant", "content": first.text}, turn("three")]
        prompt = llm.chat_tokens(messages)
        llm.chat(messages, max_tokens=20, temperature=0.0)
        one, two = kept()
        assert two.continues
        said = [*one.prompt.tolist(), *one.answer.tolist()]
        whole = [*said, *two.prompt.tolist()]
        assert whole[: len(said) - 1] == prompt[: len(said) - 1]
        assert len(two.prompt) < len(prompt) / 2 and prompt[-len(two.prompt) :] == two.prompt.tolist()


def test_after_a_reset_the_next_prompt_is_kept_whole(tiny: dict[str, Path]) -> None:
    with opened(tiny["llama"]) as llm:
        for _ in range(2):
            llm.chat([turn("one two three")], max_tokens=6, temperature=0.0)
            llm.reset()
    assert kept()[0].prompt.tolist() == kept()[1].prompt.tolist()
    assert not kept()[1].continues


def test_a_cancelled_answer_is_kept_as_far_as_it_got(tiny: dict[str, Path]) -> None:
    with opened(tiny["llama"]) as llm:
        pieces = []
        for piece in llm.stream(PROMPT, max_tokens=200, temperature=0.0):
            pieces.append(piece)
            if len(pieces) == 5:
                llm.cancel()
        assert pieces[-1].stats is not None
        assert len(kept()[0].answer) == pieces[-1].stats.generated_tokens < 200


def test_an_answer_left_half_way_is_kept_too(tiny: dict[str, Path]) -> None:
    with opened(tiny["llama"]) as llm:
        stream = llm.stream(PROMPT, max_tokens=200, temperature=0.0)
        next(iter(stream))
        stream.close()  # type: ignore[attr-defined]
    assert len(kept()[0].answer) == 1


def test_an_answer_ended_by_a_stop_text_is_kept_with_what_was_emitted(tiny: dict[str, Path]) -> None:
    with opened(tiny["llama"]) as llm:
        whole = llm.generate(PROMPT, max_tokens=40, temperature=0.0).text
        reply = llm.generate(PROMPT, max_tokens=40, temperature=0.0, stop=whole[10:14])
        assert reply.finish_reason == "stop"
        assert len(kept()[1].answer) == reply.stats.generated_tokens


def test_a_prompt_that_is_refused_leaves_no_trace(tiny: dict[str, Path]) -> None:
    with opened(tiny["llama"]) as llm, pytest.raises(ValueError, match="max_tokens"):
        llm.generate(PROMPT, max_tokens=0)
    assert not memory_folder().exists()


# What is recalled


@pytest.mark.parametrize("preset", ["auto", "paper"])
def test_the_drafter_is_told_once_and_before_the_first_prompt(
    tiny: dict[str, Path], listener: Listener, preset: str
) -> None:
    with opened(tiny["llama"], draft=preset) as llm:
        llm.prepare()
        assert listener.recalled == [[]]
        messages = [turn("one two")]
        first = llm.chat(messages, max_tokens=20, temperature=0.0)
        messages += [{"role": "assistant", "content": first.text}, turn("three")]
        llm.chat(messages, max_tokens=20, temperature=0.0)
    with opened(tiny["llama"], draft=preset):
        assert len(listener.recalled) == 2
        told = listener.recalled[1]
        assert [each[2] for each in told] == [False, True]
        assert [list(each[0]) for each in told] == [list(each.prompt) for each in kept()]
        assert [list(each[1]) for each in told] == [list(each.answer) for each in kept()]


def test_without_a_memory_nothing_is_recalled(tiny: dict[str, Path], listener: Listener) -> None:
    with opened(tiny["llama"]) as llm:
        llm.generate(PROMPT, max_tokens=5)
    with opened(tiny["llama"], draft="auto", memory=False) as llm:
        llm.generate(PROMPT, max_tokens=5)
    assert listener.recalled == []
    assert len(kept()) == 1


def test_another_model_recalls_nothing_of_this_one(tiny: dict[str, Path], listener: Listener) -> None:
    with opened(tiny["llama"]) as llm:
        llm.generate(PROMPT, max_tokens=5)
    with opened(tiny["qwen3"], draft="auto"):
        assert listener.recalled == [[]]


def test_ids_outside_the_vocabulary_never_reach_a_drafter(tiny: dict[str, Path], listener: Listener) -> None:
    with opened(tiny["llama"]) as llm:
        llm.generate(PROMPT, max_tokens=5)
    forged = Exchange(np.array([2**20], np.int32), np.array([1], np.int32), False, 0)
    ConversationMemory.at(memories()[0]).append(forged)
    with opened(tiny["llama"], draft="auto"):
        assert len(listener.recalled[0]) == 1


def test_the_real_drafter_takes_what_was_said_and_says_the_same(tiny: dict[str, Path]) -> None:
    # The second start drafts otherwise, and where cells are rounded the words may part.
    options: dict[str, Any] = {"draft": "auto", "flash_attention": False, "cache_type": "f32"}
    with opened(tiny["llama"], **options) as llm:
        first = llm.generate(PROMPT, max_tokens=40, temperature=0.0)
    with opened(tiny["llama"], **options) as llm:
        assert llm.generate(PROMPT, max_tokens=40, temperature=0.0).tokens == first.tokens
        llm.forget_statistics()
        assert llm.description()["remembered"]["exchanges"] == 2  # forgotten here, not on the disk


# What goes wrong


def test_a_disk_that_refuses_is_told_once_and_the_answers_come(
    tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    with opened(tiny["llama"], on_notice=told.append) as llm:
        llm.generate(PROMPT, max_tokens=5)
        before = len(told)
        with monkeypatch.context() as full:

            def refuse(*_: object) -> None:
                raise sqlite3.OperationalError("database or disk is full")

            full.setattr(Rows, "add", refuse)
            for _ in range(3):
                assert llm.generate(PROMPT, max_tokens=5).tokens
        assert len(told) == before + 1
        assert "not remembered" in told[-1] and "full" in told[-1] and "\n" not in told[-1]
        llm.generate(PROMPT, max_tokens=5)
    assert len(kept()) == 2  # space was made meanwhile


def test_a_memory_that_cannot_be_opened_is_told_once_and_the_answers_come(tiny: dict[str, Path]) -> None:
    memory_folder().parent.mkdir(parents=True)
    memory_folder().write_text("not a folder")
    told: list[str] = []
    with opened(tiny["llama"], on_notice=told.append) as llm:
        for _ in range(2):
            assert llm.generate(PROMPT, max_tokens=5).tokens
        assert "remembered" not in llm.description()
    assert len([line for line in told if "remembered" in line]) == 1


# The chat


def chat(model: Path, *args: str) -> subprocess.CompletedProcess[str]:
    line = [
        sys.executable,
        "-m",
        "aded_cli.chat",
        str(model),
        "-c",
        "512",
        "-t",
        "1",
        "-n",
        "6",
        "--draft",
        "off",
    ]
    return subprocess.run(
        [*line, *args], capture_output=True, text=True, timeout=120, check=True, stdin=subprocess.DEVNULL
    )


def test_one_answer_is_remembered_quietly_and_no_memory_leaves_none(tiny: dict[str, Path]) -> None:
    assert chat(tiny["llama"], "-p", "one two", "--no-memory").stderr == ""
    assert not memory_folder().exists()
    for n in (1, 2):
        assert chat(tiny["llama"], "-p", "one two").stderr == ""
        assert len(kept()) == n
