"""The thread in which the draft model reads and is asked, before a pass and beside it.

What it is told to do waits in a queue: another text, the text's next tokens, a draft or a sample that somebody waits
for. With nothing in the queue it reads on, or prepares what may come while the target verifies, one decode after the
other, and looks into the queue between two. An error, also of memory, ends the thread and is told; then n-grams draft
alone.
"""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Collection, Sequence
from queue import Empty, SimpleQueue
from typing import Final, Protocol

import numpy as np

from aded_local.drafters.model.costs import AskingCosts
from aded_local.drafters.model.jobs import POOL, Another, Awaited, Further, Job, Sample, Verified, Wanted
from aded_local.drafters.model.outcomes import open_places, outcomes, worth_asking
from aded_local.drafters.model.speaker import Speaker, seconds_now
from aded_local.drafters.ngram.drafter import NgramDrafter
from aded_local.llama.branches import Path
from aded_local.llama.interrupts import held_back
from aded_local.llama.loading import is_forked
from aded_local.llama.teams import give_team_back
from aded_local.tree import DraftTree

TIMED: Final = 3
"""Tokens of a sample that the model is asked for one by one, as in drafting."""

CLOSING_SECONDS: Final = 30.0
"""Seconds that closing waits for the decode under way."""
CLOSING_POLL: Final = 0.005
"""Seconds between two looks of whoever closes."""

Closing = Callable[[], None]


class Policy(Protocol):
    """Which places are asked for; see ``Likeliest`` and ``branching.Branching``."""

    def draft(self, worker: Worker, wanted: Wanted) -> DraftTree:
        """The draft that is waited for; asks on the way."""
        ...

    def prepare(self, worker: Worker, verified: Verified) -> list[Path]:
        """What to ask for while the target verifies, in one decode; none where nothing is worth it."""
        ...

    def came(self, further: Further) -> None:
        """What the target said."""
        ...

    def forget(self) -> None:
        """The text is another one now."""
        ...

    def close(self) -> None:
        """Keep what was learnt."""
        ...


class Worker:
    """See this module's first line. Its thread knows this object alone; whoever drops its owner ends it.

    Args:
        speaker: the draft model; this thread's from now on, and closed by it.
        ngrams: where statements go, and drafts come from.
        lock: held for each call of ``ngrams``, by whatever thread.
        policy: which places are asked for.
        close: frees the draft model's weights at the end of the thread.
        threads: CPU threads of a decode.
        costs: what asking takes, as far as it is known.
        yields: whether it is to leave the processor alone, with nobody waiting for it.

    Attributes:
        costs: as given, and as measured since.
        failure: why the thread ended; empty as long as it runs.
        awake: it is to read the text.
        ready: it has read the text, and can be asked.
        busy: seconds that it has prepared beside passes.
        threads, threads_beside: of a decode that is waited for, and of one beside a pass.
    """

    def __init__(
        self,
        speaker: Speaker,
        ngrams: NgramDrafter,
        lock: threading.Lock,
        policy: Policy,
        close: Closing,
        threads: int,
        costs: AskingCosts,
        yields: Callable[[], bool],
    ) -> None:
        self.speaker = speaker
        self.ngrams = ngrams
        self.lock = lock
        self.policy = policy
        self.costs = costs
        self.failure = ""
        self.awake = True
        self.ready = False
        self.busy = 0.0
        self.threads = self.threads_beside = threads
        self._close = close
        self._yields = yields
        # Its calls are not of Python, so that a Ctrl-C in the thread that generates finds no lock half taken.
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._due: deque[Job] = deque()
        self._verified: Verified | None = None
        self._stopping = False
        # Never Thread.join: a Ctrl-C in it makes CPython 3.11 believe that the thread has ended.
        self._ended = threading.Event()
        atexit.register(_close_at_exit, weakref.ref(self))
        thread = threading.Thread(target=self._run, name="aded-draft-model", daemon=True)
        with held_back():  # a Ctrl-C could keep the thread from ever running
            thread.start()

    # --- for the thread that generates -----------------------------------------------------------------

    def put(self, job: Job) -> None:
        """Have it done after what was put before; returns at once."""
        if isinstance(job, Another):
            self.ready = False
        self._queue.put(job)

    @property
    def runs(self) -> bool:
        """Whether the thread is there."""
        return not self._ended.is_set() and not is_forked()

    def stop(self) -> None:
        """Have the thread end after the decode under way; returns at once."""
        if is_forked():
            return
        self._stopping = True
        self._queue.put(None)

    def close(self) -> bool:
        """Wait until the thread has ended, and the draft model is freed; tells whether it has."""
        with held_back():
            self.stop()
            until = seconds_now() + CLOSING_SECONDS
            while self.runs and seconds_now() < until:
                time.sleep(CLOSING_POLL)
        return not self.runs

    # --- in the thread ---------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while (job := self._next()) is not None:
                self._do(job)
        except Exception as error:  # whatever it was: answers go on without
            self.failure = f"{type(error).__name__}: {error}" if not str(error) else str(error)
        finally:
            try:
                self.policy.close()
                self.speaker.close()
                self._close()
            finally:
                self._ended.set()
                self._collect(wait=False)
                for job in self._due:
                    if isinstance(job, Awaited):
                        job.finish()

    def _collect(self, *, wait: bool) -> None:
        """Take what was put; what came before another text is of no use any more."""
        while True:
            try:
                job = self._queue.get(block=wait)
            except Empty:
                return
            wait = False
            if isinstance(job, Another):
                for each in self._due:
                    if isinstance(each, Awaited):
                        each.finish()
                self._due.clear()
            if job is not None:
                self._due.append(job)

    def _next(self) -> Job | Callable[[], None] | None:
        """What to do now: what was put first, then what may be done meanwhile; None to end."""
        wait = False
        while not self._stopping:
            self._collect(wait=wait)
            if self._due:
                return self._due.popleft()
            unread = self.speaker.unread > 0
            self.ready = self.speaker.can_go_on and not unread
            if self.awake and unread and self.speaker.can_go_on and not self._yields():
                return self._read
            if self._verified is not None:
                return self._prepare
            wait = True
        return None

    def _do(self, job: Job | Callable[[], None]) -> None:
        if isinstance(job, Another):
            self._verified = None
            self.policy.forget()
            self.speaker.follow(job.text)
        elif isinstance(job, Further):
            self._verified = None
            self.policy.came(job)
            self.costs.judged(self.speaker.advance(job.tokens))
        elif isinstance(job, Verified):
            self._verified = job
        elif isinstance(job, Awaited):
            try:
                if isinstance(job, Sample):
                    self._judge(job)
                elif isinstance(job, Wanted):
                    self._draft(job)
            finally:
                if self.threads > 1:
                    give_team_back()  # else the target's passes are slower by half
                job.finish()
        else:
            job()

    def _draft(self, wanted: Wanted) -> None:
        if not (wanted.given_up or self.speaker.unread) and self.speaker.can_go_on:
            wanted.tree = self.policy.draft(self, wanted)
            wanted.said = frozenset(self.speaker.said)

    def _read(self, *, beside: bool = True) -> None:
        self.speaker.set_threads(self.threads_beside if beside else self.threads)
        started = seconds_now()
        self.costs.read(self.speaker.read(), seconds_now() - started)

    def _judge(self, sample: Sample) -> None:
        """How often the model is right about a text that is there, and what asking takes with nothing beside it."""
        if sample.given_up:
            return
        speaker, whole = self.speaker, np.array(self.speaker.text, np.int32)
        self._verified = None
        split = len(sample.text) - sample.n_judged
        speaker.follow(sample.text)
        if speaker.can_go_on:  # there is room, and all of it are tokens that the model has
            speaker.follow(sample.text[:split])
            while speaker.unread and not sample.given_up:
                self._read(beside=False)
            self._ask_along(tuple(sample.text[split:].tolist()), sample)
        speaker.follow(whole)

    def _ask_along(self, path: Path, sample: Sample) -> None:
        speaker = self.speaker
        speaker.set_threads(self.threads)
        timed = []
        for n in range(max(0, len(path) - TIMED), len(path) + 1):
            if sample.given_up:
                return
            _, n_decoded, seconds = speaker.ask([path[:n]])
            if n_decoded == 1:
                timed.append(seconds)
        self.costs.timed(timed)
        self.costs.judged(speaker.advance(path))

    def _prepare(self) -> None:
        verified = self._verified
        if verified is None:
            return
        started = seconds_now()
        paths = self.policy.prepare(self, verified)
        if not paths:
            self._verified = None
            return
        self.ask(paths, beside=True)
        self.busy += seconds_now() - started

    def ask(self, paths: Sequence[Path], *, beside: bool) -> int:
        """Ask the draft model, and tell the n-grams; returns the number of places it told of."""
        self.speaker.set_threads(self.threads_beside if beside else self.threads)
        statements, n_decoded, seconds = self.speaker.ask(paths)
        if statements:
            self.costs.decoded(n_decoded, seconds, beside=beside)
            with self.lock:
                self.ngrams.tell(self.speaker.text, statements)
        return len(statements)


def questions(tree: DraftTree, said: Collection[Path], wanted: Wanted, costs: AskingCosts) -> list[Path]:
    """What to ask before a draft is verified; nothing where that does not pay.

    Args:
        tree: the draft as it stands.
        said: paths of the places that were asked for.
        wanted: the draft that is waited for.
        costs: of asking.
    """
    verifiable = tree.with_leaves(wanted.leaves)
    n_forced = min(len(wanted.forced.tokens), wanted.most)
    places = open_places(verifiable, said, costs.sureness, n_forced)
    asked = worth_asking(verifiable, places, wanted.cost, seconds_now() - wanted.since, costs)
    return asked or [place.path for place in places[: wanted.explores]]


class Likeliest:
    """Asks where the calibrated prediction of all sources expects most of it."""

    def draft(self, worker: Worker, wanted: Wanted) -> DraftTree:
        """See ``Policy``: asks as long as that pays."""
        while True:
            with worker.lock:
                tree = worker.ngrams.draft(wanted.most, wanted.cost, wanted.forced)
            if wanted.given_up:
                return tree
            asked = questions(tree, worker.speaker.said, wanted, worker.costs)
            if not asked or not worker.ask(asked, beside=False):
                return tree
            wanted.explores = False

    def prepare(self, worker: Worker, verified: Verified) -> list[Path]:
        """See ``Policy``: the likeliest outcomes, as many as are told of before the pass ends."""
        left = verified.until - seconds_now()
        if left <= 0.0:
            return []
        with worker.lock:
            tree = worker.ngrams.draft(POOL)
        return outcomes(tree, verified.paths, worker.speaker.said, worker.costs, left)

    def came(self, further: Further) -> None:
        """See ``Policy``: the n-grams learn it all."""

    def forget(self) -> None:
        """See ``Policy``."""

    def close(self) -> None:
        """See ``Policy``."""


def _close_at_exit(worker: weakref.ref[Worker]) -> None:
    # A thread inside llama.cpp must not outlive the library at the interpreter's end.
    found = worker()
    if found is not None and not is_forked():
        found.close()
