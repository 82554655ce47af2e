"""Runs a chat template that nobody has vouched for: no attributes of Python, bounded time, bounded memory.

Jinja's own sandbox keeps a template away from the interpreter. It does not keep it from looping for
hours or asking for a terabyte, so three things are added: every loop and call is charged to a budget,
every operation that makes large values measures them first, and filters and methods that blow text up
are left out. What a single step may cost is thereby bounded, and the deadline is looked at in each.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_SOURCE = 1 << 20
"""Characters of a template; the longest published ones have some 30,000."""
MAX_OUTPUT = 1 << 24
"""Characters of any one value and of the result: several times what the longest context holds."""
MAX_STEPS = 2_000_000
"""Loop rounds and calls of one rendering: thousands for each of a thousand messages."""
MAX_ITEMS = 200_000
"""Parts a list, a dict or the two nested may have when it is copied or written out."""
DEADLINE = 3.0
"""Seconds of one rendering; templates take milliseconds."""

_FILTERS = [
    "abs",
    "attr",
    "capitalize",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "first",
    "float",
    "forceescape",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "sort",
    "string",
    "striptags",
    "sum",
    "title",
    "trim",
    "truncate",
    "unique",
    "upper",
    "wordcount",
]
"""Those whose result is bounded by what goes in, or measured below; the rest can ask for any size."""

_GREEDY_METHODS = {"center", "ljust", "rjust", "zfill", "expandtabs", "format", "format_map", "translate"}


class TooMuch(jinja2.TemplateError):
    """The template wants more time or memory than any honest one needs."""


class _Generator(CodeGenerator):
    """Compiles ``a ~ b``, lists, tuples and dicts to calls that measure.

    A list of twice the same list, sixty times over, is small until somebody compares or writes it.
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


class Sandbox(ImmutableSandboxedEnvironment):
    """An environment for one template; not for use from two threads at once.

    Raises:
        jinja2.TemplateError: while compiling or rendering; ``TooMuch`` for a bound.
    """

    code_generator_class = _Generator
    intercepted_binops = frozenset(["+", "*", "**", "%", "//"])

    def __init__(self) -> None:
        # As model makers' own tools render them; optimising would run parts of the template unbudgeted.
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols], optimized=False)
        self._steps = 0
        self._deadline = 0.0
        self.finalize = self.measured
        known = self.filters
        self.filters = {name: known[name] for name in _FILTERS if name in known}
        self.filters.update(
            tojson=self._to_json,
            join=self._before(known["join"], _join_size),
            replace=_replaced,
            indent=_indented,
            string=self._before(known["string"], _first_size),
            list=self._before(known["list"], _first_size),
            sum=self._before(known["sum"], _sum_size),
            charged=self._charged,
        )
        self.globals.pop("lipsum", None)
        self.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)

    def render_within_bounds(self, template: jinja2.Template, variables: Mapping[str, Any]) -> str:
        """The rendered text; the budget starts anew."""
        self._steps = 0
        self._deadline = time.monotonic() + DEADLINE
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
        if time.monotonic() > self._deadline:
            raise TooMuch(f"it takes more than {DEADLINE:g} seconds")

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
        if isinstance(owner, str) and name == "join" and args:
            args = (_join_size([args[0], owner]), *args[1:])
        elif isinstance(owner, str) and name == "replace" and len(args) >= 2:
            return _replaced(owner, *args)
        return __self.measured(super().call(__context, __obj, *args, **kwargs))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str) and attr in _GREEDY_METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            raise TooMuch("it formats text with %, which is not supported")
        if operator == "**" and not (_small(left) and _small(right)):
            raise TooMuch("it raises large numbers to powers")
        if operator == "*":
            self._multiplied(left, right)
        elif operator == "+" and hasattr(left, "__len__") and hasattr(right, "__len__"):
            _bounded(len(left) + len(right), left)
            self.measured(left)
            self.measured(right)
        elif isinstance(left, int) and isinstance(right, int):
            _number(left)
            _number(right)
        return super().call_binop(context, operator, left, right)

    def _multiplied(self, left: Any, right: Any) -> None:
        for many, times in ((left, right), (right, left)):
            if hasattr(many, "__len__") and isinstance(times, int):
                _bounded((len(many) if isinstance(many, str) else _size(many)) * max(times, 0), many)
                return
            if isinstance(many, int):
                _number(many)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if super().wrap_str_format(value) is not None:
            raise TooMuch("it formats text with .format, which is not supported")
        return None

    def concat(self, parts: Iterable[str]) -> str:
        """What a block or a macro wrote, in one piece."""
        return self.concatenated(parts)

    def concatenated(self, parts: Iterable[Any]) -> str:
        """``a ~ b``."""
        texts = [str(self.measured(part)) for part in parts]
        _bounded(sum(map(len, texts)), "")
        return "".join(texts)

    def measured(self, value: Any) -> Any:
        """``value``, once its text is known to be of bounded size."""
        if isinstance(value, (list, tuple, dict)):
            self._charge(1)
            _size(value)
        elif isinstance(value, int):
            _number(value)
        return value

    def _before(
        self, function: Callable[..., Any], measure: Callable[[list[Any]], Any]
    ) -> Callable[..., Any]:
        """A filter that measures its arguments before it runs."""

        # Of jinja's filters some take the environment, the evaluation context or the context first.
        first = getattr(function, "jinja_pass_arg", None)

        def measured(*args: Any, **kwargs: Any) -> Any:
            skip = 1 if first is not None else 0
            own = list(args[skip:])
            own[0] = measure([*own, *kwargs.values()])
            return function(*args[:skip], *own, **kwargs)

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
        _size(value)
        if isinstance(indent, int) and not 0 <= indent <= 16:
            raise TooMuch("it indents by more than 16")
        return json.dumps(
            value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )


# --- measuring ---------------------------------------------------------------------------------------


def _bounded(size: int, kind: Any) -> None:
    limit = MAX_OUTPUT if isinstance(kind, str) else MAX_ITEMS
    if size > limit:
        raise TooMuch(f"it makes a value of {size} parts")


def _small(value: Any) -> bool:
    return isinstance(value, (int, float)) and abs(value) <= 1024


def _number(value: int) -> None:
    if value.bit_length() > 4096:
        raise TooMuch("it makes numbers of thousands of digits")


def _size(value: Any) -> int:
    """Characters a value takes written out, roughly; shared parts count each time."""
    size, parts, stack = 0, 0, [value]
    while stack:
        one = stack.pop()
        parts += 1
        if isinstance(one, str):
            size += len(one)
        elif isinstance(one, Mapping):
            stack.extend(one.keys())
            stack.extend(one.values())
        elif isinstance(one, (list, tuple, set, frozenset)):
            stack.extend(one)
        else:
            size += 16
        if size > MAX_OUTPUT or parts > MAX_ITEMS or len(stack) > MAX_ITEMS:
            raise TooMuch("it writes out a value of too many parts")
    return size


def _first_size(args: list[Any]) -> Any:
    if not isinstance(args[0], str):
        _size(args[0])
    return args[0]


def _join_size(args: list[Any]) -> list[Any]:
    """The parts to join, as a list, once what they make is known to be of bounded size."""
    parts = list(args[0])
    glue = max((len(arg) for arg in args[1:] if isinstance(arg, str)), default=0)
    _bounded(_size(parts) + glue * len(parts), "")
    return parts


def _sum_size(args: list[Any]) -> list[Any]:
    parts = list(args[0])
    _bounded(_size(parts) * len(parts) if any(hasattr(part, "__len__") for part in parts) else 0, "")
    return parts


def _replaced(text: Any, old: Any, new: Any, count: int | None = None) -> str:
    text, old, new = str(text), str(old), str(new)
    found = text.count(old) if old else len(text) + 1
    _bounded(len(text) + found * len(new), "")
    return str(text.replace(old, new, -1 if count is None else int(count)))


def _indented(text: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    text = str(text)
    pad = width if isinstance(width, str) else " " * min(max(int(width), 0), 1024)
    lines = text.split("\n")
    _bounded(len(text) + len(pad) * len(lines), "")
    padded = [pad + line if line or blank else line for line in lines[1:]]
    return "\n".join([(pad if first else "") + lines[0], *padded])


# --- what templates expect to find -------------------------------------------------------------------


def _raise_exception(message: Any) -> NoReturn:
    raise jinja2.TemplateError(str(message))


def _strftime_now(pattern: Any) -> str:
    pattern = str(pattern)
    if len(pattern) > 256 or any(c.isdigit() for c in pattern):
        raise TooMuch("it formats the date in an odd way")
    return datetime.now().strftime(pattern)
