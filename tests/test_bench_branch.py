"""A draft model beside the target, simulated: the clock, the modes, what comes of them, and the command."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from aded_bench.branch import modes
from aded_bench.branch.chances import Hits, best_size, entropy_of
from aded_bench.branch.machine import Machine, Ran, World
from aded_bench.branch.recording import Draft, Recording, listening, record
from aded_bench.branch.simulate import agreement, simulate
from aded_bench.branch.table import chart, tables
from aded_bench.drafters.real import Key, RealText, Row, Way
from aded_bench.main import main
from aded_bench.replay.curves import NamedCurve
from aded_local.drafters.ngram.drafter import NgramDrafter
from aded_local.errors import OptionError, StoreError
from aded_models.builtin import builtin_path, draft_path

N_VOCAB, PROMPT, ANSWER, HIDDEN = 97, 6, 60, 8
FLAT = NamedCurve("flat", {1: 1.0, 64: 1.0}, 1.0, Path("flat.json"))
STEEP = NamedCurve("steep", {1: 1.0, 2: 1.8, 4: 2.0, 16: 3.7, 64: 13.7}, 1.0, Path("steep.json"))


def row(*tokens: int, first: float = 0.8) -> Row:
    """Eight candidates, the first of them with that share."""
    named = list(dict.fromkeys([*tokens, *range(90, 97)]))[:8]
    shares = [first, *[(1 - first) / 7] * 7]
    return np.array(named, np.int32), np.array(shares, np.float32)


def text_of(seed: int, length: int = PROMPT + ANSWER) -> RealText:
    tokens = [int(t) for t in np.random.default_rng(seed).integers(0, 90, length)]
    text = RealText(f"text {seed}", "all", tokens, PROMPT)
    for at in range(length):
        text.rows[at, ()] = row(tokens[at])
    return text


class Oracle(Draft):
    """A draft model that says what a function of the place says; off the text it guesses."""

    def __init__(self, say: Callable[[RealText, int], Row]) -> None:
        super().__init__("oracle", {})
        self.say = say

    def says(self, text: RealText, at: int, path: Way) -> Row:
        at, path = text.key(at, path)
        if path or at >= len(text.tokens):
            return row(sum(path) % 90, first=0.5)
        return self.say(text, at)

    def learn(self, text: RealText, keys: Sequence[Key], ahead: int = 0) -> None:
        pass


PERFECT = Oracle(lambda text, at: row(text.tokens[at], first=0.97))
FORKING = Oracle(
    lambda text, at: (
        row(text.tokens[at], first=0.9)
        if at % 4
        else row((text.tokens[at] + 1) % 90, text.tokens[at], first=0.3)
    )
)
"""Every fourth token is its second choice, and it is not sure of the first."""
USELESS = Oracle(lambda text, at: row((text.tokens[at] + 1) % 90, first=0.2))
UNEVEN = Oracle(
    lambda text, at: row(text.tokens[at], first=0.9) if at % 5 else row((text.tokens[at] + 1) % 90, first=0.3)
)


def ngrams() -> NgramDrafter:
    return NgramDrafter(n_vocab=N_VOCAB)


def recording(n: int = 4) -> Recording:
    texts = [text_of(seed) for seed in range(n)]
    states = {
        text.id: np.random.default_rng(1).standard_normal((ANSWER, HIDDEN)).astype(np.float16)
        for text in texts
    }
    return Recording(texts, states)


def cell(
    draft: Draft, mode: str, ratio: float = 10.0, curve: NamedCurve = FLAT, **options: Any
) -> dict[str, Any]:
    return simulate(recording(), draft, Machine(curve, ratio), mode, ngrams, **options)


def world(draft: Draft, ratio: float = 10.0, curve: NamedCurve = FLAT) -> World:
    made = recording(1)
    return World(made.texts[0], made.states[made.texts[0].id], draft, Machine(curve, ratio))


# --- the clock -----------------------------------------------------------------------------------


def test_both_processors_work_at_the_same_time() -> None:
    found = world(PERFECT)
    found.ask([()], found.now)
    assert found.free_at == pytest.approx(0.1) and not found.known((), 0.05) and found.known((), 0.1)
    end = found.begin([])
    found.ask([(found.text.tokens[PROMPT + 1],)], found.now)
    assert end == pytest.approx(1.0) and found.free_at == pytest.approx(0.2)
    assert found.finish([]) == [found.text.tokens[PROMPT + 1]]
    assert found.now == pytest.approx(1.0) and found.known((), found.now)
    ran = found.ran()
    assert (ran.tokens, ran.waited, ran.dropped) == (1, 0.0, 0) and ran.idle == pytest.approx(0.8)


def test_who_has_nothing_waits_and_the_time_is_counted() -> None:
    found = world(PERFECT)
    found.ask([()], found.now)
    found.wait()
    assert found.ran().waited == pytest.approx(0.1) == found.now


def test_tokens_that_the_draft_did_not_read_are_read_with_the_next() -> None:
    found = world(PERFECT, curve=STEEP)
    coming = tuple(found.text.tokens[PROMPT + 1 : PROMPT + 3])
    ways = [coming[:1], coming]
    found.begin(ways)
    assert len(found.finish(ways)) == 3
    before = found.now
    found.ask([()], before)
    assert found.free_at - before == pytest.approx(STEEP.costs[4] / 10)


def test_a_branch_that_leaves_the_text_is_dropped_and_no_other() -> None:
    found = world(PERFECT)
    right = found.text.tokens[PROMPT + 1]
    found.ask([()], found.now)
    found.ask([(right,), ((right + 1) % 90,)], found.now)
    found.begin([(right,), ((right + 2) % 90,)])
    found.finish([(right,)])
    assert (found.ran().drafted, found.ran().dropped) == (2, 1)


# --- what statements are worth -------------------------------------------------------------------


def test_a_statement_counts_by_how_often_it_came_true() -> None:
    hits = Hits()
    assert hits.chance(0.95) == pytest.approx(0.95)
    for _ in range(200):
        hits.learn(0.95, False)
        hits.learn(0.2, True)
    assert hits.chance(0.95) < 0.05 and hits.chance(0.2) > 0.9 and hits.chance(0.6) == pytest.approx(0.6)


def test_the_entropy_of_a_statement_counts_what_it_does_not_name() -> None:
    even = (np.array([4, 5, -1], np.int32), np.array([0.5, 0.5, 0.0], np.float32))
    assert entropy_of(even) == pytest.approx(np.log(2))
    half = (np.array([4, 5, -1], np.int32), np.array([0.25, 0.25, 0.0], np.float32))
    assert entropy_of(half) == pytest.approx(-0.5 * np.log(0.25) - 0.5 * np.log(0.5))


@given(st.lists(st.floats(0.01, 1.0), max_size=12))
def test_the_best_size_is_the_best_of_all(chances: list[float]) -> None:
    chances.sort(reverse=True)
    n = best_size(chances, STEEP.costs)
    rates = [(1 + sum(chances[:k])) / STEEP.costs[k + 1] for k in range(len(chances) + 1)]
    assert rates[n] == pytest.approx(max(rates))


# --- modes ---------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(modes.MODES),
    st.sampled_from([PERFECT, FORKING, USELESS, UNEVEN]),
    st.sampled_from([1.0, 3.0, 50.0]),
    st.sampled_from([FLAT, STEEP]),
)
def test_every_mode_writes_the_text_and_no_time_is_lost(
    mode: str, draft: Draft, ratio: float, curve: NamedCurve
) -> None:
    made = recording(2)
    worlds = [World(text, made.states[text.id], draft, Machine(curve, ratio)) for text in made.texts]
    modes.run(modes.make(mode, ngrams, HIDDEN), worlds)
    for each in worlds:
        ran = each.ran()
        assert each.left == 0 and ran.tokens == ANSWER - 1
        least = ran.passes + ran.waited
        assert ran.seconds >= least - 1e-9 and (curve is not FLAT or ran.seconds == pytest.approx(least))
        assert 0 <= ran.idle <= ran.seconds + 1 and 0 <= ran.dropped <= ran.drafted


def test_a_perfect_draft_is_never_dropped_and_its_time_is_hidden() -> None:
    steep = [cell(PERFECT, mode, curve=STEEP)["speedup"] for mode in ("ngram", "serial", "parallel", "auto")]
    assert steep == sorted(steep) and steep[0] < steep[-1]
    serial, parallel, auto = (cell(PERFECT, mode) for mode in ("serial", "parallel", "auto"))
    assert parallel["dropped_per_token"] == 0
    assert 1 < serial["speedup"] < parallel["speedup"]
    assert auto["target_waits"] < serial["target_waits"]
    assert parallel["target_waits"] < 0.2 < serial["target_waits"]


def test_llama_servers_chains_cost_what_they_cost() -> None:
    found = cell(PERFECT, "draft-simple")
    # Of 59 tokens: 14 passes of three drafted tokens and their successor, and one of two.
    assert found["tokens_per_pass"] == pytest.approx(59 / 15) and found["dropped_per_token"] == 0
    assert found["speedup"] == pytest.approx(59 / (15 + (14 * 3 + 2) * 0.1))


def test_branches_catch_what_a_chain_misses() -> None:
    parallel, branch, auto = (cell(FORKING, mode) for mode in ("parallel", "branch", "auto"))
    assert branch["speedup"] > 1.2 * parallel["speedup"] and auto["speedup"] > parallel["speedup"]


@pytest.mark.parametrize("curve", [FLAT, STEEP])
def test_a_useless_draft_costs_auto_next_to_nothing(curve: NamedCurve) -> None:
    assert cell(USELESS, "auto", curve=curve)["speedup"] > 0.97
    assert cell(USELESS, "draft-simple", curve=curve)["speedup"] < 0.8


def test_a_slow_draft_model_is_not_waited_for() -> None:
    assert cell(UNEVEN, "auto", ratio=1.0, curve=STEEP)["target_waits"] < 0.1


@pytest.mark.parametrize("rule", modes.RULES)
def test_every_rule_for_branch_points_runs(rule: str) -> None:
    found = cell(UNEVEN, "branch", rule=rule)
    assert found["speedup"] > 1 and found["rule"] == rule and found["chains"] > 0


def test_confidence_finds_the_places_where_a_draft_is_wrong() -> None:
    # Every fifth token is missed, and the draft says that it does not know it.
    assert cell(UNEVEN, "branch", rule="confidence")["speedup"] > cell(UNEVEN, "draft-simple")["speedup"]


def text_like(text: RealText) -> RealText:
    return RealText(text.id, text.category, list(text.tokens), text.start)


# --- recordings ----------------------------------------------------------------------------------


def test_a_recording_is_kept_and_gone_on_from(tmp_path: Path) -> None:
    prompts = [("a", "all", [5, 6, 7, 8, 9, 10]), ("b", "all", [11, 12, 13])]
    common: dict[str, Any] = {"n_ctx": 256, "n_threads": 1, "folder": tmp_path, "origin": "here"}
    told: list[str] = []
    first = record(builtin_path(), prompts[:1], most=6, step=told.append, **common)
    again = record(builtin_path(), prompts, most=6, step=told.append, **common)
    assert told == ["a", "b"] and [text.id for text in again.texts] == ["a", "b"]
    assert again.texts[0].tokens == first.texts[0].tokens
    np.testing.assert_array_equal(again.states["a"], first.states["a"])
    for text in again.texts:
        assert again.states[text.id].shape[0] == len(text.tokens) - text.start
    with listening("pair", draft_path(), again, **common) as draft:
        share = agreement(again, draft)
        text = again.texts[0]
        off = draft.says(text, text.start, (text.tokens[text.start] ^ 1, 7))
        draft.learn(text, [(text.start + 1, (text.tokens[text.start + 1] ^ 1,))], ahead=4)
        own = [key for key in draft.texts["a"].rows if key[0] == text.start + 1 and key[1]]
        one_by_one = Draft("pair", {"a": text_like(text)}, draft.speaker)
        for at, way in own:
            row = draft.texts["a"].rows[at, way]
            np.testing.assert_array_equal(one_by_one.says(text, at, way)[0], row[0])
            assert row[1].sum() <= 1 + 1e-5
        assert sorted(len(way) for _, way in own) == [1, 2, 3, 4, 5]
    assert 0 <= share <= 1
    with listening("pair", draft_path(), again, **common) as draft:
        draft.speaker = None  # all was kept
        assert agreement(again, draft) == share
        np.testing.assert_array_equal(
            draft.says(text, text.start, (text.tokens[text.start] ^ 1, 7))[0], off[0]
        )
        with pytest.raises(OptionError, match="lacks"):
            draft.says(text, text.start, (text.tokens[text.start] ^ 1, 8))
    with pytest.raises(OptionError, match="of here"):
        record(builtin_path(), prompts, most=6, **{**common, "origin": "elsewhere"})
    (tmp_path / "states.npz").write_bytes(b"damaged")
    with pytest.raises(StoreError, match="hidden states"):
        record(builtin_path(), prompts, most=6, **common)


# --- the command ---------------------------------------------------------------------------------


def run(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["branch", *arguments])


@pytest.fixture
def curve_file(tmp_path: Path) -> Path:
    path = tmp_path / "gpu.json"
    path.write_text(json.dumps({"ratio": {"1": 1.0, "64": 1.6}}))
    return path


def test_end_to_end_on_the_built_in_pair(tmp_path: Path, curve_file: Path) -> None:
    out, png = tmp_path / "branch.json", tmp_path / "branch.png"
    arguments = [
        "builtin",
        "--draft",
        "self,pair",
        "--curve",
        str(curve_file),
        "--ratios",
        "5",
        "--prompts",
        "2",
    ]
    arguments += [
        "-n",
        "12",
        "-t",
        "1",
        "-c",
        "512",
        "--recorded",
        str(tmp_path / "kept"),
        "--json",
        str(out),
    ]
    done = run(*arguments, "--modes", "draft-simple,auto", "--png", str(png))
    assert done.exit_code == 0, done.output
    assert "Simulated speed-up" in done.output and png.stat().st_size > 1000
    result = json.loads(out.read_text())
    assert result["agreement"]["self"] > 0.9 and len(result["cells"]) == 2 * (2 + len(modes.RULES))
    again = run(*arguments, "--modes", "draft-simple,auto")
    assert again.exit_code == 0 and json.loads(out.read_text())["cells"] == result["cells"]
    report = CliRunner().invoke(main, ["report", str(out), "-o", str(tmp_path / "report"), "--no-charts"])
    assert report.exit_code == 0, report.output
    assert "simulated" in (tmp_path / "report" / "report.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--ratios", "fast"], "list of numbers"),
        (["--ratios", "0"], "between"),
        (["--modes", "quick"], "unknown method"),
        (["--draft", "/no/such.gguf", "--prompts", "1", "-n", "4"], "no such"),
        (["--draft", "self", "--prompts", "1", "-n", "1", "-c", "512"], "no answer has two tokens"),
    ],
)
def test_what_cannot_be_simulated_is_one_line(arguments: Sequence[str], said: str, curve_file: Path) -> None:
    done = run("builtin", "--curve", str(curve_file), *arguments)
    assert done.exit_code == 2 and said in done.output.lower()


def test_tables_and_chart_say_that_they_are_simulated() -> None:
    cells = [
        cell(UNEVEN, mode, ratio) | {"rule": None} for mode in ("serial", "auto") for ratio in (2.0, 10.0)
    ]
    result = {"cells": [*cells, cell(UNEVEN, "branch", rule="both")], "agreement": {"oracle": 0.8}}
    assert all("imulated" in caption for caption, _ in tables(result))
    drawn = chart(result)
    assert drawn is not None and "imulated" in drawn.title
    (panel,) = drawn.panels
    assert {line.label for line in panel.lines} == {"serial", "auto"}  # type: ignore[union-attr]
    assert chart({"cells": [], "agreement": {}}) is None


def test_ran_is_plain_data() -> None:
    assert world(PERFECT).ran() == Ran(0, 0.0, 0, 0, 0.0, 0.0, 0, 0, 0)
