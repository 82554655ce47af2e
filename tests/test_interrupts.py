"""Ctrl-C while llama.cpp works is neither lost nor raised in the middle of it."""

from __future__ import annotations

import ctypes
import os
import signal

import pytest

from aded_local.llama.interrupts import held_back, not_dropped


def test_an_interrupt_takes_effect_when_the_block_has_ended() -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt), held_back():
        os.kill(os.getpid(), signal.SIGINT)
        reached.append("the end of the block")
    assert reached == ["the end of the block"]


def test_a_handler_gets_the_interrupt_and_stays_in_place() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    try:
        mine = signal.getsignal(signal.SIGINT)
        with held_back():
            os.kill(os.getpid(), signal.SIGINT)
            assert heard == []
        assert heard == [signal.SIGINT]
        assert signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_error_inside_is_not_hidden() -> None:
    with pytest.raises(ValueError, match="inside"), held_back():
        raise ValueError("inside")


@pytest.mark.parametrize("fails", [False, True])
def test_an_interrupt_dropped_in_a_callback_takes_effect_when_the_block_ends_or_fails(
    fails: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    callback = ctypes.CFUNCTYPE(None)(lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt), not_dropped():
        callback()
        if fails:
            raise RuntimeError("half done")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert capfd.readouterr().err == ""


def test_without_an_interrupt_a_failure_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError), not_dropped():
        raise RuntimeError("another reason")
