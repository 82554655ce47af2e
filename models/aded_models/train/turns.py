"""Items in, training samples out: token ids, and for each token whose loss it is.

A sample reads `<|user|>question<|assistant|>answer<|end|>`, repeated for each turn, a system message before
it at times. Roles end where the next control token begins, so only answers close with `<|end|>`. Loss is
taken on answers alone. Which item is visited next depends on how well it was known last time.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from . import offtopic, phrasing
from .core import is_core, is_essential
from .corpus import Item, Page


@dataclass(frozen=True)
class Mix:
    """What samples are made of: shares of kinds, and of single questions that end after the command.

    A sample cut there costs a third less, and its explanation is learned from the others.
    """

    kinds: dict[str, float]
    cut: float
    named: float = 0.5  # share naming the program of questions that would be clear without


# The full mix teaches every form at the beginning and again while the rate decays; in between, most samples
# are single questions, which memorise the most commands per token (40 tokens a visit against 48).
FULL = Mix({"single": 0.81, "follow_up": 0.08, "long": 0.02, "about": 0.05, "small_talk": 0.04}, cut=0.5)
# The last stage, for what people ask first: more questions that do not name the program, more "what is tar?".
POLISH = Mix(
    {"single": 0.79, "follow_up": 0.05, "long": 0.02, "about": 0.1, "small_talk": 0.04}, cut=0.6, named=0.35
)
LEAN = Mix({"single": 0.925, "follow_up": 0.03, "long": 0.01, "about": 0.02, "small_talk": 0.015}, cut=0.85)

LONG_TURNS = (3, 16)  # unrelated questions in one long chat
LONG_TOKENS = 1000  # a long chat stops growing here; rows of 1,024 tokens hold it
SYSTEM_SHARE = 0.05  # of samples that begin with a system message
POLISH_EVERYDAY = 2.0  # times EVERYDAY_WEIGHT, in the last stage
EVERYDAY_WEIGHT = 3.0  # the hand-written items against the essential ones
CORE_WEIGHT = 0.08  # the core's others, which come to their turn as the essential ones are known
REST_WEIGHT = 0.01  # items outside the core: enough to stay a speaker of their forms
REST_PAGES = 0.15  # share of "what is" questions about programs that are not essential
KNOWN_LOSS = 4.0  # nats over a whole command above which an item counts as unknown
KNOWN_WEIGHT = 0.08  # weight of a perfectly known item against an unknown one
DRAW = 2048  # items drawn at once; losses seen meanwhile count from the next draw on

NO_LOSS = -1  # owner of tokens that are only read
OTHER = -2  # owner of answer tokens that belong to no item's command


class Encoder(Protocol):
    """What samples need of a tokenizer."""

    system: int
    user: int
    assistant: int
    end: int

    def encode(self, text: str) -> list[int]:
        """Ids of plain text."""
        ...


@dataclass
class Sample:
    """ids of one conversation; owners[i] says whose loss token i is (an item's index, OTHER, NO_LOSS)."""

    ids: list[int] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)

    def add(self, ids: Sequence[int], owner: int) -> None:
        """Append tokens of one owner."""
        self.ids.extend(ids)
        self.owners.extend([owner] * len(ids))


def quoted(command: str) -> str:
    """The command as Markdown code: inline, which is cheapest, unless it holds a backtick or a line break."""
    if "`" in command or "\n" in command:
        return f"```sh\n{command}\n```"
    return f"`{command}`"


def answer(item: Item) -> str:
    """The whole answer to an item: command, line break, explanation."""
    return f"{quoted(item.command)}\n{item.explanation}"


def about_answer(page: Page) -> str:
    """What a program is, then up to two of its examples."""
    lines = [f"{page.name}: {page.description}"]
    lines += [f"{task}: {quoted(command)}" for task, command in page.examples[:2]]
    return "\n".join(lines)


def _tier(item: Item) -> float:
    if item.wordings:
        return EVERYDAY_WEIGHT
    if is_essential(item.page):
        return 1.0
    return CORE_WEIGHT if is_core(item.page) else REST_WEIGHT


class SampleMaker:
    """An endless, seeded stream of samples over items and pages."""

    def __init__(
        self, items: list[Item], everyday: list[Item], pages: list[Page], coder: Encoder, seed: int
    ) -> None:
        self.items = items + everyday
        self.pages = pages
        self.coder = coder
        self.mix = FULL
        self.rng = random.Random(seed)
        self.draws = np.random.default_rng(seed)
        self.loss = np.full(len(self.items), 2 * KNOWN_LOSS)  # nats over the whole command, last seen
        self.visits = np.zeros(len(self.items), dtype=np.int64)
        self.essential_pages = [p for p in pages if is_essential(p.name)]
        self.focus = False  # on the core
        self.tier = np.array([_tier(item) for item in self.items])
        self.everyday = np.array([EVERYDAY_WEIGHT if i.wordings else 1.0 for i in self.items])
        self.of_page: dict[str, list[int]] = defaultdict(list)
        for index, item in enumerate(items):
            self.of_page[item.page].append(index)
        self.queue: list[int] = []

    def _next_item(self) -> int:
        if not self.queue:
            unknown = np.maximum(KNOWN_WEIGHT, np.minimum(self.loss / KNOWN_LOSS, 1.0))
            weight = (self.tier if self.focus else self.everyday) * unknown
            if self.mix is POLISH:
                weight = np.where(self.everyday > 1, POLISH_EVERYDAY, 1.0) * weight
            size = min(DRAW, len(self.items))
            drawn = self.draws.choice(len(self.items), size=size, replace=False, p=weight / weight.sum())
            self.queue = [int(i) for i in drawn]
        index = self.queue.pop()
        self.visits[index] += 1
        return index

    def _named(self, item: Item) -> bool:
        if phrasing.names_program(item):
            return False
        return not item.unique or self.rng.random() < self.mix.named

    def _turn(self, sample: Sample, index: int, question: str, cut: bool = False) -> None:
        coder, item = self.coder, self.items[index]
        sample.add([coder.user, *coder.encode(question), coder.assistant], NO_LOSS)
        sample.add(coder.encode(quoted(item.command) + "\n"), index)
        if not cut:
            sample.add([*coder.encode(item.explanation), coder.end], OTHER)

    def _plain_turn(self, sample: Sample, question: str, reply: str) -> None:
        coder = self.coder
        sample.add([coder.user, *coder.encode(question), coder.assistant], NO_LOSS)
        sample.add([*coder.encode(reply), coder.end], OTHER)

    def _item_turn(self, sample: Sample, cut: bool = False) -> int:
        index = self._next_item()
        item = self.items[index]
        self._turn(sample, index, phrasing.ask(self.rng, item, self._named(item)), cut)
        return index

    def _single(self, sample: Sample) -> None:
        self._item_turn(sample, cut=self.rng.random() < self.mix.cut)

    def _follow_up(self, sample: Sample) -> None:
        index = self._item_turn(sample)
        siblings = [i for i in self.of_page[self.items[index].page] if i != index]
        for sibling in self.rng.sample(siblings, min(len(siblings), self.rng.randint(1, 2))):
            self.visits[sibling] += 1
            self._turn(sample, sibling, phrasing.follow_up(self.rng, self.items[sibling]))

    def _long(self, sample: Sample) -> None:
        for _ in range(self.rng.randint(*LONG_TURNS)):
            if len(sample.ids) > LONG_TOKENS - 200:
                break
            kind = self.rng.random()
            if kind < 0.8:
                self._item_turn(sample)
            elif kind < 0.9:
                self._about(sample)
            else:
                self._small_talk(sample)

    def _about(self, sample: Sample) -> None:
        focused = self.focus and self.rng.random() >= REST_PAGES
        page = self.rng.choice(self.essential_pages if focused else self.pages)
        self._plain_turn(sample, phrasing.ask_about(self.rng, page.name), about_answer(page))

    def _small_talk(self, sample: Sample) -> None:
        self._plain_turn(sample, *offtopic.small_talk(self.rng))

    def single(self) -> Sample:
        """A sample of one question, whatever the mix."""
        sample = Sample()
        self._single(sample)
        return sample

    def next(self) -> Sample:
        """The next sample, at most LONG_TOKENS long."""
        sample = Sample()
        if self.rng.random() < SYSTEM_SHARE:
            message = self.rng.choice(phrasing.SYSTEM_MESSAGES)
            sample.add([self.coder.system, *self.coder.encode(message)], NO_LOSS)
        kind = self.rng.choices(list(self.mix.kinds), weights=list(self.mix.kinds.values()))[0]
        make = {
            "single": self._single,
            "follow_up": self._follow_up,
            "long": self._long,
            "about": self._about,
            "small_talk": self._small_talk,
        }
        make[kind](sample)
        del sample.ids[LONG_TOKENS:], sample.owners[LONG_TOKENS:]
        return sample

    def learned(self, owners: np.ndarray, losses: np.ndarray) -> None:
        """Record losses [n] (nats) of tokens whose owners [n] are item indices; each command is summed."""
        indices, inverse = np.unique(owners, return_inverse=True)
        self.loss[indices] = np.bincount(inverse, weights=losses)

    def state(self) -> dict[str, object]:
        """Everything needed to resume the stream."""
        return {
            "rng": self.rng.getstate(),
            "draws": self.draws.bit_generator.state,
            "loss": self.loss,
            "visits": self.visits,
            "queue": self.queue,
        }

    def load(self, state: dict[str, object]) -> None:
        """Take up a state written by `state`."""
        self.rng.setstate(state["rng"])  # type: ignore[arg-type]
        self.draws.bit_generator.state = state["draws"]  # type: ignore[assignment]
        self.loss, self.visits = state["loss"], state["visits"]  # type: ignore[assignment]
        self.queue = state["queue"]  # type: ignore[assignment]
