"""How fast is each way of generating? Interleaved prompt by prompt in one process, in rotating order.

Two passes over the same measured prompts: ``empty``, where a drafting arm starts each sweep without
statistics and learns from the measured prompts as it goes (or, with ``fresh_each``, forgets before every
prompt), and ``warm``, where it first answers other prompts. Each pass is repeated in sweeps, and every sweep
starts from the same state: an arm that met the same prompt twice would draft the answer it remembers. A
prompt's figure is the median over sweeps, so that one disturbance of a shared machine does not decide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aded_bench.arms import PEER, Answer, Arm, LlamaArm, Setup, open_local, plain_beside, render, setup_of
from aded_bench.prompts import Prompt
from aded_bench.results import ResultFile, provenance
from aded_bench.summary import summarize
from aded_local.errors import OptionError

EMPTY, WARM = "empty", "warm"
SHORTEST_ANSWER = 2  # tokens: one token alone has no rate


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        measured, warming: disjoint prompts.
        repeat: sweeps over the measured prompts, per pass.
        fresh_each: forget what was learnt before every measured prompt, in the ``empty`` pass.
    """

    model: Path
    measured: Sequence[Prompt]
    warming: Sequence[Prompt]
    methods: tuple[str, ...]
    max_tokens: int
    repeat: int
    seed: int
    fresh_each: bool = False
    n_threads: int | None = None
    n_ctx: int | None = None

    @property
    def passes(self) -> tuple[str, ...]:
        """The passes this plan makes."""
        return (EMPTY, WARM) if self.warming else (EMPTY,)

    def settings(self) -> dict[str, Any]:
        """The run's options, for its result file."""
        return {
            "prompts": len(self.measured),
            "warming_prompts": len(self.warming),
            "methods": list(self.methods),
            "max_tokens": self.max_tokens,
            "repeat": self.repeat,
            "seed": self.seed,
            "temperature": 0.0,
            "fresh_each": self.fresh_each,
            "empty_pass": "forgets before every prompt"
            if self.fresh_each
            else "learns over the measured prompts",
            "warm_pass": "learns over the warming and the measured prompts",
            "n_threads": self.n_threads,
            "n_ctx": self.n_ctx,
        }


def total_steps(plan: Plan) -> int:
    """How often ``run`` calls ``step``."""
    learners = sum(method in ("auto", "paper") for method in plan.methods)
    sweeps = len(plan.passes) * len(plan.measured) * len(plan.methods)
    return plan.repeat * (sweeps + learners * len(plan.warming))


def run(plan: Plan, file: ResultFile, step: Callable[[str], None] = lambda note: None) -> dict[str, Any]:
    """Measure; the result as plain data, with ``complete`` False after Ctrl-C.

    Raises:
        ADEDError: the model cannot be used.
    """
    result: dict[str, Any] = {"kind": "speed", "complete": False, "runs": []}
    # A drafting arm measures attention and cache type, which then hold for all.
    leader = next((m for m in plan.methods if m in ("auto", "paper")), "off")
    try:
        first = open_local(leader, plan.model, n_threads=plan.n_threads, n_ctx=plan.n_ctx)
        try:
            setup = setup_of(plan.model, first.llm.description())
            result["provenance"] = provenance(plan.model, plan.settings(), first.llm.description())
            rendered = {p.id: render(first, p.messages) for p in (*plan.measured, *plan.warming)}
        finally:
            first.close()
        _sweeps(plan, setup, leader, rendered, result, file, step)
        result["complete"] = True
    except KeyboardInterrupt:
        if "provenance" not in result:
            raise
    result["summary"] = evaluate(result["runs"], plan.methods, plan.seed)
    file.save(result, now=True)
    return result


@contextmanager
def _opened(plan: Plan, setup: Setup, leader: str, turn: int) -> Iterator[dict[str, Arm]]:
    """The arms, loaded anew in another order each turn: where weights land in memory decides a few percent.

    ``off`` shares weights and context with the leading arm, so that nothing but drafting differs.
    """
    arms: dict[str, Arm] = {}
    try:
        for method in rotated(plan.methods, turn):
            if method == PEER:
                arms[method] = LlamaArm(setup)
            elif method != "off" or leader == "off":
                arms[method] = open_local(method, plan.model, setup=setup)
        if "off" in plan.methods and "off" not in arms:
            arms["off"] = plain_beside(arms[leader])
        yield arms
    finally:
        for arm in arms.values():
            arm.close()


def _sweeps(
    plan: Plan,
    setup: Setup,
    leader: str,
    rendered: dict[str, list[int]],
    result: dict[str, Any],
    file: ResultFile,
    step: Callable[[str], None],
) -> None:
    runs: list[dict[str, Any]] = result["runs"]
    for which in plan.passes:
        for sweep in range(plan.repeat):
            with _opened(plan, setup, leader, sweep) as arms:
                for method, arm in arms.items():
                    if which == WARM and method in ("auto", "paper"):
                        for prompt in plan.warming:
                            arm.answer(rendered[prompt.id], plan.max_tokens, 0.0, plan.seed)
                            step(f"{which}: {method} learns")
                for index, prompt in enumerate(plan.measured):
                    for method in rotated(plan.methods, index + sweep):
                        if which == EMPTY and plan.fresh_each:
                            arms[method].forget()
                        answer = arms[method].answer(rendered[prompt.id], plan.max_tokens, 0.0, plan.seed)
                        runs.append(_record(which, sweep, prompt, method, answer))
                        file.save(result)
                        step(f"{which}: sweep {sweep + 1} of {plan.repeat}")


def rotated(methods: Sequence[str], turn: int) -> list[str]:
    """The methods, beginning with another one each turn, so that none always runs first."""
    turn %= len(methods)
    return [*methods[turn:], *methods[:turn]]


def _record(which: str, sweep: int, prompt: Prompt, method: str, answer: Answer) -> dict[str, Any]:
    head = {"pass": which, "sweep": sweep, "prompt": prompt.id, "kind": prompt.kind, "method": method}
    return head | {"tokens_per_second": answer.tokens_per_second} | asdict(answer)


def evaluate(runs: Sequence[dict[str, Any]], methods: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """Summary of the runs by pass: rates, ratios to plain decoding, where the time went."""
    passes = dict.fromkeys(run["pass"] for run in runs)
    return {which: _evaluate_pass([r for r in runs if r["pass"] == which], methods, seed) for which in passes}


def _evaluate_pass(runs: Sequence[dict[str, Any]], methods: Sequence[str], seed: int) -> dict[str, Any]:
    found: dict[str, Any] = {"methods": {}, "ratios": {}}
    for method in methods:
        own = [run for run in runs if run["method"] == method]
        found["methods"][method] = _evaluate_method(own, seed)
    for method, base in (*((m, "off") for m in methods if m != "off"), ("off", PEER)):
        if method in methods and base in methods and (method, base) != (PEER, "off"):
            found["ratios"][f"{method}/{base}"] = _ratio(runs, method, base, seed)
    return found


def _evaluate_method(runs: Sequence[dict[str, Any]], seed: int) -> dict[str, Any]:
    rates = _median_by_prompt(
        {(r["prompt"], r["sweep"]): r["tokens_per_second"] for r in runs if _has_rate(r)}
    )
    rate = summarize(list(rates.values()), seed)
    found: dict[str, Any] = {"tokens_per_second": rate and rate.to_dict()}
    stepped = [run for run in runs if run["passes"]]
    if not stepped:
        return found
    passes = sum(run["passes"] for run in stepped)
    decode = sum(run["decode_seconds"] for run in stepped)
    parts = {part: sum(run["seconds"][part] for run in stepped) for part in ("draft", "verify", "sample")}
    parts["elsewhere"] = max(0.0, decode - sum(parts.values()))
    found["tokens_per_pass"] = sum(run["generated"] - 1 for run in stepped) / passes
    found["nodes_per_pass"] = sum(run["drafted"] for run in stepped) / passes
    found["microseconds_per_pass"] = {part: 1e6 * seconds / passes for part, seconds in parts.items()}
    found["share_outside_llama_decode"] = 1 - parts["verify"] / decode
    # Only each answer's own figures are known here: so medians of medians and of 99th percentiles.
    for key in ("median", "p99"):
        values = [r["draft_microseconds"][key] for r in stepped if key in r["draft_microseconds"]]
        if values:
            found[f"draft_microseconds_{key}"] = float(np.median(values))
    return found


def _has_rate(run: dict[str, Any]) -> bool:
    return bool(run["generated"] >= SHORTEST_ANSWER)


def _median_by_prompt(values: dict[tuple[str, int], float]) -> dict[str, float]:
    by_prompt: dict[str, list[float]] = {}
    for (prompt, _), value in values.items():
        by_prompt.setdefault(prompt, []).append(value)
    return {prompt: float(np.median(found)) for prompt, found in by_prompt.items()}


def _ratio(runs: Sequence[dict[str, Any]], method: str, base: str, seed: int) -> dict[str, Any]:
    """Rate of ``method`` over that of ``base``: paired within a sweep, then the median over sweeps."""
    by_arm: dict[str, dict[tuple[str, int], dict[str, Any]]] = {method: {}, base: {}}
    for run in runs:
        if run["method"] in by_arm and _has_rate(run):
            by_arm[run["method"]][run["prompt"], run["sweep"]] = run
    pairs = {key: (run, by_arm[base][key]) for key, run in by_arm[method].items() if key in by_arm[base]}
    ratios = _median_by_prompt(
        {key: a["tokens_per_second"] / b["tokens_per_second"] for key, (a, b) in pairs.items()}
    )
    summary = summarize(list(ratios.values()), seed)
    return {
        "by_prompt": ratios,
        "summary": summary and summary.to_dict(),
        "same_tokens": sum(a["tokens"] == b["tokens"] for a, b in pairs.values()),
        "pairs": len(pairs),
    }


def check_methods(methods: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """The methods named, each once.

    Raises:
        OptionError: none, or an unknown one.
    """
    for method in methods:
        if method not in known:
            raise OptionError(f"unknown method {method!r}; choose from {', '.join(known)}")
    if not methods:
        raise OptionError(f"no method named; choose from {', '.join(known)}")
    return tuple(dict.fromkeys(methods))
