"""How text looks: emphasis and colours as one number, and the escape sequence for it.

The colours are the terminal's own sixteen, which suit its background.
"""

from __future__ import annotations

import functools
from typing import Final

PLAIN: Final = 0
BOLD: Final = 1
DIM: Final = 2
ITALIC: Final = 4
UNDERLINE: Final = 8
STRIKE: Final = 16

_COLOUR: Final = 8  # bits; what stands above them is the number of a colour
RED, GREEN, YELLOW, BLUE, MAGENTA, CYAN = ((31 + n) << _COLOUR for n in range(6))

CODE: Final = CYAN
LINK: Final = UNDERLINE | BLUE
HEADINGS: Final = (BOLD | UNDERLINE, BOLD, BOLD, BOLD | DIM)
"""By level; the last serves all below it."""

_EMPHASIS: Final = ((BOLD, "1"), (DIM, "2"), (ITALIC, "3"), (UNDERLINE, "4"), (STRIKE, "9"))

Run = tuple[str, int]
"""A stretch of text, and its style."""


def joined(below: int, above: int) -> int:
    """Both styles; of two colours that of ``above``."""
    if above >> _COLOUR:
        below &= (1 << _COLOUR) - 1
    return below | above


@functools.lru_cache(maxsize=512)
def _sequence(style: int) -> str:
    codes = [code for bit, code in _EMPHASIS if style & bit]
    if style >> _COLOUR:
        codes.append(str(style >> _COLOUR))
    return f"\x1b[{';'.join(codes)}m"


def styled(text: str, style: int) -> str:
    """The text with the sequence before it, and behind it the one that ends it; plain text as it is."""
    return f"{_sequence(style)}{text}\x1b[0m" if style and text else text
