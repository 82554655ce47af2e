"""The keyboard while nobody reads it: what is typed ahead is not shown amid an answer, and stays for who reads next.

The terminal itself keeps what is typed. Here only its settings are changed, and given back however the program ends,
stops or goes on. Nothing happens where standard input is no terminal, and on Windows.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

if sys.platform != "win32":
    import termios

    ENDINGS = (signal.SIGTERM, signal.SIGHUP)
    """Signals that end a program which does not handle them. SIGQUIT (Ctrl-\\) is not handled here either: where
    llama.cpp hangs, Python hears no signal, and a person needs one that works."""


class Keyboard:
    """A context in which typed keys are not shown.

    Args:
        edited: what is typed goes to a line editor, key by key; otherwise to whoever reads whole lines.
    """

    def __init__(self, *, edited: bool) -> None:
        self._edited = edited
        self._handle: int | None = None
        self._before: list[Any] = []
        self._stopped_in: list[Any] | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Keyboard:
        self._handle = _terminal()
        if self._handle is not None and sys.platform != "win32":
            self._before = termios.tcgetattr(self._handle)
            self._handle_signals()
            self._set(_unseen(self._before, edited=self._edited))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is not None:
            self._set(self._before)
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    def read_line(self, prompt: str) -> str:
        """A line, edited by the terminal itself, for terminals on which no line editor can draw.

        Raises:
            EOFError: the end of the input, Ctrl-D.
            KeyboardInterrupt: Ctrl-C.
        """
        sys.stdout.write(prompt)
        sys.stdout.flush()
        unseen = self._now()
        self._set(self._before)
        try:
            line = sys.stdin.buffer.readline()
            if not line:
                raise EOFError
        except (EOFError, KeyboardInterrupt):
            sys.stdout.write("\n")  # what comes next begins a line
            raise
        finally:
            self._set(unseen)
        return line.decode("utf-8", errors="surrogateescape").rstrip("\r\n")

    @contextlib.contextmanager
    def given_back(self) -> Iterator[None]:
        """Within the block the terminal is another program's, with the settings it had before."""
        unseen = self._now()
        self._set(self._before)
        try:
            yield
        finally:
            self._set(unseen)

    # --- the terminal's settings ---------------------------------------------------------------------

    def _now(self) -> list[Any]:
        if self._handle is None or sys.platform == "win32":
            return []
        return termios.tcgetattr(self._handle)

    def _set(self, settings: list[Any]) -> None:
        """Change the settings, if it is for this program to do: in the background they are the shell's."""
        if (
            self._handle is None
            or sys.platform == "win32"
            or not settings
            or not _in_foreground(self._handle)
        ):
            return
        with contextlib.suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(self._handle, termios.TCSANOW, settings)  # keeps what is typed already

    # --- ending, stopping, going on ------------------------------------------------------------------

    def _handle_signals(self) -> None:
        if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
            return
        for number in ENDINGS:
            self._listen(number, self._end)
        self._listen(signal.SIGTSTP, self._stop)
        self._listen(signal.SIGCONT, self._go_on)

    def _listen(self, number: int, handler: Callable[[int, FrameType | None], None]) -> None:
        if signal.getsignal(number) is signal.SIG_DFL:  # else somebody else has decided: nohup, a test
            self._handlers[number] = signal.signal(number, handler)

    def _end(self, number: int, _frame: FrameType | None) -> None:
        self._set(self._before)
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        self._stopped_in = self._now()
        self._set(self._before)
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)  # returns when the program goes on
        signal.signal(number, self._stop)
        self._go_on(number, None)

    def _go_on(self, _number: int, _frame: FrameType | None) -> None:
        # Continued in the background first, and in the foreground later, it comes here twice.
        if self._stopped_in is not None and self._handle is not None and _in_foreground(self._handle):
            self._set(self._stopped_in)
            self._stopped_in = None


def _terminal() -> int | None:
    """Standard input where it is a terminal, and ours."""
    try:
        handle = sys.stdin.fileno()
    except (AttributeError, OSError, ValueError):  # none, closed, or replaced by a test
        return None
    return handle if os.isatty(handle) and _in_foreground(handle) else None


def _in_foreground(handle: int) -> bool:
    if sys.platform == "win32":
        return False
    try:
        return os.tcgetpgrp(handle) == os.getpgrp()
    except OSError:  # not the terminal that controls this process, so nobody else is in front of it
        return True


def _unseen(settings: list[Any], *, edited: bool) -> list[Any]:
    """The settings without echo; ``edited``: and every key as it is, since an editor knows what to do with Ctrl-D."""
    if sys.platform == "win32":
        return settings
    iflag, oflag, cflag, lflag, ispeed, ospeed, characters = settings
    lflag &= ~(termios.ECHO | termios.ECHONL)
    lflag |= termios.NOFLSH  # else Ctrl-C and Ctrl-Z throw away what is typed ahead
    if edited:  # Ctrl-C and Ctrl-Z stay signals
        lflag &= ~(termios.ICANON | termios.IEXTEN)
        iflag &= ~(termios.ICRNL | termios.INLCR | termios.IGNCR)
        characters = [*characters]
        characters[termios.VMIN], characters[termios.VTIME] = 1, 0
    return [iflag, oflag, cflag, lflag, ispeed, ospeed, characters]
