"""Bounds the size of values in a chat template, before they are made.

Each filter and method that can make a large value from a small one has a function here with the same parameters. It
checks them and returns the value to work on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import jinja2
from jinja2.exceptions import SecurityError
from jinja2.sandbox import SandboxedFormatter
from markupsafe import EscapeFormatter

MAX_OUTPUT = 1 << 24
"""Characters of one value, and of the result: several times what the longest context holds."""
MAX_ITEMS = 200_000
"""Parts of a list or dict, nested ones included, when it is copied or written out."""
MAX_WIDTH = 9_999
"""Columns text may be padded or indented to, and digits of a number written out."""
MAX_BITS = 4_096
"""Size of a whole number; the time to write it grows with the square of its size."""


class TooMuch(jinja2.TemplateError):
    """The template takes more time or memory than any sound template needs."""


def bounded(size: int, kind: Any) -> None:
    """Refuse a text or a list of ``size`` parts where that is too large."""
    limit = MAX_OUTPUT if isinstance(kind, str) else MAX_ITEMS
    if size > limit:
        raise TooMuch(f"it makes a value of {size} parts")


def number(value: int) -> None:
    """Refuse a whole number of thousands of digits."""
    if value.bit_length() > MAX_BITS:
        raise TooMuch("it makes numbers of thousands of digits")


def size_of(value: Any) -> int:
    """About how many characters a value has when written out; shared parts count each time."""
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
            if isinstance(one, int):
                number(one)
            size += 16
        if size > MAX_OUTPUT or parts > MAX_ITEMS or len(stack) > MAX_ITEMS:
            raise TooMuch("it writes out a value of too many parts")
    return size


def multiplied(left: Any, right: Any) -> None:
    """Before ``left * right``."""
    for many, times in ((left, right), (right, left)):
        if hasattr(many, "__len__") and isinstance(times, int):
            bounded((len(many) if isinstance(many, str) else size_of(many)) * max(times, 0), many)
            return
        if isinstance(many, int):
            number(many)


def raised(base: Any, exponent: Any) -> None:
    """Before ``base ** exponent``."""
    if not all(isinstance(one, (int, float)) and abs(one) <= 1024 for one in (base, exponent)):
        raise TooMuch("it raises large numbers to powers")


def _width(value: Any) -> int:
    if isinstance(value, int) and value > MAX_WIDTH:
        raise TooMuch(f"it wants more than {MAX_WIDTH:,} columns or digits")
    return value if isinstance(value, int) else 0


# --- before filters and methods ----------------------------------------------------------------------


def as_is(value: Any, *_args: Any, **_named: Any) -> Any:
    """No check."""
    return value


def written(value: Any, *_args: Any, **_named: Any) -> Any:
    """Before ``value`` is copied or written out."""
    if not isinstance(value, str):
        size_of(value)
    return value


def joined(value: Iterable[Any], d: Any = "", *_args: Any, **_named: Any) -> list[Any]:
    """Before ``d.join(value)``; the parts, as a list."""
    parts = list(value)
    bounded(size_of(parts) + len(str(d)) * len(parts), "")
    return parts


def summed(value: Iterable[Any], *_args: Any, **_named: Any) -> list[Any]:
    """Before parts are added up (each sum of lists copies the one before); the parts, as a list."""
    parts = list(value)
    bounded(size_of(parts) * len(parts) if any(hasattr(part, "__len__") for part in parts) else 0, "")
    return parts


def replaced(value: Any, old: Any = "", new: Any = "", *_args: Any, **_named: Any) -> Any:
    """Before ``old`` is replaced by ``new``."""
    text, old = str(value), str(old)
    bounded(len(text) + (text.count(old) if old else len(text) + 1) * len(str(new)), "")
    return value


def indented(value: Any, width: Any = 4, *_args: Any, **_named: Any) -> Any:
    """Before lines are indented."""
    pad = len(width) if isinstance(width, str) else _width(width)
    bounded((pad + 1) * (len(str(value).splitlines()) + 1), "")
    return value


def padded(value: Any, *args: Any, **named: Any) -> Any:
    """Before text is padded to a width, or rows to a length."""
    for width in (*args, *named.values()):
        _width(width)
    return value


def tabbed(value: str, tabsize: Any = 8, **_named: Any) -> str:
    """Before tabs become spaces."""
    bounded(value.count("\t") * _width(tabsize), "")
    return value


def rounded(value: Any, precision: Any = 0, *_args: Any, **_named: Any) -> Any:
    """Before a number is rounded, at a power of ten."""
    _width(abs(precision) if isinstance(precision, int) else precision)
    return value


# --- formats -------------------------------------------------------------------------------------------

_CONVERSION = re.compile(
    r"%(?:\([^()]*\))?[#0\- +]*(?P<width>\d{0,4})(?:\.(?P<precision>\d{0,4}))?[hlL]?(?P<kind>[A-Za-z%]?)",
    re.ASCII,
)
"""One conversion of ``text % values`` with its width as digits. Without a ``kind`` it is refused."""


def formatted(value: Any, *args: Any, **named: Any) -> Any:
    """Before the ``format`` filter, which is ``value % args``."""
    percent(str(value), named or args)
    return value


def percent(text: str, values: Any) -> None:
    """Before ``text % values``."""
    size, times = len(text), 0
    for found in _CONVERSION.finditer(text):
        if not found["kind"]:
            raise TooMuch("it formats text in an odd way")
        size += int(found["width"] or 0) + int(found["precision"] or 0)
        times += 1
    # A value can be used more than once only by its name.
    bounded(size + size_of(values) * (times if isinstance(values, Mapping) else 1), "")


class Formatter(SandboxedFormatter):
    """``text.format(…)`` for one text: no access to parts of values, and bounded size."""

    _size = 0

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:
        """The value of a field."""
        if "." in field_name or "[" in field_name:
            raise SecurityError("it looks into a value while it formats text")
        field = super().get_field(field_name, args, kwargs)
        self._add(size_of(field[0]))
        return field

    def format_field(self, value: Any, format_spec: str) -> str:
        """A field's value as text."""
        for digits in re.findall(r"\d+", format_spec):
            _width(int(digits[:6]))
        text: str = super().format_field(value, format_spec)
        self._add(len(text))
        return text

    def _add(self, size: int) -> None:
        self._size += size
        bounded(self._size, "")


class EscapingFormatter(Formatter, EscapeFormatter):
    """The same for ``Markup``, which escapes the values put into it."""
