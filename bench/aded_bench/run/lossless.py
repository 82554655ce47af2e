"""Does every way of generating write the same tokens, and where not, how close were the two candidates?

Each arm answers every prompt in a fresh conversation; its token ids are compared with plain decoding's. Where
two sequences part, the answer up to there is decoded again with `llama_cpp.Llama`, one token at a time and
several at a time, and both candidates' logits are recorded: batches of different widths take different
kernels, and candidates closer than what the kernels differ by may change places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aded_bench.results import ResultFile
from aded_bench.run.arms import PEER, LlamaArm, Setup, logits_setup, open_local
from aded_bench.run.start import Arm, Step, open_arm, peer_may_fail, settings_left, start
from aded_bench.run.start import Plan as CommonPlan
from aded_bench.run.suites import Conversation, Question, fingerprint

WIDTH = 8  # tokens per pass of the wider decoding a parting is looked at with; drafts are about that long
ATTENTION_STEP = 512  # KV cells at which llama.cpp's attention changes kernels (ggml-cpu/ops.cpp)
LOGITS = "logits where answers part"
"""Under ``missing``, where nobody could look at the partings again."""


@dataclass(frozen=True, kw_only=True)
class Plan(CommonPlan):
    """What to compare: draft presets, and plain llama_cpp (``peer``), with plain decoding at each temperature."""

    conversations: Sequence[Conversation]
    presets: tuple[str, ...]
    temperatures: tuple[float, ...]
    exact: bool
    peer: bool = True

    def settings(self) -> dict[str, Any]:
        """The part of the plan that a resumed run must share."""
        return super().settings() | {
            "presets": list(self.presets),
            "temperatures": list(self.temperatures),
            "exact": self.exact,
            "prompts": len(self.conversations),
            "prompts_sha256": fingerprint(self.conversations),
        }

    def work(self) -> list[tuple[str, tuple[float, ...]]]:
        """Methods in their order, and at which temperatures each answers."""
        greedy = tuple(t for t in self.temperatures if t == 0)
        peer = [(PEER, greedy)] if self.peer and greedy else []
        return [(name, self.temperatures) for name in (*self.presets, "off")] + peer


def total_steps(plan: Plan) -> int:
    """How often ``run`` calls ``step``, if no prompt is left out."""
    questions = sum(len(conversation.turns) for conversation in plan.conversations)
    histories = questions - len(plan.conversations)
    return histories + sum(len(temperatures) for _, temperatures in plan.work()) * questions


def run(plan: Plan, file: ResultFile, step: Step = lambda note: None) -> dict[str, Any]:
    """Answer, compare, explain; the result as plain data, with ``complete`` False after Ctrl-C.

    Arms are loaded one after the other, so that a big model is in memory once. The first drafting preset
    decides attention and cache type for all.

    Raises:
        ADEDError: the model cannot be used, no prompt fits, or ``file`` holds another run.
    """
    result: dict[str, Any] = {
        "kind": "lossless",
        "complete": False,
        "suite": plan.suite,
        "answers": {},
        "histories": {},
        "missing": {},
    }

    def take_over(earlier: dict[str, Any]) -> None:
        for key, answer in earlier["answers"].items():
            tokens, ended = answer["tokens"], answer["ended"]
            if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
                raise TypeError("tokens are whole numbers")
            result["answers"][key] = {"tokens": tokens, "ended": bool(ended)}

    lead = open_local(
        plan.presets[0],
        plan.model,
        exact=plan.exact,
        n_threads=plan.n_threads,
        n_ctx=plan.n_ctx,
        **settings_left(file),
    )
    arm: Arm = lead
    questions: list[Question] = []
    try:
        setup = lead.setup(plan.model)
        (questions,) = start(plan, lead, setup, (plan.conversations,), result, file, take_over, step)
        result["prompts"] = [
            {"id": q.id, "kind": q.category, "tokens": len(q.tokens), "text": q.text} for q in questions
        ]
        for name, temperatures in plan.work():
            with peer_may_fail(name, result["missing"]):
                if name != arm.name:
                    arm.close()
                    arm = open_arm(name, setup, exact=plan.exact)
                for temperature in temperatures:
                    _answer_all(plan, arm, temperature, questions, result, file, step)
        result["complete"] = True
    except KeyboardInterrupt:
        if "provenance" not in result:
            raise
    finally:
        arm.close()
    compare(plan, result, questions)
    # Saved before the partings are looked at: another decoder is loaded for that, and it may fail.
    file.save(result, now=True)
    try:
        with peer_may_fail(LOGITS, result["missing"]):
            explain(plan, result, questions, setup)
    except KeyboardInterrupt:
        result["complete"] = False
    file.save(result, now=True)
    return result


def _answer_all(
    plan: Plan,
    arm: Arm,
    temperature: float,
    questions: Sequence[Question],
    result: dict[str, Any],
    file: ResultFile,
    step: Step,
) -> None:
    for index, question in enumerate(questions):
        key = _key(arm.name, temperature, question)
        if key not in result["answers"]:
            found = arm.answer(question.tokens, plan.max_tokens, temperature, plan.seed + index)
            result["answers"][key] = {"tokens": found.tokens, "ended": found.ended}
            file.save(result)
        step(f"{arm.name}, temperature {temperature:g}")


def _key(name: str, temperature: float, question: Question) -> str:
    return f"{name}|{temperature:g}|{question.id}"


def compare(plan: Plan, result: dict[str, Any], questions: Sequence[Question]) -> None:
    """Fill in ``comparisons``, and where answers part ``partings``, from the answers there are."""
    result["comparisons"], result["partings"] = [], []
    work = [(name, t) for name, temperatures in plan.work() if name != "off" for t in temperatures]
    for name, temperature in work:
        identical = total = crossing = 0
        for question in questions:
            found, expected = (
                result["answers"].get(_key(arm, temperature, question)) for arm in (name, "off")
            )
            if found is None or expected is None:
                continue
            total += 1
            length = len(question.tokens)
            crossing += length < ATTENTION_STEP <= length + len(expected["tokens"])
            if found == expected:
                identical += 1
                continue
            position = parting_position(expected["tokens"], found["tokens"])
            where = {"method": name, "temperature": temperature, "prompt": question.id}
            result["partings"].append(where | {"position": position, "cells": length + position})
        row = {"method": name, "against": "off", "temperature": temperature, "identical": identical}
        result["comparisons"].append(row | {"total": total, "crossing_512_cells": crossing})


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
    witness = LlamaArm(logits_setup(setup, longest), all_logits=True)
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


def parting_position(expected: Sequence[int], found: Sequence[int]) -> int:
    """Index of the first token that differs; the shorter length where one is the other's beginning."""
    pairs = enumerate(zip(expected, found, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(expected), len(found)))


def parting(witness: LlamaArm, prompt: list[int], expected: list[int], found: list[int]) -> dict[str, Any]:
    """Where two answers part, and how close their candidates were there.

    ``difference`` is the largest change of any logit between one-token and wider decoding; two candidates are
    ``within_rounding`` when what separates them is no more than both could move. (With a temperature the draw
    decides, not the order of the two, so read their logits beside ``difference`` there.)
    """
    position = parting_position(expected, found)
    shared = expected[:position]
    widths = {"one": 1, "wide": min(WIDTH, max(1, len(shared)))}
    logits = {name: witness.logits(prompt, shared, width) for name, width in widths.items()}
    # The end token is not part of an answer: the shorter answer chose the likeliest of them.
    end = max(witness.ends, key=lambda token: float(logits["one"][token])) if witness.ends else 0
    candidates = [tokens[position] if position < len(tokens) else end for tokens in (expected, found)]
    difference = float(abs(logits["one"] - logits["wide"]).max())
    margins = {name: float(v[candidates[0]] - v[candidates[1]]) for name, v in logits.items()}
    return {
        "position": position,
        "cells": len(prompt) + position,
        "candidates": [
            {"token": token, "text": witness.text(token)}
            | {name: float(v[token]) for name, v in logits.items()}
            for token in candidates
        ],
        "margin": margins,
        "difference": difference,
        "within_rounding": abs(margins["one"]) <= 2 * difference,
    }
