"""What is tried in a child process, and how its end is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from aded_local.trials import trial
from aded_local.trials.trial import Ending, Outcome

LIMIT = 60.0


@pytest.fixture
def tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs some source in a child."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(source: str, *arguments: str, limit: float = LIMIT) -> Outcome:
        (tmp_path / "tried_here.py").write_text(
            "from aded_local.trials import trial\n" + textwrap.dedent(source)
        )
        return trial.run("tried_here", arguments, limit=limit)

    return run


def test_a_child_that_comes_to_its_end_is_fine(tried: Any) -> None:
    outcome = tried("import sys\ntrial.step('first')\nprint('ä', sys.argv[1:])\ntrial.step('last')", "a b")
    assert (outcome.ending, outcome.step, outcome.cause) == (Ending.FINE, "last", "")
    assert outcome.said == ("ä ['a b']",)
    assert tried("raise SystemExit(0)").ending is Ending.FINE


def test_a_child_that_fails_says_why_in_a_line(tried: Any) -> None:
    outcome = tried("trial.step('counting')\nraise ValueError('seven')")
    assert (outcome.ending, outcome.step, outcome.cause) == (Ending.FAILED, "counting", "ValueError: seven")
    assert tried("raise SystemExit(3)").cause == "exit code 3"
    assert "no_such_module" in trial.run("no_such_module", [], limit=LIMIT).cause


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("name", ["SIGILL", "SIGSEGV", "SIGKILL"])
def test_a_signal_that_ended_the_child_is_named_with_the_step(tried: Any, name: str) -> None:
    outcome = tried(f"import os, signal\ntrial.step('dying')\nos.kill(os.getpid(), signal.{name})")
    assert (outcome.ending, outcome.step, outcome.cause) == (Ending.DIED, "dying", name)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_what_a_child_said_as_it_died_is_kept(tried: Any) -> None:
    outcome = tried("import os\nos.write(2, b'ggml.c:1: no\\n\\nmore \\xff')\nos.abort()")
    assert (outcome.ending, outcome.cause) == (Ending.DIED, "SIGABRT")
    assert outcome.complained == ("ggml.c:1: no", "", "more \ufffd")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux binds a child's memory")
def test_a_child_takes_no_more_memory_than_it_is_given(tmp_path: Path) -> None:
    program = tmp_path / "package" / "program.py"
    program.parent.mkdir()
    (program.parent / "__init__.py").write_text("raise ImportError('the package around it is not imported')")
    program.write_text("import sys\nkept = bytearray(int(sys.argv[1]))")
    for n_bytes, ending in ((1, Ending.FINE), (1 << 28, Ending.FAILED)):
        outcome = trial.run(program, [str(n_bytes)], limit=LIMIT, memory=1 << 27)
        assert outcome.ending is ending
    assert outcome.cause == "MemoryError"
    assert trial.run(program, [str(1 << 28)], limit=LIMIT).ending is Ending.FINE


def test_a_child_that_takes_no_further_step_is_ended(tried: Any) -> None:
    outcome = tried("import time\ntrial.step('waiting')\ntime.sleep(600)", limit=3)
    assert outcome.ending is Ending.HUNG
    assert 3 <= outcome.seconds < 60


def test_a_slow_child_may_take_longer_than_the_limit_as_long_as_it_goes_on(tried: Any) -> None:
    outcome = tried("import time\nfor i in range(8): time.sleep(0.5); trial.step(str(i))", limit=3)
    assert (outcome.ending, outcome.step) == (Ending.FINE, "7")
    assert outcome.seconds > 3


def test_exit_code_0_without_the_last_line_is_a_failure(tried: Any) -> None:
    assert tried("import os\nos._exit(0)").ending is Ending.FAILED


def test_a_child_knows_that_it_is_one(tried: Any) -> None:
    assert tried("print(trial.is_child())").said == ("True",)
    assert not trial.is_child()


def test_modules_in_the_users_folder_are_not_imported(
    tried: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for name in ("json", "queue", "runpy", "subprocess"):
        (folder / f"{name}.py").write_text("raise SystemExit('a stranger')")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    assert tried("import json").ending is Ending.FINE


@pytest.mark.parametrize("executable", [None, "", "/no/such/python"])
def test_without_an_interpreter_it_fails(
    tried: Any, monkeypatch: pytest.MonkeyPatch, executable: str | None
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    outcome = tried("")
    assert (outcome.ending, outcome.step) == (Ending.FAILED, "")


def test_a_frozen_program_is_not_started_again(tried: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert tried("").ending is Ending.FAILED


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_ends_the_child_and_takes_effect(tried: Any, tmp_path: Path) -> None:
    mark = tmp_path / "alive"
    source = f"""
        import time
        trial.step('waiting')
        while True:
            open({str(mark)!r}, 'w').close()
            time.sleep(0.05)
    """

    def interrupt() -> None:
        while not mark.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        tried(source)
    mark.unlink()
    time.sleep(0.5)
    assert not mark.exists()


def test_windows_exceptions_count_as_died(monkeypatch: pytest.MonkeyPatch) -> None:
    assert trial.fault_of(0xC000001D) is None
    monkeypatch.setattr(sys, "platform", "win32")
    assert trial.fault_of(0xC000001D) == "illegal instruction"
    assert trial.fault_of(0xC0001234) == "exception 0xC0001234"
    assert trial.fault_of(1) is None


def test_a_child_runs_nothing_that_lies_in_the_folder_the_user_is_in(tmp_path: Path) -> None:
    for name in ("json", "random", "runpy", "aded_local"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a stranger ran')")
    command = trial.interpreter("import random, runpy, aded_local; print(sys.argv[1:])", "a b")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "['a b']\n", "")
