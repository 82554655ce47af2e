"""aded-models, and --hf of the other programs: what they print, and how they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fake_hub import FakeHub, Repository, serving
from patience import PATIENCE

from aded_bench import options as bench_options
from aded_bench.main import main as bench
from aded_cli import chat, models
from aded_cli.options import help_for_missing
from aded_local import api
from aded_local.errors import ModelNotFoundError
from aded_models import CATALOGUE, builtin_path

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with one model that can be opened, and a cache that is empty."""
    for name in ("HF_TOKEN", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with serving({"someone/tiny": Repository({"tiny-Q4_K_M.gguf": builtin_path().read_bytes()})}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        yield server


def models_run(*arguments: str) -> Result:
    return CliRunner().invoke(models.main, [*arguments])


def one_line_of(result: Result) -> str:
    """What was said on standard error by a program that refused."""
    assert result.exit_code == 2 and result.stdout == "" and result.stderr.count("\n") == 1, result.output
    return result.stderr


# --- list and path --------------------------------------------------------------------------------


def test_the_list_says_of_each_model_whether_it_fits_and_is_here(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "_free_memory", lambda: 3_000_000_000)
    listed = models_run("list")
    assert listed.exit_code == 0
    rows = {line.split()[0].rstrip("*"): line for line in listed.stdout.splitlines() if line.split()}
    assert set(CATALOGUE) < set(rows)
    assert rows["qwen2.5-0.5b"].split()[5:7] == ["yes", "no"]  # fits, is here
    assert rows["qwen2.5-coder-7b"].split()[5:7] == ["no", "no"]
    assert "Apache-2.0" in rows["qwen3-4b"] and "2.5 GB" in rows["qwen3-4b"]
    assert "3.0 GB of memory that are free now" in listed.stdout and "builtin" in listed.stdout
    assert fake.asked == []


def test_what_was_pulled_is_marked_and_other_repositories_are_named(fake: FakeHub) -> None:
    fake.repositories["Qwen/Qwen3-4B-GGUF"] = Repository({"Qwen3-4B-Q4_K_M.gguf": b"x"})
    assert models_run("pull", "qwen3-4b").exit_code == models_run("pull", "someone/tiny").exit_code == 0
    listed = models_run("list").stdout
    (row,) = [line for line in listed.splitlines() if line.startswith("qwen3-4b")]
    assert row.split()[6] == "yes" and "also here: hf:someone/tiny" in listed
    facts = json.loads(models_run("list", "--json").stdout)
    here = {one["repository"]: one["path"] for one in facts if one["path"]}
    assert set(here) == {"Qwen/Qwen3-4B-GGUF", "someone/tiny"}
    assert Path(here["someone/tiny"]).is_file()


def test_a_model_and_the_folder_of_all_have_a_path(fake: FakeHub, tmp_path: Path) -> None:
    assert models_run("path").stdout.strip() == str(tmp_path / "hf" / "hub")
    assert models_run("path", "builtin").stdout.strip() == str(builtin_path())
    for model, pull in (("qwen3-4b", "qwen3-4b"), ("someone/tiny:Q8_0", "someone/tiny:Q8_0")):
        assert f"`aded-models pull {pull}`" in one_line_of(models_run("path", model))


# --- pull -----------------------------------------------------------------------------------------


def test_pull_prints_the_path_alone_and_says_beside_how_to_chat(fake: FakeHub) -> None:
    pulled = models_run("pull", "someone/tiny")
    assert pulled.exit_code == 0
    assert Path(pulled.stdout.strip()).read_bytes() == builtin_path().read_bytes()
    assert "aded-chat --hf someone/tiny" in pulled.stderr
    assert models_run("path", "hf:someone/tiny").stdout == pulled.stdout


def test_what_a_shell_would_read_otherwise_is_quoted_in_advice(fake: FakeHub) -> None:
    fake.repositories["someone/odd"] = Repository({"a $(b) c.gguf": b"x"})
    model = "someone/odd:a $(b) c.gguf"
    assert f"`aded-models pull '{model}'`" in one_line_of(models_run("path", model))
    assert f"`aded-chat --hf '{model}'`" in models_run("pull", model).stderr


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("smollm2", "comes with pip"),
        ("nonsense", "OWNER/NAME"),
        ("someone/absent", "has no someone/absent for you"),
        ("someone/tiny:Q8_0", "has no Q8_0; there is Q4_K_M"),
    ],
)
def test_what_cannot_be_pulled_is_one_line(fake: FakeHub, model: str, says: str) -> None:
    assert says in one_line_of(models_run("pull", model))


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_ends_a_pull_and_the_same_command_goes_on(fake: FakeHub, tmp_path: Path) -> None:
    step = 1 << 20
    content = b"GGUF" + os.urandom(4 * step)
    fake.repositories["someone/large"] = Repository({"large.gguf": content}, pauses=True)
    paths = os.pathsep.join(str(ROOT / each) for each in (".", "cli", "models"))
    command = [sys.executable, "-c", "from aded_cli.entry import models; models()", "pull", "someone/large"]
    environment = {**os.environ, "PYTHONPATH": paths}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert fake.paused.wait(PATIENCE)
        while sum(path.stat().st_size for path in tmp_path.rglob("*.incomplete")) < 2 * step:
            time.sleep(0.02)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    fake.go_on.set()
    assert (running.returncode, out) == (130, b"") and b"Traceback" not in err
    assert err.count(b"\n") == 1 and b"goes on from there" in err
    again = subprocess.run(command, env=environment, capture_output=True, timeout=60)
    assert again.returncode == 0 and Path(again.stdout.decode().strip()).read_bytes() == content
    assert fake.contents_asked() == ["", f"bytes={2 * step}-"]


# --- the other programs ---------------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What LocalADED would have loaded; nothing is."""
    paths: list[Path] = []

    def refuse(path: Path, *_: object) -> None:
        paths.append(path)
        raise ModelNotFoundError("not loaded")

    monkeypatch.setattr(api, "open_engine", refuse)
    return paths


@pytest.mark.parametrize(
    "arguments",
    [
        ["--hf", "someone/tiny"],
        ["-hf", "someone/tiny:q4_k_m"],
        ["hf:someone/tiny"],
        ["-m", "hf:someone/tiny"],
    ],
)
def test_the_chat_opens_a_model_of_the_hub(fake: FakeHub, opened: list[Path], arguments: list[str]) -> None:
    said = one_line_of(CliRunner().invoke(chat.main, [*arguments, "-p", "hello"]))
    assert "not loaded" in said
    assert [path.name for path in opened] == ["tiny-Q4_K_M.gguf"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--hf", "someone/tiny", "model.gguf"], "names a model, and so does model.gguf"),
        (["--hf", "someone/tiny", "-m", "model.gguf"], "names a model, and so does model.gguf"),
        (["--hf", "nonsense"], "OWNER/NAME"),
        (["--hf", "someone/absent"], "has no someone/absent for you"),
    ],
)
def test_the_chat_says_in_one_line_what_is_wrong_with_it(
    fake: FakeHub, arguments: list[str], says: str
) -> None:
    assert says in one_line_of(CliRunner().invoke(chat.main, [*arguments, "-p", "hello"]))


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("someone/tiny", "--hf someone/tiny"),
        ("nonsense", "`aded-models list`"),
        ("someone/tiny.gguf", ""),
        ("hf:someone/tiny", ""),
        ("qwen3-4b", ""),
    ],
)
def test_a_model_that_is_no_file_is_looked_for_where_it_may_be(model: str, says: str) -> None:
    advice = help_for_missing(model)
    assert says in advice if says else advice == ""


def test_the_server_fetches_its_model_before_it_listens(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("uvicorn")
    from aded_cli.serve import program

    opened: list[str | None] = []
    monkeypatch.setattr(program, "_opening", lambda model, *_: opened.append(model))
    monkeypatch.setattr("aded_cli.serve.running.serve", lambda *_: None)
    assert CliRunner().invoke(program.main, ["--hf", "someone/tiny", "--port", "0"]).exit_code == 0
    assert [Path(str(model)).name for model in opened] == ["tiny-Q4_K_M.gguf"]
    assert "has no x/y for you" in one_line_of(
        CliRunner().invoke(program.main, ["--hf", "x/y", "--port", "0"])
    )


def test_the_bench_measures_a_model_of_the_hub(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def stop(*arguments: Any, **_: Any) -> Any:
        asked.append(arguments[0])
        raise ModelNotFoundError("not measured")

    monkeypatch.setattr("aded_bench.commands.curve.model_path", stop)
    for arguments in (["--hf", "someone/tiny"], ["hf:someone/tiny"], []):
        assert "not measured" in one_line_of(CliRunner().invoke(bench, ["curve", *arguments]))
    assert [path and path.name for path in asked] == ["tiny-Q4_K_M.gguf", "tiny-Q4_K_M.gguf", None]
    both = CliRunner().invoke(bench, ["curve", "builtin", "--hf", "someone/tiny"])
    assert "names a model, and so does" in one_line_of(both)
    assert bench_options.GGUF.name


def test_nothing_heavy_is_imported_for_the_list_of_commands() -> None:
    program = (
        "import sys; from aded_cli.models import main\n"
        "try: main(['--help'], prog_name='aded-models')\n"
        "except SystemExit: pass\n"
        "print('loaded', [n for n in ('numpy', 'llama_cpp', 'rich', 'huggingface_hub', 'psutil') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded []"
