"""One answer at a time, readers beside it, nobody once it is closed."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable, Generator
from types import SimpleNamespace
from typing import Any

import pytest
from interrupting import instants, interrupt_when
from patience import PATIENCE, until

from aded_local.access import Access, Cancelling, Use
from aded_local.errors import BusyError
from aded_local.result import Piece
from aded_local.scheduler import Scheduler
from aded_local.session import Session
from aded_local.stream import Stream


@pytest.fixture
def access() -> Access:
    return Access(Scheduler())


def steps() -> Generator[int, None, None]:
    yield from range(9)


def begun(access: Access) -> Use:
    """An answer of which this thread has read something."""
    use = access.begin(steps())
    use.is_read_here()
    assert use.steps is not None
    next(use.steps)
    return use


def elsewhere(work: Callable[[], object]) -> object:
    """What ``work`` returns in another thread, or the error it raised."""
    found: list[object] = []

    def run() -> None:
        try:
            found.append(work())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return found[0] if found else TimeoutError("it waits for something")


def test_a_second_use_is_refused_in_another_thread(access: Access) -> None:
    use = begun(access)
    assert isinstance(elsewhere(access.begin), BusyError)
    access.end(use)
    assert isinstance(elsewhere(access.begin), Use)


def test_an_answer_that_the_main_thread_left_half_read_ends_when_it_needs_the_model(access: Access) -> None:
    first = begun(access)
    second = access.begin()
    assert first.steps is not None and inspect.getgeneratorstate(first.steps) == inspect.GEN_CLOSED
    access.end(first)
    assert isinstance(elsewhere(access.begin), BusyError), "ending it late frees nothing"
    access.end(second)


def test_an_answer_that_was_interrupted_before_it_was_read_does_not_block_the_next(access: Access) -> None:
    access.begin(steps())
    access.end(access.begin())


def test_an_answer_that_another_thread_reads_does_not_end(access: Access) -> None:
    assert isinstance(elsewhere(lambda: begun(access)), Use)
    with pytest.raises(BusyError):
        access.begin()


def test_an_answer_of_another_thread_is_never_taken_for_abandoned_there(access: Access) -> None:
    """A thread of a pool reads on for whoever comes next."""

    def twice() -> None:
        begun(access)
        access.begin()

    assert isinstance(elsewhere(twice), BusyError)


def test_a_use_without_pauses_is_not_abandoned(access: Access) -> None:
    with access.alone(), pytest.raises(BusyError):
        access.begin()


def test_an_answer_does_not_end_under_a_call_of_its_own(access: Access) -> None:
    seen: list[type] = []

    def asking() -> Generator[int, None, None]:
        try:
            access.begin()
        except BusyError as error:
            seen.append(type(error))
        yield 1

    use = access.begin(asking())
    use.is_read_here()
    assert use.steps is not None
    next(use.steps)
    assert seen == [BusyError]


def test_one_task_does_not_end_what_another_reads_until_that_is_done(access: Access) -> None:
    async def both() -> None:
        has_begun, enough = asyncio.Event(), asyncio.Event()

        async def reader() -> None:
            begun(access)
            has_begun.set()
            await enough.wait()

        reading = asyncio.create_task(reader())
        await has_begun.wait()
        with pytest.raises(BusyError):
            access.begin()
        enough.set()
        await reading
        begun(access)
        access.end(access.begin())

    asyncio.run(both())


def test_closing_waits_for_readers_and_refuses_new_ones(access: Access) -> None:
    inside, leave = threading.Event(), threading.Event()
    order: list[str] = []

    def read() -> None:
        with access.reading():
            inside.set()
            leave.wait(PATIENCE)
            order.append("read")

    reader = threading.Thread(target=read)
    reader.start()
    assert inside.wait(PATIENCE)

    def close() -> None:
        with access.closing() as is_first:
            order.append(f"closed {is_first}")

    closer = threading.Thread(target=close)
    closer.start()
    until(lambda: access.closed)
    with pytest.raises(BusyError, match="closed"), access.reading():
        pass
    with access.closing() as is_first:
        assert not is_first, "somebody else does it"
    leave.set()
    reader.join()
    closer.join()
    assert order == ["read", "closed True"]
    with pytest.raises(BusyError, match="closed"):
        access.begin()


def test_a_reader_cannot_close_the_model_it_reads(access: Access) -> None:
    with access.reading(), pytest.raises(BusyError, match="a call of its own"), access.closing():
        pass
    with access.closing() as is_first:
        assert is_first


def test_closing_is_refused_while_an_answer_runs_elsewhere(access: Access) -> None:
    elsewhere(lambda: begun(access))
    with pytest.raises(BusyError), access.closing():
        pass
    with access.reading():
        pass
    access.end_half_read()
    with access.closing() as is_first:
        assert is_first


def test_an_interrupted_closing_leaves_the_model_open(access: Access) -> None:
    class Interrupting(Scheduler):
        def begin_answer(self) -> None:
            raise KeyboardInterrupt

    access._scheduler = Interrupting()
    with pytest.raises(KeyboardInterrupt), access.closing():
        pass
    access._scheduler = Scheduler()
    access.end(access.begin())


def test_cancelling_reaches_what_was_asked_for_and_nothing_later() -> None:
    cancelling = Cancelling()
    cancelling.cancel()
    first, second = cancelling.ask(), cancelling.ask()
    assert not first.is_cancelled()
    cancelling.cancel()
    third, fourth = cancelling.ask(), cancelling.ask()
    third.cancel()
    assert [each.is_cancelled() for each in (first, second, third, fourth)] == [True, True, True, False]


def test_a_session_waits_for_the_answer_that_another_thread_reads(access: Access) -> None:
    first, second = object(), object()
    begun_first = elsewhere(lambda: access.begin(steps(), owner=first))
    order: list[str] = []

    def wait() -> None:
        use = access.begin(steps(), owner=second)
        order.append("second begins")
        access.end(use)

    waiter = threading.Thread(target=wait)
    waiter.start()
    time.sleep(0.05)
    order.append("first ends")
    access.end(begun_first)
    waiter.join(PATIENCE)
    assert order == ["first ends", "second begins"]


def test_a_session_does_not_wait_for_itself_nor_for_what_is_no_answer(access: Access) -> None:
    session = object()
    use = elsewhere(lambda: access.begin(steps(), owner=session))
    with pytest.raises(BusyError, match="already generating"):
        access.begin(steps(), owner=session)
    with pytest.raises(BusyError, match="already generating"):
        access.begin()
    access.end(use)
    use = elsewhere(access.begin)
    with pytest.raises(BusyError, match="already generating"):
        access.begin(steps(), owner=session)
    access.end(use)


def test_a_session_that_waits_can_give_up(access: Access) -> None:
    use = elsewhere(lambda: access.begin(steps(), owner=object()))
    assert access.begin(steps(), owner=object(), is_cancelled=lambda: True) is None
    access.end(use)


def test_who_waits_begins_in_the_order_of_coming(access: Access) -> None:
    running = elsewhere(lambda: access.begin(steps(), owner=1))
    order: list[int] = []
    waiters = []
    for number in range(5):

        def wait(number: int = number) -> None:
            use = access.begin(steps(), owner=number % 2, wait=True)
            order.append(number)
            assert use is not None
            access.end(use)

        waiters.append(threading.Thread(target=wait))
        waiters[-1].start()
        until(lambda number=number: len(access._queue) > number)
    assert order == []
    access.end(running)
    for waiter in waiters:
        waiter.join(PATIENCE)
    assert order == list(range(5))


def test_who_does_not_wait_does_not_go_before_those_who_do(access: Access) -> None:
    access._queue.append(Use(steps()))
    with pytest.raises(BusyError, match="already generating"):
        access.begin()
    assert len(access._queue) == 1


def test_an_interrupt_takes_a_waiter_out_of_the_queue(access: Access) -> None:
    elsewhere(lambda: access.begin(steps(), owner=1))

    interrupt_when(lambda: bool(access._queue))
    with pytest.raises(KeyboardInterrupt):
        access.begin(steps(), owner=2, wait=True)
    assert not access._queue


@pytest.mark.parametrize("what", ["answer", "alone", "reading", "closing"])
def test_an_interrupt_at_any_instant_leaves_no_use_and_no_lock_behind(what: str) -> None:
    scheduler = Scheduler()
    access = Access(scheduler)
    asking: Any = SimpleNamespace(_access=access, _engine=SimpleNamespace(access=access, scheduler=scheduler))

    def computing() -> Generator[Piece, None, None]:
        yield Piece("a", (1,))
        yield Piece("b", (2,), "stop")

    def answer() -> None:
        asked = Cancelling().ask()
        with Stream(Session._read(asking, asked, computing(), waits=True), asked) as pieces:
            for _ in pieces:
                pass

    def block() -> None:
        with getattr(access, what)():
            len("what is done in it")

    def use_it() -> None:
        with access.alone():
            pass

    n = 0
    for error in instants(lambda: answer if what == "answer" else block):
        assert type(error) is KeyboardInterrupt
        assert not scheduler.wanted and access._use is None and not access._readers
        access.closed = False
        assert elsewhere(use_it) is None
        n += 1
    assert n > 50


def test_whoever_waits_while_it_is_closed_is_told(access: Access) -> None:
    use = elsewhere(lambda: access.begin(steps(), owner=1))
    seen: list[object] = []
    waiter = threading.Thread(
        target=lambda: seen.append(elsewhere(lambda: access.begin(steps(), owner=1, wait=True)))
    )
    waiter.start()
    until(lambda: access._queue)
    access.closed = True
    access.end(use)
    waiter.join(PATIENCE)
    assert [type(each) for each in seen] == [BusyError]
