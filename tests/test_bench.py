"""Results: where a number came from, how it is summed up, shown and kept."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas
import pytest
from click.testing import CliRunner
from rich.console import Console

from aded_bench.main import main
from aded_bench.options import finish
from aded_bench.results import ResultFile, provenance, resume, source_hash
from aded_bench.summary import ratio_interval, summarize
from aded_bench.tables import show
from aded_local.errors import OptionError, StoreError


def test_a_table_shows_texts_as_they_are_and_numbers_to_the_right() -> None:
    frame = pandas.DataFrame({"name": ["[b]x", "y"], "n": [1, 20], "rate": [0.5, None], "text": ["1.0", ""]})
    out = Console(width=80, file=io.StringIO(), color_system=None)
    show(frame, "of [things]", caption="said [below]", console=out)
    assert isinstance(out.file, io.StringIO)
    lines = out.file.getvalue().splitlines()
    assert "of [things]" in lines[0] and "said [below]" in lines[-1]
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert rows == [["[b]x", "1", "0.500", "1.0"], ["y", "20", "–", ""]]
    assert any("│  1 │ 0.500 │" in line for line in lines)


# --- results -------------------------------------------------------------------------------------


def test_a_summary_brackets_the_median() -> None:
    found = summarize([1.0, 2.0, 3.0, 3.0, 4.0, 100.0])
    assert found is not None and found.low is not None and found.high is not None
    assert (found.minimum, found.median, found.maximum) == (1.0, 3.0, 100.0)
    assert found.low <= found.median <= found.high
    assert summarize([]) is None


def test_few_values_have_no_interval() -> None:
    found = summarize([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found is not None
    assert (found.median, found.low, found.high) == (3.0, None, None)
    assert ratio_interval([1.0] * 5, [2.0] * 5) == (None, None)
    assert ratio_interval([1.0] * 6, [2.0] * 6) == (0.5, 0.5)


def test_a_file_that_is_no_result_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text("[1]")
    with pytest.raises(StoreError, match="no result file"):
        ResultFile(tmp_path / "notes.json").load()


@pytest.mark.parametrize("content", ['{"provenance": null}', "[" * 100_000])
def test_a_file_of_another_shape_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "notes.json").write_text(content)
    with pytest.raises(StoreError, match="no result file"):
        ResultFile(tmp_path / "notes.json").load()


HERE = {
    "settings": {}, "model": {"file": "m", "sha256": "0", "quantization": None}, "inputs": [], "gpus": [], "cpu": "a",
    "versions": {"aded-local": "1", "aded-local source": "0"}, "platform": "p", "engine": {"context": 9, "threads": 1},
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"cpu": "b"}, "cpu"),
        ({"gpus": ["b"]}, "gpus"),
        ({"platform": "b"}, "platform"),
        ({"versions": {"aded-local": "1", "aded-local source": "b"}}, "versions"),
        ({"engine": {"context": 9, "threads": 2}}, "threads"),
    ],
)
def test_figures_of_another_machine_or_code_are_not_continued(
    tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    file = ResultFile(tmp_path / "run.json")
    file.save({"kind": "run", "complete": False, "provenance": HERE, "runs": [], "histories": {}}, now=True)
    assert resume(file, "run", HERE) is not None
    with pytest.raises(OptionError, match=f"with other {named};"):
        resume(file, "run", HERE | change)


def test_a_default_context_of_another_size_is_continued(tmp_path: Path) -> None:
    file = ResultFile(tmp_path / "run.json")
    loaded = {"file": "m", "sha256": "0", "quantization": "Q4_0"}
    file.save(
        {
            "kind": "run",
            "complete": False,
            "provenance": HERE | {"model": loaded},
            "runs": [],
            "histories": {},
        },
        now=True,
    )
    for engine in ({"context": 8, "threads": 1}, None):  # None: not loaded yet
        assert resume(file, "run", HERE | {"engine": engine}) is not None


def test_provenance_names_the_code() -> None:
    found = provenance({})["versions"]["aded-local source"]
    assert len(found) == 64 and found == source_hash()


def test_text_that_utf8_cannot_write_is_saved(tmp_path: Path) -> None:
    file = ResultFile(tmp_path / "result.json")
    file.save({"provenance": {"command_line": ["\udcff", "é"]}}, now=True)
    assert file.load() == {"provenance": {"command_line": ["\udcff", "é"]}}


def test_where_the_result_goes_is_looked_at_first(tmp_path: Path) -> None:
    for path, why in (
        (tmp_path, "is a folder"),
        (tmp_path / "absent" / "x.json", "no such folder"),
        (Path(os.devnull), "device"),
    ):
        with pytest.raises(OptionError, match=why):
            ResultFile(path)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_built_in_model_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aded_models.builtin.TARGET_FILE", "absent.gguf")
    result = CliRunner().invoke(main, ["lossless", "builtin", "--prompts", "1"])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "Reinstall" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["lossless", "builtin", "--prompts", "1", "--json", "/absent/folder/x.json"],
        ["lossless", "builtin", "--temps", "hot"],
        ["lossless", "builtin", "--draft", "off"],
        ["lossless", "builtin", "--prompts", "9000"],
        ["lossless", "absent.gguf"],
    ],
)
def test_bad_options_are_one_line_and_exit_code_two(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("aded-bench: ")
    assert result.stderr.count("\n") == 1


def test_a_save_that_fails_costs_no_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = ResultFile(tmp_path / "result.json")
    monkeypatch.setattr("aded_bench.results.SAVE_SECONDS", 0.0)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(Path, "write_text", refuse)
        file.save({"provenance": {}})
        file.save({"provenance": {}})
    said = capsys.readouterr().err
    assert said.count("No space left on device; going on") == 1
    with pytest.raises(StoreError, match="printed above"):
        finish(True, file)
    file.save({"provenance": {}}, now=True)
    assert file.failure is None


@pytest.mark.parametrize(("redirection", "code"), [(">&-", 2), (">/dev/full", 2)])
def test_output_that_goes_nowhere_is_one_line(tmp_path: Path, redirection: str, code: int) -> None:
    (tmp_path / "curve.json").write_text(
        '{"kind": "curve", "provenance": {}, "curves": [], "complete": true}'
    )
    command = f"{sys.executable} -m aded_bench.main report curve.json --no-charts -o out {redirection}"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (code, 1)
    assert done.stderr.startswith("aded-bench: ")


def test_a_package_of_the_extra_that_is_broken_says_why(tmp_path: Path) -> None:
    (tmp_path / "pandas.py").write_text(
        'raise ImportError("Unable to import numpy:\\nits library is gone")\n'
    )
    command = [sys.executable, "-m", "aded_bench.main", "report", "x.json", "-o", "out"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "cannot be imported: Unable to import numpy: its library is gone" in done.stderr


@pytest.mark.parametrize("package", ["msgspec", "pandas"])
def test_a_missing_package_of_the_extra_is_one_line(package: str) -> None:
    without = (
        f"import sys; sys.modules[{package!r}] = None; from aded_bench.main import main; main(sys.argv[1:])"
    )
    for arguments in (["replay", "x.jsonl", "--curve", "y.json"], ["report", "x.json", "-o", "out"]):
        command = [sys.executable, "-c", without, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        assert done.stderr == f"aded-bench: {package} is missing: pip install 'aded-local[bench]'\n"
