"""aded-doctor as its users meet it: whether llama.cpp works here, and what a bug report needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from aded_cli import doctor
from aded_local.trials import library, preflight, verdicts
from aded_local.trials.preflight import Examination
from aded_local.trials.verdicts import Verdict

GOOD = Verdict(True, "", "", "a processor", "/lib", 1.0, 1.0)
BAD = Verdict(False, "died of SIGILL (illegal instruction)", "decoding", "a processor", "/lib", 1.0, 1.0)


def run(*args: str) -> Result:
    return CliRunner().invoke(doctor.main, list(args))


compilers = cache(lambda paths: library.compilers(list(paths)))


@pytest.fixture
def scanned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compilers that llama.cpp's libraries name are looked for once: a second for 20 MB."""
    found = compilers(tuple(library.files()))
    monkeypatch.setattr(library, "compilers", lambda paths: found)


@pytest.fixture
def examined(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, scanned_once: None
) -> Examination:
    """What the check is made to come to."""
    found: Examination = request.param
    monkeypatch.setattr(preflight, "examine", lambda _path: found)
    return found


def test_a_sound_build_is_tried_anew_and_told(verdict_file: Path | None) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "aded_cli.doctor", "--json"], capture_output=True, text=True, timeout=200
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["verdict"]["sound"] is True
    kept = verdicts.read(Path(found["verdict"]["kept"]))
    before = None if verdict_file is None else verdicts.read(verdict_file)
    assert kept is not None and before is not None
    assert kept.when > before.when
    assert found["versions"]["llama-cpp-python"]
    assert "CPU" in found["llama_cpp"]["system_info"]
    assert len(found["llama_cpp"]["sha256"]) == 64
    assert set(found["processor"]["flags_for_ggml"]) <= set(found["processor"]["flags"])
    assert found["folders"]["cache"] == {
        "path": os.environ["ADED_CACHE_DIR"],
        "exists": True,
        "writable": True,
        "problem": None,
    }
    assert found["models"]["builtin"]["bytes"] > 1_000_000


@pytest.mark.parametrize("examined", [Examination(GOOD)], indirect=True)
def test_people_get_a_line_for_each_fact(examined: Examination, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "77")
    result = run()
    assert (result.exit_code, result.stderr) == (0, "")
    lines = dict(line.split("  ", 1) for line in result.stdout.splitlines())
    assert lines["llama.cpp works"].strip() == "yes (tried for 1.0 s)"
    assert "GOMP_SPINCOUNT=77" in lines["OpenMP"]
    for name in (
        "python",
        "numpy",
        "processor",
        "memory",
        "library",
        "cache folder",
        "draft kernels",
        "model builtin",
    ):
        assert lines[name].strip()


@pytest.mark.parametrize("examined", [Examination(BAD)], indirect=True)
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_broken_build_is_one_line_on_standard_error_and_code_2(
    examined: Examination, options: list[str]
) -> None:
    result = run(*options)
    assert result.exit_code == 2
    assert result.stderr == f"aded-doctor: {preflight.complaint(BAD)}\n"
    assert "SIGILL" in result.stdout


@pytest.mark.parametrize("examined", [Examination(None, "no child process could be started")], indirect=True)
def test_what_could_not_be_tried_is_neither_good_nor_bad(examined: Examination) -> None:
    result = run()
    assert result.exit_code == 1
    assert result.stderr == "aded-doctor: llama.cpp could not be tried: no child process could be started\n"


@pytest.mark.parametrize("examined", [Examination(None, "none was found")], indirect=True)
def test_a_library_that_does_not_load_hides_no_other_fact(
    examined: Examination, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(library.OVERRIDE, str(tmp_path / "none"))
    result = run("--json")
    found = json.loads(result.stdout)
    assert found["llama_cpp"]["system_info"] is None
    assert "llama" in found["llama_cpp"]["system_info_failure"]
    assert found["versions"]["numpy"]


def test_a_wrong_option_is_one_line_in_the_programs_own_name() -> None:
    result = run("--no-such-option")
    assert result.exit_code == 2
    assert result.stderr.startswith("aded-doctor: ")
    assert result.stderr.count("\n") == 1


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys; from aded_cli.doctor import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print('loaded', [name for name in ('numpy', 'numba', 'llama_cpp', 'psutil', 'rich') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded []"


@pytest.mark.parametrize("examined", [Examination(GOOD)], indirect=True)
def test_llama_cpp_is_never_loaded_by_the_doctor_itself(examined: Examination) -> None:
    program = (
        "import sys; from aded_cli import diagnosis; from aded_local.trials.preflight import Examination\n"
        "diagnosis.facts(Examination(None))\n"
        "print('llama_cpp' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
