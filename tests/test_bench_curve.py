"""`aded-bench curve` measures with the engine's code, for the engine, and says what it could not do."""

from __future__ import annotations

import importlib.util
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from aded_bench import curve
from aded_bench.curve import Plan, entry_of, run
from aded_bench.curve_table import print_curves
from aded_bench.main import main
from aded_bench.results import ResultFile
from aded_local.engine import EngineOptions
from aded_local.errors import OptionError, StoreError
from aded_local.llama import ALL_LAYERS, ContextSettings, Model, Target
from aded_local.opening import open_engine
from aded_local.speed.cost_curve import BASE_FILL, LARGEST_BATCH
from aded_local.speed.exactness import CHAIN, ExactnessProbe
from aded_local.speed.measurements import Measurements, measurements_path
from aded_local.speed.pricing import Setting
from aded_local.speed.probe import PREFIX, SIZES, Probe
from aded_local.speed.tuning import CANDIDATES, setting_of

QUICK: dict[str, Any] = {"rounds": 1, "n_threads": 1, "n_ctx": 1024, "prefixes": (BASE_FILL, 640)}
OFF_F16 = {"attention": (False,), "cache_types": ("f16",)}


@pytest.fixture(autouse=True)
def short_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which setting the engine chooses is nobody's question here."""
    monkeypatch.setattr("aded_local.speed.tuning.TRIAL_SECONDS", 0.0)


def curves(result: dict[str, Any]) -> dict[tuple[bool, str, int], dict[str, Any]]:
    return {(c["flash_attention"], c["cache_type"], c["prefix"]): c for c in result["curves"]}


def test_every_combination_and_prefix_asked_for_has_its_curve(tiny: dict[str, Path]) -> None:
    plan = Plan(
        tiny["llama"], sizes=(1, 2, 4, 40), attention=(False, True), cache_types=("f16", "q8_0"), **QUICK
    )
    steps: list[str] = []
    result = run(plan, ResultFile(None), steps.append)
    found = curves(result)
    assert result["complete"]
    assert set(found) == {
        (attention, kind, prefix)
        for attention in (False, True)
        for kind in ("f16", "q8_0")
        for prefix in (BASE_FILL, 640)
    }
    assert len(steps) == curve.total_steps(plan)
    for (attention, kind, _), entry in found.items():
        if kind == "q8_0":  # not without flash attention, nor with heads of 16 values
            assert ("flash_attn" if not attention else "head") in entry["note"] and not entry["milliseconds"]
            continue
        assert list(entry["milliseconds"]) == ["1", "2", "4", "40"]
        assert entry["note"] is None and entry["rounds"] == 1 and entry["ratio"]["1"] == 1.0
        assert 1 in entry["exact"]
        assert all(entry["low"][n] <= entry["milliseconds"][n] <= entry["high"][n] for n in entry["low"])


def test_what_the_engine_chooses_among_is_measured_unless_told_otherwise(tiny: dict[str, Path]) -> None:
    assert Plan(tiny["llama"]).combinations() == list(CANDIDATES)
    with_it = [each for each in CANDIDATES if each.flash_attention]
    assert Plan(tiny["llama"], attention=(True,)).combinations() == with_it
    asked = Plan(tiny["llama"], cache_types=("q8_0",)).combinations()
    assert asked == [Setting(False, "q8_0"), Setting(True, "q8_0")]


@pytest.mark.usefixtures("quiet_machine")
def test_the_engine_goes_by_the_curve_measured_here(tiny: dict[str, Path]) -> None:
    result = run(Plan(tiny["llama"], **QUICK), ResultFile(None))
    said: list[str] = []
    options = EngineOptions("auto", "off", 1024, 1, ALL_LAYERS, None, None, False)
    engine = open_engine(tiny["llama"], options, said.append, said.append)
    try:
        assert not any("measuring" in line or "finding" in line for line in said)
        assert engine.curve is not None
        chosen = result["chosen"]
        assert chosen["flash_attention"] == engine.target.settings.flash_attention
        measured = curves(result)[chosen["flash_attention"], chosen["cache_type"], BASE_FILL]["milliseconds"]
        # Where the pass over one token was interrupted, a wider one may have taken less, and counts for it.
        expected = measured | {"1": min(measured.values())}
        for n in (1, *SIZES):
            assert 1e3 * engine.curve.base[n] == pytest.approx(expected[str(n)], abs=1e-3)
        exactness = engine.tuner.exactness(setting_of(engine.target.settings))
        assert exactness is not None and exactness.fills == [256, 512]
    finally:
        engine.close()


@pytest.mark.parametrize("change", [{"keep": False}, {"sizes": (1, 2, 4)}, {"prefixes": (640,)}])
def test_less_than_the_engine_would_measure_is_not_kept(
    tiny: dict[str, Path], change: dict[str, Any]
) -> None:
    notices: list[str] = []
    run(Plan(tiny["llama"], **{**QUICK, **OFF_F16, **change}), ResultFile(None), notice=notices.append)
    assert bool(notices) == ("keep" not in change)
    model = Model(tiny["llama"])
    settings = ContextSettings(1024, 1, False, "f16", 8)
    assert not Measurements(measurements_path(model, settings, ALL_LAYERS)).curves
    model.close()


def test_a_prefix_longer_than_the_context_is_clipped_and_said(tiny: dict[str, Path]) -> None:
    notices: list[str] = []
    plan = Plan(
        tiny["llama"], **QUICK | OFF_F16 | {"prefixes": (100, 5000, 9000), "sizes": (1, 2)}, exact=False
    )
    steps: list[str] = []
    result = run(plan, ResultFile(None), steps.append, notices.append)
    assert [c["prefix"] for c in result["curves"]] == [96, 1024 - LARGEST_BATCH - PREFIX]
    assert len([line for line in notices if "is measured at" in line]) == 3
    assert len(steps) == curve.total_steps(plan)
    assert all(c["exact"] is None for c in result["curves"])


def test_a_running_state_has_one_prefix_and_few_sizes(tiny: dict[str, Path]) -> None:
    result = run(Plan(tiny["lfm2"], **QUICK | OFF_F16), ResultFile(None))
    assert [c["prefix"] for c in result["curves"]] == [PREFIX]
    assert max(int(n) for n in result["curves"][0]["milliseconds"]) == 9


@pytest.mark.usefixtures("quiet_machine")
def test_ctrl_c_keeps_what_there_is_and_the_next_run_goes_on(
    tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(tiny["llama"], **QUICK | OFF_F16 | {"sizes": (1, 2, 4)})
    file = ResultFile(tmp_path / "curve.json")
    steps: list[str] = []

    def stop(note: str) -> None:
        steps.append(note)
        if len(steps) == 3:  # the first curve is there, and the times of the second
            raise KeyboardInterrupt

    half = run(plan, file, stop)
    assert not half["complete"]
    assert [c["prefix"] for c in half["curves"]] == [BASE_FILL, 640]
    assert half["curves"][0]["exact"] is not None and half["curves"][1]["exact"] is None

    timed: list[int] = []
    passes = Probe.passes

    def counted(self: Probe, sizes: Any, n_cells: int, **options: Any) -> Any:
        timed.append(n_cells)
        return passes(self, sizes, n_cells, **options)

    monkeypatch.setattr(Probe, "passes", counted)
    whole = run(plan, ResultFile(tmp_path / "curve.json"))
    assert whole["complete"] and timed == [640]
    assert curves(whole)[False, "f16", BASE_FILL] == curves(half)[False, "f16", BASE_FILL]
    with pytest.raises(OptionError, match="settings"):
        run(Plan(tiny["llama"], **QUICK | OFF_F16), ResultFile(tmp_path / "curve.json"))


def test_sizes_are_timed_round_by_round_from_the_same_cells(tiny: dict[str, Path]) -> None:
    model = Model(tiny["llama"])
    target = Target(model, ContextSettings(512, 1, False, "f16", 8))
    probe = Probe(target.context)
    assert [n for n, _ in probe.passes((4, 2), 256, rounds=2)] == [1, 4, 2, 1, 4, 2]
    assert [n for n, _ in probe.passes((4, 2), 256, rounds=2, seconds=-1.0)] == [1, 4, 2]
    assert target.context.n_past == 0
    assert [probe.cells_for(n) for n in (10, 100, 256, 416, 417)] == [32, 96, 256, 416, 32]
    target.close()


def test_exactness_is_probed_beyond_the_engine_s_chain_when_asked(tiny: dict[str, Path]) -> None:
    model = Model(tiny["llama"])
    target = Target(model, ContextSettings(512, 1, False, "f16", 8))
    probe = ExactnessProbe(target.context)
    sizes = (2, CHAIN, 48)
    longer = probe.exact_sizes(sizes, 256, longest=LARGEST_BATCH)
    assert probe.exact_sizes(sizes, 256) == {n for n in longer if n <= CHAIN}
    # What it says holds for logits looked at by hand.
    tokens = model.random_tokens(PREFIX + 48, 1)
    one_by_one = []
    target.context.prefill(tokens[:PREFIX], want_logits=False)
    for token in tokens[PREFIX:]:
        target.context.prefill(np.array([token], np.int32))
        one_by_one.append(target.context.logits(-1).copy())
    target.context.roll_back(PREFIX)
    target.context.probe_batch(tokens[PREFIX:])
    for row, expected in enumerate(one_by_one):
        assert np.allclose(target.context.logits(row), expected, atol=1e-3)
    target.close()


def test_the_command_prints_tables_and_writes_its_result(tiny: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "curve.json"
    arguments = ["curve", str(tiny["llama"]), "--sizes", "1,2", "--rounds", "1", "-t", "1", "-c", "1024"]
    arguments += ["--prefix", "256,640", "--attention", "off", "--cache", "f16,q8_0", "--json", str(out)]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert "flash attention off, f16 cache, after 640 cells" in done.output
    assert "flash_attn" in done.output, "why a combination does not work"
    result = json.loads(out.read_text())
    assert result["kind"] == "curve" and result["complete"]
    assert result["provenance"]["settings"]["sizes"] == [1, 2]
    assert result["provenance"]["engine"]["threads"] == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--sizes", "1,x"],
        ["--sizes", "0"],
        ["--sizes", "65"],
        ["--sizes", "2", "--all"],
        ["--prefix", ""],
        ["--attention", "maybe"],
        ["--cache", "f17"],
        ["--rounds", "0"],
    ],
)
def test_bad_options_are_one_line(tiny: dict[str, Path], arguments: list[str]) -> None:
    done = CliRunner().invoke(main, ["curve", str(tiny["llama"]), *arguments])
    assert done.exit_code == 2
    assert len(done.output.strip().splitlines()) == 1


def test_a_chart_without_matplotlib_is_refused_before_anything_is_measured(
    tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(curve, "run", lambda *_: pytest.fail("measured"))
    done = CliRunner().invoke(main, ["curve", str(tiny["llama"]), "--png", str(tmp_path / "c.png")])
    assert done.exit_code == 2
    assert "aded-local[bench]" in done.output


def made(**keys: Any) -> dict[str, Any]:
    """A result without measuring."""
    provenance = {"model": {"file": "x[/b].gguf"}, "engine": {"threads": 1}}
    return {"kind": "curve", "complete": False, "curves": [], "chosen": {}, "provenance": provenance} | keys


def test_a_chart_that_could_not_be_written_is_refused_before_anything_is_measured(
    tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(curve, "run", lambda *_: pytest.fail("measured"))
    for path in (tmp_path, tmp_path / "absent" / "c.png", tiny["llama"]):
        done = CliRunner().invoke(main, ["curve", str(tiny["llama"]), "--png", str(path)])
        assert done.exit_code == 2 and len(done.output.strip().splitlines()) == 1


def test_an_early_ctrl_c_leaves_nothing_to_draw_and_is_still_an_interruption(
    tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(curve, "run", lambda *_: made())
    done = CliRunner().invoke(main, ["curve", str(tiny["llama"]), "--png", str(tmp_path / "c.png")])
    assert done.exit_code == 130 and "no curve to draw" in done.output
    assert not (tmp_path / "c.png").exists()


def test_square_brackets_in_names_and_reasons_are_no_markup() -> None:
    out = io.StringIO()
    entries = [
        entry_of((False, "f16"), 256, {1: [0.1]}),
        entry_of((True, "f16"), 256, {}, note="no [/i] here"),
    ]
    print_curves(made(curves=entries), Console(file=out, width=200))
    assert out.getvalue().count("x[/b].gguf") == 2 and "no [/i] here" in out.getvalue()


def test_curves_are_continued_where_the_engine_chose_otherwise_before(
    tiny: dict[str, Path], tmp_path: Path
) -> None:
    plan = Plan(tiny["llama"], **QUICK | OFF_F16 | {"sizes": (1, 2), "keep": False}, exact=False)
    file = ResultFile(tmp_path / "curve.json")
    result = run(plan, file)
    engine = result["provenance"]["engine"]
    other = engine | {"flash_attention": not engine["flash_attention"], "cache_type": "q8_0"}
    file.save(result | {"provenance": result["provenance"] | {"engine": other}}, now=True)
    assert run(plan, file)["curves"] == result["curves"], "nothing is measured again"


def test_damaged_curves_are_not_continued(tiny: dict[str, Path], tmp_path: Path) -> None:
    plan = Plan(tiny["llama"], **QUICK | OFF_F16 | {"sizes": (1, 2), "keep": False}, exact=False)
    file = ResultFile(tmp_path / "curve.json")
    result = run(plan, file)
    for change in ({"milliseconds": None}, {"rounds": "many"}, {"note": 3}, {"ratio": {"1": "x"}}):
        file.save(result | {"curves": [result["curves"][0] | change]}, now=True)
        with pytest.raises(StoreError, match="damaged"):
            run(plan, file)
