"""The loop: prefill, then step after step until the answer is done.

Token ids in, token ids out; nothing here knows about text. What drafts may be anything that keeps to
``drafters.Drafter``; what decides how much of a draft to verify is ``speed.planner.Planner``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace

from aded_local.drafters import NOBODY, Beside
from aded_local.llama import Sampler, Sampling, Steering, Target
from aded_local.llama.forced import GrammarConstraint
from aded_local.llama.steering import ENDED, UNSTEERED
from aded_local.logprobs import TokenLogprob
from aded_local.speed.planner import Planner
from aded_local.speed.threads import Threads
from aded_local.step import Beginning, StepResult
from aded_local.tree_sampling import sample_and_match

FINISHED_STOP = "stop"
FINISHED_LENGTH = "length"
FINISHED_CANCELLED = "cancelled"

clock = time.perf_counter


def step(
    target: Target,
    planner: Planner,
    root: int,
    most_tokens: int,
    sample: Callable[[int], int],
    is_end: Callable[[int], bool],
    *,
    greedy: bool = False,
) -> StepResult:
    """Draft, verify, walk down the tree, keep the path: one pass of the target.

    The caller hands the result to ``planner.observe`` before the next step.

    Args:
        root: the last accepted token, which the target has not decoded yet.
        most_tokens: wanted at most, at least 1; the context has room for as many.
        sample: chooses the target's token after a batch row.
        is_end: whether a token ends the answer.
        greedy: ``sample`` takes the likeliest token, so that one look at the logits serves both.

    Raises:
        DeviceError: llama.cpp refused; the cache is at odds with what is known of it.
    """
    started = clock()
    n_cells = target.n_cells
    tree = planner.plan(n_cells, most_tokens - 1)
    planned = clock()
    layout, verify_seconds = target.verify(root, tree)
    verified = clock()
    likely = planner.read(tree, layout.row_of, target.verified_logits)
    read = clock()
    if greedy and likely is not None:
        sample = _looked_up(dict(zip((0, *layout.row_of), likely.tokens[:, 0].tolist(), strict=True)), sample)
    match = sample_and_match(tree, layout.row_of, sample, is_end, most_tokens)
    sampled = clock()
    hidden = None
    if target.reads_hidden:
        hidden = target.hidden_at(layout.row_of[match.path[-1]] if match.path else 0)
    target.accept(root, tree, layout, match.path)
    return StepResult(
        tree,
        match.tokens,
        match.path,
        n_cells,
        likely,
        search_seconds=planned - started,
        verify_seconds=verify_seconds,
        sample_seconds=sampled - read,
        read_seconds=read - verified,
        total_seconds=clock() - started,
        hidden=hidden,
    )


def _looked_up(likeliest: dict[int, int], sample: Callable[[int], int]) -> Callable[[int], int]:
    """Chooses the likeliest token that was read for a row; -1 stands for rows that were not read."""

    def look_up(row: int) -> int:
        token = likeliest[row]
        return token if token >= 0 else sample(row)

    return look_up


@dataclass
class Tally:
    """What one answer took, counted as it goes.

    Attributes:
        prompt_tokens: tokens of the prompt.
        reused_tokens: of those, already in the cache.
        generated_tokens: tokens the target chose, the end token included.
        passes: target passes after prefill.
        drafted: nodes proposed and verified.
        accepted: nodes the target agreed with.
        prefill, draft, verify, sample, total: seconds; ``prefill`` is decoding and learning the prompt, ``verify``
            llama.cpp's decode and synchronize, ``draft`` all that drafting adds to a step (search, budget, reading
            the target's likeliest tokens, learning).
        first_token: seconds until the first token.
        draft_times: seconds of each step's drafting, in order.
        pass_sizes: of each pass, in order: tokens in its batch, and how many of them stayed in the cache.
        seed: of the random draws.
        sources: what foresaw each accepted node, in order, of ``tree.Source``.
        threads: of the last pass.
        contended: other programs ran beside it.
        plain_passes: cells before each undisturbed plain pass, and its seconds in llama.cpp.
        logprobs: of each token that the target chose, where they are wanted; not of one that ended a step unchosen.
        finish_reason: ``stop``, ``length`` or ``cancelled``; empty while unfinished.
    """

    prompt_tokens: int = 0
    reused_tokens: int = 0
    generated_tokens: int = 0
    passes: int = 0
    drafted: int = 0
    accepted: int = 0
    prefill: float = 0.0
    draft: float = 0.0
    verify: float = 0.0
    sample: float = 0.0
    total: float = 0.0
    first_token: float = 0.0
    draft_times: list[float] = field(default_factory=list)
    pass_sizes: list[tuple[int, int]] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    seed: int = 0
    threads: int = 0
    contended: bool = False
    plain_passes: list[tuple[int, float]] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str = ""

    def add(self, result: StepResult, learn_seconds: float) -> None:
        """Count a step."""
        draft_seconds = result.search_seconds + result.read_seconds + learn_seconds
        self.passes += 1
        self.generated_tokens += len(result.tokens)
        self.drafted += result.n_drafted
        self.accepted += len(result.path)
        self.draft += draft_seconds
        self.draft_times.append(draft_seconds)
        self.pass_sizes.append((1 + len(result.tree), 1 + len(result.path)))
        if result.path:
            self.sources += result.tree.sources_of(result.path)
        self.verify += result.verify_seconds
        self.sample += result.sample_seconds


def generate(
    target: Target,
    planner: Planner,
    threads: Threads,
    sampling: Sampling,
    prompt: list[int],
    beginning: Beginning,
    max_tokens: int,
    tally: Tally,
    cancelled: Callable[[], bool],
    started: float | None = None,
    steering: Steering = UNSTEERED,
    beside: Beside = NOBODY,
) -> Generator[list[int], None, None]:
    """Answer ``prompt``, yielding the tokens of each step as the target settles them.

    Closing the iterator early leaves the cache as consistent as finishing does: it holds every token
    yielded but the last; and that one too where a criterion ended the answer.

    Args:
        target: verifies; its cache is reused as far as it agrees with the prompt.
        planner: proposes what to verify.
        threads: says how many threads each pass uses.
        sampling: how the target chooses.
        prompt: at least one token id, fewer than the context holds.
        beginning: what of the conversation the drafter knows, and what is new in the prompt.
        max_tokens: tokens wanted at most, at least 1.
        tally: filled in while running.
        cancelled: asked once per step, and before the first: then nothing is decoded.
        started: when the answer began, by ``clock``; now if None.
        steering: what else the choice of tokens has to follow.
        beside: what works beside the passes.

    Raises:
        DeviceError: llama.cpp refused.
        OptionError, GrammarError: see ``SteeredSampler``; what a person's function raised goes through as it is.
    """
    started = clock() if started is None else started
    sampler: Sampler
    if steering.is_any:
        sampler = steered = target.steered_sampler(sampling, prompt, steering)
        tally.logprobs = steered.logprobs
        is_end, greedy = _or_ended(target.model.is_end), False
    else:
        sampler = target.sampler(sampling, prompt)
        is_end, greedy = target.model.is_end, sampling.is_plain_greedy
    if steering.grammar is not None:
        beginning = replace(beginning, constraint=GrammarConstraint(steering.grammar))
    settled = False
    try:
        tally.seed = sampler.seed
        tally.prompt_tokens = len(prompt)
        if cancelled():
            settled = True
            return
        target.set_threads(threads.count)
        tally.reused_tokens, tally.prefill = target.prefill(prompt, cancelled)
        settled = target.n_cells < len(prompt)
        if settled:
            tally.total = tally.first_token = clock() - started
            return
        root = _first_token(sampler, planner, beginning, tally, started)
        settled = True
        if root != ENDED:
            yield [root]

        while not (reason := _finished(target, root, max_tokens - tally.generated_tokens, is_end, cancelled)):
            settled = False
            most = min(target.room, max_tokens - tally.generated_tokens)
            result = step(target, planner, root, most, sampler.sample, is_end, greedy=greedy)
            accepted = clock()
            alone = not beside.beside
            root = result.tokens[-1]
            if root == ENDED:
                result = _without_end(result)
            if result.tokens:
                if beginning.constraint is not None:
                    beginning.constraint.advance(result.tokens)
                planner.observe(result)
            if alone:
                threads.observe(len(result.tree) + 1, result.n_cells, result.verify_seconds)
                if not (len(result.tree) or threads.contended):
                    tally.plain_passes.append((result.n_cells, result.verify_seconds))
            target.set_threads(threads.without(beside.lent))
            ended = clock()
            tally.add(result, ended - accepted)
            tally.total = ended - started
            settled = True
            if result.tokens:
                yield result.tokens
        tally.finish_reason = reason
    finally:
        sampler.close()
        tally.threads, tally.contended = threads.count, threads.contended
        if not settled:
            # An interrupt in mid-step leaves cache and bookkeeping at odds; an empty cache is never wrong.
            target.forget()
        tally.total = max(tally.total, tally.first_token)
        if not tally.finish_reason:
            tally.finish_reason = FINISHED_CANCELLED


def _first_token(
    sampler: Sampler, planner: Planner, beginning: Beginning, tally: Tally, started: float
) -> int:
    before = clock()
    root = sampler.sample(-1)
    after = clock()
    if root == ENDED:
        tally.first_token = tally.total = after - started
        return root
    if beginning.constraint is not None:
        beginning.constraint.advance([root])
    # Learning the prompt belongs to reading it: a few microseconds per token that is new.
    planner.begin(beginning.and_then(root))
    tally.sample += after - before
    tally.first_token = tally.total = clock() - started
    tally.prefill += tally.first_token - (after - started)
    tally.generated_tokens = 1
    return root


def _or_ended(is_end: Callable[[int], bool]) -> Callable[[int], bool]:
    return lambda token: token == ENDED or is_end(token)


def _without_end(result: StepResult) -> StepResult:
    """The step without the mark that it ended with. The cache keeps the whole path, which says the same tokens."""
    return replace(result, tokens=result.tokens[:-1], path=result.path[:-1])


def _finished(
    target: Target, last: int, left: int, is_end: Callable[[int], bool], cancelled: Callable[[], bool]
) -> str:
    """Why the answer ends with its ``last`` token; empty where it goes on."""
    if is_end(last):
        return FINISHED_STOP
    if left < 1 or target.room < 1:
        return FINISHED_LENGTH
    return FINISHED_CANCELLED if cancelled() else ""
