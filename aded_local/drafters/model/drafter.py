"""n-grams and a draft model, in one prediction.

The drafter of ``auto`` with one more source. The model speaks in a thread of its own (``worker``); whatever goes wrong
there costs speed, and never the answer.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from math import inf
from pathlib import Path as FilePath
from typing import Final

import numpy as np
import numpy.typing as npt

from aded_local.drafters.model import DraftMode
from aded_local.drafters.model.branching import Branching, KeptHrad
from aded_local.drafters.model.costs import AskingCosts
from aded_local.drafters.model.jobs import POOL, Another, Awaited, Further, Sample, Verified, Wanted
from aded_local.drafters.model.modes import NGRAM, Chooser, Way, ways_of
from aded_local.drafters.model.outcomes import paths_of
from aded_local.drafters.model.pair import Pair
from aded_local.drafters.model.promises import promise
from aded_local.drafters.model.speaker import Speaker, seconds_now
from aded_local.drafters.model.tally import ModelDrafting
from aded_local.drafters.model.worker import Likeliest, Policy, Worker, questions
from aded_local.drafters.ngram.drafter import NgramDrafter
from aded_local.llama.branches import Path
from aded_local.llama.teams import give_team_back
from aded_local.step import NOTHING_FORCED, Beginning, Forced, StepResult
from aded_local.tree import DraftTree, FloatArray, IntArray

SHORTEST_WAIT: Final = 0.25
"""Seconds that a step waits for the draft model at least, before it goes without."""
LONGEST_WAIT: Final = 8.0
"""The same in plain passes of the target, where that is longer."""
SAMPLE: Final = 24
"""Tokens of the target by which a draft model is judged before it reads anything else. Its rate of hits is known to a
tenth from so many. Measured: a quarter of a second of SmolLM2 on two cores with AMX, 0.3 to 0.5 s without,
with the text before them."""
SAMPLE_CONTEXT: Final = 128
"""Tokens that it reads before them. With 48 a model that drafts for itself was found right 0.59 of the time."""
UNASKED: Final = 32
"""Serial steps without a question after which one is asked all the same, so that a wrong idea of price and hits does
not last. Chosen: a question at a fifth of a pass costs less than a hundredth then."""
NEXT_SAMPLE: Final = 4096
"""Tokens of the target after which a model that is not asked is judged again. Chosen: a sample costs less than a
hundredth then."""
HORIZON: Final = 128
"""Tokens that are thought to come from a text when the price of reading it is weighed. Chosen: a short answer."""
KEPT_EVERY: Final = 200
"""Answers of the model that are judged before what was learnt is written, between two texts and at the end. Chosen:
writing takes 4 ms."""
STALLS: Final = 10
"""Steps that waited in vain, after which the model is given up."""
STALLED_SECONDS: Final = 10.0
"""Seconds without an answer after which it is given up at once. Steps meanwhile do not wait."""

Notice = Callable[[str], None]


class ModelDrafter:
    """Drafts from n-grams and from what a draft model says; see this module's first lines.

    Args:
        ngrams: the drafter whose prediction the model joins; this object's from now on.
        speaker: the draft model; the thread's from now on.
        close: frees the draft model's weights, once its context is freed.
        mode: see ``DraftMode``.
        threads: CPU threads of a decode of the draft model.
        target_threads: those of the target's passes.
        shares: both models compute on the same device.
        hrad: where to branch in the mode ``branch``; None to go by the model's confidence.
        ways: that may be taken, in the order of trying; None for those of the mode.
        notice: told once where the model does not pay, or is given up.
        pair: what earlier starts learnt of these two models; None to begin anew, and keep nothing.
        yields: whether the model is to leave the processor alone, with nobody waiting for it.

    Attributes:
        way: of the present step.
    """

    name = "auto"

    def __init__(
        self,
        ngrams: NgramDrafter,
        speaker: Speaker,
        *,
        close: Callable[[], None],
        mode: DraftMode,
        threads: int,
        notice: Notice,
        target_threads: int = 1,
        shares: bool = True,
        ways: tuple[Way, ...] | None = None,
        hrad: KeptHrad | None = None,
        pair: FilePath | None = None,
        yields: Callable[[], bool] = lambda: False,
    ) -> None:
        self._ngrams = ngrams
        self._lock = threading.Lock()
        ngrams.hear_model()
        costs = AskingCosts(target_threads, shares=shares)
        self._notice = notice
        self._leaves = POOL
        self._mode = mode
        self._chooser = Chooser(
            ways_of(mode, target_threads) if ways is None else ways,
            lambda way: promise(way, costs, self._cost, self._most) if mode == "auto" else 0.0,
        )
        self._pair = None if pair is None else Pair(pair, costs, self._chooser, ngrams)
        self._kept = costs.n_judged  # answers of the model that the file knows of
        self.way = self._chooser.way
        self._prepares = False
        self._most = 1  # nodes that a draft may have; fewer at the end of an answer
        self._plain_seconds = 0.0
        self._cost: npt.NDArray[np.float64] = np.zeros(1)
        self._stalls = 0
        self._awaited: Awaited | None = None
        self._given_up = False
        self._told = False
        self._waited = self._idle = 0.0
        self._steps: dict[str, int] = {}
        self._asked_for: frozenset[Path] = frozenset()  # places below the text
        self._unasked = 0  # serial steps since the last question
        self._text: list[int] = []
        self._untold = (
            0  # tokens at its end that the thread was not told of: a model that is not asked need not follow
        )
        self._said = 0  # tokens of it that are the target's
        self._unsampled = 0  # the target's tokens since the last sample
        self._pass_began = self._busy_before = 0.0
        policy: Policy = Branching(hrad) if mode == "branch" else Likeliest()
        self._worker = Worker(speaker, ngrams, self._lock, policy, close, threads, costs, yields)
        self._take(self._chooser.way)
        # Dropped unclosed, it tells its thread to end; the thread frees what is the model's.
        weakref.finalize(self, self._worker.stop).atexit = False

    # --- what is learnt ----------------------------------------------------------------------------------

    def recall(self, exchanges: Sequence[tuple[IntArray, IntArray, bool]]) -> None:
        """See ``Drafter``."""
        with self._lock:
            self._ngrams.recall(exchanges)

    def begin(self, beginning: Beginning) -> None:
        """See ``Drafter``; the model begins to read, unless it has to be worth it first."""
        with self._lock:
            self._ngrams.begin(beginning)
        self._asked_for = frozenset()
        self._pass_began = 0.0  # of a step that was never finished
        self._prepares = False
        if self._mode == "auto":
            self._take(NGRAM)
        if self._pair is not None and self._worker.costs.n_judged >= self._kept + KEPT_EVERY:
            self._keep()
        if self._awaited is not None:
            self._awaited.given_up = True
            self._awaited = None
        text = np.concatenate((beginning.past, beginning.new))
        self._text = text.tolist()
        self._untold = self._said = 0
        if self._uses_model:
            self._worker.put(Another(text))

    def predict(self) -> tuple[IntArray, FloatArray]:
        """See ``Drafter``."""
        with self._lock:
            return self._ngrams.predict()

    def reset(self) -> None:
        """See ``Drafter``; what is known of the two models says nothing of any text, and stays."""
        with self._lock:
            learnt = self._ngrams.learnt_of_model()
            self._ngrams.reset()
            self._ngrams.take_of_model(learnt)

    # --- a step ------------------------------------------------------------------------------------------

    @property
    def beside(self) -> bool:
        """Whether the model works beside the pass, which reading a text is too: it says nothing of passes alone."""
        worker = self._worker
        reads = worker.awake and not worker.ready and worker.speaker.can_go_on
        late = self._awaited is not None and not self._awaited.done
        return self._uses_model and (self._prepares or reads or late)

    def fit(self, leaves: int) -> None:
        """The target can verify so many branches from now on."""
        self._leaves = leaves

    @property
    def lent(self) -> int:
        """Threads that the next pass leaves to the draft model."""
        return self.way.lent if self._uses_model and self._worker.ready else 0

    @property
    def _uses_model(self) -> bool:
        return not self._given_up and self._mode != "ngram"

    def draft(
        self, max_nodes: int, cost: npt.NDArray[np.float64] | None = None, forced: Forced = NOTHING_FORCED
    ) -> DraftTree:
        """See ``Drafter``: what the n-grams alone would draft, or that after some questions to the model."""
        self._most = max(self._most, max_nodes)
        if cost is not None:
            self._cost = cost
            self._plain_seconds = float(cost[1])
        if self._uses_model and self.way != NGRAM and (cost is not None or self.way.mode == "branch"):
            # Beside the model a pass takes longer, and a token of it is worth more.
            slower = self._worker.costs.slowdown(self.way.lent) if self.way.mode == "parallel" else 1.0
            tree = self._asked(max_nodes, self._cost * slower, forced)
            if tree is not None:
                return tree
        with self._lock:
            return self._ngrams.draft(max_nodes, cost, forced)

    def _asked(self, max_nodes: int, cost: npt.NDArray[np.float64], forced: Forced) -> DraftTree | None:
        started = seconds_now()
        if not self._worker.ready or not self._can_be_asked(started):
            return None
        wanted = Wanted(most=max_nodes, cost=cost, forced=forced, since=started, leaves=self._leaves)
        if self.way.mode == "serial":
            # Waiting for the thread takes milliseconds, so it is left alone where there is nothing to ask.
            with self._lock:
                tree = self._ngrams.draft(max_nodes, cost, forced)
            if not questions(tree, self._asked_for, wanted, self._worker.costs):
                self._unasked += 1
                if self._unasked < UNASKED:
                    return tree
                wanted.explores = True
        self._unasked = 0
        self._wait_for(wanted)
        self._asked_for = wanted.said
        return wanted.tree if wanted.done else None

    def _can_be_asked(self, now: float) -> bool:
        """Whether the thread is there, and does not still work at what nobody waits for any more."""
        if not self._worker.runs:
            self._give_up(f"the draft model failed: {self._worker.failure or 'its thread ended'}")
            return False
        if self._awaited is None or self._awaited.done:
            return True
        if now - self._awaited.since > STALLED_SECONDS:
            self._give_up("the draft model does not answer")
        return False

    def _wait_for(self, job: Wanted | Sample) -> None:
        worker = self._worker
        self._awaited = job
        if worker.threads > 1:
            give_team_back()  # the draft model's decodes would be slower by half
        worker.put(job)
        if job.wait(max(SHORTEST_WAIT, LONGEST_WAIT * self._plain_seconds)):
            self._stalls = 0
        else:
            job.given_up = True
            self._stalls += 1
            if self._stalls >= STALLS:
                self._give_up("the draft model does not answer in time")
        self._waited += seconds_now() - job.since

    def verifying(self, tree: DraftTree) -> None:
        """See ``Drafter``: what may come behind it is prepared now, where the mode is ``parallel`` or ``branch``."""
        worker = self._worker
        self._pass_began, self._busy_before = seconds_now(), worker.busy
        self._prepares = self._uses_model and worker.ready and self.way.mode in ("parallel", "branch")
        if self._prepares:
            n = len(tree) + 1
            expected = inf  # nobody priced the pass
            if n < len(self._cost):
                expected = float(self._cost[n]) * worker.costs.slowdown(self.way.lent)
            worker.put(Verified(frozenset(paths_of(tree)), self._pass_began + expected))

    def observe(self, result: StepResult) -> None:
        """See ``Drafter``."""
        with self._lock:
            self._ngrams.observe(result)
        if not self._uses_model:
            return
        worker = self._worker
        self._text += result.tokens
        if worker.awake:
            worker.put(Further(result.tokens, result.hidden))
        else:
            self._untold += len(result.tokens)
        gone, n = tuple(result.tokens), len(result.tokens)
        self._asked_for = frozenset(path[n:] for path in self._asked_for if path[:n] == gone)
        if len(self._cost) < 2 and result.verify_seconds > 0.0:
            self._plain_seconds = result.verify_seconds  # nobody says what a plain pass takes
        if self._pass_began and result.verify_seconds > 0.0:
            self._idle += max(0.0, result.verify_seconds - (worker.busy - self._busy_before))
            if self._prepares and len(result.tree) + 1 < len(self._cost):
                alone = max(float(self._cost[len(result.tree) + 1]), 1e-9)
                worker.costs.passed(self.way.lent, result.verify_seconds / alone)
            self._steps[self.way.mode] = self._steps.get(self.way.mode, 0) + 1
            if self._plain_seconds > 0.0:
                seconds = result.total_seconds / self._plain_seconds
                ready = worker.ready or self.way == NGRAM
                self._chooser.record(self.way, seconds, len(result.tokens), ready=ready)
        self._pass_began = 0.0
        self._prepares = False
        self._said += len(result.tokens)
        self._unsampled += len(result.tokens)
        if result.verify_seconds > 0.0:  # else it is not one step, but what a pause brought
            self._sample()
            self._choose()

    def _sample(self) -> None:
        """Judge a model that nothing is known of, or that is not asked, where that was not done lately."""
        costs, worker = self._worker.costs, self._worker
        known = costs.n_judged >= SAMPLE
        # In the other modes asking goes on whatever comes of it.
        if self._mode == "branch" or (known and (self._mode != "auto" or worker.awake)):
            return
        if self._said < SAMPLE or self._unsampled < (NEXT_SAMPLE if known else SAMPLE):
            return
        started = seconds_now()
        if not self._plain_seconds or not self._can_be_asked(started):
            return
        self._unsampled = 0
        end = np.array(self._text[-SAMPLE_CONTEXT - SAMPLE :], np.int32)
        self._wait_for(Sample(since=started, text=end, n_judged=SAMPLE))

    def _choose(self) -> None:
        if self._given_up:
            return
        chooser, worker = self._chooser, self._worker
        way = chooser.way
        if self._mode == "auto" and way != NGRAM:
            ready = worker.ready and not self._untold
            can = worker.speaker.can_go_on and (ready or self._reading_pays())
            way = way if can else NGRAM
        self._take(way)
        if self._mode == "auto" and not self._told and worker.costs.n_judged and chooser.says_no:
            self._told = True
            self._notice(
                "the draft model does not pay here, so n-grams draft alone; it is tried again at times"
            )

    def _take(self, way: Way) -> None:
        self.way = way
        self._worker.awake = way != NGRAM
        if way != NGRAM and self._untold:
            self._worker.put(Another(np.array(self._text, np.int32)))
            self._untold = 0
        self._worker.threads_beside = way.lent or self._worker.threads

    def _reading_pays(self) -> bool:
        """Whether what the model has to read first is worth its time."""
        worker = self._worker
        price = (worker.speaker.unread + self._untold) * worker.costs.reading
        return price < HORIZON * self._chooser.gain(self._chooser.way) * self._plain_seconds

    def _give_up(self, why: str) -> None:
        if not self._given_up:
            self._given_up = True
            self.way = NGRAM
            self._worker.stop()
            self._notice(f"{why}; n-grams draft alone from here on")

    # --- what it did -------------------------------------------------------------------------------------

    def did(self) -> ModelDrafting:
        """What the model did so far."""
        speaker = self._worker.speaker
        return ModelDrafting(
            self._waited, self._idle, speaker.decodes, speaker.asked, speaker.dropped, dict(self._steps)
        )

    def close(self) -> None:
        """End the thread, which frees the draft model."""
        try:
            self._worker.close()
        finally:
            self._keep()
            self._ngrams.close()

    def _keep(self) -> None:
        if self._pair is not None and self._worker.costs.n_judged > self._kept:
            self._kept = self._worker.costs.n_judged
            with self._lock:
                self._pair.save()
