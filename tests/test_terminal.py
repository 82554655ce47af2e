"""aded-chat at a real terminal: what it shows, what it leaves of the keyboard, and the terminal it gives back."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

if sys.platform == "win32":
    pytest.skip("pseudo-terminals of POSIX", allow_module_level=True)

import fcntl
import pty
import termios

FAKE_PROGRAM = [sys.executable, str(Path(__file__).with_name("fake_engine.py"))]
PROMPT_SHOWN = b"\x1b[?2004h"  # line editing begins: it asks the terminal to bracket what is pasted
WAIT = 20.0


class Terminal:
    """A pseudo-terminal with a program on it.

    Attributes:
        seen: all that it has shown.
        settings: the terminal's own, before the program began.
    """

    def __init__(self, command: list[str], **environment: str) -> None:
        self.master, self.slave = pty.openpty()
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
            env={**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", **environment},
        )

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def wait_for(self, text: bytes) -> bytes:
        """Read on until ``text`` is shown; what was shown before it since the last wait."""
        deadline = time.monotonic() + WAIT
        while (at := self.seen.find(text, self._waited)) < 0:
            assert self._read(max(0.0, deadline - time.monotonic())), self.seen
        before = self.seen[self._waited : at]
        self._waited = at + len(text)
        return before

    def _read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self.master], [], [], seconds)
        if ready:
            self.seen += os.read(self.master, 4096)
        return bool(ready)

    def end(self) -> int:
        """Wait until the program has ended; its exit code. The terminal must be as it was."""
        deadline = time.monotonic() + WAIT
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
def at_terminal(*args: str, command: list[str] | None = None, **environment: str) -> Iterator[Terminal]:
    terminal = Terminal([*(command or FAKE_PROGRAM), *args], **environment)
    try:
        yield terminal
    finally:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.master)
        os.close(terminal.slave)


def test_a_chat(tmp_path: Path) -> None:
    with at_terminal(FAKE_WORDS="200", FAKE_PAUSE="0.05", ADED_DATA_DIR=str(tmp_path)) as terminal:
        terminal.wait_for(PROMPT_SHOWN)
        terminal.type(b"hello\r")
        terminal.wait_for(b"w3 ")
        terminal.type(b"\x03")
        terminal.wait_for(b"\r\n\x1b[2m12.5 tokens/s")
        terminal.wait_for(b"stopped")
        terminal.wait_for(PROMPT_SHOWN)
        terminal.type(b"\x03")
        terminal.wait_for(b"/quit")
        terminal.wait_for(PROMPT_SHOWN)
        terminal.type(b"\x04")
        assert terminal.end() == 0
    assert "+hello" in (tmp_path / "history").read_text()


def test_thoughts_are_dim_and_stand_apart() -> None:
    with at_terminal(FAKE_SAYS="<thi|nk>\nhm|, so\n</think>\n|\nyes") as terminal:
        terminal.wait_for(PROMPT_SHOWN)
        terminal.type(b"q\r")
        terminal.wait_for(b"\x1b[2mhm\x1b[0m\x1b[2m, so\x1b[0m\r\n\r\nyes\r\n")


def test_what_is_typed_or_pasted_meets_the_next_prompt_as_it_is() -> None:
    with at_terminal(FAKE_PAUSE="0.2") as terminal:
        terminal.type(b"typed while the model loads\r")
        terminal.wait_for(b"you said typed while the model loads")
        # A line is edited ahead, in the middle of which the answer ends; then one is typed whole.
        terminal.type(b"secxx\x7f\x7fond\x1b[D\x1b[C one\r")
        shown = terminal.wait_for(PROMPT_SHOWN)
        assert b"sec" not in shown and b"stats" not in shown
        terminal.wait_for(b"you said second one")
        terminal.wait_for(PROMPT_SHOWN)
        terminal.type(b"\x1b[200~def f():\r    if x:\r\treturn 1\x1b[201~\r")
        terminal.wait_for(b"you said def f():\r\n    if x:\r\n\treturn 1")
        terminal.type(b"\x04")  # Ctrl-D ahead of the prompt
        assert terminal.end() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("at_prompt", [True, False])
def test_a_program_that_is_ended_gives_the_terminal_back(number: int, at_prompt: bool) -> None:
    with at_terminal(FAKE_WORDS="500", FAKE_PAUSE="0.02") as terminal:
        terminal.wait_for(PROMPT_SHOWN)
        if not at_prompt:
            terminal.type(b"hello\r")
            terminal.wait_for(b"w3 ")
        assert not terminal.shows_keys()
        terminal.process.send_signal(number)
        assert terminal.end() == -number


def test_a_program_that_fails_gives_the_terminal_back() -> None:
    with at_terminal("-p", "q", FAKE_FAILURE="boom") as terminal:
        assert terminal.end() == 1
        assert b"unexpected RuntimeError: boom" in terminal.seen


def test_a_single_answer_at_a_terminal_hides_keys_and_leaves_them_for_the_shell() -> None:
    with at_terminal("-p", "q", FAKE_WORDS="20", FAKE_PAUSE="0.02") as terminal:
        terminal.wait_for(b"w3 ")
        assert not terminal.shows_keys()
        terminal.type(b"ls\n")
        assert terminal.end() == 0
        assert b"ls" not in terminal.seen
        assert os.read(terminal.slave, 100) == b"ls\n"


SHELL = """
import os, signal, sys, termios
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
before = termios.tcgetattr(0)
child = os.fork()
if child == 0:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
try:
    os.setpgid(child, child)
except PermissionError:
    pass
os.tcsetpgrp(0, child)

def wait_until_stopped():
    _, status = os.waitpid(child, os.WUNTRACED)
    assert os.WIFSTOPPED(status), status
    os.tcsetpgrp(0, os.getpgrp())
    print("STOPPED", termios.tcgetattr(0) == before, flush=True)

wait_until_stopped()
if os.environ["BACKGROUND"]:
    os.kill(child, signal.SIGCONT)
    sys.stdin.readline()
    print("UNTOUCHED", termios.tcgetattr(0) == before, flush=True)
os.tcsetpgrp(0, child)
os.kill(child, signal.SIGCONT)
_, status = os.waitpid(child, 0)
os.tcsetpgrp(0, os.getpgrp())
print("ENDED", os.waitstatus_to_exitcode(status), termios.tcgetattr(0) == before, flush=True)
"""
"""What a shell does about jobs: run one in front, see it stopped, let it go on, in front or at first behind."""


@pytest.mark.parametrize("background", ["", "first"])
def test_ctrl_z_gives_the_terminal_to_the_shell_and_takes_it_back(background: str) -> None:
    shell = [sys.executable, "-c", SHELL, FAKE_PROGRAM[1]]
    words = {"FAKE_WORDS": "40", "FAKE_PAUSE": "0.05"}
    with at_terminal(command=shell, BACKGROUND=background, **words) as terminal:
        terminal.wait_for(PROMPT_SHOWN)
        terminal.type(b"hello\r")
        terminal.wait_for(b"w3 ")
        terminal.type(b"\x1a")
        terminal.wait_for(b"STOPPED True")
        if background:
            terminal.wait_for(b"w6 ")
            terminal.type(b"\n")
            terminal.wait_for(b"UNTOUCHED True")
        terminal.wait_for(b"w9 ")
        terminal.type(b"ahead")
        assert b"ahead" not in terminal.wait_for(PROMPT_SHOWN)
        terminal.wait_for(b"ahead")
        terminal.type(b"\x03\x04")
        terminal.wait_for(b"ENDED 0 True")


def test_ctrl_z_at_the_prompt_gives_the_terminal_to_the_shell() -> None:
    shell = [sys.executable, "-c", SHELL, FAKE_PROGRAM[1]]
    with at_terminal(command=shell, BACKGROUND="") as terminal:
        terminal.wait_for(PROMPT_SHOWN)
        terminal.type(b"\x1a")
        terminal.wait_for(b"STOPPED True")
        terminal.wait_for(PROMPT_SHOWN)
        terminal.type(b"\x04")
        terminal.wait_for(b"ENDED 0 True")


def test_a_notice_amid_an_answer_has_a_line_of_its_own() -> None:
    said: dict[str, Any] = {"FAKE_NOTICE": "this exchange is not remembered", "FAKE_SAYS": "an answer"}
    with at_terminal("-p", "q", **said) as terminal:
        assert terminal.end() == 0
        assert b"an answer\r\n\x1b[2mthis exchange is not remembered\x1b[0m\r\n" in terminal.seen


def test_a_dumb_terminal_is_sent_no_escape_sequence() -> None:
    said = {"FAKE_NOTICE": "not remembered", "TERM": "dumb"}
    with at_terminal(**said) as terminal:
        terminal.wait_for(b"> ")
        terminal.type(b"hello\n")
        terminal.wait_for(b"you said hello\r\n12.5 tokens/s")
        terminal.wait_for(b"\r\nnot remembered\r\n")
        terminal.wait_for(b"> ")
        terminal.type(b"/stats\n")
        terminal.wait_for(b"seconds verify")
        terminal.wait_for(b"> ")
        terminal.type(b"/hlep\n")
        terminal.wait_for(b"unknown command")
        terminal.wait_for(b"> ")
        terminal.type(b"\x03")
        terminal.wait_for(b"/quit or")
        terminal.wait_for(b"> ")
        terminal.type(b"\x04")
        assert terminal.end() == 0
        assert b"\x1b" not in terminal.seen


@pytest.mark.parametrize("variable", [{"TERM": "dumb"}, {"NO_COLOR": "1"}])
def test_a_single_answer_is_plain_where_that_is_asked_for(variable: dict[str, str]) -> None:
    with at_terminal("-p", "q", FAKE_NOTICE="notice", FAKE_SAYS="a\x1b[31mb\u202ec", **variable) as terminal:
        assert terminal.end() == 0
    styles = terminal.seen.replace(b"\x1b[?25l", b"").replace(b"\x1b[?25h", b"")  # a spinner hides the cursor
    spun = variable.get("TERM") != "dumb"
    assert b"\x1b[2m" not in styles and b"\x1b[31m" not in styles and b"a[31mbc\r\nnotice\r\n12.5" in styles
    assert spun or b"\x1b" not in terminal.seen
