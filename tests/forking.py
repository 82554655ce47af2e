"""What a call comes to in a child that is forked here and now."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from typing import Any

HUNG = 20.0
"""Seconds after which a child counts as hung, on a loaded machine too."""


def in_child(work: Callable[[], Any]) -> Any:
    """What ``work`` returns in a child that multiprocessing forks here and now."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=lambda: theirs.send(work()))
    child.start()
    try:
        assert ours.poll(HUNG), "the child hangs"
        return ours.recv()
    finally:
        child.kill()
        child.join()


def outcome(call: Callable[[], Any]) -> tuple[str, float]:
    """The name of what a call raised, empty where it raised nothing, and the seconds it took."""
    started = time.monotonic()
    try:
        call()
    except Exception as error:
        return type(error).__name__, time.monotonic() - started
    return "", time.monotonic() - started
