"""Which setting is chosen, at which length of the text; what is kept, what is not, and what is doubted later."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from aded_local.errors import DeviceError
from aded_local.files import cache_folder
from aded_local.llama import ALL_LAYERS, ContextSettings, Model, Target
from aded_local.speed import first_passes, measurements
from aded_local.speed.choosing import TRIAL_ROUNDS
from aded_local.speed.cost_curve import BASE_FILL
from aded_local.speed.exactness import Exactness, ExactnessProbe
from aded_local.speed.first_passes import FirstPasses
from aded_local.speed.pricing import Same, Setting
from aded_local.speed.probe import LEAST_SIZES, SIZES, OpenGate, Probe
from aded_local.speed.tuning import CANDIDATES, ROW_BY_ROW, Tuner, setting_of

Speeds = dict[Setting, float]
Exact = dict[Setting, set[int]]

ALL_SIZES = set(range(1, 17))
WANTED = ContextSettings(512, 1, False, "f16", 4)


@pytest.fixture(scope="module")
def model(tiny: dict[str, Path]) -> Model:
    return Model(tiny["llama"])


def tuner(
    model: Model,
    *,
    same: Same = "cheap",
    said: list[str] | None = None,
    most_threads: int | None = None,
    fixed: Setting | None = None,
) -> Tuner:
    notes = [] if said is None else said
    return Tuner(
        model,
        WANTED,
        same=same,
        flash_attention=None if fixed is None else fixed.flash_attention,
        cache_type=None if fixed is None else fixed.cache_type,
        n_gpu_layers=ALL_LAYERS,
        progress=notes.append,
        notice=notes.append,
        most_threads=most_threads,
    )


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine whose passes take what is said (two tokens twice as long as one), with the exact sizes that are said.

    A speed of None is a setting that does not work. Gives a list of what was timed.
    """

    def made(speeds: Any, exact: Exact, busy: bool = False, far: float = 1.0) -> list[Setting]:
        timed: list[Setting] = []
        monkeypatch.setattr("aded_local.llama.rows.AVAILABLE", any(each.row_by_row for each in speeds))

        def setting(probe: Probe) -> Setting:
            return setting_of(probe._context.settings)

        def time_sizes(probe: Probe, sizes: Iterable[int], n_cells: int, **_: Any) -> dict[int, float]:
            probe.contended |= busy
            timed.append(setting(probe))
            if speeds[setting(probe)] is None:
                raise DeviceError("no such kernel")
            dearer = far if n_cells > BASE_FILL and setting(probe).flash_attention else 1.0
            return {n: speeds[setting(probe)] * n * dearer for n in sizes}

        monkeypatch.setattr(Probe, "time_sizes", time_sizes)
        monkeypatch.setattr(Probe, "time_prompt", lambda probe: 1e-3)
        monkeypatch.setattr(
            ExactnessProbe,
            "exactness",
            lambda probe, _told: Exactness(
                sorted({1} | exact.get(setting(probe), set())), [256], steady=True
            ),
        )
        return timed

    return made


OFF_F16, ON_BF16, ON_F16 = CANDIDATES


def test_the_fastest_setting_is_taken(model: Model, machine: Any) -> None:
    machine({OFF_F16: 1.0, ON_BF16: 2.0, ON_F16: 1.5}, {ON_BF16: ALL_SIZES})
    assert tuner(model, same="off").settle().setting == OFF_F16


def test_whoever_waits_is_told_how_far_it_is(model: Model, machine: Any) -> None:
    machine(dict.fromkeys(CANDIDATES, 1.0), {OFF_F16: ALL_SIZES, ON_BF16: ALL_SIZES, ON_F16: ALL_SIZES})
    said: list[str] = []
    tuner(model, same="exact", said=said).settle()
    counts = [line.rpartition(": ")[2] for line in said if line.startswith("finding the attention")]
    assert counts == [f"{i} of {len(counts)}" for i in range(1, len(counts) + 1)] != []


def test_another_build_or_device_is_measured_anew(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {measurements.measurements_path(model, WANTED, ALL_LAYERS) for _ in range(2)}
    assert len(places) == 1
    monkeypatch.setattr(measurements, "gpu_names", lambda: ["a new GPU"])
    places.add(measurements.measurements_path(model, WANTED, ALL_LAYERS))
    monkeypatch.setattr(measurements.library, "fingerprint", lambda paths: "built anew")
    places.add(measurements.measurements_path(model, WANTED, ALL_LAYERS))
    monkeypatch.setattr(measurements.library, "files", list)
    places.add(measurements.measurements_path(model, WANTED, ALL_LAYERS))
    assert len(places) == 4


def test_what_is_found_is_kept(model: Model, machine: Any) -> None:
    timed = machine({OFF_F16: 1.0, ON_BF16: 0.5, ON_F16: 1.5}, {})
    first = tuner(model)
    assert not first.settled and setting_of(first.open().settings) == OFF_F16
    first.settle()
    # The candidates take turns, round by round.
    assert list(dict.fromkeys(timed)) == list(CANDIDATES) and timed[:3] * TRIAL_ROUNDS != timed[:6]
    said: list[str] = []
    again = tuner(model, said=said)
    assert again.settled and again.settle().setting == ON_BF16 and said == []
    assert setting_of(again.open().settings) == ON_BF16


def test_what_is_found_beside_other_programs_is_used_and_not_kept(model: Model, machine: Any) -> None:
    machine({OFF_F16: 1.0, ON_BF16: 0.5, ON_F16: 1.5}, {}, busy=True)
    busy = tuner(model)
    assert busy.settle().setting == ON_BF16 and busy.settled
    assert not tuner(model).settled


def test_a_setting_that_does_not_work_is_not_tried_twice(model: Model, machine: Any) -> None:
    timed = machine({OFF_F16: 1.0, ON_BF16: None, ON_F16: 1.5}, {})
    tuner(model).settle()
    assert timed.count(ON_BF16) == 1
    again = tuner(model)
    assert again.settled and again.settle().setting == OFF_F16


@pytest.mark.parametrize(("takes", "chosen"), [(0.9, 2), (0.97, 0)])
def test_passes_over_several_tokens_get_threads_of_their_own_where_that_pays(
    model: Model, machine: Any, monkeypatch: pytest.MonkeyPatch, takes: float, chosen: int
) -> None:
    machine({OFF_F16: 1.0, ON_BF16: 2.0, ON_F16: 3.0}, {})
    compared: list[tuple[int, ...]] = []

    def time_thread_counts(_: Probe, counts: tuple[int, ...], *__: Any, **___: Any) -> dict[int, float]:
        compared.append(counts)
        return {1: 1.0, 2: takes}

    monkeypatch.setattr(Probe, "time_thread_counts", time_thread_counts)
    for _ in range(2):
        found = tuner(model, most_threads=2)
        found.settle()
        assert found.settings(OFF_F16).n_threads_batch == chosen
    assert compared == [(1, 2)], "once for each machine"
    alone = tuner(model)
    alone.settle()
    assert alone.settings(OFF_F16).n_threads_batch == 0, "a wish for one thread stands"


def test_thread_counts_are_compared_in_turn(model: Model) -> None:
    target = Target(model, WANTED)
    found = Probe(target.context).time_thread_counts((1, 2), 64, seconds=0.0)
    assert found.keys() == {1, 2} and min(found.values()) > 0.0
    assert target.context.n_threads == 1 and target.context.n_past == 0
    target.context.close()


def test_the_words_asked_for_change_the_choice_and_not_what_is_measured(model: Model, machine: Any) -> None:
    timed = machine({OFF_F16: 1.0, ON_BF16: 1.5, ON_F16: 3.0}, {ON_BF16: ALL_SIZES})
    assert not tuner(model, same="off").settle().exact
    n_timed = len(timed)
    exact = tuner(model, same="exact")
    assert not exact.settled, "exact sizes are not known yet"
    assert exact.settle().exact and len(timed) == n_timed
    assert tuner(model, same="exact").settled and tuner(model).settled


def test_a_long_turn_is_answered_in_another_setting_and_a_short_one_is_not(
    model: Model, machine: Any
) -> None:
    machine({OFF_F16: 0.1, ON_BF16: 0.08, ON_F16: 3.0}, {ON_BF16: ALL_SIZES}, far=1.3)
    found = tuner(model)
    assert found.settle().setting == ON_BF16
    first = found.turn(OFF_F16, 100, 0, 200)
    assert first is not None and first.setting == ON_BF16
    long = found.turn(ON_BF16, 400, 0, 200)
    assert long is not None and long.setting == OFF_F16
    short = found.turn(ON_BF16, 400, 400, 1)
    assert short is not None and short.setting == ON_BF16, "400 tokens would be read again for one"


def test_row_by_row_is_tried_where_words_are_to_be_kept_and_the_build_has_it(
    model: Model, machine: Any
) -> None:
    rows, other = ROW_BY_ROW
    speeds = {OFF_F16: 1.0, ON_BF16: 2.0, ON_F16: 3.0, rows: 1.0, other: 3.0}
    timed = machine(speeds, {rows: ALL_SIZES})
    assert not tuner(model, same="off").settle().setting.row_by_row and rows not in timed
    found = tuner(model, same="exact")
    best = found.settle()
    assert rows in timed and best.exact
    assert best.setting in (
        OFF_F16,
        rows,
    )  # where drafts do not pay, plain decoding needs no kernel of its own
    assert found.settings(rows).row_by_row and setting_of(found.settings(rows)) == rows


def test_exact_stays_in_its_setting_however_long_the_text(model: Model, machine: Any) -> None:
    machine({OFF_F16: 0.1, ON_BF16: 0.08, ON_F16: 3.0}, {ON_BF16: ALL_SIZES}, far=1.3)
    found = tuner(model, same="exact")
    setting = found.settle().setting
    turn = found.turn(setting, 400, 0, 200)
    assert turn is not None and turn.setting == setting and turn.exact


def test_passes_that_take_what_was_measured_are_no_reason_to_measure_again(
    model: Model, machine: Any
) -> None:
    machine({OFF_F16: 1.0, ON_BF16: 2.0, ON_F16: 3.0}, {})
    tuner(model).settle()
    again = tuner(model)
    again.see_passes(WANTED, [(256, 1.1)] * first_passes.PASSES)
    assert not again.doubtful


@pytest.mark.parametrize("takes", [1.3, 0.7])
def test_passes_that_take_another_time_are_measured_again_and_replace_what_was_kept(
    model: Model, machine: Any, monkeypatch: pytest.MonkeyPatch, takes: float
) -> None:
    machine({OFF_F16: 1.0, ON_BF16: 1.1, ON_F16: 3.0}, {})
    monkeypatch.setattr("aded_local.speed.probe.contended", lambda waiting, samples: False)
    tuner(model, same="off").settle()
    again = tuner(model, same="off")
    again.see_passes(WANTED, [(256, takes)] * (first_passes.PASSES - 1))
    assert not again.doubtful, "too few to tell"
    again.see_passes(WANTED, [(256, takes)])
    assert again.doubtful
    machine({OFF_F16: takes, ON_BF16: takes / 2, ON_F16: 3.0}, {})
    assert again.measure_again(WANTED, OpenGate()) is not None
    assert not again.doubtful and again.settle().setting == ON_BF16
    later = tuner(model, same="off")
    assert later.settle().setting == ON_BF16
    later.see_passes(WANTED, [(256, takes)] * first_passes.PASSES)
    assert not later.doubtful


def test_a_second_trial_that_finds_the_same_tells_what_passes_usually_take(
    model: Model, machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine({OFF_F16: 1.0, ON_BF16: 2.0, ON_F16: 3.0}, {})
    monkeypatch.setattr("aded_local.speed.probe.contended", lambda waiting, samples: False)
    tuner(model).settle()
    again = tuner(model)
    again.see_passes(WANTED, [(256, 1.25)] * first_passes.PASSES)
    assert again.doubtful and again.measure_again(WANTED, OpenGate()) is not None
    later = tuner(model)
    later.see_passes(WANTED, [(256, 1.25)] * first_passes.PASSES)
    assert not later.doubtful


def test_measuring_again_with_a_fixed_setting_leaves_the_trials_of_others(
    model: Model, machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine({OFF_F16: 1.0, ON_BF16: 0.9, ON_F16: 3.0}, {})
    monkeypatch.setattr("aded_local.speed.probe.contended", lambda waiting, samples: False)
    tuner(model).settle()
    fixed = tuner(model, fixed=OFF_F16)
    fixed.see_passes(WANTED, [(256, 2.0)] * first_passes.PASSES)
    assert fixed.doubtful and fixed.measure_again(WANTED, OpenGate()) is not None
    later = tuner(model)
    assert later.settled and later.settle().setting == ON_BF16


def test_beside_other_programs_nothing_is_replaced(model: Model, machine: Any) -> None:
    machine({OFF_F16: 1.0, ON_BF16: 2.0, ON_F16: 3.0}, {})
    tuner(model).settle()
    again = tuner(model)
    again.see_passes(WANTED, [(256, 3.0)] * first_passes.PASSES)
    machine({OFF_F16: 3.0, ON_BF16: 1.0, ON_F16: 3.0}, {}, busy=True)
    assert again.doubtful and again.measure_again(WANTED, OpenGate()) is None
    assert not again.doubtful, "once for each start"
    assert tuner(model).settle().setting == OFF_F16


def test_a_damaged_file_is_measured_anew(model: Model, machine: Any) -> None:
    machine({OFF_F16: 1.0, ON_BF16: 2.0, ON_F16: 3.0}, {})
    tuner(model).settle()
    [kept] = cache_folder().rglob("measurements/*.json")
    whole = json.loads(kept.read_text())
    for key, value in (
        ("trials", {"fa-off/f16": {"seconds": {}, "prompt_token": 1.0, "rounds": 2}}),
        ("trials", {"fa-off/f16": {"seconds": {"256": {"1": -1.0}}, "prompt_token": 1.0, "rounds": 2}}),
        ("trials", 7),
        ("usual", 1e9),
        ("usual", None),
        ("failed", None),
    ):
        kept.write_text(json.dumps(whole | {key: value}))
        assert not tuner(model).settled, (key, value)


def test_the_first_passes_are_compared_by_their_median() -> None:
    first = FirstPasses()
    for n in range(first_passes.PASSES):
        first.see(30.0 if n % 3 == 0 else 1.0, 1.0)  # every third was interrupted
    assert first.ratio == 1.0 and not first.doubt(1.0)


def test_a_curve_measured_beside_other_programs_is_used_and_not_kept(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = WANTED
    monkeypatch.setattr("aded_local.speed.probe.contended", lambda waiting, samples: True)
    busy = tuner(model)
    curve = busy.measure_curve(settings)
    assert curve.contended and len(curve.measured) >= 5
    assert busy.curve_is_due(settings) and not list(cache_folder().rglob("measurements/*.json"))
    monkeypatch.setattr("aded_local.speed.probe.contended", lambda waiting, samples: False)
    quiet = tuner(model)
    quiet.measure_curve(settings)
    [kept] = cache_folder().rglob("measurements/*.json")
    assert json.loads(kept.read_text())["curves"].keys() == {"fa-off/f16"}


def test_a_busy_second_measurement_does_not_change_the_first(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = WANTED
    monkeypatch.setattr("aded_local.speed.probe.contended", lambda waiting, samples: False)
    first = tuner(model).measure_curve(settings).base.copy()
    monkeypatch.setattr("aded_local.speed.probe.contended", lambda waiting, samples: True)
    second = tuner(model)
    assert second.measure_curve(settings).base == pytest.approx(first)
    assert second.curve_is_due(settings), "a quiet start is to come"


def test_exact_sizes_are_kept_however_busy_the_machine(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aded_local.speed.probe.contended", lambda waiting, samples: True)
    found = tuner(model).find_exactness(OFF_F16)
    monkeypatch.setattr(ExactnessProbe, "exactness", lambda probe, _told: pytest.fail("known already"))
    assert tuner(model).find_exactness(OFF_F16) == found


def test_a_least_number_of_sizes_is_always_measured(model: Model) -> None:
    target = Target(model, ContextSettings(512, 1, False, "f16", 4))
    found = Probe(target.context).time_sizes(SIZES, BASE_FILL, seconds=0.0)
    target.context.close()
    assert sorted(found) == sorted({1, *SIZES[: LEAST_SIZES - 1]})


def test_with_exact_a_dear_setting_gives_way_to_plain_decoding(model: Model, machine: Any) -> None:
    machine({OFF_F16: 1.0, ON_BF16: 3.0, ON_F16: 1.5}, {ON_BF16: ALL_SIZES, ON_F16: {1, 2, 3}})
    found = tuner(model, same="exact").settle()
    assert found.setting == OFF_F16 and found.exact


def test_the_module_names_each_setting_once() -> None:
    every = CANDIDATES + ROW_BY_ROW
    assert len({each.name for each in every}) == len(every)
