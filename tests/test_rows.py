"""The switch that has a few tokens multiplied as one is belongs to the process; passes share it by turns."""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path

import numpy as np
import pytest
from interrupting import instants
from patience import PATIENCE

from aded_local.llama import Context, ContextSettings, Model, rows


@pytest.fixture
def switch(monkeypatch: pytest.MonkeyPatch) -> ctypes.c_int:
    """A build that has the switch."""
    found = ctypes.c_int(0)
    monkeypatch.setattr(rows, "_until", found)
    return found


def test_it_is_set_within_and_put_back(switch: ctypes.c_int) -> None:
    with rows.row_by_row(True):
        assert switch.value == rows.LARGEST
    assert switch.value == 0
    with pytest.raises(RuntimeError), rows.row_by_row(True):
        raise RuntimeError
    assert switch.value == 0


def test_passes_that_want_it_otherwise_wait_for_each_other(switch: ctypes.c_int) -> None:
    seen: list[int] = []

    def other() -> None:
        with rows.row_by_row(False):
            seen.append(switch.value)

    with rows.row_by_row(True):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.1)
        assert thread.is_alive() and not seen and switch.value == rows.LARGEST
    thread.join(PATIENCE)
    assert seen == [0]


def test_an_interrupt_at_any_instant_leaves_other_passes_their_turn(switch: ctypes.c_int) -> None:
    def by_row(wanted: bool) -> None:
        with rows.row_by_row(wanted):
            len("a pass")

    for error in instants(lambda: lambda: by_row(True)):
        assert type(error) is KeyboardInterrupt
        other = threading.Thread(target=by_row, args=(False,), daemon=True)
        other.start()
        other.join(PATIENCE)
        assert not other.is_alive()
    assert switch.value == 0


def test_without_the_switch_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_until", None)
    with rows.row_by_row(True):
        pass


@pytest.mark.skipif(not rows.AVAILABLE, reason="this llama.cpp was built without the switch (row_by_row.c)")
@pytest.mark.parametrize(("flash_attention", "cache_type"), [(False, "f16"), (True, "bf16")])
def test_row_by_row_no_size_loses_the_bits_of_one_token(
    tiny: dict[str, Path], flash_attention: bool, cache_type: str
) -> None:
    """How many sizes gain them is the processor's affair: all, on those that were seen."""
    model = Model(tiny["llama"])

    def equal(by_row: bool) -> set[int]:
        context = Context(model, ContextSettings(512, 2, flash_attention, cache_type, 2, row_by_row=by_row))
        tokens = model.random_tokens(48, 5)
        context.prefill(tokens[:32])
        alone = []
        for token in tokens[32:48]:
            context.prefill(token[None])
            alone.append(np.array(context.logits(-1)))
        found = set()
        for n in (2, 3, 8, 16):
            context.roll_back(32)
            context.probe_batch(tokens[32 : 32 + n])
            if all(np.array_equal(context.logits(i), alone[i]) for i in range(n)):
                found.add(n)
        context.close()
        return found

    assert equal(True) >= equal(False)


def test_a_pass_that_was_lost_holds_nobody_up(switch: ctypes.c_int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt between two lines leaves an entry behind: of this thread, or of one that has ended."""
    monkeypatch.setattr(rows, "LONGEST_WAIT", 0.01)
    monkeypatch.setitem(rows._wanted, threading.get_ident(), rows.LARGEST)
    with rows.row_by_row(False):
        assert switch.value == 0
    monkeypatch.setitem(rows._wanted, 1, rows.LARGEST)
    with rows.row_by_row(False):
        assert switch.value == 0
