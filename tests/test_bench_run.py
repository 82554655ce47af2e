"""`aded-bench run`: fair turns, honest ratios, suites of any kind, and servers that never stay behind."""

from __future__ import annotations

import gzip
import io
import json
import mmap
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner
from fake_arms import FakeArm
from patience import until
from rich.console import Console

from aded_bench.main import main
from aded_bench.results import ResultFile
from aded_bench.run import loop as bench
from aded_bench.run import suites
from aded_bench.run.arms import UNKNOWN_TOKEN, LlamaArm, LocalArm, Setup, logits_setup, open_local
from aded_bench.run.beside import spinning
from aded_bench.run.figures import same_tokens
from aded_bench.run.memory import Meter
from aded_bench.run.methods import (
    ALL,
    DRAFT_SERVER,
    METHODS,
    MODEL_MODES,
    NO_TOP_K,
    PEER,
    SERVER_METHODS,
    SPEC_DEFAULT,
    WITH_DRAFT_MODEL,
)
from aded_bench.run.server import KEPT, ServerArm, inspect
from aded_bench.run.tables import print_run
from aded_local import LocalADED
from aded_local.errors import DeviceError, OptionError, StoreError
from aded_models.builtin import draft_path

SHELL = suites.find(suites.SHELL, None, Path("any.gguf"))
SPEC_BENCH = Path(__file__).parents[2] / "shared" / "prompts" / "spec_bench.jsonl.gz"


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The bench over fake arms; ``change`` may alter an arm when it is made."""
    state: dict[str, Any] = {"log": [], "change": lambda arm: None}

    def make(name: str, *_: object, **__: object) -> FakeArm:
        arm = FakeArm(name, state["log"])
        state["change"](arm)
        return arm

    monkeypatch.setattr(bench, "open_local", make)
    monkeypatch.setattr(bench, "open_arm", make)
    monkeypatch.setattr(FakeArm, "plain", lambda _lead: make("off"))
    monkeypatch.setattr(bench, "cache_megabytes", lambda *_: None)
    return state


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    return path


def plan(model: Path, **changes: Any) -> bench.Plan:
    measured, warming = suites.load(SHELL, 4, 6, 0)
    given = {"methods": ("off", "auto", PEER), "measured": measured, "warming": warming} | changes
    return bench.Plan(model=model, suite="shell", max_tokens=16, repeat=2, seed=0, **given)


def asked(fakes: dict[str, Any], name: str) -> list[str]:
    return [what for who, what in fakes["log"] if who == name and what not in ("forget", "close")]


# --- sweeps and ratios -----------------------------------------------------------------------------


def test_ratios_pair_the_same_prompt_in_the_same_sweep(fakes: dict[str, Any], model: Path) -> None:
    steps: list[str] = []
    result = bench.run(plan(model), ResultFile(None), steps.append)
    assert list(result["summary"]) == ["empty", "warm"]
    ratios = result["summary"]["warm"]["ratios"]
    assert set(ratios) == {"auto/off", "llama-cpp/off", "off/llama-cpp"}
    assert ratios["auto/off"]["summary"]["median"] == pytest.approx(2.0)
    assert ratios["off/llama-cpp"]["summary"]["minimum"] == pytest.approx(1.25)
    assert (ratios["auto/off"]["same_tokens"], ratios["auto/off"]["pairs"]) == (8, 8)
    assert sum(cell["count"] for cell in ratios["auto/off"]["by_category"].values()) == 4
    assert len(steps) == bench.total_steps(plan(model))


def test_time_is_split_and_sums_to_the_pass(fakes: dict[str, Any], model: Path) -> None:
    auto = bench.run(plan(model), ResultFile(None))["summary"]["empty"]["methods"]["auto"]
    assert auto["tokens_per_pass"] == 2.0
    assert sum(auto["microseconds_per_pass"].values()) == pytest.approx(1e6 * 1.0 / 4)
    assert auto["share_outside_llama_decode"] == pytest.approx(0.2)
    assert auto["first_token_ms"]["median"] == pytest.approx(100)
    assert auto["draft_microseconds_median"] == 9.0


def test_a_store_never_meets_the_same_prompt_twice(fakes: dict[str, Any], model: Path) -> None:
    bench.run(plan(model), ResultFile(None))
    seen: set[str] = set()
    for name, what in fakes["log"]:
        if name == "auto" and what in ("forget", "close"):
            seen.clear()
        elif name == "auto":
            assert what not in seen
            seen.add(what)


def test_how_much_drafting_may_change_holds_for_all_our_methods(
    fakes: dict[str, Any], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def note(name: str, *_: object, same: str, **__: object) -> FakeArm:
        asked.append(same)
        return FakeArm(name, fakes["log"])

    monkeypatch.setattr(bench, "open_local", note)
    monkeypatch.setattr(bench, "open_arm", note)
    found = bench.run(plan(model, same="exact", warming=[]), ResultFile(None))
    assert set(asked) == {"exact"} and found["provenance"]["settings"]["same"] == "exact"


def test_fresh_each_forgets_before_every_prompt(fakes: dict[str, Any], model: Path) -> None:
    bench.run(plan(model, warming=[], fresh_each=True), ResultFile(None))
    log = [what for name, what in fakes["log"] if name == "auto" and what != "close"]
    assert log[::2] == ["forget"] * 8
    assert "forget" not in log[1::2]


def test_no_method_always_runs_first() -> None:
    firsts = {bench.rotated(("off", "auto", PEER), turn)[0] for turn in range(3)}
    assert firsts == {"off", "auto", PEER}


def test_a_missing_method_gives_nobody_its_turn(fakes: dict[str, Any], model: Path) -> None:
    methods = ("off", *SERVER_METHODS, "auto", PEER)
    bench.run(plan(model, methods=methods, warming=[]), ResultFile(None))
    turns = [name for name, what in fakes["log"] if what != "close"]
    assert turns[:9] == ["off", "auto", PEER, "auto", PEER, "off", PEER, "off", "auto"]
    assert bench.rotated((), 3) == []


def test_every_arm_ends_with_the_engines_tokens(tiny: dict[str, Path]) -> None:
    with LocalADED(tiny["llama"], n_ctx=256, n_threads=1, draft="off") as llm:
        ends = llm.end_tokens()
        first = next(iter(llm.generate([5, 6], max_tokens=1, temperature=0.0).tokens))
        setup = LocalArm("off", llm).setup(tiny["llama"])
    assert ends and setup.ends == ends
    arm = LlamaArm(replace(setup, ends=frozenset({first})))  # which the metadata does not name
    answer = arm.answer([5, 6], 8, 0.0, 0)
    arm.close()
    assert (answer.tokens, answer.ended, answer.generated) == ([], True, 1)


def test_a_table_of_few_prompts_has_no_interval(fakes: dict[str, Any], model: Path) -> None:
    model = model.rename(model.with_name("x[bold].gguf"))
    result = bench.run(plan(model, warming=[]), ResultFile(None))
    out = Console(width=200, file=io.StringIO(), color_system=None)
    print_run(result, out)
    assert isinstance(out.file, io.StringIO)
    assert "x[bold].gguf" in out.file.getvalue()
    assert not re.search(r"\d to \d", out.file.getvalue())


def test_a_token_whose_id_was_not_told_is_no_difference() -> None:
    assert same_tokens([1, 2, 3], [1, UNKNOWN_TOKEN, 3])
    assert not same_tokens([1, 2, 3], [1, UNKNOWN_TOKEN, 4])
    assert not same_tokens([1, 2, 3], [1, 2])


@pytest.mark.usefixtures("measured_once")
def test_a_model_is_not_loaded_once_more_where_it_would_not_fit(
    tmp_path: Path, tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aded_bench.run.memory.free", lambda: 0.5)
    command = "--methods off,auto,paper --prompts 1 --repeat 1 -n 4 -c 512"
    result = CliRunner().invoke(
        main, ["run", str(tiny["llama"]), *command.split(), "--json", str(tmp_path / "run.json")]
    )
    assert result.exit_code == 2
    assert "paper would load the model once more" in result.stderr and "name fewer --methods" in result.stderr
    assert "Traceback" not in result.output


def test_memory_that_grows_is_charged_to_the_arm_at_work() -> None:
    meter = Meter()
    with meter.charge("big"):
        held = mmap.mmap(-1, 50_000_000)  # a bytes object may get memory that earlier tests left
        held[:: mmap.PAGESIZE] = b"x" * len(range(0, len(held), mmap.PAGESIZE))
    with meter.charge("small"):
        pass
    assert meter.highest["big"] > 40 > meter.highest["small"]
    del held


# --- beside other programs ---------------------------------------------------------------------------


def test_busy_processes_run_while_answers_are_timed(
    fakes: dict[str, Any], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def noted(count: int) -> Iterator[list[int]]:
        fakes["log"].append(("busy", str(count)))
        yield []
        fakes["log"].append(("quiet", ""))

    monkeypatch.setattr(bench, "spinning", noted)
    result = bench.run(plan(model, warming=[], beside=4), ResultFile(None))
    log = [entry for entry in fakes["log"] if entry[1] != "close"]
    names = [name for name, _ in log]
    assert names.index("busy") < names.index("off") < names.index("quiet")
    assert names.count("busy") == 2  # once a sweep
    assert log[names.index("busy")] == ("busy", "4")
    assert result["provenance"]["settings"]["beside"] == 4
    out = Console(width=200, file=io.StringIO(), color_system=None)
    print_run(result, out)
    assert isinstance(out.file, io.StringIO)
    assert "beside 4 busy processes" in out.file.getvalue()


def test_a_run_beside_others_is_another_run(fakes: dict[str, Any], model: Path, tmp_path: Path) -> None:
    file = ResultFile(tmp_path / "run.json")
    bench.run(plan(model), file)
    with pytest.raises(OptionError, match="other settings"):
        bench.run(plan(model, beside=1), file)


def test_busy_processes_are_busy_and_end_with_the_block() -> None:
    with spinning(2) as ids:
        busy = [psutil.Process(number) for number in ids]
        until(lambda: all(sum(one.cpu_times()[:2]) > 0.2 for one in busy))
    assert not any(one.is_running() for one in busy)


def test_busy_processes_end_with_the_program_that_started_them() -> None:
    code = "from aded_bench.run.beside import spinning\nwith spinning(1) as ids: print(*ids, flush=True); input()"
    program = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert program.stdout is not None
    busy = psutil.Process(int(program.stdout.readline()))
    program.kill()
    program.communicate()
    gone, _ = psutil.wait_procs([busy], timeout=60)
    assert gone or busy.status() == psutil.STATUS_ZOMBIE  # nobody may be there to bury an orphan


# --- interrupted and continued -----------------------------------------------------------------------


def test_ctrl_c_keeps_what_there_is_and_the_next_run_does_the_rest(
    fakes: dict[str, Any], model: Path, tmp_path: Path
) -> None:
    def stop(arm: FakeArm) -> None:
        arm.stop_after = 8

    fakes["change"] = stop
    file = ResultFile(tmp_path / "run.json")
    result = bench.run(plan(model), file)
    assert result["complete"] is False
    saved = json.loads((tmp_path / "run.json").read_text())
    assert saved["runs"] and "empty" in saved["summary"]
    before = len(saved["runs"])

    fakes["change"] = lambda arm: None
    fakes["log"].clear()
    result = bench.run(plan(model), file)
    assert result["complete"] and result["resumed"] == 1
    keys = [(r["pass"], r["sweep"], r["prompt"], r["method"]) for r in result["runs"]]
    assert len(keys) == len(set(keys)) == 2 * 2 * 4 * 3
    # What learns answers the earlier prompts of the sweep again; what does not, does not.
    assert len(asked(fakes, "auto")) == 2 * 4 + 2 * (6 + 4)
    assert len(asked(fakes, "off")) + len(asked(fakes, PEER)) == 2 * 2 * 4 * 2 - before + sum(
        r["method"] == "auto" for r in saved["runs"]
    )


def test_another_runs_file_is_not_overwritten(fakes: dict[str, Any], model: Path, tmp_path: Path) -> None:
    file = ResultFile(tmp_path / "run.json")
    bench.run(plan(model), file)
    with pytest.raises(OptionError, match="other settings"):
        bench.run(replace(plan(model), repeat=3), file)


def test_other_prompts_under_the_same_name_are_another_run(
    fakes: dict[str, Any], model: Path, tmp_path: Path
) -> None:
    file = ResultFile(tmp_path / "run.json")
    bench.run(plan(model), file)
    others = suites.load(SHELL, 0, 6, 1)[1]
    for change in ({"warming": others}, {"warm_suite": "shell"}):
        with pytest.raises(OptionError, match="other settings"):
            bench.run(plan(model, **change), file)


@pytest.mark.parametrize(
    "change",
    [{"runs": [[]]}, {"runs": [{}]}, {"histories": []}, {"memory": {"off": 3}}, {"resumed": "x"}],
)
def test_a_damaged_result_is_one_clear_error(
    fakes: dict[str, Any], model: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    file = ResultFile(tmp_path / "run.json")
    file.save(bench.run(plan(model), file) | change, now=True)
    with pytest.raises(StoreError, match="is damaged"):
        bench.run(plan(model), file)


# --- peers that are missing --------------------------------------------------------------------------


def test_what_cannot_be_measured_is_named(fakes: dict[str, Any], model: Path) -> None:
    result = bench.run(plan(model, methods=("off", "auto", *SERVER_METHODS)), ResultFile(None))
    assert set(result["missing"]) == set(SERVER_METHODS)
    assert "--llama-server" in result["missing"]["server"]
    assert set(result["summary"]["empty"]["methods"]) == {"off", "auto"}


def test_with_a_temperature_peers_are_missing(fakes: dict[str, Any], model: Path) -> None:
    result = bench.run(plan(model, temperature=0.8), ResultFile(None))
    assert list(result["missing"]) == [PEER]
    assert "seeds" in result["missing"][PEER]
    with pytest.raises(OptionError, match="no method is left"):
        bench.run(plan(model, temperature=0.8, methods=(PEER,)), ResultFile(None))


def test_a_peer_that_fails_is_missing_and_the_others_go_on(fakes: dict[str, Any], model: Path) -> None:
    def fail(arm: FakeArm) -> None:
        arm.fail = arm.name == PEER

    fakes["change"] = fail
    result = bench.run(plan(model), ResultFile(None))
    assert result["complete"]
    assert result["missing"] == {PEER: "llama_decode returned 1"}
    assert result["summary"]["warm"]["ratios"]["auto/off"]["pairs"] == 8


def test_prompt_lookup_gets_the_context_it_needs_or_is_missing(
    tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = next(iter(tiny.values()))
    setup = Setup(path, 4096, 1, False, "f16", n_vocab=500)
    assert logits_setup(setup, 300).n_ctx == 512
    assert logits_setup(setup, 10_000).n_ctx == 4096
    memory = psutil.virtual_memory()._replace(available=1000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with pytest.raises(DeviceError, match="GB are free"):
        logits_setup(setup, 300)


# --- suites ------------------------------------------------------------------------------------------


def write_lines(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_of_prompts_messages_and_turns(tmp_path: Path) -> None:
    talk = [{"role": role, "content": role} for role in ("system", "user", "assistant", "user")]
    rows = [{"prompt": "one", "category": "a"}, {"id": 7, "messages": talk}, {"turns": ["x", "y"]}]
    first, second, third = suites.read(write_lines(tmp_path / "suite.jsonl", rows))
    assert (first.id, first.category, first.turns) == ("line-1", "a", ("one",))
    assert (second.id, len(second.opening), second.turns) == ("7", 3, ("user",))
    assert third.turns == ("x", "y")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("nonsense", "no JSON"),
        ("[1]", "must be a JSON object"),
        ('{"text": "hello"}', "one of prompt, messages and turns"),
        ('{"prompt": 3}', "prompt must hold text"),
        ('{"turns": []}', "turns must hold text"),
        ('{"messages": "hello"}', "must be objects"),
        ('{"messages": []}', "must be objects"),
        ('{"messages": [{"role": "robot", "content": "x"}]}', "a role is one of"),
        ('{"messages": [{"role": "assistant", "content": "x"}]}', "must be the user's"),
        ('{"id": "line-1", "prompt": "x"}', "occurs twice"),
    ],
)
def test_a_line_that_is_no_prompt_is_named(tmp_path: Path, line: str, why: str) -> None:
    path = tmp_path / "suite.jsonl"
    path.write_text('{"prompt": "fine"}\n' + line + "\n")
    with pytest.raises(OptionError, match=f"line 2: .*{why}"):
        suites.read(path)


def test_only_newlines_end_a_line(tmp_path: Path) -> None:
    path = tmp_path / "suite.jsonl"
    path.write_bytes('{"prompt": "a\u2028b\u0085c"}\r\n{"prompt": "d"}'.encode())
    assert [c.turns for c in suites.read(path)] == [("a\u2028b\u0085c",), ("d",)]


def test_damaged_gzip_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "suite.jsonl.gz"
    good = gzip.compress(b'{"prompt": "hello"}', mtime=0)
    path.write_bytes(good[:10] + bytes([good[10] ^ 0xFF]) + good[11:])
    with pytest.raises(OptionError, match="cannot be read"):
        suites.read(path)


def test_fewer_prompts_are_spread_over_categories(tmp_path: Path) -> None:
    rows = [{"prompt": f"{c}{i}", "category": c} for c in "abc" for i in range(20)]
    path = write_lines(tmp_path / "suite.jsonl", rows)
    suite = suites.find(str(path), None, path)
    measured, warming = suites.load(suite, 6, 9, 0)
    assert [c.category for c in measured] == list("aabbcc")
    assert len(warming) == 9 and not {c.id for c in measured} & {c.id for c in warming}
    assert suites.load(suite, 6, 9, 0) == (measured, warming)
    assert suites.load(suite, 6, 0, 1)[0] != measured
    assert len(suites.load(suite, None, 0, 0)[0]) == 60
    with pytest.raises(OptionError, match="60 are there"):
        suites.load(suite, 61, 0, 0)


def test_spec_bench_without_its_file_says_where_it_is() -> None:
    with pytest.raises(OptionError, match=r"question\.jsonl"):
        suites.find(suites.SPEC_BENCH, None, Path("any.gguf"))


def test_spec_bench_is_read_plain_or_gzipped(tmp_path: Path) -> None:
    row = {"question_id": 81, "category": "writing", "turns": ["a", "b"]}
    path = tmp_path / "question.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(row).encode()))
    suite = suites.find(suites.SPEC_BENCH, path, path)
    assert (suite.name, suites.load(suite, None, 0, 0)[0][0].id) == (suites.SPEC_BENCH, "81")


@pytest.mark.skipif(not SPEC_BENCH.exists(), reason="../shared/prompts/spec_bench.jsonl.gz is not here")
def test_the_real_spec_bench_has_thirteen_categories() -> None:
    measured, _ = suites.load(suites.find(suites.SPEC_BENCH, SPEC_BENCH, SPEC_BENCH), 13, 0, 0)
    assert len({conversation.category for conversation in measured}) == 13


def test_later_turns_have_plain_decodings_answers_before_them() -> None:
    arm, histories = FakeArm("off", []), dict[str, str]()
    talk = suites.Conversation("t", "c", (), ("one", "two", "three"))
    options: dict[str, Any] = {"n_ctx": 512, "max_tokens": 16, "temperature": 0.0, "seed": 0}
    questions, skipped = suites.prepare(arm, [talk], histories, **options)
    assert [bytes(q.tokens).decode() for q in questions] == ["one", "one|<3>|two", "one|<3>|two|<11>|three"]
    assert [q.id for q in questions] == ["t/1", "t/2", "t/3"] and not skipped
    arm.log.clear()
    suites.prepare(arm, [talk], histories, **options)
    assert arm.log == []  # a continued run does not answer them again


def test_a_prompt_that_does_not_fit_is_named_and_left_out(fakes: dict[str, Any], model: Path) -> None:
    long = suites.Conversation("long", "c", (), ("x" * 5000,))
    short = suites.Conversation("short", "c", (), ("x",))
    result = bench.run(plan(model, measured=[long, short], warming=[]), ResultFile(None))
    assert list(result["skipped"]) == ["long"] and "5000 tokens" in result["skipped"]["long"]
    assert {run["prompt"] for run in result["runs"]} == {"short"}
    with pytest.raises(OptionError, match="no prompt can be answered"):
        bench.run(plan(model, measured=[long], warming=[]), ResultFile(None))


# --- llama.cpp's server, by a stand-in --------------------------------------------------------------

STAND_IN = """#!{python}
import json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

if "--version" in sys.argv:
    sys.exit(print("version: 0.5 (stand-in)"))
option = lambda name: sys.argv[sys.argv.index(name) + 1]
kind = "default" if "--spec-default" in sys.argv else option("--spec-type")
if kind not in ("none", "ngram-mod", "ngram-cache", "default"):
    sys.exit("error: unknown speculative type")
if kind == "ngram-cache" or "LLAMA_ARG_THREADS" in os.environ:
    sys.exit("E srv load_model: no room for the cache")


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{{"status": "ok"}}')

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if asked["prompt"] == [0]:
            self.send_response(400)
            self.end_headers()
            self.wfile.write(b"prompt refused")
            return
        if asked["prompt"] == [1]:
            os._exit(3)
        assert asked["temperature"] == 0 and not asked["cache_prompt"]
        self.send_response(200)
        self.end_headers()
        if asked["prompt"][0] in (2, 3):
            error = {{"error": {{"code": 500, "message": "out of cells"}}}}
            event = error if asked["prompt"] == [2] else {{"stop": False}}
            self.wfile.write(b"data: " + json.dumps(event).encode() + b"\\n\\n")
            return
        for n in (1, 2, 4, 5):  # the third token ends inside a character and is not sent
            event = {{"content": "x", "tokens": [10 + n], "tokens_predicted": n, "stop": False}}
            self.wfile.write(b"data: " + json.dumps(event).encode() + b"\\n\\n")
        end = {{"stop": True, "stop_type": "eos", "tokens": [], "tokens_predicted": 5}}
        end["timings"] = {{"predicted_per_second": 50.0, "predicted_ms": 80.0, "draft_n": 3, "draft_n_accepted": 2}}
        self.wfile.write(b"data: " + json.dumps(end).encode() + b"\\n\\n")


HTTPServer(("127.0.0.1", int(option("--port"))), Handler).serve_forever()
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    path = tmp_path / "llama-server"
    path.write_text(STAND_IN.format(python=sys.executable))
    path.chmod(0o755)
    return path


def arm_of(binary: Path, name: str = "server") -> ServerArm:
    return ServerArm(name, binary, Setup(binary, 512, 1, False, "f16"))


def test_a_server_starts_answers_and_stops(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_ARG_THREADS", "99")  # the user's own setting must not reach it
    arm = arm_of(stand_in)
    try:
        answer = arm.answer([5, 6], 16, 0.0, 0)
        assert answer.tokens == [11, 12, UNKNOWN_TOKEN, 14]
        assert answer.ended and answer.generated == 5
        assert (answer.passes, answer.drafted, answer.accepted) == (2, 3, 2)
        assert answer.own_tokens_per_second == 50.0
        assert answer.decode_seconds >= 0.08  # what the server itself took is the least
        assert arm._process is not None
        process = psutil.Process(arm._process.pid)
        assert arm.memory()["resident"] > 1
    finally:
        arm.close()
    assert not process.is_running()
    arm.close()


def test_a_server_that_refuses_or_dies_is_one_clear_error(stand_in: Path) -> None:
    arm = arm_of(stand_in)
    try:
        with pytest.raises(DeviceError, match=r"HTTP 400.*prompt refused"):
            arm.answer([0], 16, 0.0, 0)
        with pytest.raises(DeviceError, match="gives up: out of cells"):
            arm.answer([2], 16, 0.0, 0)
        with pytest.raises(DeviceError, match="not llama-server's: KeyError"):
            arm.answer([3], 16, 0.0, 0)
        with pytest.raises(DeviceError, match=r"exit code 3|no answer over HTTP"):
            arm.answer([1], 16, 0.0, 0)
    finally:
        arm.close()


def test_a_server_that_does_not_start_shows_its_last_error(stand_in: Path) -> None:
    with pytest.raises(DeviceError, match=r"did not start .*no room for the cache"):
        arm_of(stand_in, "server-ngram-cache").start()


def test_a_binary_is_looked_at_before_the_run(stand_in: Path, tmp_path: Path) -> None:
    binary = inspect(stand_in)
    assert binary.version == "0.5 (stand-in)"
    plain = tmp_path / "notes.txt"
    plain.write_text("hello")
    for path, why in ((tmp_path / "absent", "No such file"), (plain, "does not run")):
        with pytest.raises(OptionError, match=why):
            inspect(path)


def test_every_server_method_says_what_it_keeps() -> None:
    assert set(KEPT) == set(SERVER_METHODS)


def noting(made: list[dict[str, Any]]) -> type:
    """A stand-in for the engine that notes what it was made with."""

    class Engine:
        def __init__(self, model: Path, **options: Any) -> None:
            made.append(options)

        def prepare(self) -> bool:
            return True

    return Engine


def test_a_draft_model_is_given_to_the_methods_that_take_one(
    monkeypatch: pytest.MonkeyPatch, model: Path, fakes: dict[str, Any], tmp_path: Path
) -> None:
    draft = tmp_path / "draft.gguf"
    setup = Setup(model, 512, 1, False, "f16", draft_model=draft)
    words = ServerArm(DRAFT_SERVER, model, setup).command(1)
    assert words[words.index("--model-draft") + 1] == str(draft)
    assert words[words.index("--spec-type") + 1] == "draft-simple"
    assert "--model-draft" not in ServerArm("server", model, setup).command(1)
    made: list[dict[str, Any]] = []
    monkeypatch.setattr("aded_local.LocalADED", noting(made))
    for method, mode in MODEL_MODES.items():
        assert open_local(method, model, setup=setup).preset == "auto"
        assert (made[-1]["draft_model"], made[-1]["draft_mode"]) == (draft, mode)
    assert open_local("auto", model, setup=setup) and "draft_model" not in made[-1]


def test_without_a_draft_model_its_methods_are_missing(model: Path, fakes: dict[str, Any]) -> None:
    result = bench.run(plan(model, methods=("off", *MODEL_MODES)), ResultFile(None))
    assert set(result["missing"]) == set(MODEL_MODES) and "--draft-model" in result["missing"]["model-auto"]
    assert not set(WITH_DRAFT_MODEL) & set(ALL)
    result = bench.run(plan(model, methods=("off", *MODEL_MODES), draft_model=model), ResultFile(None))
    assert result["missing"] == {} and "model-auto/off" in result["summary"]["empty"]["ratios"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_a_server_dies_with_a_killed_bench(stand_in: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from aded_bench.run.arms import Setup\n"
        "from aded_bench.run.server import ServerArm\n"
        "p = Path(sys.argv[1]); a = ServerArm('server', p, Setup(p, 512, 1, False, 'f16')); a.start()\n"
        "print(a._process.pid, flush=True); time.sleep(60)\n"
    )
    bench_process = subprocess.Popen(
        [sys.executable, "-c", script, str(stand_in)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert bench_process.stdout is not None
    server = psutil.Process(int(bench_process.stdout.readline()))
    bench_process.send_signal(signal.SIGKILL)
    bench_process.wait()
    bench_process.stdout.close()
    until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)


def test_auto_without_top_k_learning_is_an_arm_of_its_own_beside_auto(
    model: Path, fakes: dict[str, Any]
) -> None:
    assert NO_TOP_K in METHODS and NO_TOP_K not in ALL
    result = bench.run(plan(model, methods=("off", "auto", NO_TOP_K)), ResultFile(None))
    for which in ("empty", "warm"):
        assert f"{NO_TOP_K}/off" in result["summary"][which]["ratios"]
    assert asked(fakes, NO_TOP_K) == asked(fakes, "auto")
    assert bench.run(plan(model, temperature=0.8, methods=(NO_TOP_K,)), ResultFile(None))["missing"] == {}


def test_auto_without_top_k_learning_opens_the_same_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []
    monkeypatch.setattr("aded_local.LocalADED", noting(made))
    for name in ("auto", NO_TOP_K):
        assert open_local(name, Path("m.gguf")).preset == "auto"
    assert [options["draft"] for options in made] == ["auto", "auto"]
    assert [options.get("top_k_learning", True) for options in made] == [True, False]


# --- the command --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("measured_once")
def test_end_to_end_on_the_built_in_model(stand_in: Path, tmp_path: Path) -> None:
    out = tmp_path / "run.json"
    arguments = ["--prompts", "2", "--warm", "1", "--repeat", "1", "-n", "8", "-t", "1", "-c", "512"]
    arguments += ["--same", "exact"]  # else drafts may part from `off`
    arguments = ["run", "builtin", *arguments, "--llama-server", str(stand_in), "--json", str(out)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())
    assert found["kind"] == "run" and found["complete"]
    measured = ("off", "auto", "paper", PEER, "llama-cpp-lookup", "server", "server-ngram-mod", SPEC_DEFAULT)
    assert set(found["missing"]) == set(ALL) - set(measured)
    for which in ("empty", "warm"):
        assert set(found["summary"][which]["methods"]) == set(measured)
        ratios = found["summary"][which]["ratios"]
        for method in ("auto", "paper", PEER):
            ratio = ratios[f"{method}/off"]
            assert ratio["pairs"] == ratio["same_tokens"] == 2
        # Its drafts are of any size, and promise no words.
        assert ratios["llama-cpp-lookup/off"]["pairs"] == 2
    assert found["summary"]["empty"]["methods"]["llama-cpp-lookup"]["tokens_per_pass"] >= 1
    assert found["arms"]["off"]["shares_weights_with"] == "auto"
    assert "missing: server-ngram-simple: " in result.stdout and "unknown speculative type" in result.stdout
    assert "missing: server-ngram-cache: " in result.stdout and "no room for the cache" in result.stdout


REAL = os.environ.get("ADED_LLAMA_SERVER")


@pytest.mark.skipif(not REAL, reason="ADED_LLAMA_SERVER names no llama-server")
def test_the_real_server_says_what_plain_decoding_says(tmp_path: Path) -> None:
    out = tmp_path / "run.json"
    methods = ",".join(("off", *SERVER_METHODS))
    arguments = ["--prompts", "3", "--repeat", "1", "-n", "16", "-t", "1", "--methods", methods]
    arguments += ["--draft-model", str(draft_path())]
    arguments = ["run", "builtin", *arguments, "--llama-server", str(REAL), "--json", str(out)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())
    assert found["missing"] == {}
    for method in SERVER_METHODS:
        ratio = found["summary"]["empty"]["ratios"][f"{method}/off"]
        assert ratio["same_tokens"] == ratio["pairs"] == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ["--methods", "off,magic"],
        ["--prompts", "9000"],
        ["--suite", "absent.jsonl"],
        ["--suite", "spec-bench"],
        ["--data", "question.jsonl"],
        ["--llama-server", "/absent"],
        ["--same", "exactly"],
        ["--methods", "off,auto", "--draft-model", "builtin"],
    ],
)
def test_bad_options_are_one_line_and_exit_code_two(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, ["run", "builtin", *arguments])
    assert result.exit_code == 2
    assert result.stderr.startswith("aded-bench: ")
    assert result.stderr.count("\n") == 1
