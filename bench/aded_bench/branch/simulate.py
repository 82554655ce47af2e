"""Modes of drafting with a model, simulated for a machine whose draft model and target do not share a processor."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from aded_bench.branch import modes
from aded_bench.branch.machine import Machine, Ran, World
from aded_bench.branch.modes import BRANCH, RULES, Branching
from aded_bench.branch.recording import Draft, Prompt, Recording, listening, record
from aded_bench.drafters import virtual
from aded_bench.replay.curves import NamedCurve
from aded_bench.results import ResultFile, provenance, resume, taking_over
from aded_bench.run.suites import Conversation
from aded_bench.summary import ratio_interval
from aded_local.drafters.model.pairing import require_pair
from aded_local.drafters.ngram.drafter import NgramDrafter
from aded_local.errors import OptionError
from aded_local.llama import Model
from aded_local.speed.device import physical_threads

DRAFT_THREADS: Final = 1
"""Of a draft model that is recorded: it is small."""

Step = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to simulate.

    Attributes:
        drafts: models by name.
        ablation_ratio: the ratio at which rules for branch points are compared; None for not at all.
        folder: where the recording is kept; None for nowhere.
    """

    model: Path
    drafts: Mapping[str, Path]
    suite: str
    conversations: Sequence[Conversation]
    curves: Sequence[NamedCurve]
    ratios: tuple[float, ...]
    modes: tuple[str, ...]
    ablation_ratio: float | None
    max_tokens: int
    n_ctx: int
    n_threads: int | None
    folder: Path | None
    seed: int = 0

    def settings(self) -> dict[str, Any]:
        """The part of the plan that a resumed simulation must share."""
        return {
            "suite": self.suite,
            "prompts": [one.id for one in self.conversations],
            "max_tokens": self.max_tokens,
            "context": self.n_ctx,
            "seed": self.seed,
        }

    def cells(self, draft: str) -> Iterator[tuple[str, NamedCurve, float, str, str | None]]:
        """Draft, curve, ratio, mode and rule of all that is simulated with a draft model."""
        for curve, ratio, mode in itertools.product(self.curves, self.ratios, self.modes):
            yield draft, curve, ratio, mode, None
        if self.ablation_ratio is not None:
            for curve, rule in itertools.product(self.curves, RULES):
                yield draft, curve, self.ablation_ratio, BRANCH, rule


def total_steps(plan: Plan) -> int:
    """How often ``run`` calls ``step``, if nothing was done before."""
    return len(plan.conversations) + sum(1 for draft in plan.drafts for _ in plan.cells(draft))


def run(plan: Plan, file: ResultFile, step: Step = lambda note: None) -> dict[str, Any]:
    """Record and simulate; the result as plain data, with ``complete`` False after Ctrl-C.

    Raises:
        ADEDError: a model cannot be used, or ``file`` or the folder holds something else.
    """
    inputs = [*dict.fromkeys([*plan.drafts.values(), *(curve.path for curve in plan.curves)])]
    here = provenance(plan.settings(), model=plan.model, inputs=inputs)
    result: dict[str, Any] = {
        "kind": "branch",
        "complete": False,
        "provenance": here,
        "cells": [],
        "agreement": {},
    }
    if earlier := resume(file, "branch", here):
        with taking_over(file):
            result["cells"], result["agreement"] = earlier["cells"], dict(earlier["agreement"])
    done = {_key(cell) for cell in result["cells"]}
    _require_pairs(plan)
    try:
        recording = _recorded(plan, step)
        make = _ngrams(plan.model)
        for name, path in plan.drafts.items():
            left = [c for c in plan.cells(name) if (c[0], c[1].name, *c[2:]) not in done]
            for _ in range(sum(1 for _ in plan.cells(name)) - len(left)):
                step("done before")
            if left:
                with _draft(plan, name, path, recording) as draft:
                    result["agreement"][name] = agreement(recording, draft)
                    for _, curve, ratio, mode, rule in left:
                        cell = simulate(recording, draft, Machine(curve, ratio), mode, make, rule)
                        result["cells"].append(cell)
                        file.save(result)
                        step(f"{name}, {ratio:g}, {mode}")
        result["complete"] = True
    except KeyboardInterrupt:
        pass
    file.save(result, now=True)
    return result


def _require_pairs(plan: Plan) -> None:
    """Refuse a draft model of another vocabulary before the target is recorded for it."""
    others = [path for path in plan.drafts.values() if path != plan.model]
    if not others:
        return
    target = Model(plan.model)
    try:
        for path in others:
            draft = Model(path)
            try:
                require_pair(target, draft)
            finally:
                draft.close()
    finally:
        target.close()


def _key(cell: Mapping[str, Any]) -> tuple[Any, ...]:
    return cell["draft"], cell["curve"], cell["ratio"], cell["mode"], cell["rule"]


def _recorded(plan: Plan, step: Step) -> Recording:
    longest = plan.n_ctx - plan.max_tokens
    prompts: list[Prompt] = virtual.prompts(plan.model, plan.conversations, longest)
    found = record(
        plan.model,
        prompts,
        most=plan.max_tokens,
        n_ctx=plan.n_ctx,
        n_threads=plan.n_threads or physical_threads(),
        folder=plan.folder,
        origin=_origin(plan, plan.model),
        step=step,
    )
    # The first token comes with the prompt; there is a mode for what follows.
    texts = [text for text in found.texts if len(text.tokens) > text.start + 1]
    if not texts:
        raise OptionError(
            "no prompt fits, or no answer has two tokens; name other prompts, or ask for more with -c or -n"
        )
    return Recording(texts, found.states)


def _draft(plan: Plan, name: str, path: Path, recording: Recording) -> Any:
    return listening(
        name,
        path,
        recording,
        n_ctx=plan.n_ctx,
        n_threads=plan.n_threads or DRAFT_THREADS,
        folder=plan.folder,
        origin=_origin(plan, path),
    )


def _origin(plan: Plan, speaker: Path) -> str:
    sizes = f"{plan.model.name} ({plan.model.stat().st_size} bytes), answers of {plan.max_tokens} tokens"
    return f"{speaker.name} ({speaker.stat().st_size} bytes) on {sizes}"


def _ngrams(model: Path) -> Callable[[], NgramDrafter]:
    """Makes drafters of ``auto`` for a model, with the shipped phrases."""
    from aded_local.llama.gguf import read_header

    n_vocab = read_header(model).array_length("tokenizer.ggml.tokens") or 0
    make = virtual.make_drafter(model, n_vocab)
    return lambda: cast(NgramDrafter, make("auto"))


def agreement(recording: Recording, draft: Draft) -> float:
    """Share of tokens that the draft model holds likeliest where the target chose them."""
    found = [
        int(draft.says(text, at, ())[0][0]) == text.tokens[at]
        for text in recording.texts
        for at in range(text.start, len(text.tokens))
    ]
    return sum(found) / max(1, len(found))


def simulate(
    recording: Recording,
    draft: Draft,
    machine: Machine,
    mode: str,
    ngrams: Callable[[], NgramDrafter],
    rule: str | None = None,
) -> dict[str, Any]:
    """All answers with one mode, as plain data. Each half of them comes after the other half, which is not counted:
    what a mode learns of its models takes some hundred tokens.

    Args:
        ngrams: makes a drafter for the modes that have one.
        rule: for branch points, of ``RULES``; None for SpecBranch's own.
    """
    halves = recording.texts[::2], recording.texts[1::2]
    ran: list[Ran] = []
    right = np.zeros((3, 3), np.int64)
    for learnt, counted in (halves, halves[::-1]):
        made = modes.make(mode, ngrams, recording.n_hidden, rule=rule or "both")
        modes.run(made, [World(text, recording.states[text.id], draft, machine) for text in learnt])
        worlds = [World(text, recording.states[text.id], draft, machine) for text in counted]
        modes.run(made, worlds, session=len(learnt))
        ran += [world.ran() for world in worlds]
        if isinstance(made, Branching):
            right += made.right
    found = {
        "draft": draft.name,
        "curve": machine.curve.name,
        "ratio": machine.ratio,
        "mode": mode,
        "rule": rule,
    }
    found |= figures(ran)
    if mode == BRANCH:
        judged = int(right.sum())
        found["chains"] = judged
        found["class_accuracy"] = float(np.trace(right)) / judged if judged else None
        found["commonest_class"] = float(right.sum(axis=0).max()) / judged if judged else None
    return found


def figures(ran: Sequence[Ran]) -> dict[str, Any]:
    """Sums over answers, and the speed-up over plain decoding with its interval."""
    tokens, seconds = sum(one.tokens for one in ran), sum(one.seconds for one in ran)
    low, high = ratio_interval([float(one.tokens) for one in ran], [one.seconds for one in ran])
    passes = sum(one.passes for one in ran)
    return {
        "tokens": tokens,
        "passes": passes,
        "speedup": tokens / seconds,
        "low": low,
        "high": high,
        "tokens_per_pass": tokens / passes,
        "nodes_per_pass": sum(one.nodes for one in ran) / passes,
        "target_waits": sum(one.waited for one in ran) / seconds,
        "draft_idle": sum(one.idle for one in ran) / seconds,
        "decodes_per_token": sum(one.decodes for one in ran) / tokens,
        "dropped_per_token": sum(one.dropped for one in ran) / tokens,
    }
