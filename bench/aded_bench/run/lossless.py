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

from aded_bench.results import ResultFile, provenance, resume, taking_over
from aded_bench.run.arms import (
    PEER,
    PEER_FAILURES,
    Arm,
    LlamaArm,
    Setup,
    lookup_setup,
    open_local,
    setup_of,
)
from aded_bench.run.suites import Conversation, Question, fingerprint, prepare
from aded_local.errors import DeviceError, OptionError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

WIDTH = 8  # tokens per pass of the wider decoding a parting is looked at with; drafts are about that long
Answers = dict[str, dict[str, Any]]
"""By ``arm|temperature|prompt id``: ``tokens`` and ``ended``."""
LOGITS = "logits where answers part"
"""Under ``missing``, where nobody could look at the partings again."""


@dataclass(frozen=True)
class Plan:
    """What to compare.

    Attributes:
        suite: its name, for the result.
        inputs: files that decide the result.
    """

    model: Path
    suite: str
    conversations: Sequence[Conversation]
    presets: tuple[str, ...]
    temperatures: tuple[float, ...]
    max_tokens: int
    seed: int
    exact: bool
    peer: bool = True
    inputs: tuple[Path, ...] = ()
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
            "suite": self.suite,
            "prompts": len(self.conversations),
            "prompts_sha256": fingerprint(self.conversations),
            "n_threads": self.n_threads,
            "n_ctx": self.n_ctx,
        }


def run(plan: Plan, file: ResultFile, step: Callable[[str], None] = lambda note: None) -> dict[str, Any]:
    """Answer, compare, explain; the result as plain data, with ``complete`` False after Ctrl-C.

    Arms are loaded one after the other, so that a big model is in memory once. The first drafting preset
    decides attention and cache type for all.

    Raises:
        ADEDError: the model cannot be used, no prompt fits, or ``file`` holds another run.
    """
    answers: Answers = {}
    missing: dict[str, str] = {}
    histories: dict[str, str] = {}
    result: dict[str, Any] = {
        "kind": "lossless",
        "complete": False,
        "suite": plan.suite,
        "answers": answers,
        "histories": histories,
        "missing": missing,
    }
    questions: list[Question] = []
    first = open_local(
        plan.presets[0], plan.model, exact=plan.exact, n_threads=plan.n_threads, n_ctx=plan.n_ctx
    )
    arm: Arm = first
    try:
        description = first.llm.description()
        setup = setup_of(plan.model, first)
        here = provenance(plan.settings(), model=plan.model, description=description, inputs=plan.inputs)
        if earlier := resume(file, "lossless", here):
            with taking_over(file):
                answers |= {key: _checked(answer) for key, answer in earlier["answers"].items()}
                histories |= {name: str(text) for name, text in earlier["histories"].items()}
        result["provenance"] = here
        questions, result["skipped"] = prepare(
            first,
            plan.conversations,
            histories,
            n_ctx=setup.n_ctx,
            max_tokens=plan.max_tokens,
            temperature=0.0,
            seed=plan.seed,
            step=step,
        )
        if not questions:
            raise OptionError("no prompt can be answered: " + "; ".join(result["skipped"].values()))
        result["prompts"] = [
            {"id": q.id, "kind": q.category, "tokens": len(q.tokens), "text": q.text} for q in questions
        ]
        for name, temperatures in _work(plan):
            try:
                if name != arm.name:
                    arm.close()
                    arm = _open(plan, name, setup)
                for temperature in temperatures:
                    for index, question in enumerate(questions):
                        key = _key(name, temperature, question)
                        if key not in answers:
                            seed = plan.seed + index
                            found = arm.answer(question.tokens, plan.max_tokens, temperature, seed)
                            answers[key] = {"tokens": found.tokens, "ended": found.ended}
                            file.save(result)
                        step(f"{name}, temperature {temperature:g}")
            except PEER_FAILURES as error:
                if name != PEER:
                    raise
                missing[PEER] = _reason(error)
        complete = True
    except KeyboardInterrupt:
        complete = False
    finally:
        arm.close()
    if "provenance" not in result:
        raise KeyboardInterrupt
    compare(plan, result, questions)
    # Saved before the partings are looked at: another decoder is loaded for that, and it may fail.
    file.save(result, now=True)
    try:
        explain(plan, result, questions, setup)
    except KeyboardInterrupt:
        complete = False
    except PEER_FAILURES as error:
        missing[LOGITS] = _reason(error)
    result["complete"] = complete
    file.save(result, now=True)
    return result


def total_steps(plan: Plan) -> int:
    """How often ``run`` calls ``step``, if no prompt is left out."""
    questions = sum(len(conversation.turns) for conversation in plan.conversations)
    histories = questions - len(plan.conversations)
    return histories + sum(len(temperatures) for _, temperatures in _work(plan)) * questions


def _work(plan: Plan) -> list[tuple[str, tuple[float, ...]]]:
    greedy = tuple(t for t in plan.temperatures if t == 0)
    peer = [(PEER, greedy)] if plan.peer and greedy else []
    return [(name, plan.temperatures) for name in (*plan.presets, "off")] + peer


def _key(name: str, temperature: float, question: Question) -> str:
    return f"{name}|{temperature:g}|{question.id}"


def _open(plan: Plan, name: str, setup: Setup) -> Arm:
    return LlamaArm(setup) if name == PEER else open_local(name, plan.model, exact=plan.exact, setup=setup)


def _checked(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer of an earlier run; KeyError or TypeError where it is none."""
    found: dict[str, Any] = {"tokens": list(answer["tokens"]), "ended": bool(answer["ended"])}
    if not all(isinstance(token, int) for token in found["tokens"]):
        raise TypeError("tokens are whole numbers")
    return found


def _reason(error: BaseException) -> str:
    return " ".join(f"{error or type(error).__name__}".split())


def compare(plan: Plan, result: dict[str, Any], questions: Sequence[Question]) -> None:
    """Fill in ``comparisons``, and where answers part ``partings``, from the answers there are."""
    answers: Answers = result["answers"]
    result["comparisons"], result["partings"] = comparisons, partings = [], []
    for name, temperatures in _work(plan):
        for temperature in temperatures if name != "off" else ():
            identical = total = crossing = 0
            for question in questions:
                found = answers.get(_key(name, temperature, question))
                expected = answers.get(_key("off", temperature, question))
                if found is None or expected is None:
                    continue
                total += 1
                length = len(question.tokens)
                crossing += length < 512 <= length + len(expected["tokens"])
                if found == expected:
                    identical += 1
                    continue
                position = parting_position(expected["tokens"], found["tokens"])
                where = {"method": name, "temperature": temperature, "prompt": question.id}
                partings.append(where | {"position": position, "cells": length + position})
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


def explain(plan: Plan, result: dict[str, Any], questions: Sequence[Question], setup: Setup) -> None:
    """Look at every parting again: adds to each what ``parting`` finds.

    Raises:
        DeviceError: there is no memory for the logits of every token.
        RuntimeError, ValueError, MemoryError: llama-cpp-python's own.
    """
    if not result["partings"]:
        return
    by_id = {question.id: question for question in questions}
    longest = max(len(by_id[row["prompt"]].tokens) for row in result["partings"]) + plan.max_tokens
    setup, reason = lookup_setup(setup, longest)
    if reason:
        raise DeviceError(reason)
    witness = LlamaArm(setup, all_logits=True)
    try:
        for row in result["partings"]:
            question = by_id[row["prompt"]]
            expected, found = (
                result["answers"][_key(name, row["temperature"], question)]["tokens"]
                for name in ("off", row["method"])
            )
            row |= parting(witness, question.tokens, expected, found)
    finally:
        witness.close()


class Witness(Protocol):
    """What ``parting`` needs of a decoder; ``LlamaArm`` with all logits is one."""

    ends: frozenset[int]

    def logits(self, prompt: Sequence[int], answer: Sequence[int], width: int) -> npt.NDArray[np.float32]:
        """Logits after prompt and answer, the answer decoded ``width`` tokens at a time."""
        ...

    def text(self, token: int) -> str:
        """The token's text."""
        ...


def parting_position(expected: Sequence[int], found: Sequence[int]) -> int:
    """Index of the first token that differs; the shorter length where one is the other's beginning."""
    pairs = enumerate(zip(expected, found, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(expected), len(found)))


def parting(witness: Witness, prompt: list[int], expected: list[int], found: list[int]) -> dict[str, Any]:
    """Where two answers part, and how close their candidates were there.

    ``difference`` is the largest change of any logit between one-token and wider decoding; two candidates are
    ``within_rounding`` when what separates them is no more than both could move. (With a temperature the draw
    decides, not the order of the two, so read their logits beside ``difference`` there.)
    """
    import numpy as np

    position = parting_position(expected, found)
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
