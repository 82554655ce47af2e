"""Compiling ahead: all kernels of an ordinary start of the chat, in a process that has no model at hand.

python -m aded_local.drafters.ngram.ahead [puct]
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import time
from typing import Final

from aded_local.drafters import Search
from aded_local.kernels import kept

COMMAND: Final = ("-m", "aded_local.drafters.ngram.ahead")
"""What to hand a Python interpreter, so that it compiles ahead."""


def compile_all(search: Search = "best-first") -> float:
    """Compile into the cache folder what a start needs: the preset ``auto`` with this search, the likeliest tokens of a
    row of logits, the table of shipped phrases.

    Afterwards ``kept.kernels_are_kept``, unless the folder cannot be written. Another process that does the same is
    waited for. What was compiled before one was killed is taken over; nothing is ever half written.

    Returns:
        Seconds it took: next to none where all was kept before, or where nothing can be kept. Then every process
        compiles for itself what it calls.
    """
    started = time.perf_counter()
    if kept.FOLDER is not None and not kept.kernels_are_kept(search):
        try:
            with kept.alone(kept.FOLDER):
                if not kept.kernels_are_kept(search):
                    _compile(search)
        except OSError:
            pass  # the folder is gone, or the disk is full
    return time.perf_counter() - started


def _compile(search: Search) -> None:
    """Make one call of each kernel, as a start does, and say so in the folder if all could be kept."""
    assert kept.FOLDER is not None
    from aded_local.drafters.ngram.drafter import NgramDrafter
    from aded_local.kernels import compiling
    from aded_local.kernels import top_k as topk
    from aded_local.ngrams import phrase_entries

    collecting = gc.isenabled()
    gc.disable()  # looking for garbage among a compiler's objects takes 0.8 of 11 s, and finds 50 MB
    try:
        NgramDrafter(n_vocab=1, search=search).hear_model()  # the size of a vocabulary is a value, not a type
        topk.warm_up()
        phrase_entries.warm_up()
    finally:
        if collecting:
            gc.enable()
    if not compiling.failures:
        kept.put_stamp(kept.FOLDER, search)


def give_way() -> None:
    """Leave the processor to whoever wants it: an answer that streams meanwhile is slowed down by a third otherwise."""
    if hasattr(os, "SCHED_IDLE"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            return
    if hasattr(os, "nice"):
        os.nice(19)


if __name__ == "__main__":
    give_way()
    wanted: Search = "puct" if sys.argv[1:] == ["puct"] else "best-first"
    seconds = compile_all(wanted)
    if kept.kernels_are_kept(wanted):
        print(f"the drafter's kernels are kept; it took {seconds:.1f} s")
    else:
        sys.exit("the drafter's kernels cannot be kept: no cache folder that this user alone can write to")
