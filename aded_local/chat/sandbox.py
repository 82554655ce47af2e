"""Runs an unknown chat template with bounded time and memory, and without access to Python's attributes.

Jinja's own sandbox keeps a template away from the interpreter, but lets it loop for hours or ask for a terabyte. The
process around it (``rendering``) ends that. Within the process, each loop, call and filter is charged to a budget, and
sizes are checked before large values are made (``bounds``): that gives better messages, and it also works where no
process can be started.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import Markup

from aded_local.chat import bounds
from aded_local.chat.bounds import MAX_OUTPUT, TooMuch

MAX_SOURCE = 1 << 20
"""Characters of a template; the longest published ones have some 30,000."""
MAX_STEPS = 2_000_000
"""Loop rounds and calls of one rendering: thousands for each of a thousand messages."""
SECONDS = 0.6
"""Processor time of one rendering; a conversation of 2 MB takes 0.05 s. With start and compiling it is under 2 s."""
LONGEST_COMPLAINT = 300
"""Characters of a template's error message."""

_MEASURES: dict[str, Callable[..., Any]] = {
    "batch": bounds.padded,
    "center": bounds.padded,
    "format": bounds.formatted,
    "indent": bounds.indented,
    "join": bounds.joined,
    "list": bounds.written,
    "replace": bounds.replaced,
    "round": bounds.rounded,
    "slice": bounds.padded,
    "string": bounds.written,
    "sum": bounds.summed,
}
"""The check before a filter of that name runs."""

_METHODS: dict[str, Callable[..., Any]] = {
    "center": bounds.padded,
    "expandtabs": bounds.tabbed,
    "ljust": bounds.padded,
    "replace": bounds.replaced,
    "rjust": bounds.padded,
    "zfill": bounds.padded,
}
"""The same for methods of texts."""

_REFUSED_METHODS = {str: {"encode", "translate"}, int: {"to_bytes"}}
"""These give bytes, whose methods are not checked; a template needs text only."""

_WIDE_DATE = re.compile(r"%[^A-Za-z%]*\d")
"""A width in a date's pattern; the C library pads to any."""


class _Generator(CodeGenerator):
    """Compiles ``a ~ b``, lists, tuples and dicts to calls that check sizes.

    A list that holds one list twice, nested sixty times, is small until it is compared or written.
    """

    def visit_List(self, node: nodes.List, frame: Frame) -> None:
        self.write("environment.measured(")
        super().visit_List(node, frame)
        self.write(")")

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        self.write("environment.measured(")
        super().visit_Dict(node, frame)
        self.write(")")

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:
        if node.ctx != "load":
            super().visit_Tuple(node, frame)
            return
        self.write("environment.measured(")
        super().visit_Tuple(node, frame)
        self.write(")")

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.concatenated((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class _Generation(Extension):
    """``{% generation %}…{% endgeneration %}`` marks what a model is trained on. The tags write nothing."""

    tags = {"generation"}  # noqa: RUF012  # as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        """The block's body, with variables of its own as in Hugging Face's ``transformers``."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class Sandbox(ImmutableSandboxedEnvironment):
    """An environment for one template; not for use from two threads at once.

    Args:
        seconds: processor time of one rendering.

    Raises:
        jinja2.TemplateError: while compiling or rendering; ``TooMuch`` for a bound. Python's own exceptions as well.
    """

    code_generator_class = _Generator
    intercepted_binops = frozenset(["+", "*", "**", "%", "//"])

    def __init__(self, seconds: float = SECONDS) -> None:
        # As model makers' own tools render them. Jinja's optimizer would run parts of the template without a budget.
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation], optimized=False
        )
        self._seconds = seconds
        self._steps = 0
        self._deadline = 0.0
        self.finalize = self.measured
        self.filters = {
            name: self._before(function, _MEASURES.get(name, bounds.as_is))
            for name, function in self.filters.items()
        }
        self.filters.update(tojson=self._to_json, charged=self._charged)
        # Without random parts, the same conversation gives the same prompt.
        del self.filters["random"], self.globals["lipsum"]
        self.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)

    def render_within_bounds(self, template: jinja2.Template, variables: Mapping[str, Any]) -> str:
        """The rendered text. Each rendering has the whole budget."""
        self._steps = 0
        self._deadline = time.thread_time() + self._seconds
        parts: list[str] = []
        size = 0
        for part in template.generate(**variables):
            self._charge(1)
            size += len(part)
            if size > MAX_OUTPUT:
                raise TooMuch(f"it writes more than {MAX_OUTPUT} characters")
            parts.append(part)
        return "".join(parts)

    def _charge(self, steps: int) -> None:
        self._steps += steps
        if self._steps > MAX_STEPS:
            raise TooMuch(f"it takes more than {MAX_STEPS} steps")
        if time.thread_time() > self._deadline:
            raise TooMuch(f"it takes more than {self._seconds:g} seconds")

    # --- where jinja2 lets itself be watched -----------------------------------------------------

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in list(tree.find_all(nodes.For)):
            loop.iter = nodes.Filter(loop.iter, "charged", [], [], None, None, lineno=loop.lineno)
        return tree

    def _charged(self, items: Any) -> Any:
        if isinstance(items, jinja2.Undefined):
            return items
        counted = list(items)
        self._charge(len(counted) + 1)
        return counted

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        __self._charge(1)
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str):
            if name == "join" and args:
                args = (bounds.joined(args[0], owner), *args[1:])
            elif name in _METHODS:
                _METHODS[name](owner, *args, **kwargs)
        return __self.measured(super().call(__context, __obj, *args, **kwargs))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if any(isinstance(obj, kind) and attr in names for kind, names in _REFUSED_METHODS.items()):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            bounds.percent(left, right)
        elif operator == "**":
            bounds.raised(left, right)
        elif operator == "*":
            bounds.multiplied(left, right)
        elif operator == "+" and hasattr(left, "__len__") and hasattr(right, "__len__"):
            bounds.bounded(len(left) + len(right), left)
            self.measured(left)
            self.measured(right)
        elif isinstance(left, int) and isinstance(right, int):
            bounds.number(left)
            bounds.number(right)
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if super().wrap_str_format(value) is None:
            return None
        text, takes_mapping = value.__self__, value.__name__ == "format_map"

        def formatted(*args: Any, **named: Any) -> str:
            if takes_mapping:
                (named,), args = args, ()
            escapes = isinstance(text, Markup)
            formatter = (
                bounds.EscapingFormatter(self, escape=text.escape) if escapes else bounds.Formatter(self)
            )
            return type(text)(formatter.vformat(text, args, named))  # type: ignore[no-any-return]

        return formatted

    def concat(self, parts: Iterable[str]) -> str:
        """The output of a block or a macro, as one text."""
        return self.concatenated(parts)

    def concatenated(self, parts: Iterable[Any]) -> str:
        """``a ~ b``."""
        texts = [str(self.measured(part)) for part in parts]
        bounds.bounded(sum(map(len, texts)), "")
        return "".join(texts)

    def measured(self, value: Any) -> Any:
        """``value``, after a check that its text is of bounded size."""
        if isinstance(value, (list, tuple, dict)):
            self._charge(1)
            bounds.size_of(value)
        elif isinstance(value, int):
            bounds.number(value)
        return value

    def _before(self, function: Callable[..., Any], measure: Callable[..., Any]) -> Callable[..., Any]:
        """The filter with a charge, and a check of its arguments, before it runs."""
        # Some of Jinja's filters take the environment, the evaluation context or the context as first argument.
        first = getattr(function, "jinja_pass_arg", None)
        skip = 0 if first is None else 1

        def measured(*args: Any, **named: Any) -> Any:
            self._charge(1)
            value = measure(*args[skip:], **named)
            return function(*args[:skip], value, *args[skip + 1 :], **named)

        if first is not None:
            measured.jinja_pass_arg = first  # type: ignore[attr-defined]
        return measured

    def _to_json(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        """JSON as model makers' tools write it: no HTML escapes, no ASCII escapes."""
        bounds.size_of(value)
        if isinstance(indent, int) and not 0 <= indent <= 16:
            raise TooMuch("it indents by more than 16")
        return json.dumps(
            value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )


def complaint(error: BaseException) -> str:
    """What went wrong in a template, as one short line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= LONGEST_COMPLAINT else text[: LONGEST_COMPLAINT - 3] + "..."


# --- what templates expect to find -------------------------------------------------------------------


def _raise_exception(message: Any) -> NoReturn:
    raise jinja2.TemplateError(str(message))


def _strftime_now(pattern: Any) -> str:
    pattern = str(pattern)
    if len(pattern) > 256 or _WIDE_DATE.search(pattern):
        raise TooMuch("it formats the date in an odd way")
    return datetime.now().strftime(pattern)
