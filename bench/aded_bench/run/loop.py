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

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from aded_bench.results import ResultFile
from aded_bench.run.arms import Answer, LocalArm, Setup, logits_setup, open_local
from aded_bench.run.beside import spinning
from aded_bench.run.figures import evaluate, frame_of
from aded_bench.run.memory import Meter, cache_megabytes, private, require_room
from aded_bench.run.methods import CHEAP, LEARNERS, LOOKUP, OWN, SERVER_METHODS, WITH_DRAFT_MODEL
from aded_bench.run.server import KEPT, Binary, ServerArm
from aded_bench.run.start import Arm, Step, open_arm, peer_may_fail, settings_left, start
from aded_bench.run.start import Plan as CommonPlan
from aded_bench.run.suites import Conversation, Question, fingerprint
from aded_local.errors import OptionError

EMPTY, WARM = "empty", "warm"


@dataclass(frozen=True, kw_only=True)
class Plan(CommonPlan):
    """What to measure.

    Attributes:
        warm_suite: name of the suite that is learnt from, where it is another.
        measured, warming: disjoint conversations.
        repeat: sweeps over the measured prompts, per pass.
        temperature: above 0 our own arms only, since the peers' seeds mean another thing.
        fresh_each: forget what was learnt before every measured prompt, in the ``empty`` pass.
        same: how much drafting may change; of ``pricing.SAMES``.
        server: llama.cpp's own, where there is one.
        beside: busy processes that run while answers are timed, and not while models are opened.
        draft_model: for the methods that take one.
    """

    measured: Sequence[Conversation]
    warming: Sequence[Conversation]
    methods: tuple[str, ...]
    repeat: int
    temperature: float = 0.0
    warm_suite: str | None = None
    fresh_each: bool = False
    same: str = CHEAP
    server: Binary | None = None
    beside: int = 0
    draft_model: Path | None = None

    @property
    def passes(self) -> tuple[str, ...]:
        """The passes this plan makes."""
        return (EMPTY, WARM) if self.warming else (EMPTY,)

    def settings(self) -> dict[str, Any]:
        """The part of the plan that a resumed run must share."""
        learns = "forgets before every prompt" if self.fresh_each else "learns over the measured prompts"
        keys = ("warm_suite", "repeat", "temperature", "fresh_each", "beside", "same")
        return (
            super().settings()
            | {key: getattr(self, key) for key in keys}
            | {
                "methods": list(self.methods),
                "prompts": len(self.measured),
                "warming_prompts": len(self.warming),
                "prompts_sha256": fingerprint(self.measured),
                "warming_prompts_sha256": fingerprint(self.warming),
                "empty_pass": learns,
                "warm_pass": "learns over the warming and the measured prompts",
                "llama_server": self.server.version if self.server else None,
                "draft_model": self.draft_model.name if self.draft_model else None,
            }
        )

    def unavailable(self) -> dict[str, str]:
        """By method, why it cannot be measured, as far as the options tell."""
        found: dict[str, str] = {}
        for method in self.methods:
            if self.temperature and method not in OWN:
                found[method] = "greedy only: its seeds mean another thing than ours"
            elif method in SERVER_METHODS and self.server is None:
                found[method] = "no --llama-server PATH was given"
            elif method in WITH_DRAFT_MODEL and self.draft_model is None:
                found[method] = "no --draft-model FILE was given"
        return found


@dataclass
class _Work:
    """A run under way."""

    plan: Plan
    leader: str
    setups: dict[str, Setup]
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

    @contextmanager
    def at_work(self, method: str) -> Iterator[None]:
        """What grows inside is charged to ``method``; a peer that fails is missing from there on."""
        with peer_may_fail(method, self.result["missing"]), self.meter.charge(method):
            yield
        if method in self.result["missing"] and method in self.arms:
            self.arms.pop(method).close()


def total_steps(plan: Plan) -> int:
    """How often ``run`` calls ``step``, if no method and no prompt is left out."""
    methods = [method for method in plan.methods if method not in plan.unavailable()]
    measured, warming = (sum(len(c.turns) for c in part) for part in (plan.measured, plan.warming))
    histories = measured + warming - len(plan.measured) - len(plan.warming)
    learnt = warming * sum(method in LEARNERS for method in methods)
    return histories + plan.repeat * (len(plan.passes) * measured * len(methods) + learnt)


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
        "memory": {},
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
            row |= result["memory"].get(method, {})
    file.save(result, now=True)
    return result


def _start(plan: Plan, result: dict[str, Any], file: ResultFile, step: Step) -> _Work:
    """Settings that hold for all arms, prompts as tokens, and what an earlier run left."""

    def take_over(earlier: dict[str, Any]) -> None:
        frame_of(earlier["runs"])
        result["runs"] = earlier["runs"]
        for method, seen in earlier["memory"].items():
            result["memory"][method] = {key: float(value) for key, value in seen.items()}
        result["resumed"] = int(earlier.get("resumed", 0)) + 1

    # A drafting arm measures attention and cache type, which then hold for all.
    plain = [m for m in plan.methods if m in OWN and m not in ("off", *WITH_DRAFT_MODEL)]
    leader = plain[0] if plain else "off"
    shared = {"n_threads": plan.n_threads, "n_ctx": plan.n_ctx} | settings_left(file)
    lead = open_local(leader, plan.model, same=plan.same, **shared)
    try:
        setup = replace(lead.setup(plan.model), draft_model=plan.draft_model)
        parts = (plan.measured, plan.warming)
        measured, warming = start(plan, lead, setup, parts, result, file, take_over, step, plan.temperature)
    finally:
        lead.close()
    setups = dict.fromkeys(plan.methods, setup)
    if LOOKUP in plan.methods and LOOKUP not in result["missing"]:
        longest = max(len(question.tokens) for question in (*measured, *warming)) + plan.max_tokens
        with peer_may_fail(LOOKUP, result["missing"]):
            setups[LOOKUP] = logits_setup(setup, longest)
    result["arms"] = {}
    for method, its in setups.items():
        size = cache_megabytes(its.model, its.n_ctx, its.cache_type)
        about: dict[str, Any] = {"context": its.n_ctx, "cache_megabytes": size}
        if method == "off" and leader != "off":
            about["shares_weights_with"] = leader
        if method in KEPT:
            about["kept_between_prompts"] = KEPT[method]
        result["arms"][method] = about
    return _Work(plan, leader, setups, measured, warming, result, file, step)


@contextmanager
def _opened(work: _Work, turn: int) -> Iterator[None]:
    """The arms, loaded anew in another order each turn: where weights land in memory decides a few percent.

    ``off`` shares weights and context with the leading arm, so that nothing but drafting differs.
    """
    work.meter = Meter()
    server = work.plan.server.path if work.plan.server else None
    largest = 0.0
    try:
        for method in rotated(work.active, turn):
            if method != "off" or work.leader == "off":
                require_room(method, largest)
                before = private()
                with work.at_work(method):
                    work.arms[method] = open_arm(
                        method, work.setups[method], same=work.plan.same, server=server
                    )
                largest = max(largest, private() - before)
        if "off" in work.active and "off" not in work.arms:
            work.arms["off"] = cast(LocalArm, work.arms[work.leader]).plain()
        yield
    finally:
        try:
            _keep_memory(work)
        finally:
            while work.arms:
                work.arms.popitem()[1].close()


def _keep_memory(work: _Work) -> None:
    """The largest figure of any sweep: a later one may find memory that an earlier one has freed."""
    for method, arm in work.arms.items():
        if isinstance(arm, ServerArm):
            process = arm.memory()
            seen = {"memory_megabytes": process.get("resident"), "peak_megabytes": process.get("peak")}
        else:
            grown, highest = (found.get(method, 0.0) for found in (work.meter.grown, work.meter.highest))
            seen = {"memory_megabytes": grown, "peak_megabytes": highest}
        earlier = work.result["memory"].setdefault(method, {})
        earlier |= {
            key: max(value, earlier.get(key, 0.0)) for key, value in seen.items() if value is not None
        }


def _sweep(work: _Work, which: str, sweep: int) -> None:
    """Every measured prompt by every method; nothing is done twice where an earlier run has it."""
    plan, runs = work.plan, work.result["runs"]
    done = {(r["prompt"], r["method"]) for r in runs if (r["pass"], r["sweep"]) == (which, sweep)}
    forgets = which == EMPTY and plan.fresh_each
    if all((question.id, method) in done for question in work.measured for method in work.active):
        for _ in range(len(work.measured) * len(work.active)):
            work.step("done before")
        return
    with _opened(work, sweep), spinning(plan.beside):
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
    if method in work.arms:
        with work.at_work(method):
            return work.arms[method].answer(
                question.tokens, work.plan.max_tokens, work.plan.temperature, seed
            )
    return None


def rotated(methods: Sequence[str], turn: int) -> list[str]:
    """The methods, beginning with another one each turn, so that none always runs first."""
    turn %= max(1, len(methods))
    return [*methods[turn:], *methods[:turn]]


def _record(which: str, sweep: int, question: Question, method: str, answer: Answer) -> dict[str, Any]:
    head = {"pass": which, "sweep": sweep, "prompt": question.id, "category": question.category}
    rate = {"tokens_per_second": answer.tokens_per_second}
    found = asdict(answer)
    del found["pass_sizes"]  # longer than the answer, and no part of how fast it was
    return head | {"method": method, "prompt_tokens": len(question.tokens)} | rate | found
