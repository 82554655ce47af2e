"""aded-chat at a real terminal: what it shows, what it leaves of the keyboard, and the terminal it gives back."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

if sys.platform == "win32":
    pytest.skip("pseudo-terminals of POSIX", allow_module_level=True)

from terminals import FAKE_PROGRAM, PROMPT_SHOWN, at_terminal


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
        terminal.wait_for(b"tokens/s")
        shown = terminal.lines()
        assert shown[shown.index("hm, so") :][:3] == ["hm, so", "", "yes"]
        assert [row[0].fg for row in terminal.screen.buffer.values() if row[0].data in "hy"] == [
            "808080",
            "default",
        ]


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
        terminal.wait_for(b"you said def f():")
        terminal.wait_for(PROMPT_SHOWN)
        assert "you said def f():\n    if x:\n    return 1" in "\n".join(terminal.lines())
        terminal.type(b"\x04")  # Ctrl-D ahead of the prompt
        assert terminal.end() == 0


def test_what_is_typed_ahead_outlives_ctrl_c() -> None:
    with at_terminal(FAKE_WORDS="500", FAKE_PAUSE="0.02") as terminal:
        terminal.wait_for(PROMPT_SHOWN)
        terminal.type(b"hello\r")
        terminal.wait_for(b"w3 ")
        terminal.type(b"/context\rsecond ")
        terminal.wait_for(b"w9 ")
        terminal.type(b"\x03one")
        terminal.wait_for(b"stopped")
        terminal.wait_for(b"of 4,096 tokens")
        terminal.wait_to_show("> second one")
        terminal.type(b"\x03\x04")
        assert terminal.end() == 0


def test_a_dumb_terminal_keeps_what_is_typed_ahead_too() -> None:
    with at_terminal(FAKE_WORDS="500", FAKE_PAUSE="0.02", TERM="dumb") as terminal:
        terminal.wait_for(b"> ")
        terminal.type(b"hello\n")
        terminal.wait_for(b"w3 ")
        terminal.type(b"/context\n")
        terminal.wait_for(b"w9 ")
        terminal.type(b"\x03")
        terminal.wait_for(b"stopped")
        terminal.wait_for(b"of 4,096 tokens")
        terminal.type(b"\x04")
        assert terminal.end() == 0


@pytest.mark.parametrize(
    "raw", [b"\x1b[31mred\x1b[0m", b"\x1b[<0;1;1M", b"\x1b[M !!", b"\x1b[1;2;3;4m", b"\x1b[99999;1R"]
)
def test_sequences_typed_outside_of_a_paste_do_no_harm(raw: bytes) -> None:
    with at_terminal() as terminal:
        terminal.wait_for(PROMPT_SHOWN)
        terminal.type(b"so " + raw + b" on\r")
        terminal.wait_for(b"you said so ")
        terminal.wait_for(PROMPT_SHOWN)
        terminal.type(b"\x04")
        assert terminal.end() == 0
    assert b"nhandled" not in terminal.seen and b"Traceback" not in terminal.seen


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


@pytest.mark.parametrize("columns", [30, 60])
def test_notices_and_errors_are_wrapped_at_words(columns: int) -> None:
    words = " ".join(f"w{n:04}" for n in range(40))
    with at_terminal("-p", "q", columns=columns, FAKE_NOTICE=words, FAKE_SAYS="an answer") as terminal:
        assert terminal.end() == 0
        lines = terminal.lines()
    said = " ".join(lines)
    assert said.startswith(f"an answer {words} 12.5 tokens/s") and max(map(len, lines)) < columns
    with at_terminal("--continue", "-p", "q", columns=columns) as terminal:
        assert terminal.end() == 2
        assert max(len(line) for line in terminal.lines() if "/" not in line) < columns
        assert "conversation" in " ".join(terminal.lines()).split()


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


def test_a_line_is_continued_by_alt_enter_ctrl_j_and_three_quotes(tmp_path: Path) -> None:
    with at_terminal(ADED_DATA_DIR=str(tmp_path)) as terminal:
        terminal.wait_for(PROMPT_SHOWN)
        terminal.type(b"one\x1b\rtwo\nthree\r")
        terminal.wait_for(PROMPT_SHOWN)
        assert "you said one\ntwo\nthree" in "\n".join(terminal.lines())
        terminal.type(b'"""\r  four\r"""\r')
        terminal.wait_for(PROMPT_SHOWN)
        assert "you said   four" in "\n".join(terminal.lines())
        # Pasted quotes are text.
        terminal.type(b'\x1b[200~"""doc"""\x1b[201~\r')
        terminal.wait_for(PROMPT_SHOWN)
        assert 'you said """doc"""' in "\n".join(terminal.lines())
        terminal.type(b"\x04")
        assert terminal.end() == 0


def test_tab_completes_a_command_and_indents_a_message() -> None:
    with at_terminal() as terminal:
        terminal.wait_for(PROMPT_SHOWN)
        terminal.type(b"/cont\t")
        terminal.wait_to_show("> /context")
        terminal.type(b"\r")
        terminal.wait_for(b"of 4,096 tokens")
        terminal.wait_for(PROMPT_SHOWN)
        terminal.type(b"a\tb\r")
        terminal.wait_for(b"you said a")
        terminal.type(b"\x04")
        assert terminal.end() == 0


def test_an_editor_has_the_terminal_to_itself_and_gives_it_back(tmp_path: Path) -> None:
    editor = tmp_path / "editor"
    editor.write_text(f'#!/bin/sh\nstty -a > "{tmp_path}/seen"; echo written > "$1"\n')
    editor.chmod(0o755)
    with at_terminal(EDITOR=str(editor), VISUAL="") as terminal:
        terminal.wait_for(PROMPT_SHOWN)
        terminal.type(b"/edit\r")
        terminal.wait_for(b"you said written")
        terminal.wait_for(PROMPT_SHOWN)
        assert not terminal.shows_keys()
        terminal.type(b"\x04")
        assert terminal.end() == 0
    seen = (tmp_path / "seen").read_text()
    assert " echo " in seen and " icanon " in seen


ANSWER = """\
# Head

Text with **bold** words that goes on beyond the line of a narrow terminal, and then some more of it.

```python
def f():
    return "x"
```

| a | b |
|---|---|
| 1 | 你好 |
"""


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_an_answer_is_rendered_while_it_streams(tmp_path: Path, columns: int) -> None:
    (tmp_path / "answer.md").write_text(ANSWER, encoding="utf-8")
    said = {"FAKE_FILE": str(tmp_path / "answer.md"), "FAKE_PAUSE": "0.001"}
    with at_terminal("-p", "q", columns=columns, **said) as terminal:
        assert terminal.end() == 0
        lines = terminal.lines()
    assert lines[0] == "Head" and 'return "x"' in "\n".join(lines) and "1 │ 你" in "\n".join(lines)
    assert "**" not in "".join(lines) and "```" not in "".join(lines)
    assert any(cell.bold for cell in terminal.screen.buffer[0].values())


def test_another_size_while_an_answer_streams(tmp_path: Path) -> None:
    words = " ".join(f"w{n}" for n in range(150))
    (tmp_path / "answer.md").write_text(words)
    with at_terminal("-p", "q", FAKE_FILE=str(tmp_path / "answer.md"), FAKE_PAUSE="0.003") as terminal:
        for columns in (60, 30, 100):
            terminal.wait_for({60: b"w20", 30: b"w50", 100: b"w90"}[columns])
            terminal.resize(columns, 40)
        assert terminal.end() == 0
        sent = terminal.seen
    left = iter(sent.decode())  # a word that a new size cuts may begin twice
    assert all(character in left for character in words.replace(" ", ""))


@pytest.mark.parametrize("option", [["--plain"], ["--raw"]])
def test_what_is_asked_for_plain_is_written_as_it_comes(tmp_path: Path, option: list[str]) -> None:
    (tmp_path / "answer.md").write_text("**b** `c`")
    with at_terminal("-p", "q", *option, FAKE_FILE=str(tmp_path / "answer.md")) as terminal:
        assert terminal.end() == 0
    assert b"**b** `c`\r\n" in terminal.seen
