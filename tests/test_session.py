"""Several conversations on one model, by turns: each says what it would say alone, and decodes only what is new."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from patience import PATIENCE

import aded_local
from aded_local import LocalADED
from aded_local.errors import BusyError, OptionError
from aded_local.llama import Context, context
from aded_local.session import Session

pytestmark = pytest.mark.usefixtures("measured_once")

TURNS = ["one two three", "two two", "three one", "one one one", "two three"]


@pytest.fixture(params=["llama", "mamba"])
def llm(tiny: dict[str, Path], request: pytest.FixtureRequest, measured_once: None) -> Iterator[LocalADED]:
    """A model with a KV cache, and one whose memory is a running state."""
    with LocalADED(
        tiny[request.param], n_ctx=512, n_threads=1, flash_attention=False, cache_type="f32"
    ) as found:
        found.prepare()
        yield found


def talk(
    session: Session | LocalADED, messages: list[dict[str, str]], text: str
) -> tuple[list[int], int, int]:
    """One turn: the answer's tokens, the prompt's, and how many of them were taken from the cache."""
    messages.append({"role": "user", "content": text})
    reply = session.chat(messages, max_tokens=12, temperature=0.0)
    messages.append({"role": "assistant", "content": reply.text})
    return reply.tokens, reply.stats.prompt_tokens, reply.stats.reused_tokens


def test_by_turns_each_says_what_it_says_alone(llm: LocalADED) -> None:
    alone = []
    for first in ("", "three "):
        session, messages = llm.session(), []
        alone.append([talk(session, messages, first + text) for text in TURNS])
    sessions = [llm.session(), llm.session()]
    logs: list[list[dict[str, str]]] = [[], []]
    by_turns: list[list[tuple[list[int], int, int]]] = [[], []]
    for text in TURNS:
        for i, first in enumerate(("", "three ")):
            by_turns[i].append(talk(sessions[i], logs[i], first + text))
    assert by_turns == alone


def test_the_object_itself_is_a_session_beside_the_others(llm: LocalADED) -> None:
    own: list[dict[str, str]] = []
    other: list[dict[str, str]] = []
    session = llm.session()
    for text in TURNS[:3]:
        talk(llm, own, text)
        talk(session, other, text)
    _, prompt, reused = talk(llm, own, "two")
    assert reused > prompt // 2


def test_without_memory_for_a_copy_it_is_only_slower(
    tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aded_local.engine.SAVED_SHARE", 0.0)
    with LocalADED(tiny["llama"], n_ctx=512, n_threads=1, draft="off", cache_type="f32") as llm:
        one, two = llm.session(), llm.session()
        log: list[dict[str, str]] = []
        said = [talk(one, log, TURNS[0])[0]]
        talk(two, [], TURNS[1])
        again, _, reused = talk(one, log, TURNS[2])
        said.append(again)
        assert reused == 0
    with LocalADED(tiny["llama"], n_ctx=512, n_threads=1, draft="off", cache_type="f32") as llm:
        log = []
        assert [talk(llm, log, text)[0] for text in (TURNS[0], TURNS[2])] == said


def test_a_state_that_llama_refuses_is_decoded_again(
    tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(context: Context, *_: Any) -> bool:
        context.clear()
        return False

    monkeypatch.setattr(Context, "restore", refused)
    with LocalADED(tiny["llama"], n_ctx=512, n_threads=1, draft="off", cache_type="f32") as llm:
        one, two = llm.session(), llm.session()
        log: list[dict[str, str]] = []
        talk(one, log, TURNS[0])
        talk(two, [], TURNS[1])
        answer, _, reused = talk(one, log, TURNS[2])
        assert answer and reused == 0


def test_cancelling_one_session_leaves_the_others_alone(llm: LocalADED) -> None:
    one, two = llm.session(), llm.session()
    asked = one.stream("one two", max_tokens=5)
    one.cancel()
    assert two.generate("one two", max_tokens=5).finish_reason != "cancelled"
    assert [piece.finish_reason for piece in asked] == ["cancelled"]


def test_resetting_one_session_forgets_its_own_conversation_only(llm: LocalADED) -> None:
    one, two = llm.session(), llm.session()
    logs: tuple[list[dict[str, str]], ...] = ([], [])
    for session, log in zip((one, two), logs, strict=True):
        talk(session, log, TURNS[0])
    one.reset()
    assert talk(two, logs[1], TURNS[1])[2] > 0
    assert talk(one, logs[0], TURNS[1])[2] == 0


def test_answers_of_two_threads_take_turns(tiny: dict[str, Path]) -> None:
    with LocalADED(tiny["llama"], n_ctx=512, n_threads=1, draft="off", cache_type="f32") as llm:
        alone = [llm.generate(text, max_tokens=20, temperature=0.0).tokens for text in TURNS[:2]]
        found: dict[int, list[list[int]]] = {0: [], 1: []}

        def ask(which: int) -> None:
            session = llm.session()
            for _ in range(5):
                found[which].append(session.generate(TURNS[which], max_tokens=20, temperature=0.0).tokens)

        threads = [threading.Thread(target=ask, args=(which,)) for which in found]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == {which: [alone[which]] * 5 for which in found}


def test_a_session_ends_with_its_model(tiny: dict[str, Path]) -> None:
    llm = LocalADED(tiny["llama"], n_ctx=256, n_threads=1, draft="off")
    session = llm.session()
    llm.close()
    with pytest.raises(BusyError, match="closed"):
        session.generate("one")
    with pytest.raises(BusyError, match="closed"):
        llm.session()


def test_an_option_that_does_not_exist_is_named(llm: LocalADED) -> None:
    with pytest.raises(OptionError, match="no option 'temperatur'"):
        llm.session().generate("one", temperatur=0.0)  # type: ignore[call-arg]


@pytest.mark.parametrize("search", ["puct", "best-first"])
def test_how_the_tree_grows_changes_no_text(tiny: dict[str, Path], search: str) -> None:
    said = []
    for options in ({"draft": "off"}, {"search": search}):
        with LocalADED(
            tiny["llama"], n_ctx=512, n_threads=1, flash_attention=False, cache_type="f32", **options
        ) as llm:
            llm.prepare()
            said.append(llm.generate("one two three one two", max_tokens=40, temperature=0.0).tokens)
    assert said[0] == said[1]


def test_a_search_is_for_a_drafter_that_has_a_choice(tiny: dict[str, Path]) -> None:
    with pytest.raises(OptionError, match="search is 'beam'"):
        LocalADED(tiny["llama"], search="beam")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="no choice of search"):
        LocalADED(tiny["llama"], draft="paper", search="puct")


def test_what_a_dropped_turn_left_is_not_counted_again(
    tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest turn goes, as where a context is full: the drafter is told what is new, and no more."""
    with LocalADED(tiny["llama"], n_ctx=512, n_threads=1, flash_attention=False, cache_type="f32") as llm:
        llm.prepare()
        session, log = llm.session(), []
        for text in TURNS:
            talk(session, log, text)
        told: list[tuple[int, int]] = []
        planner = llm._engine.planner
        begin = planner.begin
        monkeypatch.setattr(planner, "begin", lambda b: (told.append((len(b.past), len(b.new))), begin(b)))
        del log[:2]
        _, prompt, _ = talk(session, log, "three three")
        ((past, new),) = told
        assert past > prompt - new > 20 and new < 20


def test_copies_are_llamas_own(tiny: dict[str, Path]) -> None:
    with LocalADED(tiny["llama"], n_ctx=256, n_threads=1, draft="off", cache_type="f32") as llm:
        target = llm._engine.target
        target.prefill([3, 4, 5])
        saved = target.save()
        target.prefill([3, 4, 5, 6])
        before = target.context.logits(-1).tolist()
        assert len(saved.state) > 0
        target.forget()
        target.restore(saved)
        assert target.cached == [3, 4, 5]
        target.prefill([3, 4, 5, 6])
        assert target.context.logits(-1).tolist() == before


# --- interrupts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("behind", ["llama_memory_clear", "llama_state_seq_set_data", "llama_memory_seq_cp"])
@pytest.mark.parametrize("call", ["a turn", "reset"])
def test_an_interrupt_anywhere_in_an_exchange_of_cells_changes_no_words(
    tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch, behind: str, call: str
) -> None:
    """Ctrl-C comes right behind one call of llama.cpp's; what is said afterwards is as if it had not come."""
    options = {"n_ctx": 512, "n_threads": 1, "draft": "off", "flash_attention": False, "cache_type": "f32"}
    with LocalADED(tiny["llama"], **options) as llm:
        log: list[dict[str, str]] = []
        alone = [talk(llm, log, text)[0] for text in TURNS[:3]]
    with LocalADED(tiny["llama"], **options) as llm:
        one, two = llm.session(), llm.session()
        log = []
        said = [talk(one, log, TURNS[0])[0]]
        other: list[dict[str, str]] = []
        talk(two, other, TURNS[1])
        said.append(talk(one, log, TURNS[1])[0])
        real = getattr(context.lib, behind)
        armed = [True]

        def interrupted(*arguments: object) -> object:
            found = real(*arguments)
            if armed.pop() if armed else False:
                raise KeyboardInterrupt
            return found

        monkeypatch.setattr(context.lib, behind, interrupted)
        try:
            if call == "reset":
                two.reset()
                one.reset()
            else:
                talk(two, other, TURNS[2])
        except KeyboardInterrupt:
            pass
        monkeypatch.setattr(context.lib, behind, real)
        said.append(talk(one, log, TURNS[2])[0])
    assert said == alone


def test_a_cancelled_answer_that_nobody_reads_on_frees_the_model(tiny: dict[str, Path]) -> None:
    with LocalADED(tiny["llama"], n_ctx=256, n_threads=1, draft="off") as llm:
        one, two = llm.session(), llm.session()
        half_read: list[Iterator[object]] = []

        def leave_half_read() -> None:
            answer = one.stream("one two", max_tokens=9)
            next(answer)
            half_read.append(answer)

        thread = threading.Thread(target=leave_half_read)
        thread.start()
        thread.join()
        with pytest.raises(BusyError, match="already generating"):
            llm.reset()
        one.cancel()
        assert two.generate("three", max_tokens=2).tokens
        assert [piece.finish_reason for piece in half_read[0]] == ["cancelled"]  # type: ignore[attr-defined]


def test_an_answer_that_waits_can_be_cancelled(tiny: dict[str, Path]) -> None:
    with LocalADED(tiny["llama"], n_ctx=256, n_threads=1, draft="off") as llm:
        one, two = llm.session(), llm.session()
        begun, leave = threading.Event(), threading.Event()

        def read_slowly() -> None:
            for _ in one.stream("one two", max_tokens=9):
                begun.set()
                leave.wait(PATIENCE)

        reader = threading.Thread(target=read_slowly)
        reader.start()
        assert begun.wait(PATIENCE)
        found: list[str] = []
        waiter = threading.Thread(target=lambda: found.append(two.generate("three").finish_reason))
        waiter.start()
        while not two._cancelling._asked:
            time.sleep(0.001)
        two.cancel()
        waiter.join(PATIENCE)
        leave.set()
        reader.join(PATIENCE)
        assert found == ["cancelled"]


def test_options_can_be_read_at_run_time_and_are_exported() -> None:
    assert set(get_type_hints(aded_local.Options)) >= {"max_tokens", "stop", "seed"}
    assert "options" in get_type_hints(LocalADED.stream)
    assert {"LocalADED", "Options", "Session"} <= set(dir(aded_local))
