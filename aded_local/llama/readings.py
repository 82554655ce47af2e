"""The rules of a grammar as llama.cpp keeps them, and whether it can follow them.

It goes along all readings of a text at once. So it runs out of memory on some left recursions that it does not notice,
and takes ever longer where readings multiply.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Final, NamedTuple

from aded_local.errors import GrammarError
from aded_local.shown import one_line

MOST_ELEMENTS: Final = 100_000
"""Elements that all rules may have once repetitions are written out: each copy of a state looks at all of them."""

MOST_READINGS: Final = 1000
"""Ways to read one text at most: llama.cpp follows all of them at once. Its JSON grammar has four. Chosen."""

PLACES_PER_READING: Final = 50
"""Stacks that may be looked at on the way to each reading."""

WALKS: Final = 4
WALK_LENGTH: Final = 40
TRIED_CHARACTERS: Final = 3
"""Texts that are tried for it, their characters, and the choices at each. Readings that double with each character are
too many after ten."""

LAST_CHARACTER: Final = 0x10FFFF
"""Unicode has no code points above."""

MOST_WORK: Final = 100_000
"""Stacks that are looked at in all: half a second."""


class Characters(NamedTuple):
    """One character: of some ranges of code points, or of none of them."""

    ranges: tuple[tuple[int, int], ...]
    negated: bool = False

    def hold(self, character: int) -> bool:
        return any(low <= character <= high for low, high in self.ranges) != self.negated

    def example(self, turn: int) -> int:
        """One that fits; another one with another ``turn``."""
        if not self.negated:
            low, high = self.ranges[turn % len(self.ranges)]
            return low + turn % (high - low + 1)
        # The first that fits stands at the start, or right behind a range.
        behind = sorted(high + 1 for _, high in self.ranges)
        return next((at for at in (ord("a") + turn % 26, 0, *behind) if self.hold(at)), LAST_CHARACTER + 1)


Element = Characters | int
"""Characters, or the number of a rule."""

Sequence = tuple[Element, ...]


@dataclass(slots=True)
class Rules:
    """A grammar as llama.cpp's parser makes it.

    Attributes:
        numbers: of the rules, by name.
        alternatives: of each rule; none of one that is named and not defined.
    """

    numbers: dict[str, int] = field(default_factory=dict)
    alternatives: dict[int, list[Sequence]] = field(default_factory=dict)
    n_elements: int = 0

    def number(self, name: str) -> int:
        return self.numbers.setdefault(name, len(self.numbers))

    def new(self, base: str) -> int:
        return self.number(f"{base}_{len(self.numbers)}")

    def define(self, number: int, alternatives: list[Sequence]) -> None:
        self.alternatives[number] = alternatives
        self.n_elements += sum(len(each) + 1 for each in alternatives)
        if self.n_elements > MOST_ELEMENTS:
            raise GrammarError(
                f"the grammar has over {MOST_ELEMENTS:,} elements once its repetitions are written out; repeat less"
            )

    def name(self, number: int) -> str:
        return next(name for name, known in self.numbers.items() if known == number)


def _nullable(rules: Rules) -> set[int]:
    """The rules that the empty text follows."""
    found: set[int] = set()
    users: dict[int, set[int]] = {}
    for number, alternatives in rules.alternatives.items():
        for sequence in alternatives:
            for element in sequence:
                if isinstance(element, int):
                    users.setdefault(element, set()).add(number)
    waiting = list(rules.alternatives)
    while waiting:
        number = waiting.pop()
        if number in found:
            continue
        if any(all(isinstance(e, int) and e in found for e in seq) for seq in rules.alternatives[number]):
            found.add(number)
            waiting += users.get(number, ())
    return found


def refuse_left_recursion(rules: Rules) -> None:
    """Refuse a rule that begins with itself and goes on behind that: to follow it would take ever more memory.

    To begin with itself behind what may be empty counts too, which llama.cpp notices in simple cases only. A rule that
    is nothing but itself is left to llama.cpp.
    """
    nullable = _nullable(rules)
    begins: dict[
        int, dict[int, bool]
    ] = {}  # with which rules it may begin, and whether something follows them
    for number, alternatives in rules.alternatives.items():
        first = begins[number] = {}
        for sequence in alternatives:
            for i, element in enumerate(sequence):
                if not isinstance(element, int):
                    break
                first[element] = first.get(element, False) or i + 1 < len(sequence)
                if element not in nullable:
                    break
    circle = _circles(begins)
    for number, first in begins.items():
        for other, grows in first.items():
            if grows and circle[number] == circle[other]:
                name = re.sub(r"_\d+$", "", rules.name(other))
                raise GrammarError(
                    f"the rule {one_line(name)[:40]!r} of the grammar begins with itself (left recursion); "
                    "put what it begins with first"
                )


def _circles(edges: dict[int, dict[int, bool]]) -> dict[int, int]:
    """A number for each node, the same for those that can be reached from each other (Tarjan's algorithm)."""
    order: dict[int, int] = {}
    low: dict[int, int] = {}
    circle: dict[int, int] = {}
    open_nodes: list[int] = []
    for start in edges:
        if start in order:
            continue
        order[start] = low[start] = len(order)
        open_nodes.append(start)
        path: list[tuple[int, Iterator[int]]] = [(start, iter(edges[start]))]
        while path:
            node, following = path[-1]
            for other in following:
                if other not in order:
                    order[other] = low[other] = len(order)
                    open_nodes.append(other)
                    path.append((other, iter(edges[other])))
                    break
                if other not in circle:
                    low[node] = min(low[node], order[other])
            else:
                path.pop()
                if path:
                    low[path[-1][0]] = min(low[path[-1][0]], low[node])
                if low[node] == order[node]:
                    while node not in circle:
                        circle[open_nodes.pop()] = node
    return circle


class _Reader:
    """Follows a text through the rules as llama.cpp does, all readings at once: each is a stack of places in rules.

    Stacks are numbers; 0 is the empty one, which has read all.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._stacks: list[tuple[Sequence, int, int]] = [
            ((), 0, 0)
        ]  # a place in a sequence, and the stack below
        self._known: dict[tuple[int, int, int], int] = {}
        self.work = 0

    def _on(self, sequence: Sequence, at: int, below: int) -> int:
        """The stack with a place on top of ``below``; that itself where the sequence ends there."""
        if at == len(sequence):
            return below
        key = (id(sequence), at, below)  # the rules keep their sequences as long as this lives
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = len(self._stacks)
            self._stacks.append((sequence, at, below))
        return known

    def begin(self) -> set[int]:
        """The readings of the empty text."""
        root = self._rules.alternatives[self._rules.numbers["root"]]
        return self._expanded([self._on(sequence, 0, 0) for sequence in root])

    def _expanded(self, todo: list[int]) -> set[int]:
        """Replace rules on top by what they begin with, until characters are on top."""
        seen = set(todo)
        found = set()
        while todo:
            self.work += 1
            stack = todo.pop()
            sequence, at, below = self._stacks[stack]
            element = sequence[at] if stack else None
            if not isinstance(element, int):
                found.add(stack)
                continue
            rest = self._on(sequence, at + 1, below)
            for alternative in self._rules.alternatives[element]:
                deeper = self._on(alternative, 0, rest)
                if deeper not in seen:
                    seen.add(deeper)
                    todo.append(deeper)
            if len(seen) > PLACES_PER_READING * MOST_READINGS or len(found) > MOST_READINGS:
                raise GrammarError(
                    f"the grammar reads one text in over {MOST_READINGS} ways at once; make it less ambiguous"
                )
        return found

    def tops(self, readings: set[int]) -> list[Characters]:
        """What may come next in each reading."""
        found = []
        for stack in sorted(readings):
            sequence, at, _ = self._stacks[stack]
            element = sequence[at] if stack else None
            if isinstance(element, Characters):
                found.append(element)
        return found

    def read(self, readings: set[int], character: int) -> set[int]:
        """The readings of the text with one more character."""
        after = []
        for stack in readings:
            sequence, at, below = self._stacks[stack]
            element = sequence[at] if stack else None
            if isinstance(element, Characters) and element.hold(character):
                after.append(self._on(sequence, at + 1, below))
        return self._expanded(after)


def refuse_many_readings(rules: Rules) -> None:
    """Try some texts, each going on with the character that leaves most readings of a few."""
    reader = _Reader(rules)
    beginning = reader.begin()
    random = Random(0)
    for _ in range(WALKS):
        readings = beginning
        for _ in range(WALK_LENGTH):
            tops = reader.tops(readings)
            if not tops or reader.work > MOST_WORK:
                break
            tried = {random.choice(tops).example(random.randrange(1 << 16)) for _ in range(TRIED_CHARACTERS)}
            readings = max((reader.read(readings, character) for character in sorted(tried)), key=len)
