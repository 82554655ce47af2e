"""`aded-bench lossless` counts, compares, keeps and says no; over fakes, since test_smollm2 has the real replay."""

from __future__ import annotations

import ctypes
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from fake_arms import FakeArm
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from aded_bench.lossless_tables import broken, lossless_tables, print_lossless
from aded_bench.main import main
from aded_bench.report.panels import Source
from aded_bench.report.sections import lossless_section
from aded_bench.results import ResultFile
from aded_bench.run import lossless
from aded_bench.run.arms import SAMPLING, PassSize
from aded_bench.run.partings import parting, passes_as_text, passes_of_text, stretch
from aded_bench.run.start import settings_left
from aded_bench.run.suites import SHELL, Conversation, find, load
from aded_bench.schema import KINDS, check
from aded_bench.tables import literal
from aded_local.errors import DeviceError, OptionError, StoreError
from aded_local.llama.loading import lib


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """`lossless` over fake arms; ``change`` may alter an arm when it is made, ``found`` is what ``same`` chooses."""
    state: dict[str, Any] = {"log": [], "change": lambda arm: None, "found": {}}

    def make(name: str, *_: object, same: str = "off", **__: object) -> FakeArm:
        arm = FakeArm(name, state["log"])
        arm.setting, arm.allowed = state["found"].get(same, (arm.setting, arm.allowed))
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


def lossless_plan(
    model: Path, talks: Sequence[Conversation] | None = None, same: tuple[str, ...] = ("cheap",)
) -> lossless.Plan:
    asked = load(find(SHELL, None, model), 10, 0, 0)[0] if talks is None else talks
    return lossless.Plan(
        model=model,
        suite="shell",
        max_tokens=16,
        seed=0,
        conversations=asked,
        presets=("auto", "paper"),
        temperatures=(0.0, 0.8),
        same=same,
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
    assert (first["gap"], first["moved"]) == (pytest.approx(0.01, abs=1e-5), pytest.approx(0.02, abs=1e-5))
    assert first["within_rounding"] is True
    assert all(row["within_rounding"] for row in result["partings"] if row["temperature"] == 0)


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
    found = parting(FakeArm("off", []), [1], [7, 8, 9], [7, 8], ((2, 2),))
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


@pytest.mark.parametrize(
    "answers",
    [
        None,
        [],
        {"off|0|x": 3},
        {"off|0|x": {"tokens": ["a"], "ended": True, "passes": "", "threads": 0}},
        {"off|0|x": {"tokens": [1], "ended": True, "passes": "3/4", "threads": 0}},
        {"off|0|x": {"tokens": [999_999], "ended": True, "passes": "1", "threads": 0}},
        {"off|0|x": {"tokens": [-5], "ended": True, "passes": "1", "threads": 0}},
    ],
)
def test_a_damaged_result_is_one_clear_error(
    fakes: dict[str, Any], model: Path, tmp_path: Path, answers: object
) -> None:
    file = ResultFile(tmp_path / "result.json")
    result = lossless.run(lossless_plan(model), file)
    file.save(result | {"answers": answers}, now=True)
    with pytest.raises(StoreError, match="is damaged"):
        lossless.run(lossless_plan(model), file)


# --- a verdict that can say no ---------------------------------------------------------------------------


def say_another_word(arm: FakeArm) -> None:
    """Seven tokens further: 0.07 apart, and wider passes move two logits by 0.02 at most."""
    arm.wrong_at, arm.wrong_by = (3, 7) if arm.name == "paper" else (None, 0)


def test_a_parting_that_wider_passes_do_not_explain_is_no_rounding(
    fakes: dict[str, Any], model: Path
) -> None:
    fakes["change"] = say_another_word
    result = lossless.run(lossless_plan(model), ResultFile(None))
    check(result, KINDS["lossless"])
    verdicts = {row["temperature"]: row["within_rounding"] for row in result["partings"]}
    assert verdicts == {0.0: False, 0.8: False}
    assert len(broken(result)) == 20 and "rounding does not explain it" in broken(result)[0]
    compared = dict(lossless_tables(result))["same tokens?"]
    assert compared["not rounding"].tolist() == ["–", "–", "10 of 10", "10 of 10", "–"]


def test_what_rounding_does_not_explain_is_told_and_ends_with_exit_code_one(
    fakes: dict[str, Any], model: Path, tmp_path: Path
) -> None:
    arguments = ["lossless", str(model), "--suite", "shell", "--prompts", "4", "--temps", "0", "-n", "16"]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    fakes["change"] = say_another_word
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1
    assert done.stdout.count("NOT THE SAME") == 4
    assert done.stderr.count("\n") == 1 and "not the same: paper" in done.stderr


def test_exact_must_say_the_same_words_whatever_the_reason(fakes: dict[str, Any], model: Path) -> None:
    def differ(arm: FakeArm) -> None:
        arm.wrong_at = 3 if arm.name == "paper" else None

    fakes["change"] = differ
    lines = broken(lossless.run(lossless_plan(model, same=("exact",)), ResultFile(None)))
    said = "paper with same exact says other words in 10 of 10 answers at temperature"
    assert [line for line in lines if "rounding" not in line] == [f"{said} 0", f"{said} 0.8"]


def test_two_ways_that_decode_token_by_token_do_not_part_by_rounding() -> None:
    near = parting(FakeArm("off", []), [1], [7, 8], [7, 9], ((1, 1), (1, 1)))
    assert (near["gap"], near["moved"]) == (pytest.approx(0.01, abs=1e-5), 0.0)
    assert near["within_rounding"] is False
    same = [7] * 9
    unknown = parting(FakeArm("off", []), [1], [*same, 8], [*same, 9], None)
    assert unknown["within_rounding"] is True  # the passes are not known, so they may have been wide


# --- how much drafting may change ------------------------------------------------------------------------


def test_what_would_do_the_same_answers_once(fakes: dict[str, Any], model: Path) -> None:
    on, off = (True, "bf16"), (False, "f16")
    fakes["found"] = {"exact": (on, (1, 2)), "cheap": (on, None), "off": (off, None)}
    plan = lossless_plan(model, same=("exact", "cheap", "off"))
    steps: list[str] = []
    result = lossless.run(plan, ResultFile(None), steps.append)
    assert len(steps) == lossless.total_steps(plan)
    asked = [name for name, what in fakes["log"] if what != "close"]
    # Two settings: plain decoding answers in each, and the drafts of `exact` have sizes of their own.
    assert {name: asked.count(name) for name in dict.fromkeys(asked)} == {
        "auto": 60, "paper": 60, "off": 40, "llama-cpp": 20
    }  # fmt: skip
    rows = [(row["method"], row["same"], row["setting"]) for row in result["comparisons"]]
    assert (
        rows.count(("llama-cpp", "exact", "fa-on/bf16")) == 1
        and ("llama-cpp", "cheap", "fa-on/bf16") not in rows
    )
    fakes["log"].clear()
    fakes["found"] = dict.fromkeys(("cheap", "off"), (on, None))
    result = lossless.run(lossless_plan(model, same=("cheap", "off")), ResultFile(None))
    assert [name for name, what in fakes["log"] if what != "close"].count("auto") == 20
    assert [row["same"] for row in result["comparisons"] if row["method"] == "auto"] == ["cheap"] * 2 + [
        "off"
    ] * 2
    assert (
        "cheap, off"
        in dict(lossless_tables(result))[
            "how far decoding in the passes that drafting took moves the probabilities"
        ]["same"].tolist()
    )


def test_how_far_probabilities_move_is_told_by_setting(fakes: dict[str, Any], model: Path) -> None:
    result = lossless.run(lossless_plan(model), ResultFile(None))
    (auto, paper) = result["movements"]
    assert (auto["method"], auto["setting"], paper["method"]) == ("auto", "fa-off/f16", "paper")
    assert auto["positions"] == 10 * 7 and auto["wide"] == 10 * 5
    assert 0 < auto["divergence_mean"] < auto["divergence_largest"] < 1e-3
    assert 0 < auto["change_largest"] < 0.01


def test_drafts_that_are_multiplied_row_by_row_show_it(fakes: dict[str, Any], model: Path) -> None:
    def by_length(arm: FakeArm) -> None:
        arm.foreseen = lambda n_prompt, _most: (False, "f16", n_prompt > 25, None)  # type: ignore[method-assign]
        arm.wrong_at = 3 if arm.name == "auto" else None

    fakes["change"] = by_length
    result = lossless.run(lossless_plan(model), ResultFile(None))
    shown = {"fa-off/f16", "fa-off/f16/rows"}
    for caption, table in lossless_tables(result):
        assert set(table[table["method"] == "auto"]["setting"]) == shown, caption
    (chart,) = lossless_section([Source("file", model, result)]).charts
    labels = [dot.label for dot in chart.panels[0].dots]  # type: ignore[union-attr]
    assert {"auto cheap fa-off/f16", "auto cheap fa-off/f16/rows"} <= set(labels)
    assert len(labels) == len(set(labels))


def test_where_a_result_comes_from_says_nothing_of_one_setting(fakes: dict[str, Any], model: Path) -> None:
    engine = lossless.run(lossless_plan(model), ResultFile(None))["provenance"]["engine"]
    assert engine == {"context": 4096, "threads": 1, "gpu_layers": 0, "device": "a cpu"}


def test_each_prompt_is_compared_in_the_setting_that_was_chosen_for_it(
    fakes: dict[str, Any], model: Path, tmp_path: Path
) -> None:
    def by_length(arm: FakeArm) -> None:
        if arm.name != "off":
            arm.foreseen = lambda n_prompt, _most: (n_prompt > 25, "f16", False, None)  # type: ignore[method-assign]

    fakes["change"] = by_length
    file = ResultFile(tmp_path / "result.json")
    result = lossless.run(lossless_plan(model), file)
    rows = [row for row in result["comparisons"] if (row["method"], row["temperature"]) == ("auto", 0)]
    totals = {row["setting"]: row["total"] for row in rows}
    assert sum(totals.values()) == 10 and set(totals) == {"fa-on/f16", "fa-off/f16"}
    asked = [what for name, what in fakes["log"] if name == "off" and what != "close"]
    assert len(asked) == 20, "plain decoding answers each prompt in one setting"
    fakes["log"].clear()
    assert lossless.run(lossless_plan(model), file)["comparisons"] == result["comparisons"]
    assert [what for _, what in fakes["log"] if what != "close"] == []


def test_an_answer_that_other_programs_left_with_fewer_threads_is_replayed_with_as_many() -> None:
    log: list[tuple[str, str]] = []
    parting(FakeArm("witness", log), [1], [7, 8], [7, 9], ((1, 1), (1, 1)), 0.0, (2, 1))
    assert log == [("witness", "1 threads"), ("witness", "2 threads")]


@given(st.lists(st.tuples(st.integers(1, 65), st.integers(1, 65)).filter(lambda pair: pair[1] <= pair[0])))
def test_sizes_of_passes_are_kept_as_text(passes: list[PassSize]) -> None:
    assert list(passes_of_text(passes_as_text(passes))) == passes


@given(
    seed=st.integers(0, 2**32 - 2), temperature=st.sampled_from([0.3, 0.8, 1.5]), scale=st.floats(0.1, 4.0)
)
def test_the_stretch_of_a_token_is_where_llama_cpp_draws_it(
    seed: int, temperature: float, scale: float
) -> None:
    """llama.cpp draws with the 32-bit Mersenne twister, two numbers for 53 bits."""
    logits = (np.random.default_rng(seed).normal(size=300) * scale).astype(np.float32)
    data = (lib.llama_token_data * 300)(*[(token, float(logit), 0.0) for token, logit in enumerate(logits)])
    array = lib.llama_token_data_array(data, 300, -1, False)
    chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    for sampler in (
        lib.llama_sampler_init_top_k(SAMPLING["top_k"]),
        lib.llama_sampler_init_top_p(SAMPLING["top_p"], 1),
        lib.llama_sampler_init_min_p(SAMPLING["min_p"], 1),
        lib.llama_sampler_init_temp(temperature),
        lib.llama_sampler_init_dist(seed),
    ):
        lib.llama_sampler_chain_add(chain, sampler)
    lib.llama_sampler_apply(chain, ctypes.byref(array))
    drawn = int(array.data[array.selected].id)
    lib.llama_sampler_free(chain)
    bits = np.random.RandomState(seed)
    low, high = (int(bits.randint(0, 2**32, dtype=np.uint64)) for _ in range(2))
    number = (low + high * 2.0**32) / 2.0**64
    found = stretch(logits, drawn, temperature)
    assert found is not None and found.low - 1e-6 <= number <= found.high + 1e-6


@pytest.mark.parametrize(
    "arguments",
    [
        ["--prompts", "1", "--json", "/absent/folder/x.json"],
        ["--temps", "hot"],
        ["--draft", "off"],
        ["--prompts", "9000"],
        ["--same", "exactly"],
        ["--same", ""],
        ["--draft", ","],
        ["--same", "off", "--exact"],
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
