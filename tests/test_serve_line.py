"""The line of requests: first come, first served, bounded, and left at any moment."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_serving import FakeModel
from patience import PATIENCE, until

from aded_cli.serve.queue import CLOSING, FAILED, LOADING, READY, Line
from aded_cli.serve.refusals import Refusal
from aded_cli.serve.turn import Job, Turn
from aded_local.errors import ModelNotFoundError, OptionError


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture
def line(model: FakeModel) -> Iterator[Line]:
    found = Line(lambda say: model, most_waiting=2, most_bytes=1 << 20)
    found.start()
    until(lambda: found.state == READY)
    yield found
    found.close()
    found.cancel()
    model.may_go_on.set()
    assert found.join(PATIENCE) and model.closed


def answer(text: str) -> Any:
    def work(turn: Turn) -> Iterator[str]:
        for piece in turn.stream([ord(letter) for letter in text]):
            yield piece.text

    return work


async def all_of(job: Job) -> list[Any]:
    return [item async for batch in job.batches() for item in batch]


def test_a_request_gets_its_answer_in_order(line: Line) -> None:
    async def ask(eager: bool) -> list[Any]:
        return await all_of(line.ask(answer("q"), eager=eager))

    for eager in (True, False):
        assert asyncio.run(ask(eager)) == [*[f"w{n} " for n in range(5)], ""]


def test_first_come_first_served(line: Line, model: FakeModel) -> None:
    async def run() -> None:
        model.may_go_on.clear()
        jobs = [line.ask(answer("a"), eager=False)]
        await asyncio.to_thread(until, lambda: len(model.asked) == 1)
        jobs += [line.ask(answer(text), eager=False) for text in "bc"]
        model.may_go_on.set()
        await asyncio.gather(*map(all_of, jobs))

    asyncio.run(run())
    assert [text for text, _ in model.asked] == ["a", "b", "c"]


def test_beyond_the_bound_a_request_is_refused_and_told_when_to_come_again(
    line: Line, model: FakeModel
) -> None:
    async def run() -> Refusal:
        model.may_go_on.clear()
        jobs = [line.ask(answer("a"), eager=False)]
        await asyncio.to_thread(until, lambda: len(model.asked) == 1)
        jobs += [line.ask(answer(text), eager=False) for text in "bc"]
        assert (line.waiting(), line.running()) == (2, 1)
        with pytest.raises(Refusal) as refused:
            line.ask(answer("d"), eager=False)
        model.may_go_on.set()
        await asyncio.gather(*map(all_of, jobs))
        await all_of(line.ask(answer("e"), eager=False))  # there is room again
        return refused.value

    refusal = asyncio.run(run())
    assert refusal.status == 429 and int(refusal.headers["Retry-After"]) >= 1
    assert [text for text, _ in model.asked] == ["a", "b", "c", "e"]


def test_without_room_to_wait_a_free_server_still_answers(model: FakeModel) -> None:
    line = Line(lambda say: model, most_waiting=0, most_bytes=0)
    line.start()
    until(lambda: line.state == READY)
    assert len(asyncio.run(_asked(line, "a"))) == 6
    line.close()
    assert line.join(PATIENCE)


async def _asked(line: Line, text: str) -> list[Any]:
    return await all_of(line.ask(answer(text), eager=False))


def test_a_request_that_is_left_ends_within_one_step(line: Line, model: FakeModel) -> None:
    async def run() -> None:
        model.steps = True
        model.words = 1000
        job = line.ask(answer("a"), eager=True)
        batches = job.batches()
        await anext(batches)
        said = len(model.said)
        job.cancel()
        model.may_go_on.set()
        await asyncio.to_thread(until, lambda: line.running() == 0)
        assert len(model.said) <= said + 1

    asyncio.run(run())


def test_a_request_that_is_left_while_it_waits_is_never_begun(line: Line, model: FakeModel) -> None:
    async def run() -> None:
        model.may_go_on.clear()
        first, second = (line.ask(answer(text), eager=False) for text in "ab")
        await asyncio.to_thread(until, lambda: len(model.asked) == 1)
        second.cancel()
        model.may_go_on.set()
        await all_of(first)
        await asyncio.to_thread(until, lambda: line.waiting() + line.running() == 0)

    asyncio.run(run())
    assert [text for text, _ in model.asked] == ["a"]


def test_what_goes_wrong_with_one_answer_is_told_to_its_client_alone(line: Line, model: FakeModel) -> None:
    model.failure = OptionError("no")
    with pytest.raises(OptionError):
        asyncio.run(_asked(line, "a"))
    model.failure = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        asyncio.run(_asked(line, "a"))
    model.failure = None
    assert len(asyncio.run(_asked(line, "a"))) == 6


def test_closing_lets_the_running_answer_end_and_refuses_the_others(line: Line, model: FakeModel) -> None:
    async def run() -> list[Any]:
        model.may_go_on.clear()
        jobs = [line.ask(answer(text), eager=False) for text in "ab"]
        await asyncio.to_thread(until, lambda: len(model.asked) == 1)
        line.close()
        model.may_go_on.set()
        return await asyncio.gather(*map(all_of, jobs), return_exceptions=True)

    running, waiting = asyncio.run(run())
    assert len(running) == 6
    assert isinstance(waiting, Refusal) and waiting.status == 503
    with pytest.raises(Refusal) as refused:
        asyncio.run(_asked(line, "c"))
    assert refused.value.status == 503 and "Retry-After" in refused.value.headers


def test_while_the_model_is_loaded_requests_are_refused_with_the_reason() -> None:
    may_load = threading.Event()
    model = FakeModel()

    def load(say: Callable[[str], None]) -> FakeModel:
        say("measuring this machine")
        assert may_load.wait(PATIENCE)
        return model

    line = Line(load, most_waiting=2, most_bytes=0)
    states: list[str] = []
    line.on_state = states.append
    line.start()
    until(lambda: line.reason == "measuring this machine")
    with pytest.raises(Refusal) as refused:
        asyncio.run(_asked(line, "a"))
    assert refused.value.status == 503 and "measuring this machine" in refused.value.message
    assert line.state == LOADING
    may_load.set()
    until(lambda: line.state == READY)
    line.close()
    assert line.join(PATIENCE) and states == [READY, CLOSING]


def test_a_model_that_cannot_be_loaded_ends_the_line() -> None:
    def load(_say: Callable[[str], None]) -> FakeModel:
        raise ModelNotFoundError("there is no such file")

    line = Line(load, most_waiting=2, most_bytes=0)
    line.start()
    assert line.join(PATIENCE)
    assert line.state == FAILED and isinstance(line.failure, ModelNotFoundError)


def test_fifty_at_once_each_get_their_own(model: FakeModel) -> None:
    line = Line(lambda say: model, most_waiting=50, most_bytes=1 << 20)
    line.start()
    until(lambda: line.state == READY)

    def echo(text: str) -> Any:
        def work(turn: Turn) -> Iterator[str]:
            for piece in turn.stream([ord(letter) for letter in text]):
                yield text + piece.text

        return work

    async def run() -> list[list[Any]]:
        jobs = [line.ask(echo(f"client {n}"), eager=bool(n % 2)) for n in range(50)]
        return await asyncio.gather(*map(all_of, jobs))

    for n, items in enumerate(asyncio.run(run())):
        assert len(items) == 6 and all(item.startswith(f"client {n}") for item in items)
    assert [text for text, _ in model.asked] == [f"client {n}" for n in range(50)]
    line.close()
    assert line.join(PATIENCE)
