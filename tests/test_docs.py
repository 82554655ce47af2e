"""Every block of commands and of Python in the README and in docs/ does what it says, in a folder with a small model.

Blocks of one page run one after the other. A comment ``before`` in front of a block has what it needs and readers need
not see; a comment ``not run: REASON`` says why a block cannot run here. Options of commands are compared with what the
programs know in any case. ``pytest tests/test_docs.py -rP -k counted`` prints how many blocks there are of each kind.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import click
import families
import pytest
from fake_hub import Repository, serving
from patience import PATIENCE

from aded_local import Llama, LocalADED
from aded_models import CATALOGUE, builtin_path
from aded_models.sizes import size_text

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "bench" / "README.md"]

RUN = ("sh", "python")
LANGUAGES = (*RUN, "text", "nginx")
PROGRAMS = {
    "aded-chat": "aded_cli.chat",
    "aded-store": "aded_cli.store",
    "aded-models": "aded_cli.models",
    "aded-doctor": "aded_cli.doctor",
    "aded-serve": "aded_cli.serve.program",
    "aded-bench": "aded_bench.main",
}

SERVER = "http://127.0.0.1:8080"
"""Where aded-serve listens if nothing else is said, and where its page's Python asks."""

_BLOCK = re.compile(
    r"(?P<comments>(?:^<!--(?:(?!-->).)*-->\n)*)^```(?P<language>\S*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_COMMENT = re.compile(r"<!--\s*(.*?)\s*-->", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One block of a page.

    Attributes:
        line: of the page.
        before: what runs first and is not shown.
        reason: why it cannot run here; None where it can.
    """

    page: str
    line: int
    language: str
    code: str
    before: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@cache
def blocks_of(path: Path) -> tuple[Block, ...]:
    text = path.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        reason, before = None, ""
        for comment in _COMMENT.findall(match["comments"]):
            if comment.startswith("not run:"):
                reason = comment.removeprefix("not run:").strip()
            elif comment.startswith("before"):
                before += comment.removeprefix("before").strip() + "\n"
        line = text[: match.start("code")].count("\n")
        name = str(path.relative_to(ROOT))
        found.append(Block(name, line, match["language"], match["code"], before, reason))
    return tuple(found)


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


# --- commands -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the programs of this checkout by their names, whatever is installed."""
    folder = tmp_path_factory.mktemp("bin")
    for name, module in PROGRAMS.items():
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        script.chmod(0o755)
    return folder


HUB = ("Qwen/Qwen3-4B-GGUF", "Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF", "unsloth/gemma-3-4b-it-GGUF",
       "bartowski/Llama-3.2-3B-Instruct-GGUF")  # fmt: skip
"""Repositories that pages fetch from; here a server on this machine has them, with the small model in each."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    content = builtin_path().read_bytes()
    with serving({name: Repository({"model-Q4_K_M.gguf": content}) for name in HUB}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        yield


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for all pages, so that the small model is measured once."""
    return tmp_path_factory.mktemp("measured")


@pytest.fixture
def place(tmp_path: Path, programs: Path, measured: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which a page's blocks run: with ``model.gguf``, and a template that knows tools."""
    folder = tmp_path / "place"
    folder.mkdir()
    shutil.copy(builtin_path(), folder / "model.gguf")
    (folder / "tools.jinja").write_text(families.HERMES)
    if not any(measured.iterdir()):
        shutil.copytree(os.environ["ADED_CACHE_DIR"], measured, symlinks=True, dirs_exist_ok=True)
    monkeypatch.setenv("ADED_CACHE_DIR", str(measured))
    paths = [str(ROOT / each) for each in (".", "cli", "models", "bench")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(folder)
    return folder


def run_commands(code: str) -> None:
    """Run lines of a shell; a server among them is asked whether it is well, and ended."""
    lines = code.splitlines()
    if any(line.startswith("aded-serve ") for line in lines):
        assert len(lines) == 1
        with served(lines[0]):
            return
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", code],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@contextmanager
def served(command: str) -> Iterator[None]:
    """A server that answers while the block runs, and ends well."""
    pytest.importorskip("uvicorn")
    words = shlex.split(command, comments=True)
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as running:
        try:
            until = time.monotonic() + 60
            while not _answers():
                assert running.poll() is None and time.monotonic() < until, running.communicate(timeout=5)[1]
                time.sleep(0.05)
            yield
        finally:
            running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=PATIENCE) == 0


def _answers() -> bool:
    try:
        with urllib.request.urlopen(f"{SERVER}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def run_python(block: Block, names: dict[str, Any]) -> None:
    """Run a block in what the page's earlier ones left."""
    for number, code in enumerate((block.before, block.code)):
        compiled = compile(code, f"{block}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        if compiled.co_flags & inspect.CO_COROUTINE:
            asyncio.run(eval(compiled, names))
        elif number and SERVER in code:
            with served("aded-serve model.gguf"):
                exec(compiled, names)
        else:
            exec(compiled, names)


@pytest.mark.skipif(os.name != "posix", reason="the commands are those of a POSIX shell")
@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_block_runs(page: Path, place: Path, hub: None) -> None:
    names: dict[str, Any] = {}
    runnable = [block for block in blocks_of(page) if block.language in RUN and block.reason is None]
    try:
        for block in runnable:
            if block.language == "python":
                run_python(block, names)
            else:
                run_commands(block.before + block.code)
    finally:
        for value in names.values():
            if isinstance(value, (Llama, LocalADED)):
                value.close()


# --- what holds for all of them -------------------------------------------------------------------


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_block_says_what_it_is(block: Block) -> None:
    assert block.language in LANGUAGES
    assert block.reason is None or len(block.reason) > 5
    if block.language == "nginx":
        assert block.reason is not None


def test_every_fence_is_a_block_that_is_found() -> None:
    for page in PAGES:
        fences = len(re.findall(r"^```", page.read_text(encoding="utf-8"), re.MULTILINE))
        assert fences == 2 * len(blocks_of(page)), page


def test_blocks_are_counted() -> None:
    run = [block for block in BLOCKS if block.language in RUN and block.reason is None]
    not_run = [block for block in BLOCKS if block.reason is not None]
    print(f"{len(run)} blocks run, {len(not_run)} do not:")
    for block in not_run:
        print(f"  {block}: {block.reason}")
    assert len(run) >= 15
    assert {block for block in BLOCKS if block.language in RUN} == {
        *run,
        *(b for b in not_run if b.language in RUN),
    }


COMMANDS = [
    (block, line)
    for block in BLOCKS
    if block.language == "sh"
    for line in re.sub(r"\\\n\s*", "", block.before + block.code).splitlines()
    if any(program in line for program in PROGRAMS)
]


@pytest.mark.parametrize(("block", "line"), COMMANDS, ids=str)
def test_every_option_is_one_that_the_program_knows(block: Block, line: str) -> None:
    for part in re.split(r"\s(?:\||&&|;|&)\s", line):
        words = shlex.split(part, comments=True)
        while words and words[0].rpartition("/")[2] not in PROGRAMS:
            words.pop(0)
        if not words:
            continue
        program = words.pop(0).rpartition("/")[2]
        known = _options(_command(program, words))
        given = [word.partition("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)]
        assert [name for name in given if name not in known] == [], f"{block}: {line}"


def _command(program: str, words: list[str]) -> click.Command:
    """The command that a line runs: of a group, the one that its first words name."""
    import importlib

    command: click.Command = importlib.import_module(PROGRAMS[program]).main
    for word in words:
        if not isinstance(command, click.Group) or word.startswith("-"):
            break
        found = command.get_command(click.Context(command), word)
        assert found is not None, f"{program} has no {word}"
        command = found
    return command


def _options(command: click.Command) -> set[str]:
    known = {"-h", "--help"}
    for parameter in command.params:
        known |= {*parameter.opts, *parameter.secondary_opts}
    return known


def test_the_list_of_models_is_the_one_that_the_program_has() -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    for one in CATALOGUE.values():
        star = r"\*" if one.unchecked else ""
        cells = (
            f"`{one.name}`{star}",
            f"`{one.model}`",
            size_text(one.size),
            size_text(one.memory),
            one.licence,
        )
        assert f"| {' | '.join(cells)} |" in page


def test_the_site_is_made_and_no_link_leads_nowhere(tmp_path: Path) -> None:
    pytest.importorskip("material")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mkdocs",
            "build",
            "--strict",
            "--quiet",
            "--site-dir",
            str(tmp_path / "site"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr + done.stdout
    made = tmp_path / "site"
    assert (made / "index.html").is_file() and (made / "pictures" / "loop.svg").is_file()
    asked = re.compile(r'<(?:link|script|img)[^>]+(?:href|src)="(https?:)?//')
    for page in made.rglob("*.html"):
        assert not asked.search(page.read_text(encoding="utf-8")), f"{page} asks another machine"


def test_links_of_the_readme_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", text):
        assert (ROOT / target).is_file(), target
