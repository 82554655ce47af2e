"""Answers with a draft model are those without: what it says changes speed alone."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
import tiny_models
from patience import PATIENCE, until

from aded_local import LocalADED
from aded_local.drafters.model import DRAFT_MODES
from aded_local.drafters.model.speaker import Speaker
from aded_local.errors import DeviceError, OptionError, PairingError

pytestmark = pytest.mark.usefixtures("measured_once")

SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "temperature": {"temperature": 0.8, "seed": 7, "top_k": 40},
}
PROMPT = "one two three four five one two three"
OPTIONS: dict[str, Any] = {
    # Nothing but plain decoding is exact for a model as small as this; with cells of F32 drafts of any size move no
    # logit by more than some millionths.
    "same": "off",
    "flash_attention": False,
    "cache_type": "f32",
    "n_threads": 1,
    "n_ctx": 512,
}


@pytest.fixture(scope="module")
def poor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with the same vocabulary that would say something else."""
    return tiny_models.write_llama(tmp_path_factory.mktemp("poor") / "poor.gguf", seed=77)


@pytest.fixture(scope="module")
def plain(tiny: dict[str, Path]) -> dict[str, list[list[int]]]:
    with LocalADED(tiny["llama"], draft="off", **OPTIONS) as llm:
        return {how: answers(llm, how) for how in ("greedy", "temperature")}


def answers(llm: LocalADED, how: str) -> list[list[int]]:
    return [llm.generate(prompt, max_tokens=60, **SAMPLINGS[how]).tokens for prompt in (PROMPT, "four five")]


@pytest.mark.parametrize("mode", DRAFT_MODES)
@pytest.mark.parametrize("draft", ["itself", "poor"])
def test_the_words_are_those_of_plain_decoding(
    tiny: dict[str, Path], poor: Path, plain: dict[str, list[list[int]]], mode: str, draft: str
) -> None:
    path = tiny["llama"] if draft == "itself" else poor
    with LocalADED(tiny["llama"], draft_model=path, draft_mode=mode, **OPTIONS) as llm:
        llm.prepare()
        for how, expected in plain.items():
            assert answers(llm, how) == expected


def test_what_a_model_did_is_told_where_there_is_one(tiny: dict[str, Path]) -> None:
    with LocalADED(tiny["llama"], draft_model=tiny["llama"], draft_mode="serial", **OPTIONS) as llm:
        llm.prepare()
        stats = llm.generate(PROMPT, max_tokens=40, temperature=0).stats
        assert llm.description()["draft_model"] == str(tiny["llama"])
    assert stats.draft_model is not None
    assert set(stats.to_dict()["draft_model"]) == {
        "target_waited", "draft_idle", "decodes", "asked", "dropped", "steps",
    }  # fmt: skip
    with LocalADED(tiny["llama"], draft="off", **OPTIONS) as llm:
        stats = llm.generate(PROMPT, max_tokens=4, temperature=0).stats
    assert stats.draft_model is None
    assert "draft_model" not in stats.to_dict()


def test_sessions_take_turns(tiny: dict[str, Path], plain: dict[str, list[list[int]]]) -> None:
    with LocalADED(tiny["llama"], draft_model=tiny["llama"], draft_mode="parallel", **OPTIONS) as llm:
        llm.prepare()
        other = llm.session()
        for _ in range(2):
            for how, expected in plain.items():
                options = SAMPLINGS[how]
                assert llm.generate(PROMPT, max_tokens=60, **options).tokens == expected[0]
                assert other.generate("four five", max_tokens=60, **options).tokens == expected[1]


def test_a_grammar_is_kept_to(tiny: dict[str, Path]) -> None:
    grammar = 'root ::= ("one" | " two" | " three"){4,12}'
    said = []
    for how in ({"draft": "off"}, {"draft_model": tiny["llama"], "draft_mode": "parallel"}):
        with LocalADED(tiny["llama"], **how, **OPTIONS) as llm:
            llm.prepare()
            said.append(llm.generate(PROMPT, max_tokens=40, temperature=0, grammar=grammar).tokens)
    assert said[0] == said[1]


@pytest.mark.parametrize("mode", ["serial", "parallel", "branch"])
def test_a_model_that_dies_in_mid_answer_costs_no_word(
    tiny: dict[str, Path], plain: dict[str, list[list[int]]], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    ask = Speaker.ask

    def ask_or_die(self: Speaker, paths: Any) -> Any:
        if self.decodes > 2:
            raise DeviceError("llama.cpp could not decode: out of memory")
        return ask(self, paths)

    monkeypatch.setattr(Speaker, "ask", ask_or_die)
    with LocalADED(
        tiny["llama"], draft_model=tiny["llama"], draft_mode=mode, on_notice=told.append, **OPTIONS
    ) as llm:
        llm.prepare()
        _ask_always(llm)
        assert answers(llm, "greedy") == plain["greedy"]
        assert answers(llm, "temperature") == plain["temperature"]
    assert [line for line in told if "out of memory" in line and "n-grams draft alone" in line] == told[-1:]


def _ask_always(llm: LocalADED) -> None:
    """Have the model asked, whatever passes take on this machine now."""
    asking = llm._engine.asking
    assert asking is not None
    costs = asking._worker.costs
    costs.seconds = lambda rows, *, beside=False: 1e-9  # type: ignore[method-assign]


def test_a_model_that_stalls_in_mid_answer_costs_no_word(
    tiny: dict[str, Path], plain: dict[str, list[list[int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aded_local.drafters.model.drafter.SHORTEST_WAIT", 0.02)
    goes_on = threading.Event()
    ask = Speaker.ask

    def ask_late(self: Speaker, paths: Any) -> Any:
        if self.decodes > 2:
            goes_on.wait(PATIENCE)
        return ask(self, paths)

    monkeypatch.setattr(Speaker, "ask", ask_late)
    with LocalADED(tiny["llama"], draft_model=tiny["llama"], draft_mode="serial", **OPTIONS) as llm:
        llm.prepare()
        _ask_always(llm)
        try:
            assert answers(llm, "greedy") == plain["greedy"]
        finally:
            goes_on.set()
        assert answers(llm, "greedy") == plain["greedy"]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers that interrupt")
@pytest.mark.parametrize("mode", ["serial", "parallel"])
def test_an_interrupt_at_any_moment_costs_no_later_word(
    tiny: dict[str, Path], plain: dict[str, list[list[int]]], mode: str
) -> None:
    with LocalADED(tiny["llama"], draft_model=tiny["llama"], draft_mode=mode, **OPTIONS) as llm:
        llm.prepare()
        _ask_always(llm)
        before = signal.signal(signal.SIGALRM, signal.default_int_handler)
        try:
            interrupts = 0
            for i in range(25):
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.001 + 0.002 * i)
                    llm.generate(PROMPT, max_tokens=60, temperature=0)
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except KeyboardInterrupt:
                    interrupts += 1
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            assert interrupts
        finally:
            signal.signal(signal.SIGALRM, before)
        assert answers(llm, "greedy") == plain["greedy"]


def test_nothing_runs_on_after_closing(tiny: dict[str, Path]) -> None:
    before = set(threading.enumerate())

    def of_this_one() -> set[str]:
        return {thread.name for thread in set(threading.enumerate()) - before}

    llm = LocalADED(tiny["llama"], draft_model=tiny["llama"], draft_mode="parallel", **OPTIONS)
    llm.prepare()
    llm.generate(PROMPT, max_tokens=10)
    assert "aded-draft-model" in of_this_one()
    llm.close()
    until(lambda: "aded-draft-model" not in of_this_one())


# --- what is refused ------------------------------------------------------------------------------------


def test_another_vocabulary_is_refused_with_a_token_that_differs(tiny: dict[str, Path]) -> None:
    from aded_models import builtin_path

    with pytest.raises(PairingError, match=r"cannot draft for .*token"):
        LocalADED(tiny["llama"], draft_model=builtin_path(), **OPTIONS)


def test_a_running_state_is_refused(tiny: dict[str, Path]) -> None:
    with pytest.raises(PairingError, match="running state"):
        LocalADED(tiny["llama"], draft_model=tiny["mamba"], **OPTIONS)


def test_a_draft_model_larger_than_memory_is_refused(
    tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = psutil.virtual_memory()._replace(available=1000)
    monkeypatch.setattr("aded_local.drafters.model.loading.psutil.virtual_memory", lambda: free)
    with pytest.raises(DeviceError, match="memory are free"):
        LocalADED(tiny["llama"], draft_model=tiny["llama"], **OPTIONS)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"draft": "off", "draft_model": "m.gguf"}, "asks no draft model"),
        ({"draft_model": 3}, "path of a GGUF"),
        ({"draft_model": "m.gguf", "draft_mode": "often"}, "auto, ngram, serial, parallel, branch"),
        ({"draft_max": 0}, "draft_max is 0"),
        ({"draft_model": "m.gguf", "draft_threads": 0}, "draft_threads is 0"),
        ({"draft_model": "m.gguf", "draft_gpu_layers": -2}, "draft_gpu_layers is -2"),
        ({"draft_mode": "serial"}, "draft_mode is about a draft model"),
        ({"draft_threads": 1}, "draft_threads is about a draft model"),
        ({"draft_gpu_layers": 0}, "draft_gpu_layers is about a draft model"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    tiny: dict[str, Path], options: dict[str, Any], says: str
) -> None:
    with pytest.raises(OptionError, match=says):
        LocalADED(tiny["llama"], **options)


def test_a_draft_has_no_more_tokens_than_asked_for(tiny: dict[str, Path]) -> None:
    options = {**OPTIONS, "draft_model": tiny["llama"], "draft_mode": "branch", "draft_max": 2}
    with LocalADED(tiny["llama"], **options) as llm:
        llm.prepare()
        stats = llm.generate(PROMPT, max_tokens=60, temperature=0).stats
    assert max(size for size, _ in stats.pass_sizes) <= 3


@pytest.mark.parametrize(("mode", "lines"), [("auto", 0), ("ngram", 0), ("serial", 1), ("branch", 1)])
def test_a_mode_that_was_asked_for_says_what_it_waits_for(
    tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: Any, lines: int
) -> None:
    monkeypatch.setenv("ADED_CACHE_DIR", str(tmp_path / "another"))  # nothing is measured there
    told: list[str] = []
    with LocalADED(
        tiny["llama"], draft_model=tiny["llama"], draft_mode=mode, on_notice=told.append, **OPTIONS
    ):
        pass
    assert sum("once this machine is measured" in line for line in told) == lines
