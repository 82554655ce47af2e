"""Draws what a terminal shows as a picture, for people who look at a chat: ``python tests/screen_pictures.py``.

Given a file of bytes that were sent to a terminal, it writes a PNG beside it.
"""

from __future__ import annotations

import argparse
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from terminals import PlainScreen, screen_after
from wcwidth import wcwidth

SIZE = 15
FONTS = ("DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf", "DejaVuSansMono-Oblique.ttf")
FALLBACKS = ("unifont.otf", "unifont_upper.otf")
DARK = {
    "default": "#d0d0d0",
    "black": "#000000",
    "red": "#e06c75",
    "green": "#98c379",
    "brown": "#e5c07b",
    "blue": "#61afef",
    "magenta": "#c678dd",
    "cyan": "#56b6c2",
    "white": "#ffffff",
    "background": "#1e1e1e",
}


class Fonts:
    """A font, and others for what it does not have."""

    def __init__(self, folder: Path | None) -> None:
        self.plain, self.bold, self.italic = (ImageFont.truetype(name, SIZE) for name in FONTS)
        self.width = round(self.plain.getlength("M"))
        self.height = round(SIZE * 1.3)
        self._missing = self.plain.getmask("\U0010fffe").getbbox(), bytes(self.plain.getmask("\U0010fffe"))
        self._others = []
        for name in FALLBACKS:
            if folder is not None and (folder / name).exists():
                self._others.append(ImageFont.truetype(str(folder / name), SIZE + 1))

    @lru_cache(maxsize=4096)  # noqa: B019 - one object in a script
    def for_character(self, character: str, bold: bool, italic: bool) -> Any:
        mask = self.plain.getmask(character)
        if (mask.getbbox(), bytes(mask)) != self._missing and wcwidth(character) < 2:
            return self.bold if bold else self.italic if italic else self.plain
        other = 1 if ord(character) > 0xFFFF else 0
        return self._others[other] if len(self._others) > other else self.plain


def draw(screen: PlainScreen, fonts: Fonts, *, whole: bool = False) -> Image.Image:
    """The screen as a picture; ``whole``: with the lines that left it above."""
    rows = [screen.buffer[y] for y in range(screen.lines)]
    if whole:
        rows = [*screen.history.top, *rows]
    while len(rows) > 1 and all(rows[-1][x].data == " " for x in range(screen.columns)):
        rows.pop()
    size = (screen.columns * fonts.width + 8, len(rows) * fonts.height + 8)
    picture = Image.new("RGB", size, DARK["background"])
    pen = ImageDraw.Draw(picture)
    for y, row in enumerate(rows):
        for x in range(screen.columns):
            cell = row[x]
            left, top = 4 + x * fonts.width, 4 + y * fonts.height
            front = DARK.get(cell.fg, f"#{cell.fg}" if len(cell.fg) == 6 else DARK["default"])
            if cell.reverse:
                pen.rectangle((left, top, left + fonts.width, top + fonts.height), fill=front)
                front = DARK["background"]
            if not cell.data.strip():
                continue
            font = fonts.for_character(cell.data[0], cell.bold, cell.italics)
            pen.text((left, top), cell.data[0], font=font, fill=front)
            if cell.underscore:
                bottom = top + fonts.height - 2
                pen.line((left, bottom, left + fonts.width, bottom), fill=front)
            if cell.strikethrough:
                middle = top + fonts.height // 2
                pen.line((left, middle, left + fonts.width, middle), fill=front)
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--columns", type=int, default=80)
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument(
        "--fonts", type=Path, help="a folder with Unifont, for what DejaVu Sans Mono does not have"
    )
    parser.add_argument("--whole", action="store_true", help="also what has left the screen above")
    given = parser.parse_args()
    screen = screen_after(given.output.read_bytes(), given.columns, given.rows)
    draw(screen, Fonts(given.fonts), whole=given.whole).save(given.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
