"""Finds the constants that a template only compares with a conversation, and makes them parameters.

A template that removes the thoughts from an answer looks for ``'</think>'`` in it. Such a constant is compared and
never written. As a parameter it can be changed in a rendering in which the characters of the conversation are replaced
by others: then the template looks for the replaced text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import jinja2
from jinja2 import nodes

from aded_local.chat.sandbox import Sandbox

LONGEST_ANALYSED: Final = 32_000
"""Characters of a template that is analysed, in this process. The slowest of that length take half a second; the
longest of 301 public templates has 19,600."""

NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,31}")
"""A constant like ``'user'`` is compared with roles, keys and types, and stays as it is."""

_LOOKING_METHODS: Final = re.compile(
    "count|(starts|ends)with|r?(find|index|split|partition)|[lr]?strip|remove(prefix|suffix)|replace"
)
_LOOKING_FILTERS: Final = re.compile("replace|trim")
_SELECTING_FILTERS: Final = re.compile("(select|reject)(attr)?")
_PARAMETER: Final = "aded_looks_for_"
_COPY: Final = "_aded_copy_"
_OPEN, _CLOSE = "\ue000", "\ue001"
_LINE_END: Final = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True, slots=True)
class Looking:
    """A template in which the constants that it looks for are parameters.

    Attributes:
        original: the template as given.
        source: the template with parameters in place of those constants.
        parameters: the constant of each parameter.
        names: short constants that it compares with, among them roles.
        words: all its short constants, and the keys that it looks up.
    """

    original: str
    source: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    names: frozenset[str] = frozenset()
    words: frozenset[str] = frozenset()


def analysed(source: str, given: Mapping[str, str]) -> Looking:
    """Make the constants that a template looks for parameters.

    A template that cannot be parsed keeps all of them; compiling it will say what is wrong.

    Args:
        source: the template.
        given: variables that hold the same text in every rendering.
    """
    if len(source) > LONGEST_ANALYSED or any(own in source for own in (_PARAMETER, _COPY, _OPEN, _CLOSE)):
        return Looking(source, source)
    try:
        return _analysed(source, Sandbox(), given)
    # Jinja's parser can raise whatever Python can: RecursionError, ValueError and others.
    except Exception:
        return Looking(source, source)


def _analysed(original: str, environment: jinja2.Environment, given: Mapping[str, str]) -> Looking:
    source = _LINE_END.sub("\n", original)
    tree = environment.parse(source)
    constant = _constant_variables(tree, given)
    spans: list[tuple[int, int, str]] = []
    for kind, start, end in _tokens(source, environment):
        text = source[start:end]
        if kind == "string":
            spans.append((start, end, f"'{_OPEN}{len(spans)}{_CLOSE}'"))
        elif kind == "name" and text in constant:
            spans.append((start, end, f"{text}{_COPY}{len(spans)}"))
    parameters: dict[str, str] = {}
    changed: list[tuple[int, int, str]] = []
    names: set[str] = set()
    for number in sorted(set(_looking(environment.parse(_replaced(source, spans))))):
        start, end, _ = spans[number]
        text = source[start:end]
        value = _value(text) if text[0] in "\"'" else constant[text]
        if NAME.fullmatch(value):
            names.add(value)
        elif not value.isspace() and value:
            parameters[f"{_PARAMETER}{number}"] = value
            changed.append((start, end, f" {_PARAMETER}{number} "))
    return Looking(
        original, _replaced(source, changed), parameters, frozenset(names), frozenset(_words(tree))
    )


def _words(tree: nodes.Template) -> Iterator[str]:
    for node in tree.find_all((nodes.Const, nodes.Getattr)):
        word = node.value if isinstance(node, nodes.Const) else node.attr  # type: ignore[attr-defined]
        if isinstance(word, str) and NAME.fullmatch(word):
            yield word


def _constant_variables(tree: nodes.Template, given: Mapping[str, str]) -> dict[str, str]:
    """Variables that hold one text from where they are first set: the template's own and those given."""
    stored = Counter(name.name for name in tree.find_all(nodes.Name) if name.ctx != "load")
    found = {name: text for name, text in given.items() if not stored[name]}
    for node in tree.body:
        if (
            isinstance(node, nodes.Assign)
            and isinstance(node.target, nodes.Name)
            and isinstance(node.node, nodes.Const)
            and isinstance(node.node.value, str)
            and stored[node.target.name] == 1
        ):
            found[node.target.name] = node.node.value
    return found


def _tokens(source: str, environment: jinja2.Environment) -> Iterator[tuple[str, int, int]]:
    """Kind, start and end of each token. Jinja leaves white space out between them, and nothing else."""
    end = 0
    for _, kind, text in environment.lexer.tokeniter(source, None):
        start = source.index(text, end)
        end = start + len(text)
        yield kind, start, end


def _replaced(source: str, spans: list[tuple[int, int, str]]) -> str:
    parts: list[str] = []
    last = 0
    for start, end, text in spans:
        parts += [source[last:start], text]
        last = end
    return "".join(parts) + source[last:]


def _value(literal: str) -> str:
    """The text that a string in a template stands for, as Jinja reads it."""
    return literal[1:-1].encode("ascii", "backslashreplace").decode("unicode-escape")


def _looking(tree: nodes.Template) -> Iterator[int]:
    """Numbers of the constants that are looked for."""
    for node in tree.find_all((nodes.Compare, nodes.Call, nodes.Filter, nodes.Test)):
        for part in _compared(node):
            yield from _numbers(part)


def _compared(node: nodes.Node) -> Sequence[nodes.Node]:
    """Parts of an expression that decide its result and do not go into it."""
    match node:
        case nodes.Compare():
            return [node.expr, *(operand.expr for operand in node.ops)]
        case nodes.Test():
            return [node.node, *node.args]
        case nodes.Filter(name=name) if _LOOKING_FILTERS.fullmatch(name):
            return node.args[:1]
        case nodes.Filter(name=name) if _SELECTING_FILTERS.fullmatch(name):
            return node.args
        case nodes.Call(node=nodes.Getattr(attr=name)) if _LOOKING_METHODS.fullmatch(name):
            return node.args[:1]
    return []


def _numbers(node: nodes.Node) -> Iterator[int]:
    match node:
        case nodes.Const(value=str(text)):
            # Adjacent strings are one constant to Jinja, and stay as they are.
            if text.startswith(_OPEN) and text.find(_CLOSE) == len(text) - 1:
                yield int(text[1:-1])
        case nodes.Name(name=name) if _COPY in name:
            yield int(name.rpartition(_COPY)[2])
        case nodes.Getitem():  # what it is looked up by is a key
            yield from _numbers(node.node)
        case nodes.Call():  # a macro may write what it is given
            return
        case _:
            for part in node.iter_child_nodes():
                yield from _numbers(part)
