"""The loop: prefill, then draft, verify and accept until the answer is done.

Token ids in, token ids out; nothing here knows about text. What drafts may be anything that keeps to
``drafting.Drafter``; what decides how much of a draft to verify is ``planning.Planner``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

import numpy as np

from aded_local.llama import Sampling, Target
from aded_local.speed.planner import Planner
from aded_local.tree_sampling import sample_and_match

FINISHED_STOP = "stop"
FINISHED_LENGTH = "length"
FINISHED_CANCELLED = "cancelled"


@dataclass
class Tally:
    """What one answer took, counted as it goes.

    Attributes:
        prompt_tokens: tokens of the prompt.
        reused_tokens: of those, already in the cache.
        generated_tokens: tokens the target chose, the end token included.
        passes: target passes after prefill.
        drafted: nodes verified.
        accepted: nodes the target agreed with.
        prefill, draft, verify, sample, total: seconds; ``prefill`` is decoding and learning the prompt,
            ``verify`` llama.cpp's decode and synchronize, ``draft`` all that drafting adds to a step (search,
            budget, reading the target's likeliest tokens, learning).
        first_token: seconds until the first token.
        draft_times: seconds of each step's drafting, in order.
        seed: of the random draws.
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
    seed: int = 0
    finish_reason: str = ""


def generate(
    target: Target,
    planner: Planner,
    sampling: Sampling,
    prompt: list[int],
    max_tokens: int,
    tally: Tally,
    cancelled: Callable[[], bool],
) -> Generator[list[int], None, None]:
    """Answer ``prompt``, yielding the tokens of each step as the target settles them.

    Closing the iterator early leaves the cache as consistent as finishing does: it holds every token
    yielded but the last.

    Args:
        target: verifies; its cache is reused as far as it agrees with the prompt.
        planner: proposes what to verify.
        sampling: how the target chooses.
        prompt: at least one token id, fewer than the context holds.
        max_tokens: tokens wanted at most, at least 1.
        tally: filled in while running.
        cancelled: asked once per step, and before the first: then nothing is decoded.
    """
    clock = time.perf_counter
    started = clock()
    sampler = target.sampler(sampling, prompt)
    is_end = target.model.is_end
    settled = False
    try:
        tally.seed = sampler.seed
        tally.prompt_tokens = len(prompt)
        if cancelled():
            settled = True
            return
        tally.reused_tokens, tally.prefill = target.prefill(prompt, cancelled)
        if len(target.cached) < len(prompt):
            settled = True
            tally.total = tally.first_token = clock() - started
            return
        before = clock()
        root = sampler.sample(-1)
        after = clock()
        # Learning the prompt belongs to reading it: a few microseconds per token that was prefilled.
        planner.begin(np.array([*prompt, root], np.int32))
        tally.sample += after - before
        tally.first_token = clock() - started
        tally.prefill += tally.first_token - (after - started)
        tally.generated_tokens = 1
        tally.total = tally.first_token
        settled = True
        yield [root]

        while True:
            if is_end(root):
                tally.finish_reason = FINISHED_STOP
            elif tally.generated_tokens >= max_tokens or target.room < 1:
                tally.finish_reason = FINISHED_LENGTH
            elif cancelled():
                tally.finish_reason = FINISHED_CANCELLED
            if tally.finish_reason:
                break
            settled = False
            step_started = clock()
            remaining = max_tokens - tally.generated_tokens
            n_cells = target.context.n_past
            tree = planner.plan(n_cells, min(target.room, remaining) - 1)
            drafted_at = clock()
            tree, layout, seconds = target.verify(root, tree)
            verified_at = clock()
            match = sample_and_match(tree, layout.row_of, sampler.sample, is_end, remaining)
            sampled_at = clock()
            # Before anything touches the memory again: the logits are llama.cpp's own buffer.
            planner.see(tree, layout.row_of, target.verified_logits)
            seen_at = clock()
            target.accept(root, tree, layout, match.path)
            accepted_at = clock()
            root = match.tokens[-1]
            planner.observe(
                match.tokens,
                n_nodes=len(tree),
                n_cells=n_cells,
                verify_seconds=seconds,
                step_seconds=accepted_at - step_started,
            )
            ended = clock()
            draft_seconds = drafted_at - step_started + seen_at - sampled_at + ended - accepted_at
            tally.passes += 1
            tally.generated_tokens += len(match.tokens)
            tally.drafted += len(tree)
            tally.accepted += len(match.path)
            tally.draft += draft_seconds
            tally.draft_times.append(draft_seconds)
            tally.verify += seconds
            tally.sample += sampled_at - verified_at
            tally.total = ended - started
            settled = True
            yield match.tokens
    finally:
        sampler.close()
        if not settled:
            # An interrupt in mid-step leaves cache and bookkeeping at odds; an empty cache is never wrong.
            target.forget()
        tally.total = max(tally.total, tally.first_token)
        if not tally.finish_reason:
            tally.finish_reason = FINISHED_CANCELLED
