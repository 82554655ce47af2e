"""Which setting is chosen: the fastest, unless exact sizes cost next to nothing; what is kept, and what is not."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from aded_local.files import cache_folder
from aded_local.llama import ALL_LAYERS, ContextSettings, Model, Target
from aded_local.speed import tuning
from aded_local.speed.cost_curve import BASE_FILL
from aded_local.speed.probe import LEAST_SIZES, SIZES, Probe
from aded_local.speed.tuning import CANDIDATES, EXACT_WORTH, Tuner

Speeds = dict[tuple[bool, str], float]
Exact = dict[tuple[bool, str], set[int]]

ALL_SIZES = set(range(1, 9))


@pytest.fixture(scope="module")
def model(tiny: dict[str, Path]) -> Model:
    return Model(tiny["llama"])


def tuner(model: Model, *, exact: bool = False, said: list[str] | None = None) -> Tuner:
    wanted = ContextSettings(512, 1, False, "f16", 4)
    notes = [] if said is None else said
    return Tuner(
        model,
        wanted,
        exact=exact,
        flash_attention=None,
        cache_type=None,
        n_gpu_layers=ALL_LAYERS,
        progress=notes.append,
        notice=notes.append,
    )


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine whose passes take what is said, with the exact sizes that are said."""

    def made(speeds: Speeds, exact: Exact, busy: bool = False) -> None:
        def setting(probe: Probe) -> tuple[bool, str]:
            settings = probe._context.settings
            return settings.flash_attention, settings.cache_type

        def time_sizes(probe: Probe, sizes: Iterable[int], n_cells: int, **_: Any) -> dict[int, float]:
            probe.contended |= busy
            return {n: speeds[setting(probe)] * n for n in sizes}

        def exact_sizes(probe: Probe, sizes: Iterable[int], n_cells: int, **_: Any) -> set[int]:
            return {1} | (set(sizes) & exact.get(setting(probe), set()))

        monkeypatch.setattr(Probe, "time_sizes", time_sizes)
        monkeypatch.setattr(Probe, "exact_sizes", exact_sizes)

    return made


OFF_F16, ON_BF16, ON_F16 = CANDIDATES


def chosen(settings: ContextSettings) -> tuple[bool, str]:
    return settings.flash_attention, settings.cache_type


def test_the_fastest_setting_is_taken(model: Model, machine: Any) -> None:
    machine({OFF_F16: 1.0, ON_BF16: 2.0, ON_F16: 1.5}, {ON_BF16: ALL_SIZES})
    assert chosen(tuner(model).settle()) == OFF_F16


def test_exact_sizes_are_worth_a_twentieth_and_no_more(model: Model, machine: Any) -> None:
    machine({OFF_F16: 1.0, ON_BF16: EXACT_WORTH - 0.01, ON_F16: 1.5}, {ON_BF16: ALL_SIZES})
    assert chosen(tuner(model).settle()) == ON_BF16
    for kept in cache_folder().rglob("measurements/*.json"):
        kept.unlink()
    machine({OFF_F16: 1.0, ON_BF16: EXACT_WORTH + 0.01, ON_F16: 1.5}, {ON_BF16: ALL_SIZES})
    assert chosen(tuner(model).settle()) == OFF_F16


def test_another_build_or_device_is_measured_anew(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ContextSettings(512, 1, False, "f16", 4)
    places = {tuning.measurements_path(model, wanted, ALL_LAYERS) for _ in range(2)}
    assert len(places) == 1
    monkeypatch.setattr(tuning, "gpu_names", lambda: ["a new GPU"])
    places.add(tuning.measurements_path(model, wanted, ALL_LAYERS))
    monkeypatch.setattr(tuning.library, "fingerprint", lambda paths: "built anew")
    places.add(tuning.measurements_path(model, wanted, ALL_LAYERS))
    monkeypatch.setattr(tuning.library, "files", list)
    places.add(tuning.measurements_path(model, wanted, ALL_LAYERS))
    assert len(places) == 4


def test_what_is_found_is_kept(model: Model, machine: Any) -> None:
    machine({OFF_F16: 1.0, ON_BF16: 0.5, ON_F16: 1.5}, {})
    first = tuner(model)
    assert not first.settled and chosen(first.open().settings) == OFF_F16
    first.settle()
    said: list[str] = []
    again = tuner(model, said=said)
    assert again.settled and chosen(again.settle()) == ON_BF16 and said == []


def test_what_is_found_beside_other_programs_is_used_and_not_kept(model: Model, machine: Any) -> None:
    machine({OFF_F16: 1.0, ON_BF16: 0.5, ON_F16: 1.5}, {}, busy=True)
    busy = tuner(model)
    assert chosen(busy.settle()) == ON_BF16 and busy.settled
    assert not tuner(model).settled


def test_a_curve_measured_beside_other_programs_is_used_and_not_kept(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ContextSettings(512, 1, False, "f16", 4)
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
    settings = ContextSettings(512, 1, False, "f16", 4)
    monkeypatch.setattr("aded_local.speed.probe.contended", lambda waiting, samples: False)
    first = tuner(model).measure_curve(settings).base.copy()
    monkeypatch.setattr("aded_local.speed.probe.contended", lambda waiting, samples: True)
    second = tuner(model)
    assert second.measure_curve(settings).base == pytest.approx(first)
    assert second.curve_is_due(settings), "a quiet start is to come"


def test_exact_sizes_are_kept_however_busy_the_machine(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ContextSettings(512, 1, False, "f16", 4)
    monkeypatch.setattr("aded_local.speed.probe.contended", lambda waiting, samples: True)
    busy = tuner(model)
    curve = busy.measure_curve(settings)
    busy.measure_exactness(settings, curve)
    monkeypatch.setattr(Probe, "exactness", lambda probe: pytest.fail("known already"))
    again = tuner(model)
    other = again.measure_curve(settings)
    again.measure_exactness(settings, other)
    assert other.exact == curve.exact


def test_a_least_number_of_sizes_is_always_measured(model: Model) -> None:
    target = Target(model, ContextSettings(512, 1, False, "f16", 4))
    found = Probe(target.context).time_sizes(SIZES, BASE_FILL, seconds=0.0)
    target.context.close()
    assert sorted(found) == sorted({1, *SIZES[: LEAST_SIZES - 1]})


def test_with_exact_the_setting_with_most_exact_sizes_wins_however_slow(
    model: Model, machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine({OFF_F16: 1.0, ON_BF16: 3.0, ON_F16: 1.5}, {ON_BF16: ALL_SIZES, ON_F16: {1, 2, 3}})
    monkeypatch.setattr(Probe, "lasting_sizes", lambda probe, sizes, *_: set(sizes))
    assert chosen(tuner(model, exact=True).settle()) == ON_BF16


def test_the_module_names_each_setting_once() -> None:
    assert len({tuning.setting_name(*each) for each in CANDIDATES}) == len(CANDIDATES)
