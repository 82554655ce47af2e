"""Replays of `auto` as the product makes it, with parts left out, and the fit of what it starts from."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

import aded_models
from aded_bench.main import main
from aded_bench.replay import drafter_settings, priors
from aded_bench.replay import loop as replay
from aded_bench.replay.ablation import below, effects, percent
from aded_bench.replay.curves import NamedCurve
from aded_bench.replay.drafter_settings import FIXED_NODES, DrafterSettings, open_drafter, read_priors
from aded_bench.replay.drafts import NeverPauses
from aded_bench.replay.tables import print_replay
from aded_bench.replay.traces import Recorded, Trace, read_trace
from aded_bench.report import write as report
from aded_bench.results import ResultFile, sha256
from aded_bench.schema import KINDS, check
from aded_local.drafters.ngram.components import COMPONENTS
from aded_local.drafters.ngram.drafter import NgramDrafter
from aded_local.drafters.ngram.pretrained import blank_priors
from aded_local.errors import OptionError, StoreError
from aded_local.llama.gguf import read_header
from aded_local.llama.identity import identity_of
from aded_local.ngrams.static_build import Origin, build_static
from aded_models.phrases import phrases_path

BUILTIN = Path(aded_models.builtin_path())
ANSWER = (
    "The quick answer is that, as a result of this, there are a lot of things to do at the end of the day."
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A trace in the built-in model's vocabulary."""
    rows = [
        {"id": str(i), "category": ("even", "odd")[i % 2], "prompt": f"say {i}", "output": f"{i}. {ANSWER}"}
        for i in range(4)
    ]
    path = tmp_path / "said.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.fixture
def trace(file: Path) -> Trace:
    return read_trace(file, vocab=BUILTIN)


@pytest.fixture
def curve(tmp_path: Path) -> NamedCurve:
    path = tmp_path / "flat.json"
    path.write_text(json.dumps({"ratio": {"1": 1.0, "2": 1.1, "4": 1.2, "64": 1.5}}))
    return NamedCurve("flat", {1: 1.0, 2: 1.1, 4: 1.2, 64: 1.5}, 0.01, path)


def replayed(trace: Trace, curve: NamedCurve, **options: Any) -> dict[str, Any]:
    return replay.run(replay.Plan((trace,), (curve,), methods=("auto",), **options), ResultFile(None))


def printed(result: dict[str, Any]) -> str:
    out = io.StringIO()
    print_replay(result, Console(file=out, width=200))
    return out.getvalue()


# --- what auto is made of ---------------------------------------------------------------------------------


def test_a_replay_drafts_from_the_shipped_phrases_unless_told_otherwise(
    trace: Trace, curve: NamedCurve
) -> None:
    one = replace(trace, answers=trace.answers[:1])
    found = replayed(one, curve)
    bare = replayed(one, curve, drafter=DrafterSettings(phrases=None))
    assert found["rows"][0]["setting"] == "" and bare["rows"][0]["setting"] == "without phrases"
    assert found["rows"][0]["bits_per_token"] < bare["rows"][0]["bits_per_token"]
    files = {one["file"]: one["sha256"] for one in found["provenance"]["inputs"]}
    assert files["phrases.xz"] == sha256(phrases_path()) and "priors.npz" in files
    assert "phrases.xz" not in {one["file"] for one in bare["provenance"]["inputs"]}


def test_a_table_of_phrases_is_made_once_per_vocabulary(
    trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []
    monkeypatch.setattr(
        drafter_settings, "phrase_table", lambda *_: made.append(_) or np.zeros(1 << 12, np.int64)
    )
    drafter_settings.phrases_of.cache_clear()
    for _ in range(3):
        open_drafter("auto", trace, DrafterSettings())
    drafter_settings.phrases_of.cache_clear()
    assert len(made) == 1


def test_a_result_is_continued_only_with_the_same_settings_of_the_drafter(
    trace: Trace, curve: NamedCurve, tmp_path: Path
) -> None:
    plan = replay.Plan((trace,), (curve,), methods=("auto",))
    out = ResultFile(tmp_path / "out.json")
    assert replay.run(plan, out)["complete"]
    for other in (
        DrafterSettings(phrases=None),
        DrafterSettings(without=("passages",)),
        DrafterSettings(search="puct"),
    ):
        with pytest.raises(OptionError, match="settings"):
            replay.run(replace(plan, drafter=other), out)
    with pytest.raises(OptionError, match="settings"):
        replay.run(replace(plan, ablate=True), out)
    assert replay.run(plan, out)["complete"]


def test_a_part_left_out_is_named_and_changes_what_is_drafted(trace: Trace, curve: NamedCurve) -> None:
    row = replayed(trace, curve, drafter=DrafterSettings(without=("memory", "passages")))["rows"][0]
    assert row["setting"] == "without memory, passages"
    whole = replayed(trace, curve)["rows"][0]
    assert row["curves"]["flat"]["tokens_per_pass"] < whole["curves"]["flat"]["tokens_per_pass"]
    with pytest.raises(OptionError, match="magic"):
        open_drafter("auto", trace, DrafterSettings(without=("magic",)))


def test_a_store_of_another_tokenizer_is_refused_and_of_the_same_is_used(
    trace: Trace, tmp_path: Path
) -> None:
    texts = [np.concatenate([one.prompt, one.answer]) for one in trace.answers]
    key = identity_of(read_header(BUILTIN)).tokenizer
    for name, tokenizer in (("own", key), ("other", "of another model")):
        build_static(texts, tmp_path / name, Origin(tokenizer, "made", trace.n_vocab), memory=1)
    drafter = open_drafter("auto", trace, DrafterSettings(phrases=None, store=tmp_path / "own"))
    assert isinstance(drafter, NgramDrafter) and drafter.tables.static.any()
    with pytest.raises(StoreError, match="another tokenizer") as error:
        open_drafter("auto", trace, DrafterSettings(store=tmp_path / "other"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [None, b"", b"junk", "wrong"])
def test_files_that_hold_no_phrases_or_priors_are_refused_in_one_line(
    trace: Trace, tmp_path: Path, content: Any
) -> None:
    path = tmp_path / "bad"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        with path.open("wb") as opened:
            np.savez(opened, **{name: np.zeros(3) for name in blank_priors()._fields})
    for given in (DrafterSettings(phrases=path), DrafterSettings(priors=path)):
        with pytest.raises(StoreError, match="bad") as error:
            open_drafter("auto", trace, given)
        assert "\n" not in str(error.value)


# --- ablation -----------------------------------------------------------------------------------------------


@pytest.fixture
def ablated(trace: Trace, curve: NamedCurve) -> dict[str, Any]:
    one = replace(trace, answers=tuple(replace(a, answer=a.answer[:12]) for a in trace.answers[:2]))
    return replayed(one, curve, ablate=True, drafter=DrafterSettings(phrases=None))


def test_an_ablation_leaves_out_every_part_in_turn(ablated: dict[str, Any]) -> None:
    check(ablated, KINDS["replay"])
    settings = [row["setting"] for row in ablated["rows"]]
    assert settings[0] == "without phrases" and ablated["ablation"] == settings[1:]
    assert {f"without {name}" for name in COMPONENTS} < set(settings)
    assert settings[-4:] == ["without budget", "without guard", "chains", "puct"]
    found = effects(ablated, "said", "cold")
    assert found["setting"].iloc[0] == "without phrases" and found["change flat"].iloc[0] == 0.0
    assert list(found["change"].iloc[1:]) == sorted(found["change"].iloc[1:])
    assert len(effects(ablated | {"ablation": []}, "said", "cold")) == 0
    out = printed(ablated)
    assert "what each part of auto is worth" in out and "long-contexts" in out
    assert "auto (without memory)" not in out, "parts are no methods"


def test_an_ablation_is_drawn_apart_from_the_methods(ablated: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "ablated.json"
    path.write_text(json.dumps(ablated))
    report.write(report.collect([path]), tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "replay-ablation" in text and "| memory |" in text
    assert "| auto without memory |" not in text


def test_without_a_budget_eight_nodes_are_verified_and_without_a_guard_nothing_pauses(
    trace: Trace, curve: NamedCurve
) -> None:
    dear = replace(curve, name="dear", ratio={1: 1.0, 2: 2.0, 64: 64.0})
    fixed = replayed(trace, dear, ablate=True)
    rows = {row["setting"]: row["curves"]["dear"] for row in fixed["rows"]}
    assert rows["without budget"]["nodes_per_pass"] > rows[""]["nodes_per_pass"]
    assert rows["without budget"]["nodes_per_pass"] <= FIXED_NODES
    guard = NeverPauses()
    for _ in range(50):
        guard.record(tokens=1, seconds=0.05, plain_seconds=0.01, nodes=8)
        assert not guard.paused
    assert guard.margin > 0.05, "it is wary all the same"


def test_categories_below_plain_decoding_are_told(trace: Trace, curve: NamedCurve) -> None:
    row = {"curves": {"q4": {"categories": {"koala": {"speedup": 0.9996}, "code": {"speedup": 0.95}}}}}
    assert below(row, 1.0) == "code 0.950 on q4, koala 0.999 on q4"
    assert below(row, 0.99) == "code 0.950 on q4" and below(row, 0.9) == "none"
    found = replayed(trace, curve)
    assert "said, auto, cold: categories below 1.00: none; below 0.99: none" in printed(found)
    found["rows"][0]["curves"]["flat"]["categories"]["odd"]["speedup"] = 0.98
    assert "categories below 1.00: odd 0.980 on flat; below 0.99: odd" in printed(found)
    assert (percent(0.01), percent(-0.01), percent(-3.26)) == ("0.0%", "0.0%", "-3.3%")


# --- the command line -----------------------------------------------------------------------------------------


@pytest.fixture
def invoke(file: Path, curve: NamedCurve, tmp_path: Path) -> Callable[..., Result]:
    start = ["replay", str(file), "--vocab", str(BUILTIN), "--curve", str(curve.path)]
    return lambda *more: CliRunner().invoke(main, [*start, *map(str, more)])


@pytest.mark.parametrize(
    "options",
    [
        ["--no-phrases", "--phrases", "p.xz"],
        ["--ablate", "--nodes", "8"],
        ["--ablate", "--without", "passages"],
        ["--ablate", "--search", "puct"],
        ["--ablate", "--body", "m.gguf"],
        ["--without", "static", "--store", "s"],
        ["--without", "priors", "--priors", "p.npz"],
        ["--methods", "off,paper", "--ablate"],
        ["--methods", "off,paper", "--no-phrases"],
        ["--without", "magic"],
        ["--search", "breadth-first"],
        ["--phrases", "absent.xz"],
        ["--store", "absent"],
        ["--priors", "absent.npz"],
    ],
)
def test_what_contradicts_or_is_not_there_is_one_line(
    invoke: Callable[..., Result], options: list[str]
) -> None:
    done = invoke(*options)
    assert done.exit_code == 2 and len(done.stderr.splitlines()) == 1, done.output
    assert done.stderr.startswith("aded-bench: ")
    assert options[-1] in done.stderr or options[-2] in done.stderr


def test_the_command_takes_settings_of_the_drafter(invoke: Callable[..., Result], tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    done = invoke(
        "--without", "passages", "--search", "puct", "--no-phrases", "--methods", "auto", "--json", out
    )
    assert done.exit_code == 0, done.output
    result = json.loads(out.read_text())
    assert [row["setting"] for row in result["rows"]] == ["without phrases, passages, puct"]
    assert result["provenance"]["settings"]["drafter"] == {
        "phrases": None, "store": None, "priors": None, "without": ["passages"], "search": "puct"
    }  # fmt: skip


# --- priors ----------------------------------------------------------------------------------------------------


def test_priors_are_fitted_alike_every_time_and_stay_open_to_change(file: Path, tmp_path: Path) -> None:
    made = []
    for name in ("a.npz", "b.npz"):
        out = tmp_path / name
        done = CliRunner().invoke(main, ["priors", str(file), "--vocab", str(BUILTIN), "-o", str(out)])
        assert done.exit_code == 0, done.output
        assert "4 answers" in done.output
        made.append(out.read_bytes())
    assert made[0] == made[1] and len(made[0]) < priors.LARGEST_FILE
    found, blank = read_priors(tmp_path / "a.npz"), blank_priors()
    assert 0 < found.rates[1].max() <= priors.MOST_SEEN
    assert not np.allclose(found.weights, blank.weights) and not np.allclose(found.finals, blank.finals)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as opened:
        told = json.loads(str(opened["origin"]))
    assert told["traces"][0]["trace"] == "said" and told["traces"][0]["answers"] == 4
    assert told["traces"][0]["phrases"]["sha256"] == sha256(phrases_path()) and "commit" in told


def test_a_second_trace_goes_on_from_what_the_first_taught_but_not_from_its_text(trace: Trace) -> None:
    lesson = priors.Lesson(trace, None)
    once, twice = priors.fit([lesson]), priors.fit([lesson, lesson])
    assert twice.rates[1].sum() > once.rates[1].sum()
    fresh = open_drafter("auto", trace, DrafterSettings(phrases=None, without=("priors",)))
    assert isinstance(fresh, NgramDrafter) and not fresh.tables.memory.any()


def test_priors_of_a_file_are_what_a_replay_starts_from(trace: Trace, tmp_path: Path) -> None:
    lesson = priors.Lesson(trace, None)
    path = tmp_path / "p.npz"
    path.write_bytes(priors.packed(priors.fit([lesson]), [lesson]))
    drafter = open_drafter("auto", trace, DrafterSettings(phrases=None, priors=path))
    assert isinstance(drafter, NgramDrafter)
    assert np.array_equal(drafter.model.weights, read_priors(path).weights)
    bare = open_drafter("auto", trace, DrafterSettings(phrases=None, priors=path, without=("priors",)))
    assert isinstance(bare, NgramDrafter)
    assert np.array_equal(bare.model.weights, blank_priors().weights), "an ablation takes the file away too"


def test_phrases_for_a_trace_that_is_not_measured_are_refused(file: Path, tmp_path: Path) -> None:
    start = ["priors", str(file), "--vocab", str(BUILTIN), "-o", str(tmp_path / "p.npz"), "--phrases-for"]
    for given in ("other=x.xz", "said", "said="):
        done = CliRunner().invoke(main, [*start, given])
        assert done.exit_code == 2 and "TRACE=FILE" in done.stderr
    assert CliRunner().invoke(main, [*start, "said=absent.xz"]).exit_code == 2


def test_traces_without_a_tokenizer_have_no_phrases(tmp_path: Path) -> None:
    path = tmp_path / "made.jsonl"
    path.write_text("made\n")
    ids = np.arange(1, 9, dtype=np.int32)
    made = Trace("made", path, 100, (Recorded("1", "x", ids, ids),))
    drafter = open_drafter("auto", made, DrafterSettings())
    assert isinstance(drafter, NgramDrafter) and not drafter.tables.phrases.any()
    assert priors.Lesson(made, phrases_path()).table() is None
