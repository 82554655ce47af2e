"""A first start answers at once; what it lacks is made ready beside and between answers."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE, until

from aded_local import LocalADED, opening
from aded_local.errors import BusyError, DeviceError, OptionError
from aded_local.llama import rows
from aded_local.scheduler import Closed, Scheduler
from aded_local.speed import preparation as preparing
from aded_local.speed.choosing import TRIAL_ROUNDS
from aded_local.speed.exactness import ExactnessProbe
from aded_local.speed.pricing import Setting, Trial
from aded_local.speed.probe import Probe
from aded_local.speed.tuning import CANDIDATES, ROW_BY_ROW, Tuner
from aded_local.trials import trial

pytestmark = pytest.mark.usefixtures("quiet_machine", "short_trials")

PROMPT = "one two three one two three one two three"
SETTING = {"n_ctx": 512, "n_threads": 1}


FIXED = SETTING | {"flash_attention": False, "cache_type": "f16"}
"""Nothing to choose: one attention and cache type is tried."""


@pytest.fixture
def short_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here depends on how long a trial takes."""
    monkeypatch.setattr("aded_local.speed.tuning.TRIAL_SECONDS", 0.0)


def said(llm: LocalADED, n: int = 40) -> list[int]:
    return llm.generate(PROMPT, max_tokens=n, temperature=0.0).tokens


@pytest.fixture
def slow_machine(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Measuring does not end before the event is set."""
    free = threading.Event()
    curve = Probe.curve

    def held(probe: Probe) -> Any:
        while not free.wait(0.01):
            probe._gate.wait()
        return curve(probe)

    monkeypatch.setattr(Probe, "curve", held)
    return free


def test_answers_are_plain_until_the_machine_is_measured(
    tiny: dict[str, Path], slow_machine: threading.Event
) -> None:
    with LocalADED(tiny["llama"], draft="paper", **FIXED) as llm:
        first = llm.generate(PROMPT, max_tokens=40, temperature=0.0)
        assert first.stats.drafted == 0 and llm.preparing == "measuring"
        assert not llm.prepare(timeout=0.05)
        slow_machine.set()
        assert llm.prepare() and llm.preparing == "ready"
        second = llm.generate(PROMPT, max_tokens=40, temperature=0.0)
        assert second.stats.drafted > 0
        assert "drafting joined after" in llm.description()["preparation"]


def test_drafting_joins_in_the_middle_of_an_answer(
    tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The curve is known, the drafter comes late, as after an upgrade."""
    with LocalADED(tiny["llama"], draft="paper", **FIXED) as llm:
        llm.prepare()
    free = threading.Event()
    monkeypatch.setattr(opening.kept, "kernels_are_kept", lambda search: False)
    monkeypatch.setattr(opening, "compile_beside", lambda turns, search: free.wait(PATIENCE))
    with LocalADED(tiny["llama"], draft="paper", **FIXED) as llm:
        assert llm.preparing == "kernels"
        stream = llm.stream(PROMPT, max_tokens=400, temperature=0.0)
        pieces = [next(stream) for _ in range(5)]
        free.set()
        until(lambda: llm._engine.preparation.joined)
        pieces += list(stream)
        stats = pieces[-1].stats
    assert stats is not None and stats.drafted > 0


def test_an_answer_begins_at_once_while_a_pass_is_timed(
    tiny: dict[str, Path], slow_machine: threading.Event
) -> None:
    with LocalADED(tiny["llama"], **FIXED) as llm:
        texts = [said(llm) for _ in range(5)]
        slow_machine.set()
        llm.prepare()
        assert texts == [texts[0]] * 5


def test_closing_does_not_wait_for_the_measuring(
    tiny: dict[str, Path], slow_machine: threading.Event
) -> None:
    with LocalADED(tiny["llama"], **FIXED) as llm:
        said(llm)
    assert not llm._engine.preparation.running


def other_setting(tuner: Tuner, _gate: Any) -> None:
    """A trial finds flash attention and BF16 ten times as fast."""
    for place, each in enumerate(tuner._candidates):
        times = {256: {1: 0.1 if place == 1 else 1.0, 4: 4.0}}
        tuner._trials[each] = tuner.kept.trials[each.name] = Trial(times, 1e-3, rounds=TRIAL_ROUNDS)


def test_a_better_setting_takes_over_and_the_conversation_stays_cached(
    tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tuner, "_try_all", other_setting)
    with LocalADED(tiny["llama"], draft="off", **SETTING) as llm:
        messages = [{"role": "user", "content": "one two three"}]
        first = llm.chat(messages, max_tokens=20, temperature=0.0)
        llm.prepare()
        assert llm.description()["cache_type"] == "bf16"
        messages += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "four"}]
        assert llm.chat(messages, max_tokens=5).stats.reused_tokens >= len(first.tokens)


def test_a_long_conversation_is_not_decoded_again_for_a_better_setting(
    tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tuner, "_try_all", other_setting)
    monkeypatch.setattr(opening, "EXCHANGE_SECONDS", -1.0)
    with LocalADED(tiny["llama"], draft="off", **SETTING) as llm:
        said(llm)
        llm.prepare()
        assert llm.description()["cache_type"] == "f16"
    with LocalADED(tiny["llama"], draft="off", **SETTING) as llm:
        assert llm.description()["cache_type"] == "bf16", "the next start has it"


def test_what_cannot_be_measured_is_one_notice_and_decoding_goes_on(
    tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise DeviceError("no memory")

    monkeypatch.setattr(Tuner, "measure_curve", fail)
    told: list[str] = []
    with LocalADED(tiny["llama"], on_notice=told.append, **FIXED) as llm:
        llm.prepare()
        assert said(llm)
    assert len(told) == 1 and "no memory" in told[0]


def test_with_exact_the_sizes_are_known_before_the_first_answer(tiny: dict[str, Path]) -> None:
    lines: list[str] = []
    with LocalADED(tiny["llama"], exact=True, on_progress=lines.append, on_notice=str, **SETTING) as llm:
        assert llm.description()["exact_batch_sizes"] is not None
    assert any("exact" in line for line in lines)


def test_exact_sizes_are_found_once_however_busy_the_machine(
    tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aded_local.speed.probe.contended", lambda waiting, samples: True)
    with LocalADED(tiny["llama"], exact=True, **SETTING) as llm:
        assert llm.machine_is_busy
        sizes = llm.description()["exact_batch_sizes"]
    monkeypatch.setattr(ExactnessProbe, "exactness", lambda self, told: pytest.fail("found before"))
    with LocalADED(tiny["llama"], exact=True, **SETTING) as llm:
        assert llm.description()["exact_batch_sizes"] == sizes


def test_an_unforeseen_failure_is_one_notice_too(
    tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(Tuner, "settle", fail)
    told: list[str] = []
    with LocalADED(tiny["llama"], on_notice=told.append, **SETTING) as llm:
        llm.prepare()
        assert said(llm)
    assert len(told) == 1 and "ZeroDivisionError: oops" in told[0]


def test_an_interrupt_of_whoever_waits_leaves_the_measuring_thread_known(
    tiny: dict[str, Path], slow_machine: threading.Event
) -> None:
    """CPython 3.11 takes a thread for ended whose join was interrupted, and weights were freed under it."""
    with LocalADED(tiny["llama"], **FIXED) as llm:
        main = threading.main_thread().ident
        assert main is not None
        threading.Timer(0.3, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            llm.prepare(timeout=20)
        assert llm.preparing == "measuring" and llm._engine.preparation.running
        assert not llm.prepare(timeout=0)
    assert not llm._engine.preparation.running


@pytest.mark.parametrize("in_main_thread", [True, False])
def test_whoever_has_an_answer_half_read_is_told_that_waiting_would_not_end(
    tiny: dict[str, Path], slow_machine: threading.Event, in_main_thread: bool
) -> None:
    seen: list[str] = []

    def read_and_wait(llm: LocalADED) -> None:
        with llm.stream(PROMPT, max_tokens=40) as pieces:
            next(pieces)
            for timeout in (None, 0):
                try:
                    llm.prepare(timeout)
                except BusyError as error:
                    seen.append(str(error))
            assert next(pieces).tokens, "and the answer goes on"

    with LocalADED(tiny["llama"], draft="paper", **FIXED) as llm:
        if in_main_thread:
            read_and_wait(llm)
        else:
            thread = threading.Thread(target=read_and_wait, args=(llm,))
            thread.start()
            thread.join()
        slow_machine.set()
        assert len(seen) == 2 and all("half read here" in line for line in seen)
        assert llm.prepare()
        stream = llm.stream(PROMPT, max_tokens=40)
        next(stream)
        assert llm.prepare(), "what is ready needs no turn"


def test_an_event_loop_is_not_held_up_for_ever_beside_an_answer_of_its_own(
    tiny: dict[str, Path], slow_machine: threading.Event
) -> None:
    async def read_and_wait(llm: LocalADED) -> None:
        async with llm.astream(PROMPT, max_tokens=40) as pieces:
            async for _piece in pieces:
                with pytest.raises(BusyError, match="half read here"):
                    llm.prepare()
                break

    with LocalADED(tiny["llama"], draft="paper", **FIXED) as llm:
        asyncio.run(read_and_wait(llm))
        slow_machine.set()
        assert llm.prepare()


def test_trials_of_earlier_starts_count(tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    trial_of = Tuner._try

    def counted(tuner: Tuner, candidate: Setting, gate: Any) -> Any:
        if len(tried) == 1:
            tried.append("interrupted")
            raise Closed
        tried.append(candidate.name)
        return trial_of(tuner, candidate, gate)

    monkeypatch.setattr(Tuner, "_try", counted)
    for _ in range(2):
        with LocalADED(tiny["llama"], **SETTING) as llm:
            llm.prepare()
    n_candidates = len(CANDIDATES) + (len(ROW_BY_ROW) if rows.AVAILABLE else 0)
    assert len(tried) == 1 + TRIAL_ROUNDS * n_candidates and tried.count(tried[0]) == TRIAL_ROUNDS


def test_beside_other_programs_nobody_is_held_up(
    tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aded_local.speed.probe.contended", lambda waiting, samples: True)
    with LocalADED(tiny["llama"], **SETTING) as llm:
        llm.prepare()
        assert llm.machine_is_busy
        assert "other programs" in llm.description()["preparation"]
        assert not llm._engine.scheduler._generous


def test_kernels_that_cannot_be_kept_are_a_notice(
    tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening.kept, "FOLDER", None)
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    told: list[str] = []
    with LocalADED(tiny["llama"], on_notice=told.append, **FIXED) as llm:
        llm.prepare()
        assert said(llm)
    assert len(told) == 1 and "ADED_CACHE_DIR" in told[0]


def test_the_compiling_child_does_not_look_in_the_folder_the_user_is_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[list[str]] = []

    def start(command: list[str], **_: Any) -> Any:
        started.append(command)
        raise OSError

    monkeypatch.setattr(preparing.subprocess, "Popen", start)
    monkeypatch.setattr(preparing, "FIRST_ANSWER_SECONDS", 0.0)
    monkeypatch.setattr(preparing, "COMPILING_LIMIT", 0.0)
    preparing.compile_beside(Scheduler(), "puct")
    (command,) = started
    assert command[-1] == "puct" and command[:2] == trial.interpreter("")[:2] and "-m" not in command
    assert command[2].startswith(trial.interpreter("")[2]) and "drafters.ngram.ahead" in command[2]


def test_closing_ends_a_compiler_that_runs_in_this_process() -> None:
    preparation = preparing.Preparation(Scheduler(), pytest.fail)

    def steps(_: preparing.Preparation) -> None:
        with preparation.interruptible():
            while True:
                try:
                    time.sleep(0.01)
                except Exception as error:
                    raise RuntimeError("as a compiler would say it") from error

    preparation.start(steps, preparing.KERNELS)
    time.sleep(0.05)
    assert preparation.close()


@pytest.mark.parametrize("timeout", ["x", float("nan"), -1])
def test_a_timeout_that_is_none_is_refused(tiny: dict[str, Path], timeout: Any) -> None:
    with LocalADED(tiny["llama"], draft="off", **SETTING) as llm, pytest.raises(OptionError, match="timeout"):
        llm.prepare(timeout=timeout)
