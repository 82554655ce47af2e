"""`aded-bench sameness`: every version of a model is made, compared once, and removed."""

from __future__ import annotations

import io
import json
import signal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fake_arms import FakeArm
from rich.console import Console

from aded_bench.lossless_tables import broken, print_sameness
from aded_bench.main import main
from aded_bench.results import ResultFile
from aded_bench.run import lossless, sameness
from aded_bench.run.suites import SHELL, find, load
from aded_bench.schema import KINDS, check
from aded_local.errors import OptionError, StoreError
from aded_local.llama.quantize import FILE_TYPES, quantize
from aded_models.builtin import draft_path

TENSORS = {"Q4_0": {"tensors": 3, "weights": 60}, "Q8_0": {"tensors": 1, "weights": 40}}


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Fake arms and a fake quantizer, which note what was done; ``change`` may alter an arm when it is made."""
    state: dict[str, Any] = {"log": [], "made": [], "change": lambda arm: None}

    def arm(name: str, *_: object, **__: object) -> FakeArm:
        found = FakeArm(name, state["log"])
        state["change"](found)
        return found

    def make(source: Path, folder: Path, file_type: str) -> Path:
        state["made"].append(file_type)
        path = folder / f"{source.stem}-{file_type}.gguf"
        path.write_bytes(file_type.encode())
        state["folder"] = folder
        return path

    monkeypatch.setattr(lossless, "open_local", arm)
    monkeypatch.setattr(lossless, "open_arm", arm)
    monkeypatch.setattr(lossless, "LlamaArm", lambda *_, **__: arm("witness"))
    monkeypatch.setattr(lossless, "logits_setup", lambda setup, _longest: setup)
    monkeypatch.setattr(sameness, "make", make)
    monkeypatch.setattr(sameness, "tensors_of", lambda _path: TENSORS)
    return state


def plan_of(tmp_path: Path) -> sameness.Plan:
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF")
    return sameness.Plan(
        model=model,
        suite="shell",
        max_tokens=16,
        seed=0,
        conversations=load(find(SHELL, None, model), 5, 0, 0)[0],
        presets=("auto",),
        temperatures=(0.0, 0.8),
        same=("exact", "off"),
        peer=False,
        types=("q4_0", "bf16", "q8_0"),
    )


def test_every_version_is_made_compared_and_removed(fakes: dict[str, Any], tmp_path: Path) -> None:
    plan, steps = plan_of(tmp_path), list[str]()
    result = sameness.run(plan, ResultFile(None), steps.append)
    check(result, KINDS["sameness"])
    assert fakes["made"] == list(result["types"]) == ["q4_0", "bf16", "q8_0"]
    assert result["complete"] and broken(result) == [] and not fakes["folder"].exists()
    assert len(steps) == sameness.total_steps(plan) == 3 * 2 * 2 * 2 * 5
    assert [part["provenance"]["model"]["file"] for part in result["types"].values()] == [
        "model-q4_0.gguf", "model-bf16.gguf", "model-q8_0.gguf"
    ]  # fmt: skip
    assert result["types"]["q4_0"]["replaced"] == {"Q8_0": 0.4}
    out = Console(width=400, file=io.StringIO(), color_system=None)
    print_sameness(result, out)
    assert isinstance(out.file, io.StringIO)
    assert out.file.getvalue().count("5 of 5") == 3 * 2 * 2
    assert "Q4_0 60%, Q8_0 40%" in out.file.getvalue()


def test_an_interrupted_comparison_goes_on_with_what_is_missing(
    fakes: dict[str, Any], tmp_path: Path
) -> None:
    def stop(arm: FakeArm) -> None:
        arm.stop_after = 32  # of some 20 answers, and as many lines about closing, for each version

    fakes["change"] = stop
    file = ResultFile(tmp_path / "result.json")
    assert sameness.run(plan_of(tmp_path), file)["complete"] is False
    kept = json.loads((tmp_path / "result.json").read_text())["types"]
    assert kept["q4_0"]["complete"] and kept["q4_0"]["answers"] == {}
    assert not kept["bf16"]["complete"] and kept["bf16"]["answers"] and "q8_0" not in kept

    fakes["change"] = lambda arm: None
    for key in ("log", "made"):
        fakes[key].clear()
    result = sameness.run(plan_of(tmp_path), file)
    assert result["complete"] and fakes["made"] == ["bf16", "q8_0"]
    answered = [name for name, what in fakes["log"] if what != "close"]
    assert len(answered) < 2 * 20
    with pytest.raises(OptionError, match="other settings"):
        sameness.run(sameness.Plan(**{**vars(plan_of(tmp_path)), "types": ("q4_0",)}), file)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_request_to_end_keeps_answers_and_removes_versions(
    fakes: dict[str, Any], tmp_path: Path, name: str
) -> None:
    number = getattr(signal, name, None)
    if number is None:
        pytest.skip(f"there is no {name} on this system")

    def stop(arm: FakeArm) -> None:
        arm.close = lambda: signal.raise_signal(number)  # type: ignore[method-assign]

    fakes["change"] = stop
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    arguments = ["--suite", "shell", "--prompts", "2", "--json", str(tmp_path / "out.json")]
    before = signal.signal(number, signal.SIG_DFL)  # the tests may run under nohup
    try:
        done = CliRunner().invoke(main, ["sameness", str(tmp_path / "model.gguf"), *arguments])
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert done.exit_code == 130 and "goes on from" in done.stderr, done.output
    assert not fakes["folder"].exists()
    (part,) = json.loads((tmp_path / "out.json").read_text())["types"].values()
    assert part["answers"]


def test_a_version_that_says_another_word_is_named(fakes: dict[str, Any], tmp_path: Path) -> None:
    def differ(arm: FakeArm) -> None:
        if arm.name == "auto" and fakes["made"][-1] == "q8_0":
            arm.wrong_at, arm.wrong_by = 3, 7

    fakes["change"] = differ
    lines = broken(sameness.run(plan_of(tmp_path), ResultFile(None)))
    assert lines and all(line.startswith("q8_0: auto") for line in lines)


def test_what_llama_cpp_replaced_is_what_the_mixture_does_not_mean() -> None:
    tensors = {"Q5_0": 60, "Q6_K": 20, "Q4_K": 10, "F32": 10}
    found = {name: {"tensors": 1, "weights": weights} for name, weights in tensors.items()}
    assert sameness.replaced(found, "q4_k_m") == {"Q5_0": 0.6}
    assert set(sameness.ASKED_FOR) <= set(FILE_TYPES)


def test_quantized_tensors_are_quantized_anew_only_when_asked(tmp_path: Path) -> None:
    small = tmp_path / "small.gguf"
    quantize(draft_path(), small, "q4_0", requantize=True)
    assert "Q4_0" in sameness.tensors_of(small)
    with pytest.raises(StoreError, match="requantiz"):
        quantize(small, tmp_path / "none.gguf", "q8_0")


def test_end_to_end_on_the_built_in_model(tmp_path: Path) -> None:
    out = tmp_path / "sameness.json"
    arguments = ["--types", "q8_0", "--prompts", "2", "-n", "6", "-t", "1", "-c", "512", "--same", "off"]
    done = CliRunner().invoke(
        main, ["sameness", "builtin", *arguments, "--suite", "shell", "--json", str(out)]
    )
    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text())
    (part,) = found["types"].values()
    assert [row["total"] for row in part["comparisons"]] == [2, 2]
    assert part["tensors"]["Q8_0"]["tensors"] > 1 and part["movements"][0]["positions"] > 0


@pytest.mark.parametrize("arguments", [["--types", "q3_k"], ["--types", ""], ["--same", "most"]])
def test_bad_options_are_one_line_and_exit_code_two(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, ["sameness", "builtin", *arguments])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
