"""Does every way of generating write the same tokens, and where not, how close were the two candidates?

Each arm answers every prompt in a fresh conversation; its token ids are compared with plain decoding's. Where
two sequences part, the answer up to there is decoded again with `llama_cpp.Llama`, one token at a time and
several at a time, and both candidates' logits are recorded: batches of different widths take different
kernels, and candidates closer than what the kernels differ by may change places.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from aded_bench.results import ResultFile, provenance, resume
from aded_bench.run.arms import PEER, Arm, LlamaArm, Setup, open_local, render, setup_of
from aded_bench.run.prompts import Prompt

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

WIDTH = (
    8  # tokens per pass of the wider decoding that a parting is looked at with; drafts are about that long
)
Answers = dict[str, dict[str, Any]]
"""By ``arm|temperature|prompt id``: ``tokens`` and ``ended``."""


@dataclass(frozen=True)
class Plan:
    """What to compare."""

    model: Path
    prompts: Sequence[Prompt]
    presets: tuple[str, ...]
    temperatures: tuple[float, ...]
    max_tokens: int
    seed: int
    exact: bool
    peer: bool = True
    n_threads: int | None = None
    n_ctx: int | None = None

    def settings(self) -> dict[str, Any]:
        """The part of the plan a resumed run must share."""
        return {
            "presets": list(self.presets),
            "temperatures": list(self.temperatures),
            "max_tokens": self.max_tokens,
            "seed": self.seed,
            "exact": self.exact,
            "prompts": len(self.prompts),
            "n_threads": self.n_threads,
            "n_ctx": self.n_ctx,
        }


def run(plan: Plan, file: ResultFile, step: Callable[[str], None] = lambda note: None) -> dict[str, Any]:
    """Answer, compare, explain; the result as plain data, with ``complete`` False after Ctrl-C.

    Arms are loaded one after the other, so that a big model is in memory once. The first drafting preset
    decides attention and cache type for all.

    Raises:
        ADEDError: the model cannot be used, or ``file`` holds another run.
    """
    answers: Answers = {}
    result: dict[str, Any] = {"kind": "lossless", "complete": False, "answers": answers}
    first = open_local(
        plan.presets[0], plan.model, exact=plan.exact, n_threads=plan.n_threads, n_ctx=plan.n_ctx
    )
    arm: Arm = first
    try:
        description = first.llm.description()
        setup = setup_of(plan.model, description)
        rendered = {prompt.id: render(first, prompt.messages) for prompt in plan.prompts}
        result["provenance"] = provenance(plan.settings(), model=plan.model, description=description)
        if earlier := resume(file, "lossless", result["provenance"]):
            answers |= earlier["answers"]
        result["prompts"] = [
            {"id": p.id, "kind": p.kind, "tokens": len(rendered[p.id]), "text": p.messages[-1]["content"]}
            for p in plan.prompts
        ]
        for name, temperatures in _work(plan):
            if name != arm.name:
                arm.close()
                arm = (
                    LlamaArm(setup)
                    if name == PEER
                    else open_local(name, plan.model, exact=plan.exact, setup=setup)
                )
            for temperature in temperatures:
                for index, prompt in enumerate(plan.prompts):
                    key = _key(name, temperature, prompt)
                    if key not in answers:
                        found = arm.answer(
                            rendered[prompt.id], plan.max_tokens, temperature, plan.seed + index
                        )
                        answers[key] = {"tokens": found.tokens, "ended": found.ended}
                        file.save(result)
                    step(f"{name}, temperature {temperature:g}")
        complete = True
    except KeyboardInterrupt:
        complete = False
    finally:
        arm.close()
    if "provenance" not in result:
        raise KeyboardInterrupt
    compare(plan, result, rendered, setup)
    result["complete"] = complete
    file.save(result, now=True)
    return result


def total_steps(plan: Plan) -> int:
    """How often ``run`` calls ``step``."""
    return sum(len(temperatures) for _, temperatures in _work(plan)) * len(plan.prompts)


def _work(plan: Plan) -> list[tuple[str, tuple[float, ...]]]:
    greedy = tuple(t for t in plan.temperatures if t == 0)
    peer = [(PEER, greedy)] if plan.peer and greedy else []
    return [(name, plan.temperatures) for name in (*plan.presets, "off")] + peer


def _key(name: str, temperature: float, prompt: Prompt) -> str:
    return f"{name}|{temperature:g}|{prompt.id}"


def compare(plan: Plan, result: dict[str, Any], rendered: dict[str, list[int]], setup: Setup) -> None:
    """Fill in ``comparisons`` and ``partings`` from the answers there are."""
    answers: Answers = result["answers"]
    result["comparisons"], result["partings"] = comparisons, partings = [], []
    witness: LlamaArm | None = None
    try:
        for name, temperatures in _work(plan):
            for temperature in temperatures if name != "off" else ():
                identical = total = crossing = 0
                for prompt in plan.prompts:
                    found = answers.get(_key(name, temperature, prompt))
                    expected = answers.get(_key("off", temperature, prompt))
                    if found is None or expected is None:
                        continue
                    total += 1
                    length = len(rendered[prompt.id])
                    crossing += length < 512 <= length + len(expected["tokens"])
                    if found == expected:
                        identical += 1
                        continue
                    witness = witness or LlamaArm(setup, all_logits=True)
                    where = {"method": name, "temperature": temperature, "prompt": prompt.id}
                    partings.append(
                        where | parting(witness, rendered[prompt.id], expected["tokens"], found["tokens"])
                    )
                comparisons.append(
                    {
                        "method": name,
                        "against": "off",
                        "temperature": temperature,
                        "identical": identical,
                        "total": total,
                        "crossing_512_cells": crossing,
                    }
                )
    finally:
        if witness is not None:
            witness.close()


class Witness(Protocol):
    """What ``parting`` needs of a decoder; ``LlamaArm`` with all logits is one."""

    ends: set[int]

    def logits(self, prompt: Sequence[int], answer: Sequence[int], width: int) -> npt.NDArray[np.float32]:
        """Logits after prompt and answer, the answer decoded ``width`` tokens at a time."""
        ...

    def text(self, token: int) -> str:
        """The token's text."""
        ...


def parting(witness: Witness, prompt: list[int], expected: list[int], found: list[int]) -> dict[str, Any]:
    """Where two answers part, and how close their candidates were there.

    ``difference`` is the largest change of any logit between one-token and wider decoding; two candidates are
    ``within_rounding`` when what separates them is no more than both could move. (With a temperature the draw
    decides, not the order of the two, so read their logits beside ``difference`` there.)
    """
    import numpy as np

    position = next(
        (i for i, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b),
        min(len(expected), len(found)),
    )
    shared = expected[:position]
    one = witness.logits(prompt, shared, 1)
    wide = witness.logits(prompt, shared, min(WIDTH, max(1, len(shared))))
    # The end token is not part of an answer: the shorter answer chose the likeliest of them.
    end = max(witness.ends, key=lambda token: float(one[token])) if witness.ends else 0
    candidates = [tokens[position] if position < len(tokens) else end for tokens in (expected, found)]
    difference = float(np.abs(one - wide).max())
    margins = {name: float(v[candidates[0]] - v[candidates[1]]) for name, v in (("one", one), ("wide", wide))}
    return {
        "position": position,
        "cells": len(prompt) + position,
        "candidates": [
            {
                "token": token,
                "text": witness.text(token),
                "one": float(one[token]),
                "wide": float(wide[token]),
            }
            for token in candidates
        ],
        "margin": margins,
        "difference": difference,
        "within_rounding": abs(margins["one"]) <= 2 * difference,
    }
