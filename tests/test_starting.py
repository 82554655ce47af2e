"""Ctrl-C before a program listens ends it with exit code 130; after its work it changes nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")

INTERRUPTED = """
import os, signal, sys
wanted = sys.argv[1]

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == wanted:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
from {module} import {function}
sys.argv = ["program", "--version"]
{function}()
"""


def scripts() -> dict[str, tuple[str, str]]:
    """Every installed program and the function that it calls."""
    project = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    found = re.findall(r'^(aded-\w+) = "([\w.]+):(\w+)"$', project, re.M)
    return {name: (module, function) for name, module, function in found}


@pytest.mark.parametrize("program", ["aded-chat", "aded-store", "aded-doctor", "aded-bench"])
def test_every_program_has_its_entry(program: str) -> None:
    module, function = scripts()[program]
    assert callable(getattr(import_module(module), function))


@pytest.mark.parametrize(
    ("program", "imported"),
    [
        ("aded-chat", "click"),
        ("aded-chat", "aded_cli.options"),
        ("aded-store", "aded_cli.store_commands"),
        ("aded-doctor", "click"),
        ("aded-bench", "aded_bench.commands"),
    ],
)
def test_an_interrupt_while_modules_are_imported_leaves_no_traceback(program: str, imported: str) -> None:
    module, function = scripts()[program]
    source = INTERRUPTED.format(module=module, function=function)
    done = subprocess.run([sys.executable, "-c", source, imported], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


@pytest.mark.parametrize(("arguments", "code"), [(["--version"], 0), (["-p", ""], 2)])
def test_an_interrupt_at_the_very_end_leaves_no_traceback_and_the_code(
    arguments: list[str], code: int
) -> None:
    source = (
        "import atexit, os, signal\n"
        "from aded_cli.entry import chat\n"
        "atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))\n"
        "chat()"
    )
    done = subprocess.run([sys.executable, "-c", source, *arguments], capture_output=True, timeout=60)
    assert done.returncode == code and done.stderr.count(b"\n") == bool(code)


def test_a_program_that_ignores_interrupts_is_not_interrupted() -> None:
    source = INTERRUPTED.format(module="aded_cli.entry", function="chat").replace(
        "class Interrupting", "signal.signal(signal.SIGINT, signal.SIG_IGN)\nclass Interrupting"
    )
    done = subprocess.run([sys.executable, "-c", source, "click"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "") and "aded-chat" in done.stdout
