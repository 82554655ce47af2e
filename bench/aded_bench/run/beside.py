"""Busy processes beside a measurement, as a browser or a compiler would be."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

SPIN: Final = """
import sys, threading

def spin():
    while True:
        pass

threading.Thread(target=spin, daemon=True).start()
sys.stdin.buffer.read()
"""
"""Its standard input ends with whoever started it, however that one ends, and then it ends too."""


@contextmanager
def spinning(count: int) -> Iterator[list[int]]:
    """Keep so many processes busy within the block, each with one thread that never waits; yields their ids."""
    with ExitStack() as running:
        processes = []
        for _ in range(count):
            process = subprocess.Popen([sys.executable, "-I", "-S", "-c", SPIN], stdin=subprocess.PIPE)
            running.callback(_end, process)
            processes.append(process)
        yield [process.pid for process in processes]


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()
