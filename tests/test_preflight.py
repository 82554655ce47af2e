"""A llama.cpp that dies on this processor dies in a child, once; after that there is one line to read."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import broken_libraries
import pytest

from aded_local.errors import BrokenBuildError, DeviceError
from aded_local.files import cache_folder
from aded_local.trials import library, preflight, trial, verdicts
from aded_local.trials.trial import Ending, Outcome
from aded_local.trials.verdicts import Verdict

GOOD = Verdict(True, "", "", "a processor", "/lib", 1.0, 1.0)
BAD = Verdict(False, "died of SIGILL (illegal instruction)", "decoding", "a processor", "/lib", 1.0, 1.0)


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if nothing had been asked in this process."""
    monkeypatch.setattr(preflight, "_passed", False)
    monkeypatch.setattr(preflight, "_refused", None)


@pytest.fixture(scope="session")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a llama.cpp that dies as it decodes."""
    return broken_libraries.make(tmp_path_factory.mktemp("broken") / "lib", "dies")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The trials begun; each is said to have ended well."""
    begun: list[str] = []

    def run(module: str, _arguments: object, *, limit: float) -> Outcome:
        assert limit == preflight.PREFLIGHT_SECONDS
        begun.append(module)
        return Outcome(Ending.FINE, "last", "", 0.5)

    monkeypatch.setattr(trial, "run", run)
    return begun


@pytest.fixture
def own_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of files that are named as the library's."""
    folder = tmp_path / "lib"
    folder.mkdir()
    for name in ("libllama.so", "libggml-base.so.0", "libggml-cpu.so", "libggml-cuda.so", "libmtmd.so"):
        (folder / name).write_text(name)
    monkeypatch.setenv(library.OVERRIDE, str(folder))
    return folder


# The library as it is


def test_the_installed_library_works_here_and_the_verdict_is_kept(verdict_file: Path) -> None:
    verdict = verdicts.read(verdict_file)
    assert verdict is not None
    assert verdict.sound
    assert verdict.processor
    if os.name == "posix":
        assert stat.S_IMODE(verdict_file.stat().st_mode) == 0o600


def test_a_kept_verdict_is_found_in_milliseconds() -> None:
    path = preflight.verdict_path()  # hashes the libraries
    started = time.thread_time()
    assert preflight.verdict_path() == path
    assert time.thread_time() - started < 0.25  # a millisecond


def test_the_check_loads_nothing_heavy() -> None:
    program = (
        "import sys; from aded_local.trials import preflight; preflight.require_sound_build()\n"
        "print([name for name in ('numpy', 'numba', 'llama_cpp') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# A broken one, as users meet it


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, library.OVERRIDE: str(folder)}
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=200,
    )


def is_the_line(line: str, folder: Path) -> bool:
    words = (
        "while decoding 1 token of a q4_0 model",
        f"{sys.executable} -m pip install --force-reinstall --no-cache-dir --no-deps --no-binary llama-cpp-python",
        "aded-doctor",
        str(folder),
    )
    assert any(f"died of {name}" in line for name in broken_libraries.DEATHS), line
    assert all(word in line for word in words), line
    return True


def test_every_program_says_in_one_line_what_is_wrong_and_what_helps(broken: Path) -> None:
    chat = run(["-m", "aded_cli.chat", "-p", "hi", "builtin"], broken)
    assert (chat.returncode, chat.stdout) == (2, "")
    assert chat.stderr.startswith("aded-chat: ")
    assert chat.stderr.count("\n") == 1
    assert is_the_line(chat.stderr, broken)

    # The second asks nobody again.
    [kept] = [
        path for path in cache_folder().glob("preflight/*.json") if '"sound": false' in path.read_text()
    ]
    before = kept.read_text()
    program = (
        "from aded_local import LocalADED, errors\n"
        "try: LocalADED('builtin')\n"
        "except errors.BrokenBuildError as error: print(error)"
    )
    api = run(["-c", program], broken)
    assert (api.returncode, api.stderr) == (0, "")
    assert chat.stderr == f"aded-chat: {api.stdout}"
    assert kept.read_text() == before

    # The doctor does.
    doctor = run(["-m", "aded_cli.doctor", "--json"], broken)
    assert doctor.returncode == 2
    assert doctor.stderr == chat.stderr.replace("aded-chat", "aded-doctor")
    assert json.loads(doctor.stdout)["verdict"]["sound"] is False
    assert kept.read_text() != before


def test_a_vocabulary_is_read_by_a_broken_library_too(broken: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("how to list files")
    done = run(
        ["-m", "aded_cli.store", "build", "builtin", str(corpus), "-o", str(tmp_path / "a.store")], broken
    )
    assert done.returncode == 0, done.stderr


def test_a_hang_is_ended_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = broken_libraries.make(tmp_path / "lib", "hangs")
    monkeypatch.setenv(library.OVERRIDE, str(folder))
    monkeypatch.setattr(preflight, "PREFLIGHT_SECONDS", 6.0)
    with pytest.raises(BrokenBuildError, match="it hung for 6 s while "):
        preflight.require_sound_build()


def test_logits_that_are_no_numbers_are_a_broken_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = broken_libraries.make(tmp_path / "lib", "miscomputes")
    monkeypatch.setenv(library.OVERRIDE, str(folder))
    with pytest.raises(
        BrokenBuildError, match="computed what is no number while decoding 1 token of a q4_0 model"
    ):
        preflight.require_sound_build()


def test_temporary_files_of_a_child_that_died_are_removed(
    broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(library.OVERRIDE, str(broken))
    monkeypatch.setattr(preflight.tempfile, "tempdir", str(tmp_path))
    before = sorted(tmp_path.iterdir())
    verdict = preflight.examine(preflight.verdict_path()).verdict
    assert verdict is not None and not verdict.sound
    assert sorted(tmp_path.iterdir()) == before


# When it is tried


def test_it_is_tried_once_for_each_library(own_library: Path, counted: list[str]) -> None:
    said: list[str] = []
    preflight.require_sound_build(said.append)
    assert (len(counted), len(said)) == (1, 1)
    preflight.require_sound_build(said.append)
    assert verdicts.read(preflight.verdict_path() or Path()) is not None
    (own_library / "libggml-cuda.so").write_text("another GPU")
    preflight._passed = False
    preflight.require_sound_build(said.append)
    assert (len(counted), len(said)) == (1, 1)
    (own_library / "libggml-cpu.so").write_text("another build")
    preflight._passed = False
    preflight.require_sound_build(said.append)
    assert (len(counted), len(said)) == (2, 2)


def test_another_processor_gets_its_own_verdict(
    own_library: Path, counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = preflight.verdict_path()
    with_more = replace(verdicts.processor(), flags=(*verdicts.processor().flags, "more"))
    monkeypatch.setattr(verdicts, "processor", lambda: with_more)
    assert preflight.verdict_path() != here


DAMAGED = [
    b"",
    b"\xff\x00",
    b"null",
    b"[]",
    b"{}",
    b"[" * 100_000,
    json.dumps({"sound": True}).encode(),
    json.dumps({**asdict(GOOD), "sound": "yes"}).encode(),
    json.dumps({**asdict(GOOD), "step": None}).encode(),
    json.dumps({**asdict(GOOD), "more": 1}).encode(),
]


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_verdict_counts_as_none(own_library: Path, counted: list[str], content: bytes) -> None:
    path = preflight.verdict_path()
    assert path is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    preflight.require_sound_build()
    assert len(counted) == 1
    assert verdicts.read(path) is not None


def test_damaged_hashes_are_counted_again(own_library: Path, counted: list[str]) -> None:
    path = preflight.verdict_path()
    assert path is not None
    for content in ("", "[]", json.dumps({str(own_library / "libllama.so"): "?"})):
        (path.parent / "hashes.json").write_text(content)
        assert preflight.verdict_path() == path


def test_a_cache_that_cannot_be_written_costs_only_the_repetition(
    own_library: Path, counted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("no folder")
    monkeypatch.setenv("ADED_CACHE_DIR", str(blocked))
    for times in (1, 2):
        preflight._passed = False
        preflight.require_sound_build()
        preflight.require_sound_build()
        assert len(counted) == times


def test_what_could_not_be_tried_is_no_obstacle_and_not_kept(
    own_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = iter(
        [
            Outcome(Ending.FAILED, "", "ValueError: seven", 0.5),
            Outcome(Ending.DIED, "decoding", "SIGKILL", 0.5),  # out of memory, or a person
            Outcome(Ending.DIED, "decoding", "SIGTERM", 0.5),
        ]
    )
    monkeypatch.setattr(trial, "run", lambda *_, **__: next(outcomes))
    for _ in range(3):
        preflight._passed = False
        preflight.require_sound_build()
        assert verdicts.read(preflight.verdict_path() or Path()) is None


def test_without_a_library_there_is_nothing_to_try(
    tmp_path: Path, counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(library.OVERRIDE, str(tmp_path / "none"))
    preflight.require_sound_build()
    assert counted == []
    assert preflight.examine(None).verdict is None


def test_the_child_itself_is_not_asked_to_try(
    own_library: Path, counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(trial.INSIDE, "1")
    preflight.require_sound_build()
    assert counted == []


def test_a_bad_verdict_is_raised_every_time_and_tried_once(
    own_library: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    outcomes = iter([Outcome(Ending.DIED, "decoding", "SIGILL", 0.5)])
    monkeypatch.setattr(trial, "run", lambda *_, **__: next(outcomes))
    monkeypatch.setenv("ADED_CACHE_DIR", str(own_library / "libllama.so"))  # cannot be kept
    for _ in range(2):
        with pytest.raises(DeviceError, match="SIGILL"):
            preflight.require_sound_build()


# What is said


def test_the_command_is_one_for_the_shell_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/my venv/python")
    monkeypatch.setattr(preflight.importlib.metadata, "version", lambda _name: "1.2.3")
    monkeypatch.setattr(sys, "platform", "linux")
    options = (
        "-m pip install --force-reinstall --no-cache-dir --no-deps"
        " --no-binary llama-cpp-python llama-cpp-python==1.2.3"
    )
    assert preflight.reinstall_command() == (
        f"CMAKE_ARGS=\"-DCMAKE_CXX_FLAGS=-fno-dse\" '/my venv/python' {options}"
    )
    monkeypatch.setattr(sys, "platform", "win32")
    assert preflight.reinstall_command() == f'"/my venv/python" {options}'


def test_a_library_named_by_the_environment_is_named_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(library.OVERRIDE, raising=False)
    assert library.OVERRIDE not in preflight.complaint(BAD)
    monkeypatch.setenv(library.OVERRIDE, "/my/lib")
    assert f"unset {library.OVERRIDE}, which names the library in /my/lib" in preflight.complaint(BAD)
    assert "\n" not in preflight.complaint(BAD)


# Which files are meant


def test_the_libraries_that_compute_on_the_cpu_are_meant(own_library: Path) -> None:
    for name in (
        "llama.dll",
        "ggml-cpu-haswell.dll",
        "libggml-cpu.0.25.dylib",
        "libllama.txt",
        "libggml-cpu.so.bak",
    ):
        (own_library / name).touch()
    assert [path.name for path in library.files()] == [
        "ggml-cpu-haswell.dll",
        "libggml-base.so.0",
        "libggml-cpu.0.25.dylib",
        "libggml-cpu.so",
        "libllama.so",
        "llama.dll",
    ]


def test_a_file_is_read_again_only_when_it_changed(
    own_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = library.fingerprint(library.files())
    reading: list[str] = []
    read_bytes = Path.read_bytes

    def read(path: Path) -> bytes:
        reading.append(path.name)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    assert library.fingerprint(library.files()) == first
    assert reading == []
    (own_library / "libllama.so").write_text("rebuilt")
    assert library.fingerprint(library.files()) != first
    assert reading == ["libllama.so"]


def test_compilers_that_left_their_names_are_found(own_library: Path) -> None:
    gcc, clang = "GCC: (Debian 12.2.0-14+deb12u1) 12.2.0", "Apple clang version 15.0.0"
    (own_library / "libllama.so").write_bytes(f"\0{gcc}\0{gcc}\0{clang} (clang-1500)".encode())
    assert library.compilers(library.files()) == [gcc, clang]


def test_a_library_that_is_not_there_is_one_line_that_names_the_variable(tmp_path: Path) -> None:
    environment = {**os.environ, library.OVERRIDE: str(tmp_path / "none")}
    command = [sys.executable, "-m", "aded_cli.chat", "builtin", "-p", "hi"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert library.OVERRIDE in done.stderr and "free some space" not in done.stderr
