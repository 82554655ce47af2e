"""Ways to draft on a real model's answers, in virtual time: what their passes cost on a curve."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from aded_bench.drafters.logitspec import LogitSpec
from aded_bench.drafters.published import AsPublished, Published, Rated
from aded_bench.drafters.racer import Racer
from aded_bench.drafters.real import Decoded, RealText, Remembered, Speaker, World
from aded_bench.drafters.token_recycling import TokenRecycling
from aded_bench.extra import pandas
from aded_bench.replay.curves import LARGEST_PASS, NamedCurve
from aded_bench.replay.drafter_settings import DrafterSettings, open_drafter
from aded_bench.replay.drafts import PromptLookup
from aded_bench.replay.traces import Trace
from aded_bench.run.suites import Conversation
from aded_bench.summary import ratio_interval
from aded_bench.tables import interval
from aded_local import LocalADED
from aded_local.drafters import Drafter
from aded_local.errors import OptionError
from aded_local.llama import ContextSettings, Model, Target
from aded_local.opening import SEQUENCES
from aded_local.speed.planner import AutoPlanner, Limits, PlainPlanner, Planner, WholePlanner
from aded_local.step import NO_TOKENS, Beginning, Likely, StepResult
from aded_local.tree_sampling import sample_and_match

AS_WIDE_AS_IT_IS: Final = 128
"""Nodes, more than any published tree has."""

FRESH, RUNNING = "fresh", "running on"
PHASES: Final = (FRESH, RUNNING)
"""Each prompt with an empty memory; and one after the other, with what was learnt before."""

Step = Callable[[str], None]
MakeDrafter = Callable[[str], Drafter]
"""Makes a drafter of ours, by preset."""


@dataclass(frozen=True)
class Way:
    """A way to draft.

    Attributes:
        planner: made for a curve.
        priced: what it verifies depends on the curve.
        top_k: it learns what the target finds likely.
        published: told what the target found likely in the prompt, as the papers do.
    """

    planner: Planner
    priced: bool = True
    top_k: bool = True
    published: AsPublished | None = None


def ways(make: MakeDrafter) -> dict[str, Callable[[NamedCurve], Way]]:
    """All ways, by name; what is made with one is made anew for each curve."""
    rebuilt: dict[str, Callable[[], Published]] = {
        "token-recycling": TokenRecycling,
        "racer": Racer,
        "logitspec": LogitSpec,
    }
    found: dict[str, Callable[[NamedCurve], Way]] = {
        "off": lambda curve: Way(PlainPlanner(), priced=False, top_k=False),
        "auto": lambda curve: Way(_priced(make("auto"), curve)),
        "auto-chains": lambda curve: Way(_priced(make("auto"), curve, leaves=1)),
        "auto-no-top-k": lambda curve: Way(_priced(make("auto"), curve), top_k=False),
        "paper": lambda curve: Way(_whole(make("paper"), SEQUENCES["paper"]), priced=False),
        "llama-cpp-lookup": lambda curve: Way(PromptLookup(), priced=False, top_k=False),
    }
    for name, published in rebuilt.items():
        found[name] = partial(_as_published, published)
        found[f"{name}-budget"] = partial(_budgeted, published)
    return found


def _as_published(make: Callable[[], Published], curve: NamedCurve) -> Way:
    drafter = AsPublished(make)
    return Way(_whole(drafter, AS_WIDE_AS_IT_IS), priced=False, published=drafter)


def _budgeted(make: Callable[[], Published], curve: NamedCurve) -> Way:
    drafter = Rated(make)
    return Way(_priced(drafter, curve), published=drafter)


def _whole(drafter: Drafter, leaves: int) -> Planner:
    nodes = LARGEST_PASS - 1 if leaves < AS_WIDE_AS_IT_IS else AS_WIDE_AS_IT_IS
    return WholePlanner(drafter, Limits(nodes, leaves))


def _priced(drafter: Drafter, curve: NamedCurve, leaves: int = SEQUENCES["auto"]) -> Planner:
    limits, costs = Limits(LARGEST_PASS - 1, leaves), curve.engine_curve()
    return AutoPlanner(drafter, lambda: costs, limits, clock=lambda: 0.0)


def seconds(curve: NamedCurve, n_tokens: int) -> float:
    """Of a pass; what is wider than the curve costs in proportion."""
    covered = min(n_tokens, LARGEST_PASS)
    return float(curve.costs[covered]) * n_tokens / covered * curve.plain_seconds


@dataclass
class Ran:
    """What one answer took.

    Attributes:
        tokens: prompt and answer.
        sizes: passes by their tokens.
    """

    tokens: list[int]
    sizes: Counter[int] = field(default_factory=Counter)

    def cost(self, curve: NamedCurve) -> float:
        """Virtual seconds of its passes."""
        return sum(count * seconds(curve, n) for n, count in self.sizes.items())


def answer(
    way: Way,
    world: World,
    text: RealText,
    is_end: Callable[[int], bool],
    most: int,
    curve: NamedCurve,
    session: int,
) -> Ran:
    """Write an answer of ``most`` tokens at most. The first token comes with the prompt, for every way alike."""
    tokens, end = text.tokens[: text.start + 1], text.start + most
    way.planner.begin(Beginning(session, NO_TOKENS, np.array(tokens, np.int32)))
    if way.published is not None:
        rows = [text.rows[at, ()] for at in range(1, text.start + 1)]
        read = Likely(np.stack([row[0] for row in rows]), np.stack([row[1] for row in rows]))
        way.published.way.read_prompt(tokens[: text.start], read)
    ran = Ran(tokens)
    while len(tokens) < end and not is_end(tokens[-1]):
        n_cells, left = len(tokens) - 1, end - len(tokens)
        tree = way.planner.plan(n_cells, left - 1)
        likely = world.look(tokens, tree)
        likeliest = likely.tokens[:, 0].tolist()
        match = sample_and_match(tree, list(range(1, len(tree) + 1)), likeliest.__getitem__, is_end, left)
        world.take(tree, match.path)
        if tree.padding:  # as the planner reads it
            likely.tokens[-tree.padding :], likely.shares[-tree.padding :] = -1, 0.0
        taken = seconds(curve, len(tree) + 1)
        way.planner.observe(
            StepResult(
                tree,
                match.tokens,
                match.path,
                n_cells,
                likely if way.top_k else None,
                verify_seconds=taken,
                total_seconds=taken,
            )
        )
        tokens += match.tokens
        ran.sizes[len(tree) + 1] += 1
    return ran


@dataclass(frozen=True)
class Row:
    """A way in a phase on a curve: what all answers took, and how many were not the model's own."""

    way: str
    phase: str
    curve: str
    tokens_per_pass: float
    nodes_per_pass: float
    speed: float
    low: float | None
    high: float | None
    different: int


@dataclass
class Bench:
    """Texts, the model that wrote them, and how ways are made.

    Attributes:
        longest: tokens of an answer at most.
    """

    speaker: Speaker
    texts: Sequence[RealText]
    make: MakeDrafter
    longest: int
    step: Step = lambda note: None

    def rows(self, names: Sequence[str], curves: Sequence[NamedCurve]) -> Iterator[Row]:
        """Every way in every phase on every curve."""
        made = ways(self.make)
        for name, phase in itertools.product(names, PHASES):
            ran: list[Ran] = []
            for curve in curves:
                if not ran or made[name](curve).priced:
                    ran = self._all(made[name], phase, curve, name)
                yield self._row(name, phase, curve, ran)

    def _all(self, make: Callable[[NamedCurve], Way], phase: str, curve: NamedCurve, name: str) -> list[Ran]:
        way = make(curve)
        found = []
        for session, text in enumerate(self.texts):
            if phase == FRESH:
                way.planner.reset()
            found.append(self._one(way, Remembered(self.speaker, text), text, curve, session))
            self.step(f"{name}, {phase}, {curve.name}")
        return found

    def _one(self, way: Way, world: World, text: RealText, curve: NamedCurve, session: int) -> Ran:
        return answer(way, world, text, self.speaker.is_end, self.longest, curve, session)

    def _row(self, name: str, phase: str, curve: NamedCurve, ran: Sequence[Ran]) -> Row:
        costs = [one.cost(curve) for one in ran]
        written = [len(text.tokens) - text.start - 1 for text in self.texts]
        plain = [n * seconds(curve, 1) for n in written]
        low, high = ratio_interval(plain, costs)
        sizes = sum((one.sizes for one in ran), Counter[int]())
        passes = sum(sizes.values())
        different = sum(one.tokens != text.tokens for one, text in zip(ran, self.texts, strict=True))
        nodes = sum((size - 1) * count for size, count in sizes.items())
        return Row(
            name,
            phase,
            curve.name,
            sum(written) / passes,
            nodes / passes,
            sum(plain) / sum(costs),
            low,
            high,
            different,
        )

    def decoded(self, names: Sequence[str], curve: NamedCurve, count: int) -> dict[str, tuple[int, int]]:
        """The first texts of each way once more, every tree in one pass: answers and passes that are not the same."""
        made, found = ways(self.make), {}
        for name in names:
            texts = passes = 0
            for text in self.texts[:count]:
                remembered = self._one(made[name](curve), Remembered(self.speaker, text), text, curve, 0)
                real = self._one(made[name](curve), Decoded(self.speaker, text), text, curve, 0)
                texts += real.tokens != text.tokens
                passes += real.sizes != remembered.sizes
            found[name] = texts, passes
        return found


def tables(rows: Sequence[Row]) -> Iterator[tuple[str, pandas.DataFrame]]:
    """By phase, a line for each way: speed-up on each curve with its 95% interval, and tokens per pass."""
    for phase in PHASES:
        lines: dict[str, dict[str, str]] = {}
        for row in rows:
            if row.phase == phase:
                speed = interval({"speed": row.speed, "low": row.low, "high": row.high}, "speed")
                lines.setdefault(row.way, {"way": row.way})[row.curve] = f"{speed}, {row.tokens_per_pass:.2f}"
        yield phase, pandas.DataFrame(list(lines.values()))


def prompt_milliseconds(
    make: MakeDrafter, texts: Sequence[RealText], length: int, rounds: int = 5
) -> list[float]:
    """What ``auto`` takes to learn a prompt of so many tokens, put together from these: processor time, each round
    another conversation."""
    tokens = list(itertools.chain.from_iterable(text.tokens[: text.start] for text in texts))
    drafter, found = make("auto"), []
    for session in range(rounds):
        prompt = np.resize(np.array(tokens, np.int32), (session + 1) * length)[-length:]
        started = time.thread_time()
        drafter.begin(Beginning(session, NO_TOKENS, prompt))
        found.append(1e3 * (time.thread_time() - started))
    drafter.close()
    return found


def steps(names: Sequence[str], curves: Sequence[NamedCurve], texts: int) -> int:
    """How often ``Bench.rows`` calls ``step``, at most."""
    return len(names) * len(PHASES) * len(curves) * texts


def make_drafter(model: Path, n_vocab: int) -> MakeDrafter:
    """Our drafters for a model, with the shipped phrases."""
    trace = Trace(model.stem, model, n_vocab, (), model)
    return lambda preset: open_drafter(preset, trace, DrafterSettings())


def prompts(
    model: Path, conversations: Sequence[Conversation], longest: int
) -> list[tuple[str, str, list[int]]]:
    """Name, category and token ids of each first turn, through the model's template; too long ones are left out."""
    if not conversations:
        return []
    found = []
    with LocalADED(model, draft="off", flash_attention=True, cache_type="bf16") as llm:
        for one in conversations:
            tokens = list(llm.chat_tokens([*one.opening, {"role": "user", "content": one.turns[0]}]))
            if len(tokens) <= longest:
                found.append((one.id, one.category, tokens))
    return found


def open_speaker(model: Path, n_ctx: int, n_threads: int) -> tuple[Speaker, Callable[[], None]]:
    """The model in the setting whose passes are equal at every size, where any are; and what closes it.

    Raises:
        OptionError: drafts cannot branch on this model.
    """
    loaded = Model(model)
    if loaded.is_recurrent or loaded.is_hybrid:
        loaded.close()
        raise OptionError(
            f"drafts cannot branch on {model.name}, which keeps a running state; name a model with a KV cache alone"
        )
    settings = ContextSettings(
        n_ctx=n_ctx,
        n_threads=n_threads,
        flash_attention=True,
        cache_type="bf16",
        n_sequences=SEQUENCES["paper"],
        n_rollback=0,
    )
    target = Target(loaded, settings)

    def close() -> None:
        target.close()
        loaded.close()

    return Speaker(target), close
