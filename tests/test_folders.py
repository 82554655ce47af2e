"""Where a user's files go in any container, and what is taken for one of ours: never a link, a pipe, or gigabytes."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import strangers

from aded_cli import diagnosis
from aded_local import LocalADED
from aded_local import files as folders
from aded_local.errors import StoreError
from aded_local.files import NOWHERE, cache, cache_folder, data_folder, data_problem
from aded_local.kernels import kept
from aded_local.memory.conversations import memory_folder
from aded_local.ngrams import phrases
from aded_local.ngrams import table as statistics
from aded_local.speed.measurements import Measurements
from aded_local.trials import library, verdicts
from aded_local.unkept import complaint

pwd = pytest.importorskip("pwd", reason="users of POSIX")
pytestmark = pytest.mark.skipif(os.name == "nt", reason="users, modes and links of POSIX")

temporary_path = folders.temporary_path
"""As the program has it; ``conftest`` lets other tests have none."""

VARIABLES = ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "ADED_CACHE_DIR", "ADED_DATA_DIR")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A folder for temporary files of this test's own, and nothing chosen before."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(folders, "temporary_path", temporary_path)
    folders._chosen_cache.cache_clear()
    yield
    folders._chosen_cache.cache_clear()


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """No home folder, and a user whom the system does not know, as containers have it."""

    def unknown(_uid: int) -> Any:
        raise KeyError("no such user")

    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def own_temporary_folder(tmp_path: Path) -> Path:
    return tmp_path / "temporary" / f"aded-local-{os.geteuid()}"


# Where


def test_the_environment_names_the_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADED_CACHE_DIR", str(tmp_path / "c"))
    monkeypatch.setenv("ADED_DATA_DIR", "~/d")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert (cache_folder(), data_folder()) == (tmp_path / "c", tmp_path / "d")
    assert stat.S_IMODE((tmp_path / "c").stat().st_mode) == 0o700
    assert not (tmp_path / "d").exists() and data_problem() is None
    assert complaint(kernels=tmp_path / "c" / "kernels", memory=True) is None


def test_a_relative_folder_is_below_the_current_one_and_an_empty_name_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ADED_CACHE_DIR", "some/where")
    assert cache_folder() == tmp_path / "some" / "where"
    monkeypatch.setenv("ADED_CACHE_DIR", "")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert (tmp_path / "home") in cache_folder().parents


@pytest.mark.usefixtures("nobody")
def test_without_a_home_folder_there_is_a_cache_and_no_memory(tmp_path: Path) -> None:
    assert cache_folder() == own_temporary_folder(tmp_path)
    assert stat.S_IMODE(cache_folder().stat().st_mode) == 0o700
    with pytest.raises(StoreError, match=r"no home folder.*ADED_DATA_DIR"):
        data_folder()
    line = complaint(kernels=cache_folder() / "kernels", memory=True)
    assert line is not None and "\n" not in line
    assert all(line.count(name) >= 1 for name in ("ADED_CACHE_DIR", "ADED_DATA_DIR", str(cache_folder())))


@pytest.mark.usefixtures("nobody")
def test_the_doctor_tells_of_folders_that_are_not_there(tmp_path: Path) -> None:
    found = diagnosis._folders()
    assert found["cache"]["path"] == str(own_temporary_folder(tmp_path)) and found["cache"]["writable"]
    assert found["data"] == {
        "path": None,
        "exists": False,
        "writable": False,
        "problem": "no home folder is known",
    }


@pytest.mark.parametrize("given", ["file", "file/below", "~nosuchuser/x", "dangling", "n" * 300])
def test_a_folder_that_cannot_be_is_one_line_that_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing" / "there")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ADED_CACHE_DIR", given)
    assert cache().path == own_temporary_folder(tmp_path) and given in str(cache().problem)
    line = complaint(kernels=cache_folder() / "kernels", memory=False)
    assert line is not None and "\n" not in line and line.endswith("name another folder with ADED_CACHE_DIR")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["dangling", "file", "temporary"]


def test_a_data_folder_of_nobody_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADED_DATA_DIR", "~nosuchuser/x")
    line = complaint(kernels=cache_folder() / "kernels", memory=True)
    assert (
        line is not None
        and "no such user" in line
        and line.endswith("name another folder with ADED_DATA_DIR")
    )
    assert complaint(kernels=cache_folder() / "kernels", memory=False) is None


def taken_by_link(place: Path) -> None:
    (place.parent / "elsewhere").mkdir(mode=0o700)
    place.symlink_to(place.parent / "elsewhere")


def taken_by_open_folder(place: Path) -> None:
    place.mkdir()
    place.chmod(0o777)


def taken_in_an_open_folder(place: Path) -> None:
    """Whoever may write to the folder above can rename it, and put another one there."""
    place.mkdir(mode=0o700)
    place.parent.chmod(0o777)


def taken_by_another_user(place: Path) -> None:
    place.mkdir(mode=0o700)
    strangers.owned_by_stranger([place])


@pytest.mark.parametrize(
    "take", [taken_by_link, taken_by_open_folder, taken_in_an_open_folder, taken_by_another_user, Path.touch]
)
def test_a_temporary_folder_that_others_could_have_made_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, take: Callable[[Path], None]
) -> None:
    take(own_temporary_folder(tmp_path))
    monkeypatch.setenv("ADED_CACHE_DIR", "/dev/null/x")
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    assert folders.temporary_folder() is None
    assert cache_folder() == NOWHERE
    assert kept.usable_folder() is None
    line = complaint(kernels=None, memory=False)
    assert line is not None and "15 s late" in line and "ADED_CACHE_DIR" in line


def test_a_temporary_folder_below_a_sticky_one_is_used_and_closed_to_readers(tmp_path: Path) -> None:
    (tmp_path / "temporary").chmod(0o1777)
    own_temporary_folder(tmp_path).mkdir(mode=0o755)
    assert folders.temporary_folder() == own_temporary_folder(tmp_path)
    assert stat.S_IMODE(own_temporary_folder(tmp_path).stat().st_mode) == 0o700


def test_a_cache_that_can_only_be_read_is_read_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "refusal", lambda folder: "No space left on device")
    place = cache()
    assert place.path == Path(os.environ["ADED_CACHE_DIR"]) and "No space" in str(place.problem)


def test_nothing_can_be_read_or_written_nowhere() -> None:
    with pytest.raises(OSError, match="Not a directory"):
        folders.read_private(NOWHERE / "x")
    with pytest.raises(OSError):
        folders.write_privately(NOWHERE / "below" / "x", "text")


# As a user whom the system does not know, in a process of its own

ANSWER = """
import sys, tempfile
from aded_local import LocalADED
said = []
with LocalADED(sys.argv[1], n_ctx=256, n_threads=1, draft="off", memory=True, on_notice=said.append) as llm:
    for _ in range(2):
        assert llm.generate([5, 300, 301], max_tokens=3, temperature=0.0).tokens
print("\\n".join(said))
"""


@pytest.mark.parametrize("home", [None, "readonly", "/nonexistent", "file"])
def test_it_answers_without_a_home_folder_and_says_so_once(
    tiny: dict[str, Path], tmp_path: Path, home: str | None
) -> None:
    (tmp_path / "readonly").mkdir(mode=0o555)
    (tmp_path / "file").touch()
    (tmp_path / "temporary").chmod(0o1777)
    environment = {"TMPDIR": str(tmp_path / "temporary"), "ADED_TRIAL": "1"}  # llama.cpp was tried before
    if home is not None:
        environment["HOME"] = str(tmp_path / home)
    done = strangers.run(ANSWER, environment, tmp_path, str(tiny["llama"]))
    assert (done.returncode, done.stderr) == (0, "")
    [line] = done.stdout.splitlines()
    assert "ADED_CACHE_DIR" in line and "ADED_DATA_DIR" in line
    own = tmp_path / "temporary" / f"aded-local-{strangers.UID}"
    assert str(own) in line
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    assert [each.name for each in own.glob("kernels-*")]


def test_where_nothing_can_be_written_at_all_it_answers_and_says_so_once(
    tiny: dict[str, Path], tmp_path: Path
) -> None:
    program = f"import tempfile; tempfile.tempdir = {str(tmp_path)!r}\n{ANSWER}"
    environment = {"HOME": str(tmp_path), "ADED_TRIAL": "1", "ADED_DATA_DIR": "~nosuchuser/x"}
    done = strangers.run(program, environment, tmp_path, str(tiny["llama"]))
    assert (done.returncode, done.stderr) == (0, "")
    [line] = done.stdout.splitlines()
    assert "15 s late" in line and "no such user" in line


# What lies where a file of ours should be


def a_link(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def a_dangling_link(path: Path, victim: Path) -> None:
    path.symlink_to(victim.with_name("nothing"))


def an_endless_device(path: Path, _victim: Path) -> None:
    path.symlink_to("/dev/zero")


def a_pipe(path: Path, _victim: Path) -> None:
    os.mkfifo(path)


def a_folder(path: Path, _victim: Path) -> None:
    path.mkdir()


def gigabytes(path: Path, _victim: Path) -> None:
    path.touch()
    os.truncate(path, 3 << 30)


def another_users(path: Path, victim: Path) -> None:
    path.write_bytes(victim.read_bytes())
    path.chmod(0o666)
    strangers.owned_by_stranger([path])


OBSTACLES = [a_link, a_dangling_link, an_endless_device, a_pipe, a_folder, gigabytes, another_users]
Put = Callable[[Path, Path], None]

READERS: dict[str, Callable[[Path], bool]] = {
    "measurements": lambda path: not Measurements(path).failed,
    "verdict": lambda path: verdicts.read(path) is None,
    "hashes": lambda path: library._remembered(path) == {},
    "phrases": lambda path: phrases._kept(path) is None,
}

SOUND = (
    b'{"format": 9, "curves": {}, "exact": {}, "trials": {}, "failed": ["x"], "chosen": "", "usual": 1,'
    b' "batch_threads": null, "sound": true, "what": "", "step": "", "processor": "",'
    b' "library": "", "seconds": 1, "when": 1}'
)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_bytes(SOUND)
    path.chmod(0o644)
    return path


def test_a_sound_file_is_read(victim: Path) -> None:
    assert not READERS["measurements"](victim) and not READERS["hashes"](victim)


@pytest.mark.parametrize("reader", sorted(READERS))
@pytest.mark.parametrize("put", OBSTACLES)
def test_what_is_no_file_of_ours_is_not_read(tmp_path: Path, victim: Path, put: Put, reader: str) -> None:
    path = tmp_path / "cache" / "ours"
    path.parent.mkdir()
    put(path, victim)
    assert READERS[reader](path)


@pytest.mark.parametrize("put", OBSTACLES)
def test_writing_replaces_what_lies_there_and_follows_nothing(tmp_path: Path, victim: Path, put: Put) -> None:
    path = tmp_path / "cache" / "ours"
    path.parent.mkdir()
    put(path, victim)
    if put is a_folder:
        with pytest.raises(IsADirectoryError):
            folders.write_privately(path, "ours")
    else:
        folders.write_privately(path, "ours")
        assert folders.read_private(path) == b"ours" and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert victim.read_bytes() == SOUND and stat.S_IMODE(victim.stat().st_mode) == 0o644
    assert [each.name for each in path.parent.iterdir()] == ["ours"]


@pytest.mark.parametrize("put", [each for each in OBSTACLES if each is not gigabytes])
def test_appending_follows_nothing(tmp_path: Path, victim: Path, put: Put) -> None:
    path = tmp_path / "ours"
    put(path, victim)
    with pytest.raises(OSError):
        folders.open_private(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    assert victim.read_bytes() == SOUND and stat.S_IMODE(victim.stat().st_mode) == 0o644
    assert not victim.with_name("nothing").exists()


def test_roots_files_are_read_and_not_written_to(tmp_path: Path, victim: Path) -> None:
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom aded_local import files as folders\n"
        "print(len(folders.read_private(Path(sys.argv[1]))))\n"
        "folders.open_private(Path(sys.argv[1]), os.O_WRONLY)"
    )
    victim.chmod(0o666)
    done = strangers.run(program, {}, tmp_path, str(victim))
    assert done.stdout.strip() == str(len(SOUND))
    assert "another user" in done.stderr.splitlines()[-1]


def test_both_ends_of_a_file_are_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    assert folders.read_ends(path, 90, 10) == (bytes(range(100)), b"", 100)
    assert folders.read_ends(path, 3, 2) == (b"\0\1\2", b"bc", 100)
    assert folders.read_ends(path, 3, 0) == (b"\0\1\2", b"", 100)


# Phrases in the tokens of a vocabulary


def one_token_a_word(text: str) -> list[int]:
    known: dict[str, int] = {}
    return [known.setdefault(word, len(known)) for word in text.split(" ")]


@pytest.mark.parametrize("damage", ["none", "empty", "zip", "bit", "longer"])
def test_a_kept_table_of_phrases_is_taken_only_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setenv("ADED_CACHE_DIR", str(tmp_path / "cache"))
    made: list[int] = []
    table = statistics.new_table(phrases.PHRASE_BITS)
    table[:] = np.arange(len(table))

    def make(_tokenize: object) -> Any:
        made.append(1)
        return table

    monkeypatch.setattr(phrases, "phrase_table", make)
    phrases.kept_phrase_table(one_token_a_word, "t" * 64)
    [path] = cache_folder().glob("phrases/*")
    data = bytearray(path.read_bytes())
    data[1000] ^= damage == "bit"
    whole = bytes(data)
    damaged = {"empty": b"", "zip": b"PK\x03\x04" + whole[4:], "longer": whole + b"x"}
    path.write_bytes(damaged.get(damage, whole))
    found = phrases.kept_phrase_table(one_token_a_word, "t" * 64)
    assert np.array_equal(found, table) and found.ctypes.data % 64 == 0
    assert len(made) == (1 if damage == "none" else 2)


# Switched off for good


@pytest.mark.parametrize(("value", "is_off"), [("1", True), ("yes", True), ("0", False), ("", False)])
def test_the_environment_switches_the_memory_off(
    tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch, value: str, is_off: bool
) -> None:
    monkeypatch.setenv("ADED_NO_MEMORY", value)
    told: list[str] = []
    options: dict[str, Any] = {"n_ctx": 256, "n_threads": 1, "draft": "off", "on_notice": told.append}
    with LocalADED(tiny["llama"], memory=True, **options) as llm:
        llm.generate([5, 300], max_tokens=2)
    assert memory_folder().exists() != is_off
    assert len([line for line in told if "ADED_NO_MEMORY" in line]) == len(told) == is_off
    with LocalADED(tiny["llama"], **options):
        assert len(told) == is_off
