"""Answers come first; measurements use what is left."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from interrupting import instants, interrupt_when
from patience import PATIENCE

from aded_local import scheduler
from aded_local.scheduler import LONGEST_SLICE, QUIET_SECONDS, SHORTEST_SLICE, Closed, Scheduler
from aded_local.speed.preparation import MEASURING, Preparation


def test_a_measurement_waits_for_the_answer_and_a_quiet_moment() -> None:
    turns = Scheduler()
    assert turns.wait() is False, "nobody is there"
    turns.begin_answer()
    assert not turns.undisturbed()
    began: list[float] = []
    waiting = threading.Thread(target=lambda: began.append(turns.wait() and time.perf_counter()))
    waiting.start()
    time.sleep(0.02)
    assert not began
    ended = time.perf_counter()
    turns.end_answer()
    waiting.join(PATIENCE)
    assert began and began[0] - ended >= QUIET_SECONDS * 0.9
    assert turns.undisturbed()


def test_an_answer_that_begins_disturbs_a_pass() -> None:
    turns = Scheduler()
    turns.wait()
    turns.begin_answer()
    assert turns.wanted and not turns.undisturbed()
    turns.end_answer()
    assert not turns.wanted


def test_an_exchange_and_an_answer_exclude_each_other() -> None:
    turns = Scheduler()
    order: list[str] = []
    entered = threading.Event()

    def exchange() -> None:
        with turns.exchanging():
            entered.set()
            time.sleep(0.05)
            order.append("exchange")

    thread = threading.Thread(target=exchange)
    thread.start()
    entered.wait(PATIENCE)
    turns.begin_answer()
    order.append("answer")
    thread.join(PATIENCE)
    turns.end_answer()
    assert order == ["exchange", "answer"]


def test_closing_ends_every_wait() -> None:
    turns = Scheduler()
    turns.begin_answer()
    found: list[str] = []

    def measure() -> None:
        try:
            turns.wait()
        except Closed:
            found.append("wait")

    def exchange() -> None:
        try:
            with turns.exchanging():
                raise AssertionError("an answer is running")
        except Closed:
            found.append("exchange")

    threads = [threading.Thread(target=each) for each in (measure, exchange)]
    for thread in threads:
        thread.start()
    turns.close()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(found) == ["exchange", "wait"]


@pytest.fixture
def moments(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Callable[[], object], float]]:
    """What ends each moment that was left, and its seconds at most."""
    left: list[tuple[Callable[[], object], float]] = []

    def look(ends: Callable[[], object], seconds: float = math.inf) -> None:
        if seconds < math.inf:
            left.append((ends, seconds))

    monkeypatch.setattr(scheduler, "_look_until", look)
    return left


def answered(turns: Scheduler, seconds: float) -> None:
    turns.begin_answer()
    turns._began -= seconds
    turns.end_answer()


def test_answers_are_held_up_only_while_a_measurement_is_due(moments: list[Any]) -> None:
    turns = Scheduler()
    answered(turns, 100.0)
    turns.leave_a_moment()
    assert not moments


def test_long_answers_leave_a_bounded_moment_that_another_answer_ends(moments: list[Any]) -> None:
    turns = Scheduler()
    with turns.measuring():
        answered(turns, 1000.0)
        turns.leave_a_moment()
        [(ends, seconds)] = moments
        assert seconds == LONGEST_SLICE and not ends()
        turns._answering = True
        assert ends()


def test_short_answers_leave_a_moment_together(moments: list[Any]) -> None:
    turns = Scheduler()
    with turns.measuring():
        answered(turns, SHORTEST_SLICE)
        turns.leave_a_moment()
        assert not moments
        for _ in range(4):
            answered(turns, SHORTEST_SLICE)
        turns.leave_a_moment()
        assert len(moments) == 1


def test_an_exception_in_an_exchange_lets_answers_go_on() -> None:
    turns = Scheduler()
    with pytest.raises(ValueError), turns.exchanging():
        raise ValueError
    turns.begin_answer()
    turns.end_answer()


def test_an_interrupt_at_any_instant_of_an_answer_leaves_measurements_their_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scheduler, "QUIET_SECONDS", 0.0)
    turns = Scheduler()

    def answer() -> None:
        try:
            turns.begin_answer()
        finally:
            try:
                turns.end_answer()
            finally:
                turns.end_answer()
        turns.leave_a_moment()

    def measure() -> None:
        turns.wait()
        with turns.measuring(), turns.exchanging():
            pass

    n = 0
    for error in instants(lambda: answer):
        assert type(error) is KeyboardInterrupt
        assert not turns.wanted
        measuring = threading.Thread(target=measure, daemon=True)
        measuring.start()
        measuring.join(PATIENCE)
        assert not measuring.is_alive()
        n += 1
    assert n > 50


def test_an_answer_that_waits_for_an_exchange_can_be_interrupted() -> None:
    turns = Scheduler()
    entered, enough = threading.Event(), threading.Event()

    def exchange() -> None:
        with turns.exchanging():
            entered.set()
            enough.wait(PATIENCE)

    thread = threading.Thread(target=exchange)
    thread.start()
    assert entered.wait(PATIENCE)

    interrupt_when(lambda: turns.wanted)
    with pytest.raises(KeyboardInterrupt):
        turns.begin_answer()
    assert not turns.wanted
    enough.set()
    thread.join(PATIENCE)
    turns.begin_answer()


def test_an_interrupt_at_any_instant_of_beginning_to_measure_loses_no_thread() -> None:
    turns = Scheduler()
    did: list[int] = []

    def measure() -> None:
        preparation = Preparation(turns, pytest.fail)
        made.append(preparation)
        preparation.start(lambda _: did.append(1), MEASURING)
        preparation.wait(PATIENCE)

    n = 0
    made: list[Preparation] = []
    for error in instants(lambda: measure):
        assert type(error) is KeyboardInterrupt
        if made:
            preparation = made.pop()
            assert preparation.wait(PATIENCE) and preparation.close() and not preparation.running
        n += 1
    assert n > 100 and did
