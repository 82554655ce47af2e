"""Is a GBNF text one that llama.cpp can follow? Asked before llama.cpp sees it.

llama.cpp prints a text that it cannot read, runs out of memory on some left recursions that it does not notice, and on
grammars with millions of readings of one text. So this reads a text just as llama.cpp's parser does
(src/llama-grammar.cpp), into the same rules, within bounds, and looks at these.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Final, NamedTuple

from aded_local.errors import GrammarError
from aded_local.shown import one_line

LONGEST_TEXT: Final = 1 << 18
"""Characters of a grammar at most. The longest of llama.cpp's own examples has 2,800. Chosen."""

DEEPEST: Final = 200
"""Brackets within each other at most: llama.cpp's parser calls itself for each, and small stacks hold some hundreds."""

MOST_ELEMENTS: Final = 100_000
"""Elements that all rules may have once repetitions are written out: each copy of a state looks at all of them."""

MOST_REPETITIONS: Final = 2000
"""llama.cpp's ``MAX_REPETITION_THRESHOLD``; it takes a higher upper bound for none."""

MOST_READINGS: Final = 1000
"""Ways to read one text at most: llama.cpp follows all of them at once. Its JSON grammar has four. Chosen."""

PLACES_PER_READING: Final = 50
"""Stacks that may be looked at on the way to each reading."""

WALKS: Final = 4
WALK_LENGTH: Final = 40
TRIED_CHARACTERS: Final = 3
"""Texts that are tried for it, their characters, and the choices at each. Readings that double with each character are
too many after ten."""

MOST_WORK: Final = 100_000
"""Stacks that are looked at in all: half a second."""

_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACE_OR_LINE = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_NAME = re.compile(r"[a-zA-Z0-9-]+")
_BOUNDS = re.compile(r"(\d+)\s*(?:(,)\s*(\d*)\s*)?\}")
_HEX = {"x": 2, "u": 4, "U": 8}
_ESCAPES = {"t": "\t", "r": "\r", "n": "\n", "\\": "\\", '"': '"', "[": "[", "]": "]", "-": "-"}


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
        at = ord("a") + turn % 26
        while not self.hold(at):
            at += 1
        return at


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


@dataclass(slots=True)
class _Group:
    """Brackets that are being read, or the whole of a rule."""

    number: int
    known_before: int
    """Rules that were named before it began."""
    alternatives: list[Sequence] = field(default_factory=list)
    sequence: list[Element] = field(default_factory=list)
    last: int = 0
    """Where the item that a repetition would repeat begins."""
    copies: int = 1
    """Rules that repeating it would multiply, as llama.cpp counts them."""


def check(text: str) -> None:
    """Refuse a text that llama.cpp does not read, or could not follow safely.

    Raises:
        GrammarError: with the line where that is known.
    """
    if "\0" in text:
        raise GrammarError("the grammar holds a NUL character")
    if len(text) > LONGEST_TEXT:
        raise GrammarError(f"the grammar has {len(text):,} characters; at most {LONGEST_TEXT:,} are taken")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise GrammarError("the grammar holds half a character (a lone surrogate)") from None
    rules = _Parser(text).parse()
    if "root" not in rules.numbers:
        raise GrammarError("the grammar has no rule called root, which stands for the whole answer")
    for name, number in rules.numbers.items():
        if number not in rules.alternatives:
            raise GrammarError(f"the grammar names a rule {one_line(name)[:40]!r} and does not define it")
    _refuse_left_recursion(rules)
    _refuse_many_readings(rules)


class _Parser:
    """Reads a text; brackets are kept in a list, so depth takes no stack."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._rules = Rules()

    def parse(self) -> Rules:
        self._skip(_SPACE_OR_LINE)
        while self._at < len(self._text):
            self._rule()
        return self._rules

    def _fail(self, what: str) -> GrammarError:
        line = self._text.count("\n", 0, self._at) + 1
        return GrammarError(f"line {line} of the grammar: {what}")

    def _skip(self, what: re.Pattern[str]) -> None:
        found = what.match(self._text, self._at)
        self._at = found.end() if found else self._at

    def _next(self, n: int = 1) -> str:
        return self._text[self._at : self._at + n]

    def _rule(self) -> None:
        found = _NAME.match(self._text, self._at)
        if found is None:
            raise self._fail(f"a rule's name is missing before {self._shown()}")
        name, self._at = found[0], found.end()
        self._skip(_SPACE)
        if self._next(3) != "::=":
            raise self._fail(f"the rule {name[:40]!r} needs ::= after its name, not {self._shown()}")
        self._at += 3
        self._skip(_SPACE_OR_LINE)
        self._body(name, self._rules.number(name))
        if self._at < len(self._text) and self._next() not in "\r\n":
            raise self._fail(f"nothing may follow here, and there is {self._shown()}")
        self._skip(_SPACE_OR_LINE)

    def _shown(self) -> str:
        return repr(one_line(self._next(16))) if self._at < len(self._text) else "the end"

    def _body(self, name: str, number: int) -> None:
        """Read a rule's alternatives."""
        rules = self._rules
        open_groups = [_Group(number, len(rules.numbers))]
        while True:
            group = open_groups[-1]
            nested = len(open_groups) > 1
            space = _SPACE_OR_LINE if nested else _SPACE
            character = self._next()
            if character in ("*", "+", "?", "{") and character:
                self._at += 1
                self._repeat(group, name, *self._times(character, space))
                self._skip(space)
                continue
            if character == "(":
                if len(open_groups) > DEEPEST:
                    raise self._fail(f"there are more than {DEEPEST} brackets within each other")
                self._at += 1
                self._skip(_SPACE_OR_LINE)
                before = len(rules.numbers)
                open_groups.append(_Group(rules.new(name), before))
                continue
            if character == "|":
                self._at += 1
                self._skip(_SPACE_OR_LINE)
                group.alternatives.append(tuple(group.sequence))
                group.sequence, group.last, group.copies = [], 0, 1
                continue
            element = self._element(character)
            if element is not None:
                group.last, group.copies = len(group.sequence), 1
                group.sequence += element
                if len(group.sequence) > MOST_ELEMENTS:
                    raise self._fail("the rule is too long")
                self._skip(space)
                continue
            rules.define(group.number, [*group.alternatives, tuple(group.sequence)])
            open_groups.pop()
            if not nested:
                return
            if character != ")":
                raise self._fail(f"a bracket is not closed before {self._shown()}")
            self._at += 1
            outer = open_groups[-1]
            outer.copies = max(1, len(rules.numbers) - group.known_before)
            outer.last = len(outer.sequence)
            outer.sequence.append(group.number)
            self._skip(_SPACE_OR_LINE if len(open_groups) > 1 else _SPACE)

    def _element(self, character: str) -> list[Element] | None:
        """What stands here, a literal's characters one by one; None where no element begins."""
        if character == '"':
            self._at += 1
            found: list[Element] = []
            while self._next() != '"':
                code = self._character()
                found.append(Characters(((code, code),)))
            self._at += 1
            return found
        if character == "[":
            self._at += 1
            return self._class()
        if character == ".":
            self._at += 1
            return [Characters((), negated=True)]
        if character and character in "<!":
            raise self._fail(
                "a grammar describes text here, so tokens (<…>) cannot be named; write their text in quotes"
            )
        name = _NAME.match(self._text, self._at)
        if name is None:
            return None
        self._at = name.end()
        return [self._rules.number(name[0])]

    def _class(self) -> list[Element]:
        negated = self._next() == "^"
        self._at += negated
        ranges = []
        while self._next() != "]":
            low = high = self._character()
            if self._next() == "-" and self._next(2) != "-]":
                self._at += 1
                high = self._character()
            if high < low:
                raise self._fail(f"the range {chr(low)!r} to {chr(high)!r} runs backwards")
            ranges.append((low, high))
        self._at += 1
        if not ranges:
            raise self._fail("there is nothing between [ and ]")
        return [Characters(tuple(ranges), negated)]

    def _character(self) -> int:
        character = self._next()
        if not character:
            raise self._fail("a quote or bracket is not closed at the end")
        if character != "\\":
            self._at += 1
            return ord(character)
        kind = self._text[self._at + 1 : self._at + 2]
        self._at += 2
        if kind in _ESCAPES and kind:
            return ord(_ESCAPES[kind])
        digits = self._next(_HEX.get(kind, 0))
        if kind not in _HEX or re.fullmatch(rf"[0-9a-fA-F]{{{_HEX[kind]}}}", digits) is None:
            raise self._fail(f"\\{kind + one_line(digits)} is no escape that llama.cpp knows")
        self._at += len(digits)
        code = int(digits, 16)
        if code > 0x10FFFF:
            raise self._fail(f"\\{kind}{digits} is no character")
        return code

    def _times(self, sign: str, space: re.Pattern[str]) -> tuple[int, int | None]:
        """The least and the most repetitions; None for any number."""
        if sign != "{":
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[sign]  # type: ignore[return-value]
        self._skip(space)
        found = _BOUNDS.match(self._text, self._at)
        if found is None:
            raise self._fail("a repetition is written {n}, {n,} or {n,m}")
        low, high = found[1], found[1] if found[2] is None else found[3]
        if max(len(low), len(high)) > 6 or max(int(low), int(high or 0)) > MOST_REPETITIONS:
            raise self._fail(f"at most {MOST_REPETITIONS} repetitions can be asked for")
        if high and int(high) < int(low):
            raise self._fail(f"{{{low},{high}}} asks for fewer repetitions than its least")
        self._at = found.end()
        return int(low), int(high) if high else None

    def _repeat(self, group: _Group, name: str, least: int, most: int | None) -> None:
        """Write a repetition out as llama.cpp does: S{m,n} becomes S m times and a rule for up to n - m more."""
        item = tuple(group.sequence[group.last :])
        if not item:
            raise self._fail("there is nothing to repeat here")
        total = most if most else max(least, 1)
        if group.copies * total > MOST_REPETITIONS:
            raise self._fail(
                f"repetitions within each other make more than {MOST_REPETITIONS} rules; repeat less"
            )
        if len(item) * max(least, most or 1) > MOST_ELEMENTS:
            raise self._fail("the repetition is too long once it is written out")
        group.sequence[group.last :] = item * least
        rules = self._rules
        if most is None:
            number = rules.new(name)
            rules.define(number, [(*item, number), ()])
            group.sequence.append(number)
        elif most > least:
            number = -1
            for _ in range(most - least):
                tail = () if number < 0 else (number,)
                number = rules.new(name)
                rules.define(number, [(*item, *tail), ()])
            group.sequence.append(number)
        group.copies *= total


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


def _refuse_left_recursion(rules: Rules) -> None:
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


def _refuse_many_readings(rules: Rules) -> None:
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
