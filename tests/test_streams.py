"""Answers read piece by piece: streams of their own, a queue, and asyncio."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE, becomes, until

import aded_local
from aded_local import AsyncStream, BusyError, LocalADED, OptionError, Stream

PROMPT = "one two three one two three"
CHAT = [{"role": "user", "content": "one two three"}]
ENDLESS: dict[str, Any] = {"temperature": 0.0, "logit_bias": {7: 200.0}}
"""An answer that only the context ends."""


@pytest.fixture(scope="module")
def llm(tiny: dict[str, Path]) -> Iterator[LocalADED]:
    fixed: dict[str, Any] = {"draft": "off", "flash_attention": False, "cache_type": "f16"}
    with LocalADED(tiny["llama"], n_ctx=2048, n_threads=1, **fixed) as made:
        yield made


def is_free(llm: LocalADED) -> bool:
    """Whether somebody else could begin now, in whatever thread."""
    found: list[bool] = []

    def ask() -> None:
        try:
            llm.reset()
            found.append(True)
        except BusyError:
            found.append(False)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return found[0]


def becomes_free(llm: LocalADED) -> bool:
    """Whether somebody else can begin before long."""
    return becomes(lambda: is_free(llm))


# --- a stream of its own --------------------------------------------------------------------------------


def test_leaving_the_block_or_dropping_it_frees_the_model(llm: LocalADED) -> None:
    with llm.stream(PROMPT, **ENDLESS) as stream:
        for piece in stream:
            assert piece.tokens == (7,)
            assert not is_free(llm)
            break
    assert is_free(llm)
    for _ in llm.stream_chat(CHAT, **ENDLESS):
        break
    gc.collect()
    assert is_free(llm)


def test_a_closed_stream_says_so(llm: LocalADED) -> None:
    stream = llm.stream(PROMPT, **ENDLESS)
    next(stream)
    stream.close()
    stream.close()
    with pytest.raises(BusyError, match="closed"):
        next(stream)
    unread = llm.stream(PROMPT)
    unread.close()
    with pytest.raises(BusyError, match="closed"):
        list(unread)
    assert is_free(llm)


def test_cancelling_one_stream_leaves_the_others_of_its_session(llm: LocalADED) -> None:
    first, second = llm.stream(PROMPT, **ENDLESS), llm.stream(PROMPT, max_tokens=3)
    next(first)
    first.cancel()
    assert [piece.finish_reason for piece in first] == ["cancelled"]
    assert list(second)[-1].finish_reason in ("length", "stop")
    unread = llm.stream(PROMPT)
    unread.cancel()
    assert [piece.finish_reason for piece in unread] == ["cancelled"]


def test_closing_a_stream_that_another_thread_reads_ends_it_after_the_step(llm: LocalADED) -> None:
    stream = llm.stream(PROMPT, **ENDLESS)
    reasons: list[str | None] = []
    begun = threading.Event()

    def read() -> None:
        try:
            for piece in stream:
                reasons.append(piece.finish_reason)
                begun.set()
        except BusyError:  # closed between two steps
            reasons.append("closed")

    reader = threading.Thread(target=read)
    reader.start()
    assert begun.wait(PATIENCE)
    stream.close()
    reader.join(PATIENCE)
    assert reasons[-1] in ("cancelled", "closed")
    assert is_free(llm)


def test_options_have_types_and_errors_have_a_home() -> None:
    assert {"Stream", "AsyncStream", "TokenLogprob", "ADEDError", "GrammarError"} <= set(dir(aded_local))
    errors = {
        name
        for name, value in vars(aded_local.errors).items()
        if isinstance(value, type) and issubclass(value, aded_local.ADEDError)
    }
    assert errors <= set(aded_local.__all__)
    assert issubclass(aded_local.ContextOverflowError, ValueError)


@pytest.mark.parametrize(
    "ask",
    [
        lambda llm: llm.generate(b"x"),
        lambda llm: llm.generate("x", stop=b"x"),
        lambda llm: llm.generate("x", stop=[b"x"]),
        lambda llm: llm.chat([{"role": "user", "content": b"x"}]),
        lambda llm: llm.chat([{"role": b"user", "content": "x"}]),
        lambda llm: llm.chat(b"x"),
        lambda llm: llm.generate("x", grammar=b"x"),
        lambda llm: llm.generate("x", json_schema=b"{}"),
        lambda llm: llm.generate("x", draft=b"off"),
        lambda llm: llm.generate("x", seed=b"1"),
        lambda llm: LocalADED(b"smollm2"),
        lambda llm: LocalADED("smollm2", draft=b"off"),
        lambda llm: LocalADED("smollm2", cache_type=b"f16"),
        lambda llm: LocalADED("smollm2", chat_template=b"x"),
        lambda llm: LocalADED("smollm2", store=b"x"),
    ],
)
def test_bytes_are_refused_in_one_line(llm: LocalADED, ask: Callable[[LocalADED], object]) -> None:
    with pytest.raises(aded_local.ADEDError) as caught:
        ask(llm)
    assert "\n" not in str(caught.value)


# --- a queue --------------------------------------------------------------------------------------------


def test_who_waits_is_served_in_the_order_of_coming(llm: LocalADED) -> None:
    """Several threads ask one object, and sessions beside it; none is refused, none is mixed up."""
    sessions = [llm, llm, llm.session(), llm, llm.session()]
    order: list[int] = []
    threads = []
    with llm.stream(PROMPT, **ENDLESS) as first:
        next(first)
        for number, session in enumerate(sessions):

            def ask(number: int = number, session: Any = session) -> None:
                bias = {10 + number: 200.0}
                reply = session.generate(PROMPT, max_tokens=9, temperature=0.0, logit_bias=bias, wait=True)
                assert set(reply.tokens) == {10 + number}
                order.append(number)

            threads.append(threading.Thread(target=ask))
            threads[-1].start()
            until(lambda number=number: len(llm._access._queue) > number)
        assert order == []
    for thread in threads:
        thread.join(PATIENCE)
    assert order == list(range(len(sessions)))


def test_without_waiting_a_second_answer_of_a_session_is_refused(llm: LocalADED) -> None:
    stream = llm.stream(PROMPT, **ENDLESS)
    next(stream)
    seen: list[BaseException] = []

    def ask() -> None:
        try:
            llm.generate(PROMPT, max_tokens=1, wait=False)
        except BusyError as error:
            seen.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert len(seen) == 1 and "wait=True" in str(seen[0])
    stream.close()


def test_nobody_waits_for_an_answer_that_the_same_thread_reads(llm: LocalADED) -> None:
    seen: list[BaseException] = []

    def twice() -> None:
        stream = llm.stream(PROMPT, **ENDLESS)
        next(stream)
        try:
            llm.generate(PROMPT, max_tokens=1, wait=True)
        except BusyError as error:
            seen.append(error)
        stream.close()

    thread = threading.Thread(target=twice)
    thread.start()
    thread.join(PATIENCE)
    assert len(seen) == 1


def test_who_gives_up_waiting_holds_nobody_up(llm: LocalADED) -> None:
    with llm.stream(PROMPT, **ENDLESS) as first:
        next(first)
        waiting = llm.stream(PROMPT, wait=True)
        found: list[str | None] = []
        thread = threading.Thread(target=lambda: found.extend(piece.finish_reason for piece in waiting))
        thread.start()
        until(lambda: llm._access._queue)
        waiting.cancel()
        thread.join(PATIENCE)
        assert found == ["cancelled"]
    assert llm.generate(PROMPT, max_tokens=1).finish_reason != "cancelled"


# --- asyncio --------------------------------------------------------------------------------------------


def test_asyncio_gives_what_the_loop_gives(llm: LocalADED) -> None:
    async def ask() -> list[Any]:
        pieces = [piece async for piece in llm.astream(PROMPT, max_tokens=20, temperature=0.0)]
        chat = [piece async for piece in llm.astream_chat(CHAT, max_tokens=20, temperature=0.0)]
        reply = await llm.agenerate(PROMPT, max_tokens=20, temperature=0.0)
        answer = await llm.session().achat(CHAT, max_tokens=20, temperature=0.0)
        return [
            [token for piece in pieces for token in piece.tokens],
            [token for piece in chat for token in piece.tokens],
            reply.tokens,
            answer.tokens,
            pieces[-1].finish_reason,
        ]

    llm.reset()
    found = asyncio.run(ask())
    text = llm.generate(PROMPT, max_tokens=20, temperature=0.0).tokens
    chat = llm.chat(CHAT, max_tokens=20, temperature=0.0).tokens
    assert found[:4] == [text, chat, text, chat]
    assert found[4] in ("length", "stop")


def test_the_event_loop_goes_on_beside_an_answer(llm: LocalADED, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = llm._engine.target.context._decode
    ticks = 0

    def decode(*args: Any, **options: Any) -> float:
        time.sleep(0.02)
        return slow(*args, **options)

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.001)
            ticks += 1

    async def both() -> None:
        ticking = asyncio.create_task(tick())
        await llm.agenerate(PROMPT, max_tokens=20, **ENDLESS)
        ticking.cancel()

    monkeypatch.setattr(llm._engine.target.context, "_decode", decode)
    asyncio.run(both())
    assert ticks > 20


@pytest.mark.parametrize("whole", [True, False])
def test_cancelling_the_task_stops_within_a_step_and_frees_the_model(
    llm: LocalADED, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    steps: list[int] = []
    verify = llm._engine.target.verify

    def counted(*args: Any) -> Any:
        steps.append(0)
        return verify(*args)

    monkeypatch.setattr(llm._engine.target, "verify", counted)

    async def read() -> None:
        if whole:
            await llm.agenerate(PROMPT, **ENDLESS)
        else:
            async with llm.astream(PROMPT, **ENDLESS) as pieces:
                async for _ in pieces:
                    pass

    async def cancel() -> None:
        task = asyncio.create_task(read())
        while len(steps) < 5:
            await asyncio.sleep(0.001)
        task.cancel()
        before = len(steps)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(steps) <= before + 2
        assert is_free(llm)

    asyncio.run(cancel())


def test_a_task_that_waits_in_the_queue_can_be_cancelled(llm: LocalADED) -> None:
    async def cancel() -> None:
        async with llm.astream(PROMPT, **ENDLESS) as first:
            await anext(first)
            task = asyncio.create_task(llm.agenerate(PROMPT, wait=True))
            while not llm._access._queue:
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not llm._access._queue
            await anext(first)
        assert is_free(llm)

    asyncio.run(cancel())


def test_many_tasks_take_turns(llm: LocalADED) -> None:
    async def ask(number: int) -> None:
        bias = {7 + number: 200.0}
        reply = await llm.agenerate(PROMPT, max_tokens=5, temperature=0.0, logit_bias=bias, wait=True)
        assert set(reply.tokens) == {7 + number}

    async def all_of_them() -> None:
        await asyncio.gather(*(ask(number) for number in range(20)))

    asyncio.run(all_of_them())


def test_leaving_the_loop_frees_the_model_and_reading_on_is_an_error(llm: LocalADED) -> None:
    async def leave() -> None:
        async with llm.astream(PROMPT, **ENDLESS) as pieces:
            async for _ in pieces:
                break
        assert is_free(llm)
        with pytest.raises(BusyError, match="closed"):
            await anext(pieces)
        async for _ in llm.astream(PROMPT, **ENDLESS):
            break
        gc.collect()
        assert becomes_free(llm)  # the worker lets go of it a moment after its last piece

    asyncio.run(leave())


def test_a_stream_in_asyncio_can_be_cancelled_from_outside(llm: LocalADED) -> None:
    async def cancel() -> list[str | None]:
        stream = llm.astream(PROMPT, **ENDLESS)
        await anext(stream)
        stream.cancel()
        return [piece.finish_reason async for piece in stream]

    assert asyncio.run(cancel()) == ["cancelled"]


def test_what_is_wrong_is_told_when_it_is_read(llm: LocalADED) -> None:
    async def ask() -> None:
        with pytest.raises(OptionError):
            await llm.agenerate(PROMPT, temperature=-1.0)
        with pytest.raises(OptionError):
            async for _ in llm.astream(PROMPT, max_tokens=0):
                pass

    asyncio.run(ask())


def test_no_thread_stays_behind(llm: LocalADED) -> None:
    async def ask() -> None:
        await llm.agenerate(PROMPT, max_tokens=2)
        async for _ in llm.astream(PROMPT, max_tokens=2):
            pass
        stream = llm.astream(PROMPT, **ENDLESS)
        await anext(stream)

    asyncio.run(ask())
    gc.collect()
    until(lambda: not any(thread.name.startswith("aded-answer") for thread in threading.enumerate()))
    assert becomes_free(llm)


def test_streams_are_what_is_handed_out(llm: LocalADED) -> None:
    assert isinstance(llm.stream(PROMPT), Stream)
    assert isinstance(llm.session().stream_chat(CHAT), Stream)
    assert isinstance(llm.astream(PROMPT), AsyncStream)
