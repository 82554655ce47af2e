"""Does every way of generating write the same tokens, and where not, was it rounding?

Each arm answers every prompt in a fresh conversation; its token ids are compared with plain decoding's in the same
setting. How much drafting may change (``same``) chooses the setting, so plain decoding answers once in each setting
that was chosen. Two ways that would do the same are one arm, which answers once.

Where two sequences part, and for a sample of the prompts, the answer is decoded again with `llama_cpp.Llama`: see
``partings``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from aded_bench.results import ResultFile
from aded_bench.run.arms import OWN, PEER, LlamaArm, Setup, logits_setup, open_local
from aded_bench.run.partings import (
    Movement,
    movements,
    parting,
    parting_position,
    passes_as_text,
    passes_of_text,
    summed_up,
)
from aded_bench.run.start import Arm, Step, open_arm, peer_may_fail, start
from aded_bench.run.start import Plan as CommonPlan
from aded_bench.run.suites import Conversation, Question, fingerprint

ATTENTION_STEP = 512  # KV cells at which llama.cpp's attention changes kernels (ggml-cpu/ops.cpp)
LOGITS = "logits where answers part"
"""Under ``missing``, where nobody could look at the partings again."""

SAMPLE = 12
"""Prompts, evenly over all, in whose answers it is measured how far probabilities move: 550 positions at 48 tokens."""

SETTING_KEYS = ("flash_attention", "cache_type")


@dataclass(frozen=True, kw_only=True)
class Plan(CommonPlan):
    """What to compare with plain decoding: draft presets, and plain llama_cpp (``peer``), at each temperature.

    Attributes:
        same: how much drafting may change, each of ``arms.SAME``.
        looked_at: of each arm's partings, how many are looked at again; None for all.
    """

    conversations: Sequence[Conversation]
    presets: tuple[str, ...]
    temperatures: tuple[float, ...]
    same: tuple[str, ...]
    peer: bool = True
    looked_at: int | None = None

    def settings(self) -> dict[str, Any]:
        """The part of the plan that a resumed run must share."""
        return super().settings() | {
            "presets": list(self.presets),
            "temperatures": list(self.temperatures),
            "same": list(self.same),
            "prompts": len(self.conversations),
            "prompts_sha256": fingerprint(self.conversations),
        }

    def work(self) -> list[tuple[str, tuple[float, ...]]]:
        """Methods in their order, and at which temperatures each answers."""
        greedy = tuple(t for t in self.temperatures if t == 0)
        peer = [(PEER, greedy)] if self.peer and greedy else []
        return [(name, self.temperatures) for name in (*self.presets, "off")] + peer


@dataclass
class _Work:
    """A run under way."""

    plan: Plan
    result: dict[str, Any]
    file: ResultFile
    step: Step
    questions: list[Question] = field(default_factory=list)
    setups: dict[str, Setup] = field(default_factory=dict)  # by setting


def total_steps(plan: Plan) -> int:
    """How often ``run`` calls ``step``, if no prompt is left out."""
    questions = sum(len(conversation.turns) for conversation in plan.conversations)
    histories = questions - len(plan.conversations)
    answers = sum(len(temperatures) for _, temperatures in plan.work()) * questions
    return histories + len(plan.same) * answers


def run(plan: Plan, file: ResultFile, step: Step = lambda note: None) -> dict[str, Any]:
    """Answer, compare, explain; the result as plain data, with ``complete`` False after Ctrl-C.

    Arms are loaded one after the other, so that a big model is in memory once. The first drafting preset decides
    attention and cache type, for all arms of the same ``same``.

    Raises:
        ADEDError: the model cannot be used, no prompt fits, or ``file`` holds another run.
    """
    result: dict[str, Any] = {
        "kind": "lossless",
        "complete": False,
        "suite": plan.suite,
        "same": {},
        "arms": {},
        "answers": {},
        "histories": {},
        "missing": {},
    }
    work = _Work(plan, result, file, step)
    try:
        for same in plan.same:
            _answer_with(work, same)
        result["complete"] = True
    except KeyboardInterrupt:
        if "provenance" not in result:
            raise
    compare(work)
    # Saved before the partings are looked at: another decoder is loaded for that, and it may fail.
    file.save(result, now=True)
    try:
        with peer_may_fail(LOGITS, result["missing"]):
            explain(work)
    except KeyboardInterrupt:
        result["complete"] = False
    file.save(result, now=True)
    return result


def _take_over(result: dict[str, Any], earlier: dict[str, Any]) -> None:
    """What an earlier run left; any error is the file's fault."""
    for key, answer in earlier["answers"].items():
        tokens, ended = answer["tokens"], answer["ended"]
        if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
            raise TypeError("tokens are whole numbers")
        passes_of_text(answer["passes"])
        result["answers"][key] = {"tokens": tokens, "ended": bool(ended), "passes": answer["passes"]}


def _answer_with(work: _Work, same: str) -> None:
    """All answers in the setting that ``same`` chooses."""
    plan, result = work.plan, work.result
    first = next(iter(work.setups.values()), None)
    lead = open_local(
        plan.presets[0],
        plan.model,
        same=same,
        n_threads=plan.n_threads if first is None else first.n_threads,
        n_ctx=plan.n_ctx if first is None else first.n_ctx,
        **_setting_left(work.file, same),
    )
    arm: Arm = lead
    try:
        setup, sizes = lead.setup(plan.model), lead.sizes()
        if first is None:
            (work.questions,) = start(
                plan,
                lead,
                setup,
                (plan.conversations,),
                result,
                work.file,
                lambda earlier: _take_over(result, earlier),
                work.step,
            )
            result["prompts"] = [
                {"id": q.id, "kind": q.category, "tokens": len(q.tokens), "text": q.text}
                for q in work.questions
            ]
        setting = _note_setting(work, same, setup, sizes)
        for name, temperatures in plan.work():
            label = result["same"][same]["arms"][name]
            result["arms"][label] = {"method": name, "setting": setting}
            with peer_may_fail(name, result["missing"]):
                for temperature, index, question in _questions_left(work, label, temperatures):
                    if arm.name != name:
                        arm.close()
                        arm = open_arm(name, setup, same=same)
                    found = arm.answer(question.tokens, plan.max_tokens, temperature, plan.seed + index)
                    result["answers"][_key(label, temperature, question)] = {
                        "tokens": found.tokens,
                        "ended": found.ended,
                        "passes": passes_as_text(found.pass_sizes),
                    }
                    work.file.save(result)
                    work.step(f"{name}, same {same}, temperature {temperature:g}")
    finally:
        arm.close()


def _setting_left(file: ResultFile, same: str) -> dict[str, Any]:
    """Attention and cache type of an earlier run, which goes on in them: a new trial may find others better."""
    chosen = (file.load() or {}).get("same")
    found = chosen.get(same) if isinstance(chosen, dict) else None
    return {key: found[key] for key in SETTING_KEYS if key in found} if isinstance(found, dict) else {}


def _note_setting(work: _Work, same: str, setup: Setup, sizes: Sequence[int] | None) -> str:
    """Put into the result what ``same`` chose, and which arm each method is then; the setting's name."""
    from aded_local.speed.pricing import Setting

    setting = Setting(setup.flash_attention, setup.cache_type).name
    work.setups.setdefault(setting, setup)
    bound = "" if sizes is None else f" {','.join(map(str, sizes))}"
    work.result["same"][same] = {key: getattr(setup, key) for key in SETTING_KEYS} | {
        "setting": setting,
        "sizes": None if sizes is None else list(sizes),
        "arms": {
            name: f"{name} {setting}{bound if name in work.plan.presets else ''}"
            for name, _ in work.plan.work()
        },
    }
    return setting


def _questions_left(
    work: _Work, label: str, temperatures: Sequence[float]
) -> Iterator[tuple[float, int, Question]]:
    """What an arm has still to answer; a step for each of the others."""
    for temperature in temperatures:
        for index, question in enumerate(work.questions):
            if _key(label, temperature, question) in work.result["answers"]:
                work.step("answered before")
            else:
                yield temperature, index, question


def _key(label: str, temperature: float, question: Question) -> str:
    return f"{label}|{temperature:g}|{question.id}"


def compare(work: _Work) -> None:
    """Fill in ``comparisons``, and where answers part ``partings``, from the answers there are."""
    plan, result = work.plan, work.result
    result["comparisons"], result["partings"], result["movements"] = [], [], []
    seen: set[tuple[str, float]] = set()
    for same, chosen in result["same"].items():
        for name, temperatures in plan.work():
            label, base = chosen["arms"][name], chosen["arms"]["off"]
            for temperature in temperatures if name != "off" else ():
                known = (label, temperature) in seen
                if (
                    known and name == PEER
                ):  # it does not draft, so it is the same whatever drafting may change
                    continue
                seen.add((label, temperature))
                row, parted = _compared(work, label, base, temperature)
                head = {"method": name, "same": same, "setting": chosen["setting"], "arm": label}
                result["comparisons"].append(head | row)
                if not known:
                    result["partings"] += [head | each for each in parted]


def _compared(
    work: _Work, label: str, base: str, temperature: float
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """How many answers of an arm are those of plain decoding, and where each of the others parts."""
    identical = total = crossing = 0
    parted = []
    for question in work.questions:
        found, expected = (
            work.result["answers"].get(_key(arm, temperature, question)) for arm in (label, base)
        )
        if found is None or expected is None:
            continue
        total += 1
        length = len(question.tokens)
        crossing += length < ATTENTION_STEP <= length + len(expected["tokens"])
        if (found["tokens"], found["ended"]) == (expected["tokens"], expected["ended"]):
            identical += 1
            continue
        position = parting_position(expected["tokens"], found["tokens"])
        where = {"against": base, "temperature": temperature, "prompt": question.id}
        parted.append(where | {"position": position, "cells": length + position})
    row = {"against": base, "temperature": temperature, "identical": identical, "total": total}
    return row | {"crossing_512_cells": crossing}, parted


def explain(work: _Work) -> None:
    """Decode again where answers part, and the answers of a sample: fills in ``partings`` and ``movements``.

    Raises:
        DeviceError: there is no memory for the logits of every token.
        RuntimeError, ValueError, MemoryError: llama-cpp-python's own.
    """
    plan, result = work.plan, work.result
    for setting, setup in work.setups.items():
        parted = [row for row in _looked_at(plan, result["partings"]) if row["setting"] == setting]
        arms = _drafting_arms(result, setting)
        if not parted and not arms:
            continue
        longest = max(len(question.tokens) for question in work.questions) + plan.max_tokens
        witness = LlamaArm(logits_setup(setup, longest), all_logits=True)
        try:
            _look(work, witness, parted)
            for head in arms:
                moved = _moved(work, witness, head["arm"])
                result["movements"] += [head | summed_up(moved)] if moved else []
        finally:
            witness.close()


def _looked_at(plan: Plan, partings: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first of each arm and temperature, as many as are wanted."""
    counts: dict[tuple[str, float], int] = {}
    found = []
    for row in partings:
        key = row["arm"], row["temperature"]
        counts[key] = counts.get(key, 0) + 1
        if plan.looked_at is None or counts[key] <= plan.looked_at:
            found.append(row)
    return found


def _look(work: _Work, witness: LlamaArm, parted: Sequence[dict[str, Any]]) -> None:
    by_id = {question.id: question for question in work.questions}
    # One prompt's partings after each other: the witness then keeps the prompt.
    for row in sorted(parted, key=lambda row: str(row["prompt"])):
        question, temperature = by_id[row["prompt"]], row["temperature"]
        expected, found = (
            work.result["answers"][_key(arm, temperature, question)] for arm in (row["against"], row["arm"])
        )
        row |= parting(
            witness,
            question.tokens,
            expected["tokens"],
            found["tokens"],
            passes_of_text(found["passes"]),
            temperature,
        )


def _drafting_arms(result: dict[str, Any], setting: str) -> list[dict[str, Any]]:
    """Our own drafting arms in a setting, each once."""
    return [
        {"method": arm["method"], "arm": label, "setting": setting}
        for label, arm in result["arms"].items()
        if arm["setting"] == setting and arm["method"] in OWN and arm["method"] != "off"
    ]


def _moved(work: _Work, witness: LlamaArm, label: str) -> list[Movement]:
    """How far the widths that an arm drafted with move the probabilities, over plain decoding's answers."""
    plan, answers = work.plan, work.result["answers"]
    temperature = min(plan.temperatures)
    base = next(
        chosen["arms"]["off"] for chosen in work.result["same"].values() if label in chosen["arms"].values()
    )
    found: list[Movement] = []
    for question in work.questions[:: max(1, len(work.questions) // SAMPLE)][:SAMPLE]:
        plain, drafted = (answers.get(_key(arm, temperature, question)) for arm in (base, label))
        if plain is not None and drafted is not None:
            passes = passes_of_text(drafted["passes"])
            found += movements(witness, question.tokens, plain["tokens"], passes)
    return found
