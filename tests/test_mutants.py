"""Damaged GGUFs: each is loaded or refused in a line; none ends the process that loads it, none holds it up."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

SEED = 9
MANY = int(os.environ.get("ADED_MUTANTS", "2000"))
"""How many ``pytest -m slow`` tries; ADED_MUTANTS_SEED draws others."""

PATIENCE = 20.0
"""Seconds that none may take in the parent, its child included."""


def outcomes(folder: Path, seed: int, count: int, children: int) -> dict[int, tuple[float, str]]:
    """Seconds and outcome of each mutant; those that ended the process are ``ended by SIG…``."""
    found: dict[int, tuple[float, str]] = {}
    first = 0
    while first < count:
        left = children - sum(outcome not in ("rules", "passes") for _, outcome in found.values())
        program = str(Path(__file__).parent / "mutants.py")
        arguments = [str(number) for number in (seed, first, count - first, max(0, left))]
        done = subprocess.run(
            [sys.executable, program, *arguments, str(folder)],
            capture_output=True,
            text=True,
            errors="replace",
        )
        begun = first
        for line in done.stdout.splitlines():
            number, seconds, outcome = (
                line.split(" ", 2) if " begins" not in line else (line.split()[0], "", "")
            )
            begun = int(number)
            if outcome:
                found[begun] = (float(seconds), outcome)
        if done.returncode == 0:
            break
        assert begun not in found, done.stderr
        found[begun] = (0.0, f"ended: {done.returncode} {done.stderr[-300:]}")
        first = begun + 1
    return found


def told(found: dict[int, tuple[float, str]]) -> Counter[str]:
    assert [item for item in found.items() if item[1][1].startswith("ended")] == []
    assert [item for item in found.items() if item[1][0] > PATIENCE] == []
    kinds = Counter(outcome.split(":")[0] for _, outcome in found.values())
    assert set(kinds) <= {"works", "rules", "child", "llama.cpp", "device", "passes"}, found
    return kinds


def test_a_hundred_mutants_of_which_twenty_reach_a_child(tmp_path: Path) -> None:
    kinds = told(outcomes(tmp_path, SEED, 100, 20))
    assert kinds.total() == 100
    assert kinds["works"] and kinds["rules"] and kinds["child"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_fresh_mutants(tmp_path: Path) -> None:
    seed = int(os.environ.get("ADED_MUTANTS_SEED", "12"))
    kinds = told(outcomes(tmp_path, seed, MANY, MANY))
    print(f"seed {seed}: {dict(kinds)}")
    assert kinds.total() == MANY
