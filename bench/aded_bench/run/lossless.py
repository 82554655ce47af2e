"""Does every way of generating write the same tokens, and where not, was it rounding?

Each arm answers every prompt in a fresh conversation; its token ids are compared with plain decoding's in the same
setting. How much drafting may change (``same``) chooses setting and sizes of passes anew for each turn, so plain
decoding answers every prompt in the settings that were chosen for it. Ways that would do the same are one arm, which
answers a prompt once.

Where two sequences part, and for a sample of the prompts, the answer is decoded again with `llama_cpp.Llama`: see
``partings``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from aded_bench.results import ResultFile
from aded_bench.run.arms import LlamaArm, LocalArm, Setup, logits_setup, open_local
from aded_bench.run.comparisons import Labels, compare, key_of, labels_of
from aded_bench.run.methods import OWN, PEER
from aded_bench.run.partings import (
    Movement,
    movements,
    parting,
    passes_as_text,
    passes_of_text,
    summed_up,
)
from aded_bench.run.start import Arm, Step, open_arm, peer_may_fail, start
from aded_bench.run.start import Plan as CommonPlan
from aded_bench.run.suites import Conversation, Question, fingerprint

LOGITS = "logits where answers part"
"""Under ``missing``, where nobody could look at the partings again."""

SAMPLE = 12
"""Prompts, evenly over all, in whose answers it is measured how far probabilities move: 550 positions at 48 tokens."""

SETTING_KEYS = (
    "flash_attention", "cache_type", "row_by_row", "same", "words", "drafts", "largest_draft",
    "pass_milliseconds", "pass_after_cells", "exact_batch_sizes", "exact_probed_at_cells",
)  # fmt: skip
"""Of the engine's description, what holds in one setting and for one ``same`` alone."""


@dataclass(frozen=True, kw_only=True)
class Plan(CommonPlan):
    """What to compare with plain decoding: draft presets, and plain llama_cpp (``peer``), at each temperature.

    Attributes:
        same: how much drafting may change, each of ``pricing.SAMES``.
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

    def undrafted(self) -> list[tuple[str, tuple[float, ...]]]:
        """The methods that do not draft, and at which temperatures each answers."""
        greedy = tuple(t for t in self.temperatures if t == 0)
        return [("off", self.temperatures), *([(PEER, greedy)] if self.peer and greedy else [])]


@dataclass
class _Work:
    """A run under way."""

    plan: Plan
    result: dict[str, Any]
    file: ResultFile
    step: Step
    questions: list[Question] = field(default_factory=list)
    setup: Setup | None = None
    setups: dict[str, Setup] = field(default_factory=dict)  # by setting
    labels: Labels = field(default_factory=dict)

    def setting_of(self, label: str) -> str:
        """The setting of an arm."""
        found: str = self.result["arms"][label]["setting"]
        return found


def total_steps(plan: Plan) -> int:
    """How often ``run`` calls ``step``, if no prompt is left out."""
    questions = sum(len(conversation.turns) for conversation in plan.conversations)
    histories = questions - len(plan.conversations)
    drafted = len(plan.presets) * len(plan.temperatures)
    answers = drafted + sum(len(temperatures) for _, temperatures in plan.undrafted())
    return histories + len(plan.same) * answers * questions


def run(plan: Plan, file: ResultFile, step: Step = lambda note: None) -> dict[str, Any]:
    """Answer, compare, explain; the result as plain data, with ``complete`` False after Ctrl-C.

    Arms are loaded one after the other, so that a big model is in memory once.

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
    compare(result, work.labels, work.questions, plan.temperatures, peer=plan.peer)
    # Saved before the partings are looked at: another decoder is loaded for that, and it may fail.
    file.save(result, now=True)
    try:
        with peer_may_fail(LOGITS, result["missing"]):
            explain(work)
    except KeyboardInterrupt:
        result["complete"] = False
    file.save(result, now=True)
    return result


def _take_over(result: dict[str, Any], earlier: dict[str, Any], n_vocab: int) -> None:
    """What an earlier run left; any error is the file's fault."""
    for key, answer in earlier["answers"].items():
        tokens, ended = answer["tokens"], answer["ended"]
        if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
            raise TypeError("tokens are whole numbers")
        if not all(0 <= token < n_vocab for token in tokens):
            raise ValueError(f"a token of {key!r} is outside the vocabulary of {n_vocab}")
        passes_of_text(answer["passes"])
        threads = int(answer["threads"])
        result["answers"][key] = {
            "tokens": tokens,
            "ended": bool(ended),
            "passes": answer["passes"],
            "threads": threads,
        }


def _answer_with(work: _Work, same: str) -> None:
    """All answers of the ways that draft, and of plain decoding in the settings that ``same`` chose for them."""
    plan = work.plan
    work.result["same"][same] = {"arms": {}}
    for name in plan.presets:
        arm = open_local(
            name,
            plan.model,
            same=same,
            n_threads=plan.n_threads if work.setup is None else work.setup.n_threads,
            n_ctx=plan.n_ctx if work.setup is None else work.setup.n_ctx,
        )
        try:
            if work.setup is None:
                _begin(work, arm)
            for temperature, index, question in _asked(work, plan.temperatures):
                label = _foreseen(work, same, arm, question)
                work.labels[same, name, temperature, question.id] = label
                _answer(work, arm, label, temperature, index, question)
        finally:
            arm.close()
    for setting in dict.fromkeys(work.setting_of(label) for label in labels_of(work.labels, same)):
        for name, temperatures in plan.undrafted():
            _answer_undrafted(work, same, name, setting, temperatures)


def _begin(work: _Work, lead: LocalArm) -> None:
    """What holds for all: context and threads, the prompts as tokens, and what an earlier run left."""
    plan, result = work.plan, work.result
    setup = work.setup = lead.setup(plan.model)
    # The setting is part of each answer, and may be another in the next one and when an interrupted run goes on.
    about = {key: value for key, value in lead.llm.description().items() if key not in SETTING_KEYS}
    (work.questions,) = start(
        plan,
        lead,
        setup,
        (plan.conversations,),
        result,
        work.file,
        lambda earlier: _take_over(result, earlier, setup.n_vocab),
        work.step,
        description=about,
    )
    result["prompts"] = [
        {"id": q.id, "kind": q.category, "tokens": len(q.tokens), "text": q.text} for q in work.questions
    ]


def _asked(work: _Work, temperatures: Sequence[float]) -> Iterator[tuple[float, int, Question]]:
    for temperature in temperatures:
        for index, question in enumerate(work.questions):
            yield temperature, index, question


def _foreseen(work: _Work, same: str, arm: LocalArm, question: Question) -> str:
    """The arm that a way of drafting is for a question: its method, setting, and sizes of passes."""
    flash_attention, cache_type, by_row, sizes = arm.foreseen(len(question.tokens), work.plan.max_tokens)
    setting = _setting_name(flash_attention, cache_type)
    assert work.setup is not None
    work.setups.setdefault(
        setting, replace(work.setup, flash_attention=flash_attention, cache_type=cache_type)
    )
    # Plain decoding is the same with either way to multiply, so that is no part of the setting.
    label = f"{arm.name} {setting}{'/rows' if by_row else ''}"
    label += "" if sizes is None else f" {','.join(map(str, sizes))}"
    kept = None if sizes is None else list(sizes)
    work.result["arms"].setdefault(
        label, {"method": arm.name, "setting": setting, "row_by_row": by_row, "sizes": kept}
    )
    counts = work.result["same"][same]["arms"]
    counts[label] = counts.get(label, 0) + 1
    return label


def _setting_name(flash_attention: bool, cache_type: str) -> str:
    from aded_local.speed.pricing import Setting

    return Setting(flash_attention, cache_type).name


def _answer_undrafted(work: _Work, same: str, name: str, setting: str, temperatures: Sequence[float]) -> None:
    """What does not draft answers the prompts that were answered in a setting with drafts."""
    label = f"{name} {setting}"
    work.result["arms"].setdefault(
        label, {"method": name, "setting": setting, "row_by_row": False, "sizes": [1]}
    )
    arm: Arm | None = None
    try:
        with peer_may_fail(name, work.result["missing"]):
            for temperature, index, question in _asked(work, temperatures):
                labels = (
                    work.labels.get((same, preset, temperature, question.id)) for preset in work.plan.presets
                )
                if not any(each is not None and work.setting_of(each) == setting for each in labels):
                    continue
                if arm is None and key_of(label, temperature, question) not in work.result["answers"]:
                    arm = open_arm(name, work.setups[setting], same=same)
                _answer(work, arm, label, temperature, index, question)
    finally:
        if arm is not None:
            arm.close()


def _answer(
    work: _Work, arm: Arm | None, label: str, temperature: float, index: int, question: Question
) -> None:
    """Answer, unless that was done before."""
    key = key_of(label, temperature, question)
    if key not in work.result["answers"]:
        assert arm is not None
        found = arm.answer(question.tokens, work.plan.max_tokens, temperature, work.plan.seed + index)
        work.result["answers"][key] = {
            "tokens": found.tokens,
            "ended": found.ended,
            "passes": passes_as_text(found.pass_sizes),
            "threads": found.threads,
        }
        work.file.save(work.result)
    work.step(f"{label}, temperature {temperature:g}")


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
            work.result["answers"][key_of(arm, temperature, question)] for arm in (row["against"], row["arm"])
        )
        witness.by_row = work.result["arms"][row["arm"]]["row_by_row"]
        row |= parting(
            witness,
            question.tokens,
            expected["tokens"],
            found["tokens"],
            passes_of_text(found["passes"]),
            temperature,
            _threads_left(work.setups[row["setting"]].n_threads, expected, found),
        )


def _threads_left(full: int, *answers: dict[str, Any]) -> tuple[int, int] | None:
    """How many threads there are, and how many an answer was left with; None where none had fewer."""
    left = min(answer["threads"] or full for answer in answers)
    return (full, left) if left < full else None


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
    base = f"off {work.setting_of(label)}"
    found: list[Movement] = []
    witness.by_row = work.result["arms"][label]["row_by_row"]
    asked = [question for question in work.questions if key_of(label, temperature, question) in answers]
    for question in asked[:: max(1, len(asked) // SAMPLE)][:SAMPLE]:
        plain, drafted = (answers.get(key_of(arm, temperature, question)) for arm in (base, label))
        if plain is not None and drafted is not None:
            passes = passes_of_text(drafted["passes"])
            found += movements(witness, question.tokens, plain["tokens"], passes)
    return found
