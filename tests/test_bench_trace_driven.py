"""Trace-driven runs decode what was recorded: the token decides, plain passes leave no trace, sums add up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aded_bench.replay import trace_driven
from aded_bench.replay.body_sums import answer_sums, summed
from aded_bench.replay.trace_driven import measure
from aded_bench.replay.traces import Recorded, Trace
from aded_bench.schema import Answer, Body, check
from aded_local import LocalADED, decode
from aded_local.drafters import Drafter, make_drafter
from aded_local.drafters.paper.drafter import PaperDrafter
from aded_local.engine import Engine
from aded_local.errors import OptionError, StoreError
from aded_local.opening import open_engine
from aded_local.speed.planner import PlainPlanner
from aded_local.step import Beginning, StepResult
from aded_local.tree import EMPTY_TREE, DraftTree

pytestmark = pytest.mark.usefixtures("measured_once")

SETTING = {"n_threads": 1, "n_ctx": 512, "flash_attention": False, "cache_type": "f32"}
"""Cells that are not rounded: what is likeliest is so in passes of every size."""
PROMPTS = ("one two three one two three", "copy the file copy the", "red green blue")


@pytest.fixture(scope="module")
def own_answers(tiny: dict[str, Path]) -> Trace:
    """What the tiny model itself says, greedily."""
    answers = []
    with LocalADED(tiny["llama"], draft="off", **SETTING) as llm:
        for number, prompt in enumerate(PROMPTS):
            ids = llm._model.tokenize(prompt, add_special=True, parse_special=False)
            llm.reset()
            tokens = list(llm.generate(ids, max_tokens=60, temperature=0.0).tokens)
            answers.append(
                Recorded(
                    f"answer/{number}",
                    f"kind {number % 2}",
                    np.array(ids, np.int32),
                    np.array(tokens, np.int32),
                )
            )
    return Trace("own", tiny["llama"], 1 << 15, tuple(answers))


class Spied:
    """Every token taken from the record beside the one the target found likeliest, and all logits seen."""

    def __init__(self) -> None:
        self.recorded: list[int] = []
        self.likeliest: list[int] = []
        self.logits: list[np.ndarray] = []
        self.engine: Engine | None = None


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spied]:
    spy = Spied()

    def opened(*arguments: Any) -> Engine:
        spy.engine = open_engine(*arguments)
        return spy.engine

    walk = decode.sample_and_match

    def walked(tree: DraftTree, row_of: list[int], sample: Any, is_end: Any, limit: int) -> Any:
        def both(row: int) -> int:
            if spy.engine is None:  # not measured here
                return int(sample(row))
            logits = spy.engine.target.context.logits(row).copy()
            token: int = sample(row)
            spy.recorded.append(token)
            spy.likeliest.append(int(logits.argmax()))
            if len(tree):
                spy.logits.append(logits)
            return token

        return walk(tree, row_of, both, is_end, limit)

    monkeypatch.setattr(trace_driven, "open_engine", opened)
    monkeypatch.setattr(decode, "sample_and_match", walked)
    yield spy


class SideBranches(PlainPlanner):
    """Proposes the truth, but behind a wrong guess: every accepted node lies on a side branch."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.left: list[int] = []

    def begin(self, beginning: Beginning) -> None:
        found = (one.answer for one in self.trace.answers if np.array_equal(one.prompt, beginning.new))
        self.left = next(found).tolist()

    def plan(self, n_cells: int, most: int) -> DraftTree:
        right = self.left[:2]
        if len(right) < 2 or most < 4:
            return EMPTY_TREE
        tokens = np.array([right[0] + 1, right[0] + 2, *right], np.int32)
        parents, depths = np.array([-1, 0, -1, 2], np.int32), np.array([1, 2, 1, 2], np.int32)
        return DraftTree(tokens, parents, depths, np.full(4, 0.5, np.float32))

    def observe(self, result: StepResult) -> None:
        del self.left[: len(result.tokens)]


def with_planner(monkeypatch: pytest.MonkeyPatch, planner: Any) -> None:
    monkeypatch.setattr(trace_driven, "make_planner", lambda *_, **__: planner)


@pytest.mark.parametrize("preset", ["auto", "paper"])
def test_a_model_s_own_greedy_answers_are_what_it_says_again(
    tiny: dict[str, Path], own_answers: Trace, spied: Spied, preset: str
) -> None:
    found = measure(tiny["llama"], own_answers, preset, plain_every=3, **SETTING)
    assert found["tokens"] == own_answers.tokens
    assert spied.recorded == spied.likeliest
    assert found["passes"] <= found["tokens"]
    assert found["plain_passes_timed"] >= found["passes"] / 3
    assert sum(size["passes"] for size in found["sizes"].values()) == found["passes"]
    assert sum((int(n) - 1) * size["passes"] for n, size in found["sizes"].items()) == found["nodes"]
    for key in ("speedup", "modelled", "seconds", "plain_seconds"):
        assert found[key] > 0
    assert found["low"] is found["high"] is None, "three answers are too few for an interval"
    assert found["gpu_layers"] == "all"
    check(found, Body)
    assert {name: part["answers"] for name, part in found["categories"].items()} == {"kind 0": 2, "kind 1": 1}
    factors = found["gap"]
    product = factors["plain"] / (factors["passes"] * factors["outside"])
    assert product == pytest.approx(found["speedup"] / found["modelled"])


def test_nodes_on_side_branches_are_accepted(
    tiny: dict[str, Path], own_answers: Trace, spied: Spied, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_planner(monkeypatch, SideBranches(own_answers))
    found = measure(tiny["llama"], own_answers, "auto", **SETTING)
    assert spied.recorded == spied.likeliest
    assert found["tokens"] == own_answers.tokens
    full = found["sizes"]["5"]["passes"]
    assert full > 10
    assert found["tokens"] == pytest.approx(3 * full, abs=2 * 3 * len(PROMPTS)), "two nodes and one more"


def test_plain_passes_in_between_change_no_later_logits(
    tiny: dict[str, Path], own_answers: Trace, spied: Spied, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_planner(monkeypatch, SideBranches(own_answers))
    seen = []
    for plain_every in (1, 1000):
        spied.logits.clear()
        measure(tiny["llama"], own_answers, "auto", plain_every=plain_every, **SETTING)
        seen.append(list(spied.logits))
    assert len(seen[0]) == len(seen[1]) > 50
    assert all(np.array_equal(a, b) for a, b in zip(*seen, strict=True))


def test_a_memory_with_a_running_state_is_measured_too(tiny: dict[str, Path], spied: Spied) -> None:
    with LocalADED(tiny["lfm2"], draft="off", **SETTING) as llm:
        ids = llm._model.tokenize(PROMPTS[0], add_special=True, parse_special=False)
        said = list(llm.generate(ids, max_tokens=40, temperature=0.0).tokens)
    answer = Recorded("a", "kind", np.array(ids, np.int32), np.array(said, np.int32))
    found = measure(
        tiny["lfm2"], Trace("own", tiny["lfm2"], 1 << 15, (answer,)), "auto", plain_every=2, **SETTING
    )
    assert found["tokens"] == len(said)
    assert spied.recorded == spied.likeliest


def test_an_interrupted_run_goes_on_with_the_same_totals(
    tiny: dict[str, Path], own_answers: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    # `paper` does not look at clocks, so that its passes are the same in every run.
    whole = measure(tiny["llama"], own_answers, "paper", warm=[own_answers], **SETTING)
    saved: list[dict[str, Any]] = []
    told: list[str] = []

    def stop() -> None:
        told.append("one answer")
        if len(told) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(
            tiny["llama"], own_answers, "paper", warm=[own_answers], save=saved.append, step=stop, **SETTING
        )
    assert len(saved[-1]["answers"]) == 2
    half = saved[-1]["answers"] | {}
    steps: list[int] = []
    rest = measure(
        tiny["llama"],
        own_answers,
        "paper",
        warm=[own_answers],
        earlier=saved[-1],
        step=lambda: steps.append(1),
        **SETTING,
    )
    assert len(steps) == len(PROMPTS)
    assert {key: rest["answers"][key] for key in half} == half, "not measured again"
    assert rest["curve"] == saved[-1]["curve"]
    for key in ("tokens", "passes", "nodes"):
        assert rest[key] == whole[key], key

    def nothing_left(*_: object) -> None:
        pytest.fail("nothing was left to decode")

    monkeypatch.setattr(trace_driven, "decode_step", nothing_left)
    assert measure(tiny["llama"], own_answers, "paper", warm=[own_answers], earlier=rest, **SETTING) == rest


def test_another_setting_s_result_is_not_continued(tiny: dict[str, Path], own_answers: Trace) -> None:
    found = measure(tiny["llama"], own_answers, "paper", **SETTING)
    with pytest.raises(OptionError, match="other settings"):
        measure(tiny["llama"], own_answers, "paper", earlier=found, plain_every=2, **SETTING)
    found["curve"]["cost"] = {"measured": []}
    with pytest.raises(StoreError, match="damaged"):
        measure(tiny["llama"], own_answers, "paper", earlier=found, **SETTING)


def test_an_answer_that_the_context_does_not_hold_is_clipped_and_counted(
    tiny: dict[str, Path], own_answers: Trace
) -> None:
    long, short, _ = own_answers.answers
    prompt = np.resize(long.prompt, 250)
    fits_not = Recorded("too long", "kind", np.resize(long.prompt, 256), long.answer)
    trace = Trace(
        "t", tiny["llama"], 1 << 15, (Recorded("long", "kind", prompt, long.answer), fits_not, short)
    )
    found = measure(tiny["llama"], trace, "paper", **SETTING | {"n_ctx": 256})
    assert (found["clipped"], found["left_out"]) == (1, 1)
    assert found["tokens"] == 6 + len(short.answer)
    with pytest.raises(OptionError, match="no answer"):
        measure(tiny["llama"], replace(trace, answers=(fits_not,)), "paper", **SETTING | {"n_ctx": 256})


def test_token_ids_the_model_does_not_know_are_refused(tiny: dict[str, Path], own_answers: Trace) -> None:
    strange = Recorded("a", "kind", np.array([1], np.int32), np.array([100_000], np.int32))
    with pytest.raises(OptionError, match="--tokenizer"):
        measure(tiny["llama"], Trace("t", own_answers.path, 1 << 17, (strange,)), "paper", **SETTING)


def test_a_memory_that_cannot_roll_back_is_refused(tiny: dict[str, Path], own_answers: Trace) -> None:
    with pytest.raises(OptionError, match="roll back"):
        measure(tiny["mamba"], own_answers, "auto", **SETTING)


def test_paper_s_corpus_is_all_warm_answers_at_once(
    tiny: dict[str, Path], own_answers: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed: list[list[list[int]]] = []
    feed = PaperDrafter.feed

    def noted(self: PaperDrafter, texts: Any) -> None:
        kept = list(texts)
        fed.append([text.tolist() for text in kept])
        feed(self, kept)

    monkeypatch.setattr(PaperDrafter, "feed", noted)
    found = measure(tiny["llama"], own_answers, "paper", warm=[own_answers, own_answers], **SETTING)
    texts = [text.tolist() for one in own_answers.answers for text in (one.prompt, one.answer)]
    assert fed[-1] == texts * 2
    cold = measure(tiny["llama"], own_answers, "paper", **SETTING)
    assert found["tokens_per_pass"] > cold["tokens_per_pass"]


def test_another_drafter_than_the_engine_s_is_used_where_one_is_made(
    tiny: dict[str, Path], own_answers: Trace
) -> None:
    made: list[Drafter] = []

    def make() -> Drafter:
        made.append(make_drafter("auto", n_vocab=own_answers.n_vocab, without=("memory", "conversation")))
        return made[-1]

    found = measure(tiny["llama"], own_answers, "auto", make=make, **SETTING)
    assert len(made) == 2 and found["tokens"] == own_answers.tokens
    assert len(made[1].predict()[0]) > 0, "it has read the answers"


def test_a_cache_type_nobody_knows_is_refused(tiny: dict[str, Path], own_answers: Trace) -> None:
    with pytest.raises(OptionError, match="cache_type is 'nonsense'"):
        measure(tiny["llama"], own_answers, "paper", **SETTING | {"cache_type": "nonsense"})


def test_the_largest_tree_is_priced_though_curves_end_below_it() -> None:
    assert trace_driven.price(np.arange(65.0), 64) == 64.0
    assert trace_driven.price(np.arange(65.0), 65) == 65.0


def test_sums_over_answers_are_sums_over_their_steps() -> None:
    def step(nodes: int, tokens: int, seconds: float) -> dict[str, float]:
        return {
            "nodes": nodes, "tokens": tokens, "draft": 20e-6, "verify": seconds / 2, "seconds": seconds,
            "modelled": 0.5, "modelled_plain": 0.25 * tokens,
        }  # fmt: skip

    one = answer_sums("code", [step(0, 1, 1.0), step(3, 3, 2.0)], [{"timed": 1.0, "predicted": 0.5}] * 2)
    other = answer_sums("chat", [step(3, 1, 3.0)], [{"timed": 2.0, "predicted": 0.5}])
    for sums in (one, other):
        check(sums, Answer)
    found = summed({"a": one, "b": other}, seed=0)
    assert (found["tokens"], found["passes"], found["nodes"]) == (5, 3, 6)
    assert found["plain_seconds"] == pytest.approx(4 * 1.0 + 1 * 2.0) and found["seconds"] == 6.0
    assert found["speedup"] == pytest.approx(1.0) and found["modelled"] == pytest.approx(1.25 / 1.5)
    assert found["categories"]["code"]["speedup"] == pytest.approx(4 / 3)
    assert found["sizes"]["4"] == {"passes": 2, "measured_ms": 1250.0, "predicted_ms": 500.0}
    assert found["draft_microseconds"] == {"median": 20.0, "p99": 20.0, "mean": 20.0}
    assert "plain steps differ" in found["largest_gap"]
