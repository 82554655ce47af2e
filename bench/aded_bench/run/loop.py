"""How fast is each way of generating? All of them interleaved, prompt by prompt, in rotating order.

Two passes over the same measured prompts: ``empty``, where a drafting arm starts each sweep without
statistics and learns from the measured prompts as it goes (or, with ``fresh_each``, forgets before every
prompt), and ``warm``, where it first answers other prompts. Each pass is repeated in sweeps, and every sweep
starts from the same state: an arm that met the same prompt twice would draft the answer it remembers. A
prompt's figure is the median over sweeps, so that one disturbance of a shared machine does not decide.

An interrupted run goes on with what is missing. Arms that learn answer the earlier prompts of the sweep
again, unrecorded, so that they know what they knew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aded_bench.results import ResultFile, provenance, resume, taking_over
from aded_bench.run.arms import (
    LEARNERS,
    LOOKUP,
    OWN,
    PEER,
    PEER_FAILURES,
    SERVER_METHODS,
    Answer,
    Arm,
    LlamaArm,
    LookupArm,
    Setup,
    lookup_setup,
    open_local,
    plain_beside,
    setup_of,
)
from aded_bench.run.figures import check_records, evaluate
from aded_bench.run.memory import Meter, cache_megabytes
from aded_bench.run.server import KEPT, Binary, ServerArm
from aded_bench.run.suites import Conversation, Question, fingerprint, prepare
from aded_local.errors import OptionError

EMPTY, WARM = "empty", "warm"
Step = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        suite, warm_suite: their names, for the result; the latter where it is another.
        measured, warming: disjoint conversations.
        repeat: sweeps over the measured prompts, per pass.
        temperature: above 0 our own arms only, since the peers' seeds mean another thing.
        fresh_each: forget what was learnt before every measured prompt, in the ``empty`` pass.
        server: llama.cpp's own, where there is one.
        inputs: files that decide the result.
    """

    model: Path
    suite: str
    measured: Sequence[Conversation]
    warming: Sequence[Conversation]
    methods: tuple[str, ...]
    max_tokens: int
    repeat: int
    seed: int
    temperature: float = 0.0
    warm_suite: str | None = None
    fresh_each: bool = False
    server: Binary | None = None
    inputs: tuple[Path, ...] = ()
    n_threads: int | None = None
    n_ctx: int | None = None

    @property
    def passes(self) -> tuple[str, ...]:
        """The passes this plan makes."""
        return (EMPTY, WARM) if self.warming else (EMPTY,)

    def settings(self) -> dict[str, Any]:
        """The run's options, for its result file."""
        return {
            "suite": self.suite,
            "warm_suite": self.warm_suite,
            "prompts": len(self.measured),
            "warming_prompts": len(self.warming),
            "prompts_sha256": fingerprint(self.measured),
            "warming_prompts_sha256": fingerprint(self.warming),
            "methods": list(self.methods),
            "max_tokens": self.max_tokens,
            "repeat": self.repeat,
            "seed": self.seed,
            "temperature": self.temperature,
            "fresh_each": self.fresh_each,
            "empty_pass": "forgets before every prompt"
            if self.fresh_each
            else "learns over the measured prompts",
            "warm_pass": "learns over the warming and the measured prompts",
            "n_threads": self.n_threads,
            "n_ctx": self.n_ctx,
            "llama_server": self.server.version if self.server else None,
        }

    def unavailable(self) -> dict[str, str]:
        """By method, why it cannot be measured, as far as the options tell."""
        found: dict[str, str] = {}
        for method in self.methods:
            if self.temperature and method not in OWN:
                found[method] = "greedy only: its seeds mean another thing than ours"
            elif method in SERVER_METHODS:
                reason = self.server.missing(method) if self.server else "no --llama-server PATH was given"
                if reason:
                    found[method] = reason
        return found


@dataclass
class _Work:
    """A run under way."""

    plan: Plan
    setup: Setup
    leader: str
    lookup: Setup
    measured: list[Question]
    warming: list[Question]
    result: dict[str, Any]
    file: ResultFile
    step: Step
    arms: dict[str, Arm] = field(default_factory=dict)
    meter: Meter = field(default_factory=Meter)

    @property
    def active(self) -> list[str]:
        """The methods that are not missing."""
        return [method for method in self.plan.methods if method not in self.result["missing"]]


def total_steps(plan: Plan) -> int:
    """How often ``run`` calls ``step``, if no method and no prompt is left out."""
    methods = [method for method in plan.methods if method not in plan.unavailable()]
    learners = sum(method in LEARNERS for method in methods)
    measured, warming = (sum(len(c.turns) for c in part) for part in (plan.measured, plan.warming))
    histories = measured + warming - len(plan.measured) - len(plan.warming)
    return histories + plan.repeat * (
        len(plan.passes) * measured * len(methods) + learners * warming * (WARM in plan.passes)
    )


def run(plan: Plan, file: ResultFile, step: Step = lambda note: None) -> dict[str, Any]:
    """Measure; the result as plain data, with ``complete`` False after Ctrl-C.

    Raises:
        ADEDError: the model cannot be used, no prompt fits, or ``file`` holds another run.
    """
    missing = plan.unavailable()
    result: dict[str, Any] = {
        "kind": "run",
        "complete": False,
        "suite": plan.suite,
        "methods": list(plan.methods),
        "missing": missing,
        "histories": {},
        "runs": [],
    }
    if len(missing) == len(plan.methods):
        raise OptionError("no method is left: " + "; ".join(f"{m}: {why}" for m, why in missing.items()))
    try:
        work = _start(plan, result, file, step)
        for which in plan.passes:
            for sweep in range(plan.repeat):
                _sweep(work, which, sweep)
        result["complete"] = True
    except KeyboardInterrupt:
        if "provenance" not in result:
            raise
    result["summary"] = evaluate(result["runs"], plan.methods, plan.seed)
    for found in result["summary"].values():
        for method, row in found["methods"].items():
            row |= result.get("memory", {}).get(method, {})
    file.save(result, now=True)
    return result


def _start(plan: Plan, result: dict[str, Any], file: ResultFile, step: Step) -> _Work:
    """Settings that hold for all arms, prompts as tokens, and what an earlier run left."""
    # A drafting arm measures attention and cache type, which then hold for all.
    leader = next((m for m in plan.methods if m in OWN and m != "off"), "off")
    first = open_local(leader, plan.model, n_threads=plan.n_threads, n_ctx=plan.n_ctx)
    try:
        description = first.llm.description()
        setup = setup_of(plan.model, first)
        inputs = (*plan.inputs, plan.server.path) if plan.server else plan.inputs
        here = provenance(plan.settings(), model=plan.model, description=description, inputs=inputs)
        if earlier := resume(file, "run", here):
            with taking_over(file):
                _take_over(earlier, result)
        result["provenance"] = here
        prepared = [
            prepare(
                first,
                part,
                result["histories"],
                n_ctx=setup.n_ctx,
                max_tokens=plan.max_tokens,
                temperature=plan.temperature,
                seed=plan.seed,
                step=step,
            )
            for part in (plan.measured, plan.warming)
        ]
    finally:
        first.close()
    (measured, skipped), (warming, skipped_warming) = prepared
    result["skipped"] = skipped | skipped_warming
    if not measured:
        raise OptionError("no prompt can be answered: " + "; ".join(result["skipped"].values()))
    longest = max(len(question.tokens) for question in (*measured, *warming)) + plan.max_tokens
    lookup, reason = setup, None
    if LOOKUP in plan.methods and LOOKUP not in result["missing"]:
        lookup, reason = lookup_setup(setup, longest)
        if reason:
            result["missing"][LOOKUP] = reason
    result["arms"] = _about(plan, setup, lookup, leader)
    return _Work(plan, setup, leader, lookup, measured, warming, result, file, step)


def _take_over(earlier: dict[str, Any], result: dict[str, Any]) -> None:
    """What an interrupted run measured. What is no such thing raises one of many errors: see ``taking_over``."""
    check_records(earlier["runs"])
    result["runs"] = earlier["runs"]
    result["histories"] = {name: str(text) for name, text in earlier["histories"].items()}
    result["memory"] = {
        method: {key: float(value) for key, value in seen.items()}
        for method, seen in earlier.get("memory", {}).items()
    }
    result["resumed"] = int(earlier.get("resumed", 0)) + 1


def _about(plan: Plan, setup: Setup, lookup: Setup, leader: str) -> dict[str, dict[str, Any]]:
    """What a reader must know of each arm beside the settings that all share."""
    found: dict[str, dict[str, Any]] = {}
    for method in plan.methods:
        n_ctx = lookup.n_ctx if method == LOOKUP else setup.n_ctx
        found[method] = {
            "context": n_ctx,
            "cache_megabytes": cache_megabytes(setup.model, n_ctx, setup.cache_type),
        }
        if method == "off" and leader != "off":
            found[method]["shares_weights_with"] = leader
        if method in KEPT:
            found[method]["kept_between_prompts"] = KEPT[method]
    return found


@contextmanager
def _opened(work: _Work, turn: int) -> Iterator[None]:
    """The arms, loaded anew in another order each turn: where weights land in memory decides a few percent.

    ``off`` shares weights and context with the leading arm, so that nothing but drafting differs. Servers
    start with their first question.
    """
    work.meter = Meter()
    try:
        for method in rotated(work.active, turn):
            if method != "off" or work.leader == "off":
                with _peer_may_fail(work, method), work.meter.charge(method):
                    work.arms[method] = _open(work, method)
        if "off" in work.active and "off" not in work.arms:
            work.arms["off"] = plain_beside(work.arms[work.leader])
        yield
    finally:
        try:
            _keep_memory(work)
        finally:
            while work.arms:
                work.arms.popitem()[1].close()


def _open(work: _Work, method: str) -> Arm:
    if method == PEER:
        return LlamaArm(work.setup)
    if method == LOOKUP:
        return LookupArm(work.lookup)
    if method in SERVER_METHODS and work.plan.server is not None:
        return ServerArm(method, work.plan.server.path, work.setup)
    return open_local(method, work.plan.model, setup=work.setup)


@contextmanager
def _peer_may_fail(work: _Work, method: str) -> Iterator[None]:
    """A peer that fails is missing from there on; our own arms must not fail."""
    try:
        yield
    except PEER_FAILURES as error:
        if method in OWN:
            raise
        reason = " ".join(f"{error or type(error).__name__}".split())
        work.result["missing"][method] = reason.removeprefix(f"{method}: ")
        arm = work.arms.pop(method, None)
        if arm is not None:
            arm.close()


def _keep_memory(work: _Work) -> None:
    """The largest figure of any sweep: a later one may find memory that an earlier one has freed."""
    memory = work.result.setdefault("memory", {})
    for method, arm in work.arms.items():
        seen: dict[str, float | None]
        if isinstance(arm, ServerArm):
            process = arm.memory()
            seen = {"memory_megabytes": process.get("resident"), "peak_megabytes": process.get("peak")}
        else:
            highest = work.meter.highest.get(method, 0.0)
            seen = {"memory_megabytes": work.meter.grown.get(method, 0.0), "peak_megabytes": highest}
        earlier = memory.setdefault(method, {})
        for key, value in seen.items():
            if value is not None:
                earlier[key] = max(value, earlier.get(key, 0.0))


def _sweep(work: _Work, which: str, sweep: int) -> None:
    """Every measured prompt by every method; nothing is done twice where an earlier run has it."""
    plan, runs = work.plan, work.result["runs"]
    done = {(r["prompt"], r["method"]) for r in runs if (r["pass"], r["sweep"]) == (which, sweep)}
    forgets = which == EMPTY and plan.fresh_each
    if all((question.id, method) in done for question in work.measured for method in work.active):
        for _ in range(len(work.measured) * len(work.active)):
            work.step("done before")
        return
    with _opened(work, sweep):
        for method in [m for m in work.active if which == WARM and m in LEARNERS]:
            for question in work.warming:
                _answer(work, method, question, plan.seed)
                work.step(f"{which}: {method} learns")
        # As they are after loading: over all that were asked for, the one after a missing one would lead more often.
        order = work.active
        for index, question in enumerate(work.measured):
            for method in rotated(order, index + sweep):
                known = (question.id, method) in done
                if method in work.active and not (known and (forgets or method not in LEARNERS)):
                    if forgets:
                        work.arms[method].forget()
                    answer = _answer(work, method, question, plan.seed + index)
                    if answer is not None and not known:
                        runs.append(_record(which, sweep, question, method, answer))
                        work.file.save(work.result)
                if method in work.active:
                    work.step(f"{which}: sweep {sweep + 1} of {plan.repeat}")


def _answer(work: _Work, method: str, question: Question, seed: int) -> Answer | None:
    """One answer; None where the peer failed, or had failed before."""
    if method not in work.arms:
        return None
    with _peer_may_fail(work, method), work.meter.charge(method):
        return work.arms[method].answer(question.tokens, work.plan.max_tokens, work.plan.temperature, seed)
    return None


def rotated(methods: Sequence[str], turn: int) -> list[str]:
    """The methods, beginning with another one each turn, so that none always runs first."""
    turn %= max(1, len(methods))
    return [*methods[turn:], *methods[:turn]]


def _record(which: str, sweep: int, question: Question, method: str, answer: Answer) -> dict[str, Any]:
    head = {"pass": which, "sweep": sweep, "prompt": question.id, "category": question.category}
    return (
        head
        | {"method": method, "prompt_tokens": len(question.tokens)}
        | {"tokens_per_second": answer.tokens_per_second}
        | asdict(answer)
    )
