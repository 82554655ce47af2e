"""Never slower than plain decoding: budget, guard and threads together, on machines that are disturbed."""

from __future__ import annotations

from typing import Any

import pytest
from machines import CURVES, Machine, Text, answer
from steps import FixedDrafter

from aded_local.speed.planner import AutoPlanner, Limits, PlainPlanner
from aded_local.speed.threads import Threads
from aded_local.tree import DraftTree

NEVER_BELOW = 0.97
"""Tokens/s over plain decoding, of all texts together."""

TOKENS = 400
TEXTS = 6
"""Every other one has a drafter that is wrong about itself."""

MACHINES: dict[str, dict[str, Any]] = {
    "quiet": {},
    "noisy": {"noise": 0.3},
    "one busy process": {"beside": lambda now: 1},
    "four busy processes": {"beside": lambda now: 4},
    "a busy process that comes and goes": {"beside": lambda now: int(now % 2.0 < 1.0)},
    "the same, unseen": {"beside": lambda now: int(now % 2.0 < 1.0), "counts": False},
    "four that come and go": {"beside": lambda now: 4 * int(now % 1.0 < 0.3)},
    "eight cores, three processes": {"cores": 8, "beside": lambda now: 3},
    "eight cores, eight processes": {"cores": 8, "beside": lambda now: 8},
    "stops of up to 100 ms": {"stops": (0.3, 0.1)},
    "stops half of the time": {"stops": (0.05, 0.05)},
    "a limit of one core": {"quota": 1.0},
    "a limit of half a core": {"quota": 0.5},
    "a host that slows it now and then": {"slow": lambda now: 3.0 if now % 1.4 < 0.4 else 1.0},
    "a slower machine than was measured": {"slow": lambda now: 2.0},
}


class Guesser(FixedDrafter):
    """Guesses what a ``Text`` says."""

    def __init__(self, text: Text) -> None:
        super().__init__()
        self.text = text

    def draft(self, max_nodes: int, cost: object = None) -> DraftTree:
        return self.text.draft(max_nodes)


def drafted(machine: Machine, text: Text) -> float:
    threads = Threads(machine.cores, watch=machine.watch)
    threads.use(machine.curve())
    planner = AutoPlanner(Guesser(text), threads.costs, Limits(63, 8), top_k=False, clock=lambda: 0.0)
    return answer(machine, planner, threads, text)


def plain(machine: Machine, text: Text, *, may_change: bool = True) -> float:
    threads = Threads(machine.cores, watch=machine.watch)
    threads.allow(may_change)
    return answer(machine, PlainPlanner(), threads, text)


@pytest.mark.parametrize("kind", sorted(CURVES))
@pytest.mark.parametrize("name", MACHINES)
def test_drafting_is_never_slower_than_plain_decoding(name: str, kind: str) -> None:
    auto = off = 0.0
    for seed in range(TEXTS):
        text = Text(TOKENS, seed, honest=seed % 2 == 0)
        auto += drafted(Machine(CURVES[kind], seed, **MACHINES[name]), text)
        off += plain(Machine(CURVES[kind], seed + 100, **MACHINES[name]), text)
    assert off / auto >= NEVER_BELOW


@pytest.mark.parametrize("processes", [1, 4])
def test_with_fewer_threads_plain_decoding_is_faster_beside_busy_processes(processes: int) -> None:
    changed = fixed = 0.0
    for seed in range(TEXTS):
        text = Text(TOKENS, seed)
        machine = Machine(CURVES["amx"], seed, beside=lambda now: processes)
        changed += plain(machine, text)
        fixed += plain(Machine(CURVES["amx"], seed, beside=lambda now: processes), text, may_change=False)
    assert fixed / changed > 1.4
