"""What drafting gains in answers that are bound to a JSON schema, and whether they are valid and the same without it.

Every arm answers every prompt greedily in a fresh conversation, by turns; each has a drafter of its own, which learns
from its own answers alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np

from aded_bench.results import ResultFile, provenance, resume, sha256, taking_over
from aded_bench.run.arms import LocalArm, Setup, open_local
from aded_bench.run.start import Step
from aded_local import decode
from aded_local.llama.forced import GrammarConstraint, Habits
from aded_local.llama.grammar import BoolArray, Grammar
from aded_local.step import NOTHING_FORCED, Forced
from aded_local.tree import DraftTree, IntArray

SUITE = Path(__file__).with_name("schemas.jsonl")
"""25 schemas with four prompts each."""

INSTRUCTION = "Answer in JSON with these fields: "


class Unforced(GrammarConstraint):
    """Drafts what the drafter proposes and the grammar allows."""

    def forced(self, most: int) -> Forced:
        """Nothing."""
        return NOTHING_FORCED


class Blind(Unforced):
    """Drafts what the drafter proposes, whatever the grammar says."""

    def allowed(self, after: IntArray, tree: DraftTree) -> BoolArray:
        """All."""
        return np.ones(len(tree), np.bool_)


ARMS = {"forced": GrammarConstraint, "unforced": Unforced, "blind": Blind, "off": GrammarConstraint}
"""What drafts are told of the grammar, by arm; ``off`` drafts nothing."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure.

    Attributes:
        arms: of ``ARMS``; ``off`` is what the others are compared with.
        count: prompts, evenly over the schemas; None for all.
        same: how much drafting may change, of ``pricing.SAMES``.
        max_tokens: of each answer.
        seed: of sampling, were the temperature not 0.
    """

    model: Path
    arms: tuple[str, ...]
    same: str
    max_tokens: int
    count: int | None = None
    seed: int = 0
    n_threads: int | None = None
    n_ctx: int | None = None

    def settings(self) -> dict[str, Any]:
        """The part of the plan that a resumed run must share."""
        keys = ("arms", "same", "max_tokens", "count", "seed", "n_threads", "n_ctx")
        return {key: getattr(self, key) for key in keys} | {"arms": list(self.arms), "suite": sha256(SUITE)}


@dataclass(frozen=True)
class Question:
    """A prompt, and the schema that its answer is bound to."""

    id: str
    text: str
    schema: dict[str, Any]


def questions(count: int | None) -> list[Question]:
    """The suite's, one of each schema after the other."""
    rows = [json.loads(line) for line in SUITE.read_text(encoding="utf-8").splitlines()]
    n_prompts = max(len(row["prompts"]) for row in rows)
    found = [
        Question(f"{row['id']}-{i + 1}", _asked(row["prompts"][i], row["schema"]), row["schema"])
        for i in range(n_prompts)
        for row in rows
        if i < len(row["prompts"])
    ]
    return found[:count]


def _asked(prompt: str, schema: dict[str, Any]) -> str:
    fields = [name for each in schema.get("oneOf", [schema]) for name in each["properties"]]
    return f"{prompt} {INSTRUCTION}{', '.join(dict.fromkeys(fields))}."


def total_steps(plan: Plan) -> int:
    """How often ``run`` calls ``step``."""
    return len(questions(plan.count)) * len(plan.arms)


def run(plan: Plan, file: ResultFile, step: Step = lambda note: None) -> dict[str, Any]:
    """Answer all; the result as plain data, with ``complete`` False after Ctrl-C.

    Raises:
        ADEDError: the model cannot be used, or ``file`` holds another run.
    """
    result: dict[str, Any] = {"kind": "schemas", "complete": False, "answers": {}, "spelling": {}}
    arms: dict[str, LocalArm] = {}
    try:
        for name in plan.arms:
            arms[name] = _opened(plan, name, next(iter(arms.values()), None))
        lead = next(iter(arms.values()))
        here = provenance(
            plan.settings(), model=plan.model, description=lead.llm.description(), inputs=(SUITE,)
        )
        if earlier := resume(file, "schemas", here):
            with taking_over(file):
                result["answers"] |= earlier["answers"]
        result["provenance"] = here
        for turn, question in enumerate(questions(plan.count)):
            # Whoever comes first finds the processor as the one before left it.
            for name in (*plan.arms[turn % len(plan.arms) :], *plan.arms[: turn % len(plan.arms)]):
                key = f"{name}|{question.id}"
                if key not in result["answers"]:
                    result["answers"][key] = _answer(plan, name, arms[name], question, result["spelling"])
                    file.save(result)
                step(name)
        result["complete"] = True
    except KeyboardInterrupt:
        if "provenance" not in result:
            raise
    finally:
        for arm in arms.values():
            arm.close()
    result["summary"] = summary(plan.arms, result["answers"])
    file.save(result, now=True)
    return result


def _opened(plan: Plan, name: str, lead: LocalArm | None) -> LocalArm:
    setup: Setup | None = None if lead is None else lead.setup(plan.model)
    more: dict[str, Any] = {"n_threads": plan.n_threads, "n_ctx": plan.n_ctx} if setup is None else {}
    return open_local("off" if name == "off" else "auto", plan.model, same=plan.same, setup=setup, **more)


@contextmanager
def _told(name: str, spelling: dict[str, dict[str, int]]) -> Iterator[None]:
    """Let drafts know of the grammar what an arm's may, and count how forced text was spelt."""
    kind = ARMS[name]
    met: list[Habits] = []

    def constraint(grammar: Grammar) -> GrammarConstraint:
        met.append(Habits.of(grammar.model))
        return kind(grammar)

    with patch.object(decode, "GrammarConstraint", constraint):
        yield
    for habits in met[-1:]:
        spelling[name] = {key: getattr(habits, key) for key in ("tried", "came", "misspelt")}


def _answer(
    plan: Plan, name: str, arm: LocalArm, question: Question, spelling: dict[str, dict[str, int]]
) -> dict[str, Any]:
    arm.llm.reset()
    started = time.perf_counter()
    with _told(name, spelling):
        reply = arm.llm.chat(
            [{"role": "user", "content": question.text}],
            json_schema=question.schema,
            max_tokens=plan.max_tokens,
            temperature=0.0,
            seed=plan.seed,
        )
    wall = time.perf_counter() - started
    arm.llm.prepare()
    stats = reply.stats
    return {
        "text": reply.text,
        "ended": reply.finish_reason == "stop",
        "valid": is_valid(reply.text, question.schema),
        "tokens": stats.generated_tokens,
        "passes": stats.target_passes,
        "drafted": stats.drafted,
        "accepted": stats.accepted,
        "seconds": dict(stats.seconds),
        "decode_seconds": wall - stats.time_to_first_token,
    }


def is_valid(text: str, schema: dict[str, Any]) -> bool:
    """Whether a text is JSON of a schema."""
    import jsonschema

    try:
        # Without a version, times would be those of the third draft, which have no zone.
        version = jsonschema.Draft202012Validator
        jsonschema.validate(json.loads(text), schema, version, format_checker=version.FORMAT_CHECKER)
    except (ValueError, jsonschema.ValidationError):
        return False
    return True


def summary(arms: Sequence[str], answers: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Figures of each arm."""
    found = {}
    plain = {key.split("|")[1]: each for key, each in answers.items() if key.startswith("off|")}
    for name in arms:
        own = {key.split("|")[1]: each for key, each in answers.items() if key.startswith(f"{name}|")}
        if not own:
            continue
        rates = {key: (each["tokens"] - 1) / max(each["decode_seconds"], 1e-9) for key, each in own.items()}
        both = [key for key in own if key in plain]
        gains = [rates[key] * plain[key]["decode_seconds"] / max(1, plain[key]["tokens"] - 1) for key in both]
        passes, tokens = (sum(each[key] for each in own.values()) for key in ("passes", "tokens"))
        found[name] = {
            "answers": len(own),
            "valid": sum(each["valid"] for each in own.values()),
            "ended": sum(each["ended"] for each in own.values()),
            "same_text": sum(own[key]["text"] == plain[key]["text"] for key in both),
            "compared": len(both),
            "tokens_per_pass": (tokens - len(own)) / max(1, passes),
            "nodes_per_pass": sum(each["drafted"] for each in own.values()) / max(1, passes),
            "accepted_share": sum(each["accepted"] for each in own.values())
            / max(1, sum(each["drafted"] for each in own.values())),
            "tokens_per_second": (tokens - len(own))
            / max(1e-9, sum(each["decode_seconds"] for each in own.values())),
            "median_gain": median(gains) if gains else None,
            "draft_share": sum(each["seconds"].get("draft", 0.0) for each in own.values())
            / max(1e-9, sum(each["decode_seconds"] for each in own.values())),
        }
    return found
