"""Makes text from elsewhere safe for a terminal: a model's answers, the content of files, paths, llama.cpp's messages.

Terminals execute escape sequences in a text: these can retitle the window, recolour it or type for the user. A bidi
control can make ``rm -rf`` read as something else. So all such text goes through here before a person sees it.

Tab and line feed stay, and so do characters without such effects: the joiners of emoji and scripts (U+200C, U+200D) and
the marks of ordinary Arabic and Hebrew (U+061C, U+200E, U+200F), which begin no nested direction.
"""

from __future__ import annotations

import json
import os
import re
import sys
import warnings
from types import FrameType
from typing import Any, Final

_PACKAGE: Final = os.path.dirname(__file__) + os.sep

_UNSEEN = (
    "\x00-\x08\x0b-\x1f"  # C0 without tab and line feed
    "\x7f-\x9f"  # DEL, and C1, whose U+009B begins an escape sequence as ESC [ does
    "\u202a-\u202e\u2066-\u2069"  # embeddings, overrides and isolates, and their ends
)
_SURROGATES = "\ud800-\udfff"
"""Halves of a character. In a path they stand for bytes that are not UTF-8; they cannot be written to a terminal."""

_REMOVED = re.compile(f"[{_UNSEEN}]")
_REPLACED = re.compile(f"[{_SURROGATES}]")
_ESCAPED = re.compile(f"[{_UNSEEN}{_SURROGATES}]")


def visible(text: str) -> str:
    """The text without control characters and bidi controls; a lone surrogate becomes "?". Ordinary text is unchanged.

    Each character is handled alone, so a text may be shown in pieces.
    """
    return _REPLACED.sub("?", _REMOVED.sub("", text))


def warn(message: str) -> None:
    """A ``RuntimeWarning`` at the line outside this package that led here: Python prints the message as it is."""
    frame: FrameType | None = sys._getframe(1)
    level = 2
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(visible(message), RuntimeWarning, stacklevel=level)


def one_line(text: str) -> str:
    """The same on one line: any run of white space becomes one space."""
    return visible(" ".join(text.split()))


def brief(text: str, most: int = 60) -> str:
    """The beginning of a text on one line of so many characters at most."""
    line = one_line(text[: 8 * most])  # white space goes
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"


def json_text(value: Any, encoding: str | None) -> str:
    """``value`` as JSON on one line. What ``visible`` would remove is written as escapes, so the meaning stays.

    Args:
        encoding: of the stream it goes to. Except in UTF-8, all characters beyond ASCII are written as escapes.
    """
    is_utf8 = (encoding or "").lower().replace("-", "") == "utf8"
    text = json.dumps(value, ensure_ascii=not is_utf8)
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
