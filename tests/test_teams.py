"""A thread that has answered keeps no threads of llama.cpp's: several such teams slow each other's passes down."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from patience import PATIENCE

from aded_local import LocalADED
from aded_local.llama import teams
from aded_local.scheduler import Scheduler


def n_threads() -> int:
    return len(os.listdir("/proc/self/task"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads are counted in /proc")
@pytest.mark.skipif(teams._pause is None, reason="llama.cpp was built without libgomp")
def test_threads_that_have_answered_keep_none_of_llama_cpps() -> None:
    with LocalADED("builtin", draft="off", n_threads=2, n_ctx=256) as llm:
        llm.prepare()
        llm.generate("Once", max_tokens=4, temperature=0.0)
        together = threading.Barrier(3)
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda _: together.wait(), range(3)))  # all three exist
            before = n_threads()

            def ask(_: int) -> str:
                together.wait()
                return llm.session().generate("Once", max_tokens=4, temperature=0.0, wait=True).text

            assert len(set(pool.map(ask, range(3)))) == 1
            assert n_threads() == before


def test_whoever_has_decoded_rests_when_his_turn_ends() -> None:
    rested: list[int] = []
    turns = Scheduler(rest=lambda: rested.append(threading.get_ident()))
    turns.wait()
    assert not rested, "nobody waits for the measuring thread"
    turns.begin_answer()
    waiting = threading.Thread(target=turns.wait)
    waiting.start()
    while not rested:
        pass
    assert rested == [waiting.ident]
    turns.end_answer()
    waiting.join(PATIENCE)
    assert rested == [waiting.ident, threading.get_ident()]
