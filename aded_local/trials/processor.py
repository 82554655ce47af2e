"""Which processor this is: its name, the instructions it knows, and how many threads suit it.

Imports the standard library alone when loaded, so that a program can ask before it loads any engine.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")

NAME_KEYS = ("model name", "cpu model", "cpu", "uarch")
"""Keys of a processor's name in /proc/cpuinfo: x86, MIPS, POWER, RISC-V. ARM has none."""

FLAG_KEYS = ("flags", "Features", "features", "isa")
"""Keys of the instruction sets there: x86, ARM, s390, RISC-V."""

SYSCTL_SECONDS = 5
"""Limit for macOS's sysctl, which answers in milliseconds."""


@dataclass(frozen=True, slots=True)
class Processor:
    """A processor as its system describes it.

    Attributes:
        name: as its maker writes it.
        flags: instruction sets it knows, in the system's spelling and order; empty where the system does not tell.
    """

    name: str
    flags: tuple[str, ...]


@cache
def processor() -> Processor:
    """The processor this process runs on."""
    if sys.platform == "darwin":
        found = of_sysctl(_sysctl("machdep.cpu", "hw.optional"))
    else:
        found = of_cpuinfo(_first_block(CPUINFO))
    return Processor(found.name or platform.processor() or platform.machine(), found.flags)


def of_cpuinfo(lines: Iterable[str]) -> Processor:
    """Name and flags from lines of /proc/cpuinfo; an empty name where there is none."""
    facts = _facts(lines)
    name = next((facts[key] for key in NAME_KEYS if facts.get(key)), "")
    flags = next((facts[key] for key in FLAG_KEYS if facts.get(key)), "")
    return Processor(name, tuple(flags.split()))


def of_sysctl(lines: Iterable[str]) -> Processor:
    """Name and flags from what macOS's ``sysctl machdep.cpu hw.optional`` prints; an empty name where there is none.

    Intel chips list their flags in words; Apple's have a line for each, ``hw.optional.arm.FEAT_BF16: 1``.
    """
    facts = _facts(lines)
    words = " ".join(facts.get(f"machdep.cpu.{key}", "") for key in ("features", "leaf7_features"))
    present = [
        key.removeprefix("hw.optional.").removeprefix("arm.")
        for key, value in facts.items()
        if key.startswith("hw.optional.") and value == "1"
    ]
    return Processor(facts.get("machdep.cpu.brand_string", ""), (*words.split(), *present))


def _facts(lines: Iterable[str]) -> dict[str, str]:
    """``key: value`` lines as a dictionary."""
    pairs = (line.partition(":") for line in lines)
    return {key.strip(): value.strip() for key, _, value in pairs}


def _first_block(path: Path) -> list[str]:
    """The lines on the first processor; none where there is no such file."""
    lines: list[str] = []
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            # The kernel asks each processor as it is read, which takes long where there are hundreds.
            for line in file:
                if not line.strip():
                    break
                lines.append(line)
    except OSError:
        pass
    return lines


def physical_threads() -> int:
    """Physical cores this process may run on: a second thread per core slows matrix products down."""
    import psutil

    cores = _performance_cores() or psutil.cpu_count(logical=False) or os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    return max(1, min(cores, allowed))


def logical_threads() -> int:
    """Threads that this process may run at once: two for each core on many processors; on Apple chips no more than fast
    cores."""
    if _performance_cores() is not None:
        return physical_threads()
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _performance_cores() -> int | None:
    """Fast cores of an Apple chip, None elsewhere: the slow ones would hold the others up at every product."""
    if sys.platform != "darwin":
        return None
    try:
        return int(_facts(_sysctl("hw.perflevel0.physicalcpu"))["hw.perflevel0.physicalcpu"])
    except (KeyError, ValueError):
        return None


def _sysctl(*names: str) -> list[str]:
    """What macOS says of these names and all below them; nothing where it cannot be asked."""
    try:
        # It fails when one of several names is unknown to the chip, and tells of the others all the same.
        done = subprocess.run(
            ["sysctl", *names], capture_output=True, text=True, errors="replace", timeout=SYSCTL_SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.splitlines()
