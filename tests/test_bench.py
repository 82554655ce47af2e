"""The bench counts, compares and keeps what it measured; over fakes, since the engine has its own tests."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas
import pytest
from click.testing import CliRunner
from rich.console import Console

from aded_bench.main import main
from aded_bench.options import finish
from aded_bench.results import ResultFile, provenance, resume, source_hash
from aded_bench.run import lossless, tasks
from aded_bench.run.arms import Answer
from aded_bench.run.lossless import parting
from aded_bench.run.prompts import SHARES, split, suite
from aded_bench.run.suites import SHELL, Conversation, load
from aded_bench.summary import ratio_interval, summarize
from aded_bench.tables import literal, print_lossless, show
from aded_local.errors import OptionError, StoreError

DESCRIPTION = {
    "context": 4096, "threads": 1, "flash_attention": False, "cache_type": "f16", "gpu_layers": 0, "device": "a cpu"
}  # fmt: skip


class FakeLocal:
    """LocalADED as far as the arms need it."""

    def description(self) -> dict[str, Any]:
        return DESCRIPTION

    def end_tokens(self) -> frozenset[int]:
        return frozenset({0})


class FakeArm:
    """Answers with tokens that depend on the prompt alone, unless told to differ; remembers what it was asked."""

    ends = frozenset({0})

    def __init__(self, name: str, log: list[tuple[str, str]]) -> None:
        self.name, self.log, self.llm = name, log, FakeLocal()
        self.wrong_at: int | None = None
        self.stop_after: int | None = None

    def render(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        return list("|".join(message["content"] for message in messages).encode())

    def speak(self, prompt: Sequence[int], max_tokens: int, temperature: float, seed: int) -> str:
        self.log.append(("history", bytes(prompt).decode()))
        return f"<{len(prompt)}>"

    def answer(self, prompt: Sequence[int], max_tokens: int, temperature: float, seed: int) -> Answer:
        if self.stop_after is not None and len(self.log) >= self.stop_after:
            raise KeyboardInterrupt
        self.log.append((self.name, bytes(prompt).decode()))
        tokens = [(sum(prompt) + i) % 50 + 1 for i in range(8)]
        if self.wrong_at is not None:
            tokens[self.wrong_at] += 1
        seconds = {"draft": 0.1, "verify": 0.8, "sample": 0.05, "elsewhere": 0.05, "prefill": 0.0}
        time = {"off": 2.0, "auto": 1.0}.get(self.name, 2.5)
        drafting = {"median": 9.0}
        return Answer(tokens, True, 9, 0.1, time, 4, 6, 4, seconds, drafting)

    def forget(self) -> None:
        self.log.append((self.name, "forget"))

    def close(self) -> None:
        self.log.append((self.name, "close"))

    def text(self, token: int) -> str:
        return f"<{token}>"

    def logits(self, prompt: Sequence[int], answer: Sequence[int], width: int) -> npt.NDArray[np.float32]:
        return np.arange(60, dtype=np.float32) * 0.01 + (0.02 if width > 1 else 0.0)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """`lossless` over fake arms; ``made`` may be asked to change an arm when it is made."""
    state: dict[str, Any] = {"log": [], "change": lambda arm: None}

    def make(name: str, *_: object, **__: object) -> FakeArm:
        arm = FakeArm(name, state["log"])
        state["change"](arm)
        return arm

    monkeypatch.setattr(lossless, "open_local", make)
    monkeypatch.setattr(lossless, "LlamaArm", lambda *_, **__: make("llama-cpp"))
    monkeypatch.setattr(lossless, "lookup_setup", lambda setup, _longest: (setup, None))
    return state


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    return path


def lossless_plan(model: Path, talks: Sequence[Conversation] | None = None) -> lossless.Plan:
    asked = load(SHELL, None, 10, 0, 0)[0] if talks is None else talks
    return lossless.Plan(model, "shell", asked, ("auto", "paper"), (0.0, 0.8), 16, 0, exact=False)


# --- prompts -------------------------------------------------------------------------------------


def test_the_suite_is_the_same_for_a_seed_and_grows_at_its_end() -> None:
    assert suite(60, seed=4) == suite(240, seed=4)[:60]
    assert suite(60, seed=4) != suite(60, seed=5)


def test_no_subject_occurs_twice_so_slices_are_disjoint() -> None:
    measured, warming = split([40, 200])
    assert (len(measured), len(warming)) == (40, 200)
    assert not {p.subject for p in measured} & {p.subject for p in warming}
    assert len(set(tasks.TASKS)) == len(tasks.TASKS) >= 250


def test_every_slice_holds_every_kind() -> None:
    for part in split([40, 200]):
        counts = Counter(prompt.kind for prompt in part)
        assert set(counts) == set(SHARES)
        assert counts["task"] == pytest.approx(SHARES["task"] * len(part), abs=2)


def test_conversations_end_with_the_user() -> None:
    for prompt in suite(240):
        roles = [message["role"] for message in prompt.messages]
        assert roles == (["user", "assistant", "user"] if prompt.kind == "follow-up" else ["user"])
        assert all(message["content"].strip() for message in prompt.messages)


def test_more_prompts_than_there_are_is_an_error() -> None:
    with pytest.raises(OptionError, match="the suite shell has"):
        suite(10_000)


# --- lossless ------------------------------------------------------------------------------------


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

    fakes["change"] = differ
    monkeypatch.setattr(lossless, "lookup_setup", lambda setup, _longest: (setup, "logits need 9 GB"))
    result = lossless.run(lossless_plan(model), ResultFile(tmp_path / "one.json"))
    assert result["complete"] and list(result["missing"].values()) == ["logits need 9 GB"]
    assert (result["partings"][0]["position"], "candidates" in result["partings"][0]) == (3, False)

    def second_ctrl_c(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(lossless, "lookup_setup", second_ctrl_c)
    result = lossless.run(lossless_plan(model), ResultFile(tmp_path / "two.json"))
    assert result["complete"] is False
    assert len(json.loads((tmp_path / "two.json").read_text())["answers"]) == 70


def test_a_peer_that_cannot_be_loaded_is_missing(
    fakes: dict[str, Any], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("Failed to load model")

    monkeypatch.setattr(lossless, "LlamaArm", refuse)
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


def test_a_table_shows_texts_as_they_are_and_numbers_to_the_right() -> None:
    frame = pandas.DataFrame({"name": ["[b]x", "y"], "n": [1, 20], "rate": [0.5, None], "text": ["1.0", ""]})
    out = Console(width=80, file=io.StringIO(), color_system=None)
    show(frame, "of [things]", caption="said [below]", console=out)
    assert isinstance(out.file, io.StringIO)
    lines = out.file.getvalue().splitlines()
    assert "of [things]" in lines[0] and "said [below]" in lines[-1]
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert rows == [["[b]x", "1", "0.500", "1.0"], ["y", "20", "–", ""]]
    assert any("│  1 │ 0.500 │" in line for line in lines)


# --- results -------------------------------------------------------------------------------------


def test_a_summary_brackets_the_median() -> None:
    found = summarize([1.0, 2.0, 3.0, 3.0, 4.0, 100.0])
    assert found is not None and found.low is not None and found.high is not None
    assert (found.minimum, found.median, found.maximum) == (1.0, 3.0, 100.0)
    assert found.low <= found.median <= found.high
    assert summarize([]) is None


def test_few_values_have_no_interval() -> None:
    found = summarize([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found is not None
    assert (found.median, found.low, found.high) == (3.0, None, None)
    assert ratio_interval([1.0] * 5, [2.0] * 5) == (None, None)
    assert ratio_interval([1.0] * 6, [2.0] * 6) == (0.5, 0.5)


def test_a_file_that_is_no_result_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text("[1]")
    with pytest.raises(StoreError, match="no result file"):
        ResultFile(tmp_path / "notes.json").load()


@pytest.mark.parametrize("content", ['{"provenance": null}', "[" * 100_000])
def test_a_file_of_another_shape_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "notes.json").write_text(content)
    with pytest.raises(StoreError, match="no result file"):
        ResultFile(tmp_path / "notes.json").load()


@pytest.mark.parametrize("answers", [None, [], {"off|0|x": 3}, {"off|0|x": {"tokens": ["a"], "ended": True}}])
def test_a_damaged_result_is_one_clear_error(
    fakes: dict[str, Any], model: Path, tmp_path: Path, answers: object
) -> None:
    file = ResultFile(tmp_path / "result.json")
    result = lossless.run(lossless_plan(model), file)
    file.save(result | {"answers": answers}, now=True)
    with pytest.raises(StoreError, match="is damaged"):
        lossless.run(lossless_plan(model), file)


HERE = {
    "settings": {}, "model": {"file": "m", "sha256": "0", "quantization": None}, "inputs": [], "gpus": [], "cpu": "a",
    "versions": {"aded-local": "1", "aded-local source": "0"}, "platform": "p", "engine": {"context": 9, "threads": 1},
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"cpu": "b"}, "cpu"),
        ({"gpus": ["b"]}, "gpus"),
        ({"platform": "b"}, "platform"),
        ({"versions": {"aded-local": "1", "aded-local source": "b"}}, "versions"),
        ({"engine": {"context": 9, "threads": 2}}, "threads"),
    ],
)
def test_figures_of_another_machine_or_code_are_not_continued(
    tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    file = ResultFile(tmp_path / "run.json")
    file.save({"kind": "run", "provenance": HERE, "runs": [], "histories": {}}, now=True)
    assert resume(file, "run", HERE) is not None
    with pytest.raises(OptionError, match=f"with other {named};"):
        resume(file, "run", HERE | change)


def test_a_default_context_of_another_size_is_continued(tmp_path: Path) -> None:
    file = ResultFile(tmp_path / "run.json")
    loaded = {"file": "m", "sha256": "0", "quantization": "Q4_0"}
    file.save({"kind": "run", "provenance": HERE | {"model": loaded}, "runs": [], "histories": {}}, now=True)
    for engine in ({"context": 8, "threads": 1}, None):  # None: not loaded yet
        assert resume(file, "run", HERE | {"engine": engine}) is not None


def test_provenance_names_the_code() -> None:
    found = provenance({})["versions"]["aded-local source"]
    assert len(found) == 64 and found == source_hash()


def test_text_that_utf8_cannot_write_is_saved(tmp_path: Path) -> None:
    file = ResultFile(tmp_path / "result.json")
    file.save({"provenance": {"command_line": ["\udcff", "é"]}}, now=True)
    assert file.load() == {"provenance": {"command_line": ["\udcff", "é"]}}


def test_where_the_result_goes_is_looked_at_first(tmp_path: Path) -> None:
    for path, why in (
        (tmp_path, "is a folder"),
        (tmp_path / "absent" / "x.json", "no such folder"),
        (Path(os.devnull), "device"),
    ):
        with pytest.raises(OptionError, match=why):
            ResultFile(path)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_built_in_model_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aded_models.builtin.TARGET_FILE", "absent.gguf")
    result = CliRunner().invoke(main, ["lossless", "builtin", "--prompts", "1"])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "Reinstall" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["lossless", "builtin", "--prompts", "1", "--json", "/absent/folder/x.json"],
        ["lossless", "builtin", "--temps", "hot"],
        ["lossless", "builtin", "--draft", "off"],
        ["lossless", "builtin", "--prompts", "9000"],
        ["lossless", "absent.gguf"],
    ],
)
def test_bad_options_are_one_line_and_exit_code_two(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("aded-bench: ")
    assert result.stderr.count("\n") == 1


def test_a_save_that_fails_costs_no_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = ResultFile(tmp_path / "result.json")
    monkeypatch.setattr("aded_bench.results.SAVE_SECONDS", 0.0)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(Path, "write_text", refuse)
        file.save({"provenance": {}})
        file.save({"provenance": {}})
    said = capsys.readouterr().err
    assert said.count("No space left on device; going on") == 1
    with pytest.raises(StoreError, match="printed above"):
        finish(True, file.failure)
    file.save({"provenance": {}}, now=True)
    assert file.failure is None


@pytest.mark.parametrize(("redirection", "code"), [(">&-", 2), (">/dev/full", 2)])
def test_output_that_goes_nowhere_is_one_line(tmp_path: Path, redirection: str, code: int) -> None:
    (tmp_path / "curve.json").write_text(
        '{"kind": "curve", "provenance": {}, "curves": [], "complete": true}'
    )
    command = f"{sys.executable} -m aded_bench.main report curve.json --no-charts -o out {redirection}"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (code, 1)
    assert done.stderr.startswith("aded-bench: ")
