"""Is a GBNF text one that llama.cpp can follow? Asked before llama.cpp sees it.

llama.cpp prints a text that it cannot read, runs out of memory on some left recursions that it does not notice, and on
grammars with millions of readings of one text. So this reads a text just as llama.cpp's parser does
(src/llama-grammar.cpp), into the same rules, within bounds, and looks at these.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from aded_local.errors import GrammarError
from aded_local.llama.readings import (
    MOST_ELEMENTS,
    Characters,
    Element,
    Rules,
    Sequence,
    refuse_left_recursion,
    refuse_many_readings,
)
from aded_local.shown import one_line

LONGEST_TEXT: Final = 1 << 18
"""Characters of a grammar at most. The longest of llama.cpp's own examples has 2,800. Chosen."""

DEEPEST: Final = 200
"""Brackets within each other at most: llama.cpp's parser calls itself for each, and small stacks hold some hundreds."""

MOST_REPETITIONS: Final = 2000
"""llama.cpp's ``MAX_REPETITION_THRESHOLD``; it takes a higher upper bound for none."""

_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACE_OR_LINE = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_NAME = re.compile(r"[a-zA-Z0-9-]+")
_BOUNDS = re.compile(r"(\d+)\s*(?:(,)\s*(\d*)\s*)?\}")
_HEX = {"x": 2, "u": 4, "U": 8}
_ESCAPES = {"t": "\t", "r": "\r", "n": "\n", "\\": "\\", '"': '"', "[": "[", "]": "]", "-": "-"}


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
    refuse_left_recursion(rules)
    refuse_many_readings(rules)


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
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[sign]
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
