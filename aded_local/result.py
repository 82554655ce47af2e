"""What callers get: pieces of an answer, the whole of it, and what it took."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from aded_local.decode import FINISHED_CANCELLED, Tally
from aded_local.drafters.model.tally import ModelDrafting
from aded_local.errors import DeviceError
from aded_local.logprobs import TokenLogprob
from aded_local.tree import Source

__all__ = ["Piece", "Reply", "Stats", "TokenLogprob", "cancelled_piece", "joined", "stats_of"]


@dataclass(frozen=True, slots=True)
class Stats:
    """What an answer took.

    Attributes:
        prompt_tokens: tokens of the prompt.
        reused_tokens: of those, taken from the cache of the turn before.
        generated_tokens: tokens the target chose, the end token included.
        target_passes: passes of the target over its weights, after prefill.
        tokens_per_pass: tokens generated per pass; plain decoding has 1.
        drafted: draft tokens verified.
        accepted: draft tokens the target agreed with.
        seconds: wall time by stage: ``prefill``, ``draft``, ``verify`` (inside llama.cpp), ``sample``,
            ``elsewhere``.
        draft_microseconds: median over passes of all that drafting adds (search, budget, learning).
        draft_microseconds_p99: its 99th percentile.
        tokens_per_second: tokens after the first, per second after the first token.
        time_to_first_token: seconds.
        seed: the seed of the random draws.
        threads: CPU threads that it ended with: fewer than ``n_threads`` where other programs run and that is faster.
        contended: other programs ran beside it when it ended.
        setting: attention and cache type that it was computed with, e.g. ``fa-on/bf16``; with ``/rows`` drafts were
            multiplied row by row, as one token is.
        same_words: nothing but sizes that equal one-token decoding was verified, so the words are those that plain
            decoding says after the same cells. (Cells of earlier answers may have been written otherwise.)
        pass_sizes: of each pass after prefill, in order: tokens in its batch (drafts and padding among them), and
            how many of them stayed in the cache.
        sources: what foresaw each draft token that was accepted, in order, by the names of ``tree.Source`` in small
            letters: ``conversation``, ``memory``, ``passage``, ….
        answer_tokens: tokens of the answer as a client is told of them: without the end token and without what a step
            brought beyond a stop text, whose own tokens count.
        draft_model: what a draft model did; None without one.
    """

    prompt_tokens: int
    reused_tokens: int
    generated_tokens: int
    target_passes: int
    tokens_per_pass: float
    drafted: int
    accepted: int
    seconds: dict[str, float]
    draft_microseconds: float
    draft_microseconds_p99: float
    tokens_per_second: float
    time_to_first_token: float
    seed: int
    threads: int
    contended: bool
    setting: str
    same_words: bool
    pass_sizes: tuple[tuple[int, int], ...] = ()
    answer_tokens: int = 0
    sources: tuple[str, ...] = ()
    draft_model: ModelDrafting | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; without ``pass_sizes`` and ``sources``, which are as long as the answer."""
        found = asdict(self)
        del found["pass_sizes"], found["sources"]
        if self.draft_model is None:
            del found["draft_model"]
        return found


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of an answer.

    Attributes:
        text: whole characters; may be empty when the last tokens ended inside one.
        tokens: ids that were settled since the piece before.
        finish_reason: ``stop``, ``length`` or ``cancelled`` in the last piece, else None.
        stats: in the last piece, else None.
        logprobs: of each of ``tokens``, where they were asked for.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: str | None = None
    stats: Stats | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return _plain(self)


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer.

    Attributes:
        text: the answer.
        tokens: ids the target chose, without the one that ended the answer.
        finish_reason: ``stop`` (the model or a stop string ended it), ``length`` or ``cancelled``.
        stats: what it took.
        logprobs: of each of ``tokens``, where they were asked for.
    """

    text: str
    tokens: list[int]
    finish_reason: str
    stats: Stats
    logprobs: list[TokenLogprob] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return _plain(self)


def _plain(found: Piece | Reply) -> dict[str, Any]:
    return {
        "text": found.text,
        "tokens": list(found.tokens),
        "finish_reason": found.finish_reason,
        "logprobs": None if found.logprobs is None else [each.to_dict() for each in found.logprobs],
        "stats": None if found.stats is None else found.stats.to_dict(),
    }


def stats_of(
    tally: Tally,
    idle: float,
    setting: str,
    *,
    same_words: bool,
    answer_tokens: int = 0,
    draft_model: ModelDrafting | None = None,
) -> Stats:
    """Statistics of a finished answer.

    Args:
        tally: what it took.
        idle: seconds that passed in the caller's hands, not ours.
        setting, same_words, answer_tokens, draft_model: see ``Stats``.
    """
    total = tally.total - idle
    known = tally.prefill + tally.draft + tally.verify + tally.sample
    after_first = total - tally.first_token
    rest = tally.generated_tokens - 1
    times = tally.draft_times or [0.0]
    return Stats(
        prompt_tokens=tally.prompt_tokens,
        reused_tokens=tally.reused_tokens,
        generated_tokens=tally.generated_tokens,
        target_passes=tally.passes,
        tokens_per_pass=rest / tally.passes if tally.passes else 0.0,
        drafted=tally.drafted,
        accepted=tally.accepted,
        seconds={
            "prefill": tally.prefill,
            "draft": tally.draft,
            "verify": tally.verify,
            "sample": tally.sample,
            "elsewhere": max(0.0, total - known),
        },
        draft_microseconds=1e6 * float(np.median(times)),
        draft_microseconds_p99=1e6 * float(np.percentile(times, 99)),
        tokens_per_second=rest / after_first if rest > 0 and after_first > 0 else 0.0,
        time_to_first_token=tally.first_token,
        seed=tally.seed,
        threads=tally.threads,
        contended=tally.contended,
        setting=setting,
        same_words=same_words,
        pass_sizes=tuple(tally.pass_sizes),
        answer_tokens=answer_tokens,
        sources=tuple(Source(source).name.lower() for source in tally.sources),
        draft_model=draft_model,
    )


def cancelled_piece() -> Piece:
    """The end of an answer that was cancelled before, or while, somebody else took its turn."""
    return Piece("", (), FINISHED_CANCELLED, stats_of(Tally(), 0.0, "", same_words=True))


def joined(pieces: Iterable[Piece]) -> Reply:
    """The whole answer of a stream."""
    texts: list[str] = []
    tokens: list[int] = []
    logprobs: list[TokenLogprob] = []
    for piece in pieces:
        texts.append(piece.text)
        tokens.extend(piece.tokens)
        logprobs.extend(piece.logprobs or ())
        if piece.stats is not None and piece.finish_reason is not None:
            told = None if piece.logprobs is None else logprobs
            return Reply("".join(texts), tokens, piece.finish_reason, piece.stats, told)
    raise DeviceError("the answer ended without a result")
