"""`aded-bench lossless` counts, compares and keeps; over fakes, since the engine has its own tests."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fake_arms import FakeArm
from rich.console import Console

from aded_bench.main import main
from aded_bench.results import ResultFile
from aded_bench.run import lossless
from aded_bench.run.lossless import parting
from aded_bench.run.start import settings_left
from aded_bench.run.suites import SHELL, Conversation, find, load
from aded_bench.schema import KINDS, check
from aded_bench.tables import literal, print_lossless
from aded_local.errors import DeviceError, OptionError, StoreError


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """`lossless` over fake arms; ``change`` may alter an arm when it is made."""
    state: dict[str, Any] = {"log": [], "change": lambda arm: None}

    def make(name: str, *_: object, **__: object) -> FakeArm:
        arm = FakeArm(name, state["log"])
        state["change"](arm)
        return arm

    monkeypatch.setattr(lossless, "open_local", make)
    monkeypatch.setattr(lossless, "open_arm", make)
    monkeypatch.setattr(lossless, "LlamaArm", lambda *_, **__: make("witness"))
    monkeypatch.setattr(lossless, "logits_setup", lambda setup, _longest: setup)
    return state


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    return path


def lossless_plan(model: Path, talks: Sequence[Conversation] | None = None) -> lossless.Plan:
    asked = load(find(SHELL, None, model), 10, 0, 0)[0] if talks is None else talks
    return lossless.Plan(
        model=model,
        suite="shell",
        max_tokens=16,
        seed=0,
        conversations=asked,
        presets=("auto", "paper"),
        temperatures=(0.0, 0.8),
        exact=False,
    )


def test_equal_answers_count_as_identical(fakes: dict[str, Any], model: Path) -> None:
    steps: list[str] = []
    plan = lossless_plan(model)
    result = lossless.run(plan, ResultFile(None), steps.append)
    counts = [(c["method"], c["temperature"], c["identical"], c["total"]) for c in result["comparisons"]]
    assert counts == [
        ("auto", 0.0, 10, 10), ("auto", 0.8, 10, 10), ("paper", 0.0, 10, 10), ("paper", 0.8, 10, 10),
        ("llama-cpp", 0.0, 10, 10),
    ]  # fmt: skip
    assert result["complete"] and result["partings"] == []
    assert len(steps) == lossless.total_steps(plan) == 70


def test_a_parting_names_position_candidates_and_logits(fakes: dict[str, Any], model: Path) -> None:
    def differ(arm: FakeArm) -> None:
        arm.wrong_at = 3 if arm.name == "paper" else None

    fakes["change"] = differ
    result = lossless.run(lossless_plan(model), ResultFile(None))
    check(result, KINDS["lossless"])
    assert [c["identical"] for c in result["comparisons"]] == [10, 10, 0, 0, 10]
    first = result["partings"][0]
    assert (first["method"], first["position"]) == ("paper", 3)
    tokens = [candidate["token"] for candidate in first["candidates"]]
    assert tokens[1] == tokens[0] + 1
    assert first["difference"] == pytest.approx(0.02, abs=1e-5)
    assert first["margin"]["one"] == pytest.approx(-0.01, abs=1e-5)
    assert first["within_rounding"] is True


def test_later_turns_are_asked_after_plain_decodings_answers(
    fakes: dict[str, Any], model: Path, tmp_path: Path
) -> None:
    talks = [Conversation("a", "c", (), ("one", "two")), Conversation("b", "c", (), ("x" * 5000,))]
    plan, steps, file = lossless_plan(model, talks), list[str](), ResultFile(tmp_path / "result.json")
    result = lossless.run(plan, file, steps.append)
    assert [row["total"] for row in result["comparisons"]] == [2, 2, 2, 2, 2]
    assert {what for name, what in fakes["log"] if name == "off"} >= {"one", "one|<3>|two"}
    assert [(row["id"], row["kind"], row["text"]) for row in result["prompts"]] == [
        ("a/1", "c", "one"),
        ("a/2", "c", "two"),
    ]
    assert list(result["skipped"]) == ["b"] and "5000 tokens" in result["skipped"]["b"]
    assert len(steps) == lossless.total_steps(plan) - 7  # two presets and off, two temperatures, and the peer
    fakes["log"].clear()
    assert lossless.run(plan, file)["histories"] == {"a/1": "<3>"}
    assert [what for _, what in fakes["log"] if what != "close"] == []  # nothing is asked twice
    with pytest.raises(OptionError, match="no prompt can be answered"):
        lossless.run(lossless_plan(model, talks[1:]), ResultFile(None))


def test_an_answer_that_ends_earlier_chose_the_end_token() -> None:
    found = parting(FakeArm("off", []), [1], [7, 8, 9], [7, 8])
    assert found["position"] == 2
    assert [candidate["token"] for candidate in found["candidates"]] == [9, 0]
    assert found["within_rounding"] is False


def test_an_interrupted_run_keeps_its_answers_and_goes_on(
    fakes: dict[str, Any], model: Path, tmp_path: Path
) -> None:
    def stop(arm: FakeArm) -> None:
        arm.stop_after = 25

    fakes["change"] = stop
    file = ResultFile(tmp_path / "result.json")
    result = lossless.run(lossless_plan(model), file)
    assert result["complete"] is False
    assert len(json.loads((tmp_path / "result.json").read_text())["answers"]) >= 20

    fakes["change"] = lambda arm: None
    fakes["log"].clear()
    result = lossless.run(lossless_plan(model), file)
    assert result["complete"] is True
    asked = [entry for entry in fakes["log"] if entry[1] not in ("forget", "close")]
    assert len(asked) < lossless.total_steps(lossless_plan(model)) - 19


def test_what_fails_after_the_answers_costs_none_of_them(
    fakes: dict[str, Any], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def differ(arm: FakeArm) -> None:
        arm.wrong_at = 3 if arm.name == "paper" else None

    def refuse(*_: object) -> None:
        raise DeviceError("logits need 9 GB")

    fakes["change"] = differ
    monkeypatch.setattr(lossless, "logits_setup", refuse)
    result = lossless.run(lossless_plan(model), ResultFile(tmp_path / "one.json"))
    assert result["complete"] and list(result["missing"].values()) == ["logits need 9 GB"]
    assert (result["partings"][0]["position"], "candidates" in result["partings"][0]) == (3, False)

    def second_ctrl_c(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(lossless, "logits_setup", second_ctrl_c)
    result = lossless.run(lossless_plan(model), ResultFile(tmp_path / "two.json"))
    assert result["complete"] is False
    assert len(json.loads((tmp_path / "two.json").read_text())["answers"]) == 70


def test_a_peer_that_cannot_be_loaded_is_missing(
    fakes: dict[str, Any], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(arm: FakeArm) -> None:
        if arm.name == "llama-cpp":
            raise ValueError("Failed to load model")

    fakes["change"] = refuse
    result = lossless.run(lossless_plan(model), ResultFile(None))
    assert result["complete"] and result["missing"] == {"llama-cpp": "Failed to load model"}
    assert [c["total"] for c in result["comparisons"]] == [10, 10, 10, 10, 0]


def test_names_and_tokens_with_brackets_are_printed_as_they_are(
    fakes: dict[str, Any], tmp_path: Path
) -> None:
    model = tmp_path / "x[bold].gguf"
    model.write_bytes(b"GGUF")

    def differ(arm: FakeArm) -> None:
        arm.wrong_at = 3 if arm.name == "paper" else None
        arm.text = lambda token: f"[/{token}]"  # type: ignore[method-assign]

    fakes["change"] = differ
    out = Console(width=400, file=io.StringIO(), color_system=None)
    print_lossless(lossless.run(lossless_plan(model), ResultFile(None)), out)
    assert isinstance(out.file, io.StringIO)
    assert "x[bold].gguf" in out.file.getvalue() and "'[/" in out.file.getvalue()
    assert literal("\udcff") == "?"  # which no terminal could show


def test_another_runs_file_is_not_overwritten(fakes: dict[str, Any], model: Path, tmp_path: Path) -> None:
    file = ResultFile(tmp_path / "result.json")
    lossless.run(lossless_plan(model), file)
    model.write_bytes(b"GGUF other")
    with pytest.raises(OptionError, match="holds a run with other"):
        lossless.run(lossless_plan(model), file)


@pytest.mark.parametrize("answers", [None, [], {"off|0|x": 3}, {"off|0|x": {"tokens": ["a"], "ended": True}}])
def test_a_damaged_result_is_one_clear_error(
    fakes: dict[str, Any], model: Path, tmp_path: Path, answers: object
) -> None:
    file = ResultFile(tmp_path / "result.json")
    result = lossless.run(lossless_plan(model), file)
    file.save(result | {"answers": answers}, now=True)
    with pytest.raises(StoreError, match="is damaged"):
        lossless.run(lossless_plan(model), file)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--prompts", "1", "--json", "/absent/folder/x.json"],
        ["--temps", "hot"],
        ["--draft", "off"],
        ["--prompts", "9000"],
    ],
)
def test_bad_options_are_one_line_and_exit_code_two(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, ["lossless", "builtin", *arguments])
    assert result.exit_code == 2
    assert result.stderr.startswith("aded-bench: ")
    assert result.stderr.count("\n") == 1


def test_a_run_goes_on_in_the_settings_it_began_with(tmp_path: Path) -> None:
    """A start beside other programs may find others better, and then nothing of the earlier run would count."""
    path = tmp_path / "run.json"
    assert settings_left(ResultFile(None)) == settings_left(ResultFile(path)) == {}
    path.write_text('{"kind": "run", "provenance": {"engine": null}}')
    assert settings_left(ResultFile(path)) == {}
    path.write_text(
        '{"kind": "run", "provenance": {"engine": {"flash_attention": true, "cache_type": "bf16", "threads": 2}}}'
    )
    assert settings_left(ResultFile(path)) == {"flash_attention": True, "cache_type": "bf16"}
