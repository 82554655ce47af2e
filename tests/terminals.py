"""A pseudo-terminal with a program on it, and the screen that a person would see."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pyte
from patience import PATIENCE

FAKE_PROGRAM = [sys.executable, str(Path(__file__).with_name("fake_engine.py"))]
PROMPT_SHOWN = b"\x1b[?2004h"  # line editing begins: it asks the terminal to bracket what is pasted


class PlainScreen(pyte.HistoryScreen):
    """pyte's screen, with grey for dim text. It forgets what follows a character that joins two emoji, so that is left
    out."""

    def draw(self, data: str) -> None:
        super().draw(data.replace("\u200d", "").replace("\ufe0f", ""))

    def select_graphic_rendition(self, *attributes: int, **private: bool) -> None:
        codes = [code for each in attributes for code in ((38, 5, 244) if each == 2 else (each,))]
        super().select_graphic_rendition(*codes, **private)


def screen_after(output: bytes, columns: int = 80, rows: int = 24) -> PlainScreen:
    """What a terminal shows that was sent ``output``."""
    screen = PlainScreen(columns, rows, history=10_000, ratio=1.0)
    pyte.ByteStream(screen).feed(output)
    return screen


def lines_of(screen: PlainScreen) -> list[str]:
    """All lines, also those that have left the screen above, without empty ones at the end."""
    above = ["".join(row[x].data for x in range(screen.columns)).rstrip() for row in screen.history.top]
    lines = [*above, *(line.rstrip() for line in screen.display)]
    while lines and not lines[-1]:
        lines.pop()
    return lines


class Terminal:
    """A pseudo-terminal with a program on it.

    Attributes:
        seen: all that it has shown.
        settings: the terminal's own, before the program began.
    """

    def __init__(self, command: list[str], *, columns: int = 80, rows: int = 24, **environment: str) -> None:
        self.master, self.slave = pty.openpty()
        self.columns, self.rows = columns, rows
        self._set_size()
        self.screen = PlainScreen(columns, rows, history=10_000, ratio=1.0)
        self._screen_stream = pyte.ByteStream(self.screen)
        self.settings = termios.tcgetattr(self.slave)
        self.seen = b""
        self._waited = 0
        self.process = subprocess.Popen(
            command,
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env={
                **{name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")},
                "TERM": "xterm",
                "PROMPT_TOOLKIT_NO_CPR": "1",
                **environment,
            },
        )

    def _set_size(self) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", self.rows, self.columns, 0, 0))

    def resize(self, columns: int, rows: int) -> None:
        """Another size; like many terminals, this one leaves what it shows where it is."""
        self.columns, self.rows = columns, rows
        self._set_size()
        self.screen.resize(rows, columns)

    def lines(self) -> list[str]:
        """What it shows, also what has left the screen above."""
        return lines_of(self.screen)

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def wait_for(self, text: bytes) -> bytes:
        """Read on until ``text`` is shown; what was shown before it since the last wait."""
        deadline = time.monotonic() + PATIENCE
        while (at := self.seen.find(text, self._waited)) < 0:
            assert self._read(max(0.0, deadline - time.monotonic())), self.seen
        before = self.seen[self._waited : at]
        self._waited = at + len(text)
        return before

    def wait_to_show(self, text: str) -> None:
        """Read on until a line on the screen holds ``text``, however many writes it came in."""
        deadline = time.monotonic() + PATIENCE
        while not any(text in line for line in self.lines()):
            assert self._read(max(0.0, deadline - time.monotonic())), self.lines()

    def _read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self.master], [], [], seconds)
        if ready:
            found = os.read(self.master, 4096)
            self.seen += found
            self._screen_stream.feed(found)
        return bool(ready)

    def end(self) -> int:
        """Wait until the program has ended; its exit code. The terminal must be as it was."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.seen
            self._read(0.05)
        while self._read(0.0):
            pass
        assert termios.tcgetattr(self.slave) == self.settings
        return self.process.returncode

    def shows_keys(self) -> bool:
        return bool(termios.tcgetattr(self.slave)[3] & termios.ECHO)


@contextlib.contextmanager
def at_terminal(
    *args: str,
    command: list[str] | None = None,
    columns: int = 80,
    rows: int = 24,
    **environment: str,
) -> Iterator[Terminal]:
    terminal = Terminal([*(command or FAKE_PROGRAM), *args], columns=columns, rows=rows, **environment)
    try:
        yield terminal
    finally:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.master)
        os.close(terminal.slave)
