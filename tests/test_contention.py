"""Whether other programs had the processor is noticed."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from aded_local.speed.contention import SPREAD_LIMIT, WAITING_LIMIT, Watch, contended, spread


def test_timings_that_scatter_show_other_programs() -> None:
    assert spread({1: [1.0, 1.01, 1.02], 4: [2.0, 2.1, 2.0]}) < SPREAD_LIMIT
    assert spread({1: [1.0, 3.0, 4.0], 4: [2.0, 5.0, 5.0]}) > SPREAD_LIMIT


def test_one_slow_pass_does_not_make_a_machine_busy() -> None:
    assert not contended([0.0], {n: [1.0, 1.0, 1.0, 1.0, 20.0] for n in (1, 2, 4)})


def test_too_few_timings_say_nothing() -> None:
    assert spread({1: [1.0, 9.0]}) == 1.0
    assert spread({}) == 1.0


def test_waiting_for_a_core_is_contention_however_even_the_timings_are() -> None:
    even = {1: [1.0, 1.0, 1.0]}
    assert contended([WAITING_LIMIT * 2, 0.0, WAITING_LIMIT * 2], even)
    assert not contended([WAITING_LIMIT / 2] * 3, even)


def test_a_short_disturbance_is_not_contention() -> None:
    assert not contended([0.0, 0.0, 0.5], {1: [1.0, 1.0, 2.0]})


@pytest.mark.skipif(not os.path.exists("/proc/self/schedstat"), reason="this system does not count it")
def test_a_thread_that_shares_its_core_is_seen_to_wait() -> None:
    core = min(os.sched_getaffinity(0))
    code = f"""
import os, time
os.sched_setaffinity(0, {{{core}}})
end = time.time() + 20
while time.time() < end: pass
"""
    other = subprocess.Popen([sys.executable, "-c", code])
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {core})
        time.sleep(0.3)
        watch = Watch()
        end = time.perf_counter() + 0.5
        while time.perf_counter() < end:
            pass
        assert watch.waiting() > WAITING_LIMIT
    finally:
        os.sched_setaffinity(0, allowed)
        other.kill()
        other.wait()
