"""Fewer threads beside other programs, all of them on a quiet machine, and a curve that learns from quiet passes."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machines import AMX, CURVES, Machine

from aded_local.speed.cost_curve import CostCurve, from_measurements
from aded_local.speed.threads import FIRST_PASSES, LONGEST_PAUSE, READ_TOGETHER, TRIAL_SHARE, Threads

SIZES = (1, 1, 4, 1, 2, 8)


def until(end: float) -> Callable[[float], int]:
    """One busy process, which ends then."""
    return lambda now: int(now < end)


def opened(machine: Machine, *, kept: bool = True) -> Threads:
    threads = Threads(machine.cores, watch=machine.watch)
    if kept:
        threads.use(machine.curve())
    return threads


def run(threads: Threads, machine: Machine, passes: int, *, sizes: tuple[int, ...] = (1,)) -> list[int]:
    """Threads of each of so many passes, in answers of 300 cells."""
    counts = []
    for i in range(passes):
        counts.append(threads.count)
        n, n_cells = sizes[i % len(sizes)], 256 + i % 300
        threads.observe(n, n_cells, machine.take(n, n_cells, threads.count))
    return counts


def as_kept(curve: CostCurve) -> list[float]:
    """Seconds by size, as they are written to the file."""
    base = json.loads(json.dumps(curve.to_dict()))["base"]
    return [float(seconds) for seconds in base]


# --- a quiet machine -----------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 999),
    cores=st.integers(1, 16),
    kind=st.sampled_from(sorted(CURVES)),
    kept=st.booleans(),
    counts=st.booleans(),
    noise=st.floats(0.0, 0.1),
)
def test_on_a_quiet_machine_nothing_is_changed_and_nothing_looked_at(
    seed: int, cores: int, kind: str, kept: bool, counts: bool, noise: float
) -> None:
    machine = Machine(CURVES[kind], seed, cores=cores, counts=counts, noise=noise)
    threads = opened(machine, kept=kept)
    assert set(run(threads, machine, 600, sizes=SIZES)) == {cores}
    assert not threads.contended
    # Without a curve the first passes of each answer are watched.
    assert machine.looks == (0 if kept else 2)


@pytest.mark.parametrize("kept", [True, False])
def test_single_interruptions_change_nothing(kept: bool) -> None:
    machine = Machine(AMX, stops=(1.0, 0.1))
    threads = opened(machine, kept=kept)
    assert set(run(threads, machine, 3000)) == {2}


# --- beside other programs -----------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_fewer_threads_beside_a_busy_process_and_all_when_it_has_ended(
    counts: bool, kept: bool, seed: int
) -> None:
    machine = Machine(AMX, seed, beside=lambda now: int(0.5 < now < 5.0), counts=counts)
    threads = opened(machine, kept=kept)
    while machine.now < 1.5:
        run(threads, machine, 1)
    assert threads.contended
    beside = run(threads, machine, 100)
    assert beside.count(1) > 90
    while machine.now < 12.0:
        run(threads, machine, 1)
    assert threads.count == 2 and not threads.contended
    assert set(run(threads, machine, 300)) == {2}


@pytest.mark.parametrize(("cores", "beside"), [(4, 1), (8, 1), (8, 3), (16, 5)])
def test_what_other_programs_leave_is_found(cores: int, beside: int) -> None:
    machine = Machine(AMX, cores=cores, beside=lambda now: beside)
    threads = opened(machine)
    run(threads, machine, 300)
    counts = run(threads, machine, 300)
    assert max(set(counts), key=counts.count) == cores - beside


@settings(max_examples=60, deadline=None)
@given(
    timings=st.lists(st.tuples(st.integers(1, 70), st.floats(1e-5, 5.0)), max_size=200),
    count=st.integers(1, 9),
    counts=st.booleans(),
    may_change=st.booleans(),
    kept=st.booleans(),
)
def test_whatever_passes_take_threads_stay_within_bounds_and_decisions_repeat(
    timings: list[tuple[int, float]], count: int, counts: bool, may_change: bool, kept: bool
) -> None:
    def replay() -> list[int]:
        machine = Machine(AMX, cores=count, counts=counts)
        threads = opened(machine, kept=kept)
        threads.allow(may_change)
        found = []
        for n, seconds in timings:
            machine.now += seconds
            machine.waited += 0.3 * seconds
            threads.observe(n, 256, seconds)
            found.append(threads.count)
        return found

    found = replay()
    assert found == replay()
    assert all(1 <= n <= count for n in found)
    assert may_change or set(found) <= {count}


def test_a_trial_that_is_worse_is_left_after_a_pass() -> None:
    """Passes are slow, threads wait, and one thread alone takes ten times as long."""
    machine = Machine(AMX)
    threads = opened(machine)
    tried = []
    for _ in range(200):
        seconds = 20e-3 if threads.count == 2 else 200e-3
        machine.now += seconds
        machine.waited += 0.4 * seconds
        tried.append(threads.count)
        threads.observe(1, 256, seconds)
    assert 1 <= tried.count(1) <= 4
    assert (1, 1) not in set(pairwise(tried))


def test_what_trials_of_all_threads_cost_has_a_bound() -> None:
    """Beside a process that never ends, a pass with all threads takes a hundred times as long."""
    machine = Machine(AMX, beside=lambda now: 1)
    threads = opened(machine)
    lost = whole = 0.0
    for i in range(8000):
        seconds = 10e-3 if threads.count == 1 else 1.0
        machine.now += seconds
        machine.waited += 0.4 * seconds if threads.count > 1 else 0.0
        threads.observe(1, 256, seconds)
        if i > 100:
            whole += seconds
            lost += seconds - 10e-3
    assert 0.0 < lost < 2 * TRIAL_SHARE * whole


def test_pauses_between_trials_grow() -> None:
    machine = Machine(AMX, beside=lambda now: 1)
    threads = opened(machine)
    counts = run(threads, machine, 3000)
    began = [i for i in range(1, 3000) if counts[i] == 2 and counts[i - 1] == 1]
    pauses = [later - earlier for earlier, later in pairwise(began)]
    assert len(pauses) > 5
    assert pauses[0] < LONGEST_PAUSE and max(pauses[-4:]) >= LONGEST_PAUSE


def test_where_threads_may_not_change_they_do_not() -> None:
    machine = Machine(AMX, beside=lambda now: 1)
    threads = opened(machine)
    threads.allow(False)
    assert set(run(threads, machine, 500)) == {2}
    assert threads.contended


def test_forbidding_it_takes_back_what_was_changed() -> None:
    machine = Machine(AMX, beside=lambda now: 1)
    threads = opened(machine)
    run(threads, machine, 100)
    assert threads.count == 1
    threads.allow(False)
    assert threads.count == 2


def test_a_program_that_starts_beside_others_notices_without_a_quiet_pass() -> None:
    machine = Machine(AMX, beside=lambda now: 1)
    threads = opened(machine, kept=False)
    run(threads, machine, FIRST_PASSES + 8)
    assert threads.count == 1
    # The same with a curve that was measured beside them.
    curve = machine.curve().scaled(6.0)
    curve.contended = True
    threads = Threads(2, watch=machine.watch)
    threads.use(curve)
    run(threads, machine, FIRST_PASSES + 8)
    assert threads.count == 1


def test_a_slower_machine_whose_threads_do_not_wait_keeps_them() -> None:
    machine = Machine(AMX, slow=lambda now: 1.0 if now < 1.0 else 3.0)
    threads = opened(machine)
    assert set(run(threads, machine, 1000)) == {2}
    assert not threads.contended


def test_without_a_curve_another_fill_is_no_contention() -> None:
    """The next answer follows a long prompt, and its passes take four times as long."""
    machine = Machine(AMX, counts=False)
    threads = opened(machine, kept=False)
    for n_cells, seconds in ((300, 5e-3), (4000, 20e-3), (300, 5e-3)):
        for i in range(100):
            threads.observe(1, n_cells + i, seconds)
            assert threads.count == 2 and not threads.contended


# --- what passes cost ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        {"beside": lambda now: 1},
        {"beside": lambda now: 4},
        {"beside": lambda now: 4 * int(now % 1.0 < 0.4)},
        {"beside": lambda now: 4 * int(now % 1.0 < 0.4), "counts": False},
        {"stops": (0.05, 0.05)},
        {"quota": 1.0},
        {"slow": lambda now: 3.0 if now % 1.0 < 0.3 else 1.0},
    ],
    ids=["one", "four", "by turns", "by turns, unseen", "stops", "quota", "slow host"],
)
def test_contention_does_not_enter_the_kept_curve(kind: dict[str, object]) -> None:
    machine = Machine(AMX, **kind)  # type: ignore[arg-type]
    kept = machine.curve()
    before = as_kept(kept)
    threads = Threads(machine.cores, watch=machine.watch)
    threads.use(kept)
    run(threads, machine, 2000, sizes=SIZES)
    assert as_kept(kept) == pytest.approx(before, rel=0.05)
    assert float(kept.seconds(300)[1]) == pytest.approx(machine.curve().seconds(300)[1], rel=0.05)


def test_quiet_passes_refine_the_kept_curve() -> None:
    machine = Machine(AMX, slow=lambda now: 1.2)
    kept = machine.curve()
    threads = Threads(2, watch=machine.watch)
    threads.use(kept)
    run(threads, machine, 200)
    assert threads.costs() is kept and 200 - READ_TOGETHER < kept.steps_seen <= 200
    assert float(kept.seconds(300)[1]) == pytest.approx(1.2 * machine.curve().seconds(300)[1], rel=0.05)


def test_beside_other_programs_prices_are_those_of_the_threads_in_use() -> None:
    machine = Machine(AMX, beside=lambda now: 1)
    threads = opened(machine)
    run(threads, machine, 300, sizes=SIZES)
    while threads.count != 1:
        run(threads, machine, 1)
    for n in SIZES:
        seconds = 2.0 * float(machine.curve().seconds(300)[n])
        assert float(threads.costs().seconds(300)[n]) == pytest.approx(seconds, rel=0.3)


def test_a_curve_that_comes_while_others_run_is_priced_as_passes_are_now() -> None:
    machine = Machine(AMX, beside=lambda now: 1)
    threads = opened(machine, kept=False)
    run(threads, machine, 100)
    now = float(threads.costs().seconds(300)[1])
    kept = machine.curve()
    threads.use(kept)
    assert threads.costs() is not kept
    assert float(threads.costs().seconds(300)[1]) == pytest.approx(now, rel=0.1)
    assert threads.count == 1


def test_the_curve_of_another_setting_is_slowed_as_much() -> None:
    machine = Machine(AMX, beside=lambda now: 1)
    threads = opened(machine)
    while threads.count != 1 or threads.costs() is None:
        run(threads, machine, 1)
    run(threads, machine, 5)
    costs = threads.costs()
    assert costs is not None
    slower = float(costs.seconds(300)[1] / machine.curve().seconds(300)[1])
    threads.use(machine.curve().scaled(3.0))
    costs = threads.costs()
    assert costs is not None
    assert float(costs.seconds(300)[1]) == pytest.approx(
        3.0 * slower * machine.curve().seconds(300)[1], rel=0.02
    )


def test_a_scaled_curve_is_a_copy() -> None:
    curve = from_measurements({1: 1.0, 4: 2.0}, {}, 0)
    twice = curve.scaled(2.0)
    assert float(twice.seconds(256)[4]) == pytest.approx(2.0 * float(curve.seconds(256)[4]))
    for _ in range(50):
        twice.observe(1, 256, 9.0)
    assert float(curve.seconds(256)[1]) == pytest.approx(1.0) and curve.steps_seen == 0
