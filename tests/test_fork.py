"""After a fork llama.cpp's threads are gone: what would wait for them raises at once, and nothing else changes."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from forking import HUNG, in_child, outcome

from aded_local import LocalADED
from aded_local.errors import DeviceError, ForkedError
from aded_local.llama import Context, ContextSettings, Model
from aded_local.llama.devices import gpu_names
from aded_local.llama.owned import Owned
from aded_local.llama.quantize import quantize
from aded_local.llama.vocabulary import Vocabulary

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")

PROMPT = "one two three one two three"
SETTINGS = ContextSettings(n_ctx=256, n_threads=1, flash_attention=False, cache_type="f16", n_sequences=1)


@pytest.fixture
def llm(tiny: dict[str, Path]) -> Iterator[LocalADED]:
    with LocalADED(tiny["llama"], n_ctx=512, n_threads=2, draft="off") as made:
        made.generate(PROMPT, max_tokens=4)
        yield made


def entries(llm: LocalADED, path: Path) -> dict[str, Callable[[], Any]]:
    """Every way into llama.cpp."""
    half_read = llm.stream(PROMPT, max_tokens=50)
    next(half_read)
    vocabulary, model = Vocabulary(path), llm._model
    chat = [{"role": "user", "content": "one"}]
    return {
        "a half-read answer": lambda: next(half_read),
        "LocalADED": lambda: LocalADED(path, n_ctx=256, n_threads=1, draft="off"),
        "generate": lambda: llm.generate(PROMPT, max_tokens=2),
        "stream": lambda: llm.stream(PROMPT),
        "chat": lambda: llm.chat(chat, max_tokens=2),
        "stream_chat": lambda: llm.stream_chat(chat),
        "chat_tokens": lambda: llm.chat_tokens(chat),
        "count_chat_tokens": lambda: llm.count_chat_tokens(chat),
        "description": llm.description,
        "preparing": lambda: llm.preparing,
        "machine_is_busy": lambda: llm.machine_is_busy,
        "prepare": llm.prepare,
        "reset": llm.reset,
        "forget_statistics": llm.forget_statistics,
        "use_draft": lambda: llm.use_draft("off"),
        "measure_exactness": llm.measure_exactness,
        "logits_after": lambda: llm.logits_after([1, 2]),
        "end_tokens": llm.end_tokens,
        "Model": lambda: Model(path),
        "Model.tokenize": lambda: model.tokenize("one", add_special=False, parse_special=False),
        "Context": lambda: Context(model, SETTINGS),
        "Vocabulary": lambda: Vocabulary(path),
        "Vocabulary.encode": lambda: list(vocabulary.encode("one")),
        "quantize": lambda: quantize(path, path.with_suffix(".out"), "q8_0"),
        "gpu_names": gpu_names,
    }


def test_every_way_into_llama_cpp_raises_in_a_forked_child(llm: LocalADED, tiny: dict[str, Path]) -> None:
    found = entries(llm, tiny["llama"])
    seen = in_child(lambda: {name: outcome(call) for name, call in found.items()})
    assert {name: kind for name, (kind, _) in seen.items()} == dict.fromkeys(found, "ForkedError")
    assert max(seconds for _, seconds in seen.values()) < HUNG / 2
    assert llm.generate(PROMPT, max_tokens=4).tokens, "the parent goes on"


def test_the_error_is_one_line_and_says_what_to_do(llm: LocalADED) -> None:
    def complaint() -> str:
        try:
            llm.generate(PROMPT)
        except ForkedError as error:
            return str(error)
        return ""

    line = in_child(complaint)
    assert "spawn" in line and "\n" not in line
    assert issubclass(ForkedError, DeviceError)


def test_a_child_may_close_leave_and_drop_what_it_inherited(llm: LocalADED, tiny: dict[str, Path]) -> None:
    held = {"llm": LocalADED(tiny["llama"], n_ctx=256, n_threads=1, draft="off")}

    def leave() -> None:
        with llm:
            pass

    found = {"close": llm.close, "with": leave, "cancel": llm.cancel, "drop": held.clear}
    seen = in_child(lambda: {name: outcome(call) for name, call in found.items()})
    assert {name: kind for name, (kind, _) in seen.items()} == dict.fromkeys(found, "")
    assert llm.generate(PROMPT, max_tokens=4).tokens
    held["llm"].close()


def test_a_child_frees_nothing(llm: LocalADED) -> None:
    freed: list[int] = []
    held = [Owned(7, freed.append)]

    def drop() -> list[int]:
        held.clear()
        return freed

    assert in_child(drop) == []
    held.clear()
    assert freed == [7]


def test_locks_that_another_thread_held_do_not_hold_the_child(llm: LocalADED, tiny: dict[str, Path]) -> None:
    found = entries(llm, tiny["llama"]) | {"close": llm.close, "cancel": llm.cancel}
    held, enough = threading.Event(), threading.Event()

    def hold() -> None:
        with llm._access._lock:
            held.set()
            enough.wait(HUNG)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert held.wait(HUNG)
        seen = in_child(lambda: {name: outcome(call)[0] for name, call in found.items()})
    finally:
        enough.set()
        thread.join()
    assert set(seen.values()) == {"ForkedError", ""}
    assert [name for name, kind in seen.items() if not kind] == ["close", "cancel"]


PROGRAM = """
import os, sys
from aded_local import LocalADED

path = sys.argv[1]

def child(work):
    number = os.fork()
    if number == 0:
        sys.exit(0 if work() else 3)
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])

def works():
    with LocalADED(path, n_ctx=256, n_threads=2, draft="off") as llm:
        return llm.generate("one two", max_tokens=3).stats.generated_tokens > 0

import llama_cpp
print("the library alone:", child(works))

from aded_local.llama.vocabulary import Vocabulary
vocabulary = Vocabulary(path)
encode = lambda: len(next(vocabulary.encode("one two"))) > 0
print("a vocabulary:", child(encode), child(works))

llm = LocalADED(path, n_ctx=256, n_threads=2)
stream = llm.stream("one two", max_tokens=99)
next(stream)
print("a model and half an answer:", child(lambda: True), flush=True)
stream.close()
print("afterwards:", llm.generate("one two", max_tokens=3).stats.generated_tokens > 0)
"""


def test_what_has_no_threads_may_fork_and_a_child_may_end_as_it_likes(tiny: dict[str, Path]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(tiny["llama"])],
        capture_output=True,
        text=True,
        timeout=120,
    )
    # Children print what their parent had not flushed yet.
    lines = list(dict.fromkeys(done.stdout.splitlines()))
    assert lines == [
        "the library alone: 0",
        "a vocabulary: 0 0",
        "a model and half an answer: 0",
        "afterwards: True",
    ], done.stderr
    assert done.stderr == ""
