"""What `run` and `lossless` share before the first answer: one setup, prompts as tokens, earlier results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from aded_bench.results import ResultFile, provenance, resume, taking_over
from aded_bench.run.arms import PEER_FAILURES, LlamaArm, LocalArm, Setup, open_local
from aded_bench.run.methods import CHEAP, LOOKUP, OWN, PEER, SERVER_METHODS
from aded_bench.run.server import ServerArm
from aded_bench.run.suites import Conversation, Question, prepare
from aded_local.errors import OptionError

Arm: TypeAlias = LocalArm | LlamaArm | ServerArm
"""A way of generating: answers each prompt in a fresh conversation, forgets what it learnt, and is closed."""

Step = Callable[[str], None]
"""Told after each answer, with a word on what comes next."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do with a model.

    Attributes:
        suite: its name, for the result.
        max_tokens: of each answer.
        seed: of sampling; prompts are chosen already.
        inputs: files that decide the result.
        n_threads, n_ctx: None for the engine's own choice.
    """

    model: Path
    suite: str
    max_tokens: int
    seed: int
    inputs: tuple[Path, ...] = ()
    n_threads: int | None = None
    n_ctx: int | None = None

    def settings(self) -> dict[str, Any]:
        """The part of the plan that a resumed run must share."""
        keys = ("suite", "max_tokens", "seed", "n_threads", "n_ctx")
        return {key: getattr(self, key) for key in keys}


def start(
    plan: Plan,
    lead: LocalArm,
    setup: Setup,
    parts: Sequence[Sequence[Conversation]],
    result: dict[str, Any],
    file: ResultFile,
    take_over: Callable[[dict[str, Any]], None],
    step: Step,
    temperature: float = 0.0,
    *,
    description: dict[str, Any] | None = None,
) -> list[list[Question]]:
    """Complete ``result`` with where it comes from, what an earlier run left, and which prompts are left out.

    Args:
        lead: one of our own arms.
        setup: what it found best, which holds for all.
        parts: conversations, the measured ones first.
        take_over: puts what an earlier run left into ``result``; any error of it is the file's fault.
        temperature: of the answers that become history.
        description: of the engine, as far as an interrupted run must share it; None for all that ``lead`` says.

    Returns:
        The questions of each part.

    Raises:
        ADEDError: no prompt fits, or ``file`` holds another run or a damaged one.
    """
    about = lead.llm.description() if description is None else description
    here = provenance(plan.settings(), model=plan.model, description=about, inputs=plan.inputs)
    if earlier := resume(file, result["kind"], here):
        with taking_over(file):
            result["histories"] |= {name: str(text) for name, text in earlier["histories"].items()}
            take_over(earlier)
    result["provenance"] = here
    options: dict[str, Any] = {"max_tokens": plan.max_tokens, "temperature": temperature, "seed": plan.seed}
    prepared = [
        prepare(lead, part, result["histories"], n_ctx=setup.n_ctx, step=step, **options) for part in parts
    ]
    result["skipped"] = {name: why for _, skipped in prepared for name, why in skipped.items()}
    if not prepared[0][0]:
        raise OptionError("no prompt can be answered: " + "; ".join(result["skipped"].values()))
    return [questions for questions, _ in prepared]


def settings_left(file: ResultFile) -> dict[str, Any]:
    """Attention and cache type of an earlier run, which goes on in them: a new trial may find others better."""
    engine = (file.load() or {"provenance": {}})["provenance"].get("engine")
    found = engine if isinstance(engine, dict) else {}
    return {key: found[key] for key in ("flash_attention", "cache_type") if key in found}


def open_arm(name: str, setup: Setup, *, same: str = CHEAP, server: Path | None = None) -> Arm:
    """The arm of any method, with what all arms share; a server starts with its first question."""
    if name in (PEER, LOOKUP):
        return LlamaArm(setup, lookup=name == LOOKUP)
    if name in SERVER_METHODS:
        assert server is not None
        return ServerArm(name, server, setup)
    return open_local(name, setup.model, same=same, setup=setup)


@contextmanager
def peer_may_fail(method: str, missing: dict[str, str]) -> Iterator[None]:
    """A peer that fails inside is missing, with the reason; our own arms must not fail."""
    try:
        yield
    except PEER_FAILURES as error:
        if method in OWN:
            raise
        missing[method] = " ".join(f"{error or type(error).__name__}".split()).removeprefix(f"{method}: ")
