"""Replays count what the recorded answer accepts, price it on curves, and go on where they were stopped."""

from __future__ import annotations

import gzip
import io
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console
from steps import beginning

from aded_bench.commands.replay import CACHE_TYPES as CACHES_OFFERED
from aded_bench.commands.replay import METHODS
from aded_bench.commands.replay import command as replay_command
from aded_bench.replay import loop as replay
from aded_bench.replay import trace_driven
from aded_bench.replay.curves import read_curve
from aded_bench.replay.drafts import SCRIPTS, Method, Times, exchanges
from aded_bench.replay.sweep import Judged, replay_answer, walk
from aded_bench.replay.tables import print_replay
from aded_bench.replay.traces import Recorded, Trace, read_trace
from aded_bench.results import ResultFile
from aded_bench.summary import ratio_interval
from aded_local.drafters import PRESETS, make_drafter
from aded_local.errors import ADEDError, ModelNotFoundError, OptionError, StoreError
from aded_local.llama import CACHE_TYPES
from aded_local.speed.planner import PlainPlanner
from aded_local.step import StepResult
from aded_local.tree import EMPTY_TREE, DraftTree

SHARED = Path(__file__).resolve().parents[2] / "shared"
FLAT = {"1": 1.0, "2": 1.1, "4": 1.2, "64": 1.5}


def ids(*tokens: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    return np.array(tokens, np.int32)


def tree(tokens: list[int], parents: list[int], chances: list[float] | None = None) -> DraftTree:
    depths: list[int] = []
    for parent in parents:
        depths.append(1 if parent < 0 else depths[parent] + 1)
    return DraftTree(
        ids(*tokens), ids(*parents), ids(*depths), np.array(chances or [0.5] * len(tokens), np.float32)
    )


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    """Six answers that repeat each other; the file only has to exist."""
    path = tmp_path / "made.jsonl"
    path.write_text("made\n")
    phrase = list(range(10, 40))
    answers = tuple(
        Recorded(f"a{i}", "odd" if i % 2 else "even", ids(1, 2, 50 + i), ids(*phrase, 60 + i, *phrase[:9]))
        for i in range(6)
    )
    return Trace("made", path, 100, answers)


@pytest.fixture
def curve_file(tmp_path: Path) -> Path:
    path = tmp_path / "flat.json"
    path.write_text(json.dumps({"ratio": FLAT, "milliseconds": {"1": 10.0}}))
    return path


def test_a_pass_yields_the_accepted_nodes_and_one_token_more() -> None:
    recorded = Recorded("1", "x", ids(1), ids(5, 6, 7, 8))
    forked = tree([9, 5, 4, 6, 1, 8], [-1, -1, 0, 1, 1, 3])  # 5 6 lies on the path; 8 after 6 does not
    assert walk(forked, recorded, 0) == ([5, 6, 7], [1, 3])
    assert walk(tree([5, 6, 7, 8], [-1, 0, 1, 2]), recorded, 0) == ([5, 6, 7, 8], [0, 1, 2, 3])
    assert walk(tree([8, 9], [-1, 0]), recorded, 3) == ([8], [0])
    assert walk(EMPTY_TREE, recorded, 1) == ([6], [])


class Scripted(PlainPlanner):
    """Plans the same tree each time and keeps what it is told."""

    def __init__(self, tree: DraftTree) -> None:
        self.tree = tree
        self.results: list[StepResult] = []

    def plan(self, n_cells: int, most: int) -> DraftTree:
        return self.tree.first(most)

    def observe(self, result: StepResult) -> None:
        self.results.append(result)


def test_a_planner_is_told_what_the_engine_would_tell_it() -> None:
    recorded = Recorded("1", "x", ids(1, 2), ids(5, 6, 7, 5, 6))
    planner, times = Scripted(tree([5, 6], [-1, 0])), Times()
    sizes = list(replay_answer(planner, recorded, lambda n, cells: n + cells / 100, 64, times=times))
    assert sizes == [2, 2] and len(times.draft) == len(times.learn) == 2
    assert [(r.tokens, r.path, r.n_cells) for r in planner.results] == [
        ([5, 6, 7], [0, 1], 1),
        ([5, 6], [0], 4),
    ]
    assert [r.verify_seconds for r in planner.results] == pytest.approx([3.01, 3.04])
    assert all(r.total_seconds == r.verify_seconds for r in planner.results)


def test_nodes_beyond_the_recorded_end_and_padding_are_not_judged() -> None:
    judged = Judged()
    planner = Scripted(tree([5, 6, 7, 7], [-1, 0, 1, 2], [0.9, 0.8, 0.7, 0.0]))
    list(replay_answer(planner, Recorded("1", "x", ids(1), ids(5, 6)), lambda n, cells: 1.0, 64, judged))
    assert judged.depths() == [
        {"depth": 1, "proposed": 1, "accepted": 1}, {"depth": 2, "proposed": 1, "accepted": 1}
    ]  # fmt: skip


def test_calibration_error_is_the_mean_distance_of_predicted_and_observed() -> None:
    judged = Judged()
    assert judged.calibration() is None and judged.depths() == []
    judged.add(tree([1, 2, 3, 4], [-1] * 4, [0.75] * 4), [0], 9)
    judged.add(tree([1], [-1], [math.nan]), [0], 9)  # without an estimate only its depth counts
    found = judged.calibration()
    assert found is not None
    assert found["ece"] == pytest.approx(0.5)
    assert found["bins"] == [{"low": 0.75, "high": 0.8, "count": 4, "predicted": 0.75, "observed": 0.25}]
    assert judged.depths() == [{"depth": 1, "proposed": 5, "accepted": 2}]


def test_missing_sizes_are_interpolated_and_a_dear_size_is_padded_to_a_cheaper_one(tmp_path: Path) -> None:
    path = tmp_path / "jagged.json"
    path.write_text(json.dumps({"ratio": {"1": 1, "2": 1.5, "3": 2.2, "4": 1.7, "8": 3.7}}))
    curve = read_curve(path)
    assert curve.costs[1] == 1.0
    assert curve.costs[3] == 1.7
    assert curve.costs[6] == pytest.approx(2.7)
    assert curve.costs[16] == pytest.approx(7.4)
    assert np.all(np.diff(curve.costs) >= 0)


def test_a_result_of_the_curve_command_is_a_curve_too(tmp_path: Path) -> None:
    entries = [
        {
            "flash_attention": fa,
            "cache_type": "f16",
            "prefix": prefix,
            "ratio": {"1": 1.0, "2": r},
            "milliseconds": {"1": 30},
        }
        for fa, prefix, r in ((True, 256, 1.9), (False, 1536, 1.8), (False, 256, 1.4))
    ]
    chosen = {"flash_attention": False, "cache_type": "f16"}
    path = tmp_path / "here.json"
    path.write_text(json.dumps({"kind": "curve", "curves": entries, "chosen": chosen}))
    assert read_curve(path).costs[2] == 1.4
    assert read_curve(path).plain_seconds == 0.03


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"ratio": {"2": 1}}', '{"ratio": {"1": 1, "2": -1}}'])
def test_what_is_no_curve_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(StoreError, match=r"bad\.json"):
        read_curve(path)
    with pytest.raises(StoreError, match="cannot be read: No such file"):
        read_curve(tmp_path / "absent.json")


def test_every_figure_follows_from_passes_and_nodes(trace: Trace, curve_file: Path) -> None:
    methods = ("off", "auto", "paper", "prompt-lookup")
    plan = replay.Plan((trace,), (read_curve(curve_file),), methods=methods)
    result = replay.run(plan, ResultFile(None))
    assert result["complete"] and result["missing"] == {}
    rows = {row["method"]: row for row in result["rows"]}
    assert list(rows) == list(methods)
    for row in rows.values():
        found = row["curves"]["flat"]
        assert row["tokens"] == 240 and row["answers"] == 6
        assert found["tokens_per_pass"] == pytest.approx(240 / found["passes"])
        assert found["low"] <= found["speedup"] <= found["high"]
        assert {name: c["answers"] for name, c in found["categories"].items()} == {"even": 3, "odd": 3}
        assert all(c["low"] is c["high"] is None for c in found["categories"].values()), "of three answers"
    assert rows["off"]["curves"]["flat"]["speedup"] == 1.0
    assert rows["off"]["draft_microseconds"] is None
    for method in ("auto", "paper"):
        assert rows[method]["curves"]["flat"]["speedup"] > 1.5  # the phrase comes back, and passes are cheap
        assert rows[method]["bits_per_token"] < 6.6  # log2 of the vocabulary
        assert rows[method]["curves"]["flat"]["calibration"]["bins"]
    assert rows["prompt-lookup"]["curves"]["flat"]["calibration"] is None


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if not k.endswith("microseconds")}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def test_a_replay_repeats_exactly_and_warm_knows_more_than_cold(trace: Trace, curve_file: Path) -> None:
    def once() -> list[dict[str, Any]]:
        plan = replay.Plan(
            (trace,), (read_curve(curve_file),), warm=(trace,), phases=("cold", "warm"), methods=("auto", "paper")
        )  # fmt: skip
        found: list[dict[str, Any]] = replay.run(plan, ResultFile(None))["rows"]
        return found

    first = once()
    assert without_times(first) == without_times(once())
    for method in ("auto", "paper"):
        cold, warm = (row for row in first if row["method"] == method)
        assert warm["curves"]["flat"]["tokens_per_pass"] > cold["curves"]["flat"]["tokens_per_pass"]
        assert warm["bits_per_token"] < cold["bits_per_token"]


def test_a_fixed_number_of_nodes_is_verified_whatever_it_costs(trace: Trace, tmp_path: Path) -> None:
    dear = tmp_path / "dear.json"
    dear.write_text(json.dumps({"ratio": {"1": 1, "2": 2, "64": 64}}))
    curves = (read_curve(dear),)
    chosen = replay.run(replay.Plan((trace,), curves, methods=("auto",)), ResultFile(None))
    fixed = replay.run(replay.Plan((trace,), curves, methods=("auto",), nodes=8), ResultFile(None))
    assert chosen["rows"][0]["curves"]["dear"]["nodes"] < fixed["rows"][0]["curves"]["dear"]["nodes"]
    assert fixed["rows"][0]["curves"]["dear"]["nodes_per_pass"] <= 8


def test_an_interrupted_replay_keeps_finished_sweeps_and_goes_on(
    trace: Trace, curve_file: Path, tmp_path: Path
) -> None:
    file = ResultFile(tmp_path / "out.json")
    plan = replay.Plan((trace,), (read_curve(curve_file),), methods=("off", "auto"))
    seen: list[str] = []

    def stop(note: str) -> None:
        seen.append(note)
        if len(seen) == 8:
            raise KeyboardInterrupt

    half = replay.run(plan, file, stop)
    assert not half["complete"] and [row["method"] for row in half["rows"]] == ["off"]
    steps: list[str] = []
    whole = replay.run(plan, file, steps.append)
    assert whole["complete"] and [row["method"] for row in whole["rows"]] == ["off", "auto"]
    assert len(steps) == replay.total_steps(plan)
    assert json.loads((tmp_path / "out.json").read_text())["complete"]
    other = replay.Plan((trace,), plan.curves, methods=("off",), seed=1)
    with pytest.raises(OptionError):
        replay.run(other, file)


def test_a_missing_peer_is_named_with_its_reason(trace: Trace, curve_file: Path) -> None:
    methods = ("draftretriever", "suffix", "off")
    plan = replay.Plan((trace,), (read_curve(curve_file),), methods=methods)
    result = replay.run(plan, ResultFile(None))
    assert result["complete"] and [row["method"] for row in result["rows"]] == ["off"]
    assert all("--peer-python" in result["missing"][name] for name in ("draftretriever", "suffix"))
    here = replay.Plan(plan.traces, plan.curves, methods=methods, peer_python=Path(sys.executable))
    result = replay.run(here, ResultFile(None))
    assert "No module named" in result["missing"]["draftretriever"]


BODY = {
    "model": "body.gguf", "quantization": "Q4_0", "flash_attention": False, "cache_type": "f16", "threads": 2,
    "context": 512, "gpu_layers": "all", "plain_every": 8, "speedup": 1.5, "low": None, "high": None, "modelled": 1.6,
    "tokens_per_pass": 2.0, "nodes_per_pass": 3.0, "seconds": 1.0, "plain_seconds": 1.5, "passes": 9, "nodes": 27,
    "tokens": 18, "categories": {}, "draft_microseconds": None, "plain_passes_timed": 2, "sizes": {}, "gap": None,
    "largest_gap": "none", "curve": {}, "answers": {}, "clipped": 0, "left_out": 0,
}  # fmt: skip


@pytest.fixture
def body(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[tuple[Any, ...]]]:
    """A model that nobody opens, and what was asked of it."""
    asked: list[tuple[Any, ...]] = []

    def measure(
        model: Path, trace: Trace, preset: str, *, warm: Any, make: Any, **more: Any
    ) -> dict[str, Any]:
        asked.append((preset, len(warm), make().name, more["n_ctx"]))
        return dict(BODY)

    monkeypatch.setattr(trace_driven, "measure", measure)
    model = tmp_path / "body.gguf"
    model.write_text("made")
    return model, asked


def test_a_body_is_asked_for_our_presets_and_its_figures_stand_in_the_row(
    trace: Trace, curve_file: Path, body: tuple[Path, list[tuple[Any, ...]]]
) -> None:
    plan = replay.Plan(
        (trace,), (read_curve(curve_file),), methods=("off", "paper"), warm=(trace,), phases=("warm",),
        body=body[0], body_settings={"n_ctx": 512},
    )  # fmt: skip
    rows = replay.run(plan, ResultFile(None))["rows"]
    assert body[1] == [("paper", 1, "paper", 512)]
    assert rows[0]["body"] is None and rows[1]["body"] == BODY


def test_the_tokenizer_is_among_the_inputs(trace: Trace, curve_file: Path, tmp_path: Path) -> None:
    vocab = tmp_path / "vocab.gguf"
    vocab.write_text("made")
    plan = replay.Plan((replace(trace, vocab=vocab),), (read_curve(curve_file),), methods=("off",))
    file = ResultFile(tmp_path / "out.json")
    inputs = replay.run(plan, file)["provenance"]["inputs"]
    assert [found["file"] for found in inputs] == ["made.jsonl", "vocab.gguf", "flat.json"]
    vocab.write_text("another")
    with pytest.raises(OptionError, match="inputs"):
        replay.run(plan, file)


def test_rows_of_one_peer_version_are_not_continued_with_another(
    trace: Trace, curve_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = "1"

    def opened(*_: object, **__: object) -> Method:
        return Method(PlainPlanner(), version=version)

    monkeypatch.setattr(replay, "open_method", opened)
    plan = replay.Plan(
        (trace,), (read_curve(curve_file),), warm=(trace,), phases=("cold", "warm"), methods=("suffix",)
    )
    file = ResultFile(tmp_path / "out.json")
    seen: list[str] = []

    def stop(note: str) -> None:
        seen.append(note)
        if len(seen) == 8:
            raise KeyboardInterrupt

    assert len(replay.run(plan, file, stop)["rows"]) == 1
    version = "2"
    with pytest.raises(OptionError, match="suffix 1, and 2 is installed"):
        replay.run(plan, file)
    version = "1"
    assert replay.run(plan, file)["complete"]


@pytest.mark.parametrize("rows", [[{}], [3], None, [{"trace": "made"}]])
def test_a_damaged_result_file_is_not_continued(
    trace: Trace, curve_file: Path, tmp_path: Path, rows: Any
) -> None:
    plan = replay.Plan((trace,), (read_curve(curve_file),), methods=("off",))
    file = ResultFile(tmp_path / "out.json")
    result = replay.run(plan, file)
    file.save(result | {"rows": rows}, now=True)
    with pytest.raises(StoreError, match="damaged") as error:
        replay.run(plan, file)
    assert "rows" in str(error.value) and "\n" not in str(error.value)


def test_square_brackets_in_names_are_no_markup(trace: Trace, curve_file: Path) -> None:
    curve = replace(read_curve(curve_file), name="c[/i]")
    result = replay.run(
        replay.Plan((replace(trace, name="t[/b]"),), (curve,), methods=("off",)), ResultFile(None)
    )
    out = io.StringIO()
    print_replay(result, Console(file=out, width=200))
    assert "t[/b]" in out.getvalue() and "c[/i]" in out.getvalue()


def test_the_body_says_of_itself_where_numbers_come_from_and_what_it_did_not_measure(
    trace: Trace, curve_file: Path, tmp_path: Path, body: tuple[Path, list[tuple[Any, ...]]]
) -> None:
    plan = replay.Plan(
        (trace,),
        (read_curve(curve_file),),
        methods=("off", "auto"),
        body=body[0],
        body_settings={"n_ctx": None},
    )
    file = ResultFile(tmp_path / "out.json")
    for _ in range(2):  # the second time it is continued
        result = replay.run(plan, file)
        origin = result["provenance"]
        assert (origin["threads"], origin["gpu_layers"]) == (2, "all")
        assert origin["model"]["quantization"] == "Q4_0" and origin["engine"]["context"] == 512
    assert list(result["skipped"]) == ["off on the body"]
    out = io.StringIO()
    print_replay(result, Console(file=out, width=200))
    assert "not measured: off on the body" in out.getvalue() and "body.gguf Q4_0" in out.getvalue()


def test_options_of_the_body_want_one(tmp_path: Path) -> None:
    for option in (["-t", "2"], ["-c", "512"], ["--attention", "on"], ["--cache", "f16"]):
        done = CliRunner().invoke(replay_command, ["t.jsonl", "--curve", "c.json", *option])
        assert done.exit_code == 2 and "--body" in done.output
    done = CliRunner().invoke(replay_command, ["t.jsonl", "--curve", "c.json", "--body", "b", "--cache", "x"])
    assert done.exit_code == 2 and "f16" in done.output


def test_bits_are_the_surprise_and_the_unnamed_share_the_rest() -> None:
    tokens, chances = ids(3, 4), np.array([0.5, 0.25], np.float32)
    assert replay.bits(tokens, chances, 3, 34) == pytest.approx(1.0)
    assert replay.bits(tokens, chances, 9, 34) == pytest.approx(-math.log2(0.25 / 32))
    assert replay.bits(ids(), np.zeros(0, np.float32), 9, 32) == pytest.approx(5.0)
    sure = replay.bits(ids(3), np.ones(1, np.float32), 3, 33)
    assert 0.0 < sure < 0.002
    assert replay.bits(ids(3), np.ones(1, np.float32), 4, 33) == pytest.approx(-math.log2(1e-3 / 32))


@pytest.mark.parametrize("preset", ["auto", "paper"])
def test_predictions_are_a_distribution_over_distinct_tokens(preset: str) -> None:
    drafter = make_drafter(preset, n_vocab=100)
    assert [len(part) for part in drafter.predict()] == [0, 0]
    drafter.recall(exchanges([Recorded("1", "x", ids(1, 2), ids(5, 6, 7, 5, 6, 8, 5, 6))]))
    drafter.begin(beginning(4, 5, 6))
    tokens, chances = drafter.predict()
    assert set(tokens.tolist()) >= {7, 8} and len(set(tokens.tolist())) == len(tokens)
    assert 0.0 < chances.sum() <= 1.0 + 1e-6 and np.all(np.diff(chances) <= 0)
    assert chances[0] == pytest.approx(drafter.draft(1).probabilities[0], rel=1e-5)


def test_the_interval_of_a_ratio_holds_the_ratio_and_shrinks_to_it() -> None:
    low, high = ratio_interval([2.0, 4.0, 6.0] * 2, [1.0, 2.0, 3.0] * 2)
    assert low == high == pytest.approx(2.0)
    low, high = ratio_interval([10.0, 1.0, 5.0] * 2, [4.0] * 6)
    assert low is not None and high is not None
    assert low < 16 / 12 < high


def test_a_trace_is_tokenized_with_the_vocabulary_given(tmp_path: Path) -> None:
    import aded_models

    outputs = ["", "ls -la", "ls -la", "ls"]
    rows = [
        {"id": str(i), "category": "c", "prompt": "list files", "output": o} for i, o in enumerate(outputs)
    ]
    path = tmp_path / "t.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write("\n".join(json.dumps(row) for row in rows))
    found = read_trace(path, vocab=Path(aded_models.builtin_path()), limit=3)
    assert found.name == "t" and [one.id for one in found.answers] == ["1", "2"]  # an empty answer is none
    assert found.describe()["categories"] == {"c": 2}
    assert found.vocab == Path(aded_models.builtin_path())
    assert all(len(one.answer) and one.answer.max() < found.n_vocab for one in found.answers)
    with pytest.raises(OptionError, match="--vocab"):
        read_trace(path)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("", "no recorded answer"),
        ("not json", "no trace"),
        ('{"prompt": "x"}', "line 1"),
        ('{"prompt": "x", "output": "y", "vocab": "nobody-knows"}', "tokenizer"),
    ],
)
def test_what_is_no_trace_is_refused_in_one_line(tmp_path: Path, content: str, error: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(ADEDError, match=error) as found:
        read_trace(path)
    assert "\n" not in str(found.value)
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "x"}\n' * 99)[:20])
    with pytest.raises(StoreError):
        read_trace(tmp_path / "cut.jsonl.gz")
    damaged = bytearray(gzip.compress(b'{"prompt": "x"}\n' * 99))
    damaged[10] = 0xFF  # a kind of block there is not
    (tmp_path / "damaged.jsonl.gz").write_bytes(damaged)
    with pytest.raises(StoreError, match="no trace of JSON lines"):
        read_trace(tmp_path / "damaged.jsonl.gz")
    with pytest.raises(StoreError, match="no trace"):
        read_trace(tmp_path / "absent.jsonl")
    path.write_text('{"prompt": "x", "output": "y"}')
    with pytest.raises(ModelNotFoundError):
        read_trace(path, vocab=tmp_path / "absent.gguf")


def test_the_command_wants_a_curve_and_known_methods(tmp_path: Path) -> None:
    assert ("off", *PRESETS, "prompt-lookup", *SCRIPTS) == METHODS
    assert set(CACHES_OFFERED) == set(CACHE_TYPES)
    for options in ([], ["--curve", "c.json", "--methods", "magic"], ["--curve", "c.json", "--nodes", "65"]):
        done = CliRunner().invoke(replay_command, ["t.jsonl", *options])
        assert done.exit_code == 2 and "Traceback" not in done.output
    assert "--curve" in CliRunner().invoke(replay_command, ["t.jsonl"]).output


@pytest.mark.skipif(not SHARED.exists(), reason="the recorded answers lie in ../shared, which is not here")
def test_the_command_replays_a_recorded_trace(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    done = CliRunner().invoke(
        replay_command,
        [
            str(SHARED / "traces/humaneval-deepseek-coder-6.7b.jsonl.gz"), "--limit", "3",
            "--curve", str(SHARED / "curves/gpu-like.json"), "--methods", "off,paper,draftretriever",
            "--json", str(out),
        ],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "missing: draftretriever" in done.output
    result = json.loads(out.read_text())
    assert result["kind"] == "replay" and result["complete"]
    assert [row["method"] for row in result["rows"]] == ["off", "paper"]
