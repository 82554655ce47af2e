"""Kept kernels are private, and they are all there when it is said so."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import conftest
import pytest
import strangers
from patience import PATIENCE

from aded_local import files as folders
from aded_local.drafters import make_drafter
from aded_local.drafters.ngram import ahead
from aded_local.kernels import kept
from aded_local.kernels.kept import kernels_are_kept
from aded_local.ngrams import phrase_entries
from aded_local.unkept import complaint


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of kernels that look complete."""
    found = tmp_path / "kernels-1"
    (found / "drafting_1").mkdir(parents=True)
    monkeypatch.setattr(kept, "FOLDER", found)
    for name in ("search.nbi", "search.1.nbc"):
        (found / "drafting_1" / name).write_bytes(b"code")
    return found


# All or nothing


def test_a_folder_is_complete_when_it_was_said_so_last(folder: Path) -> None:
    assert not kernels_are_kept()  # as a process that was killed left it
    kept.put_stamp(folder)
    assert kernels_are_kept()


@pytest.mark.parametrize("damage", ["removed", "emptied"])
def test_kernels_that_went_lost_are_noticed(folder: Path, damage: str) -> None:
    kept.put_stamp(folder)
    lost = folder / "drafting_1" / "search.1.nbc"
    if damage == "removed":
        lost.unlink()
    else:
        lost.write_bytes(b"")
    assert not kernels_are_kept()


@pytest.mark.parametrize("text", ["", "[]", "[1]", "{", '["../..\\u0000"]', "null", "7"])
def test_a_damaged_stamp_says_nothing(folder: Path, text: str) -> None:
    kept.put_stamp(folder)
    kept.stamp(folder).write_text(text)
    assert not kernels_are_kept()


def test_what_numba_would_not_take_is_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other sources, another compiler, another processor, other settings: kernels are compiled anew for each."""
    from llvmlite import binding

    kept.put_stamp(folder)
    with monkeypatch.context() as patch:
        patch.setattr(binding, "get_host_cpu_name", lambda: "another")
        assert not kernels_are_kept()
    with monkeypatch.context() as patch:
        patch.setenv("NUMBA_OPT", "1")
        assert not kernels_are_kept()
    with monkeypatch.context() as patch:
        patch.setattr(kept, "version", lambda name: "0.0")
        assert not kernels_are_kept()
    sources = kept.sources()
    copy = folder / sources[0].name
    copy.write_bytes(sources[0].read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(kept, "sources", lambda: [copy, *sources[1:]])
        assert not kernels_are_kept()
    assert kernels_are_kept()


def test_nothing_is_kept_where_there_is_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "FOLDER", None)
    monkeypatch.setattr(ahead, "_compile", lambda search: pytest.fail("nobody could use it"))
    assert not kernels_are_kept()
    assert ahead.compile_all() < 1.0


# A private folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where kernels would lie; beside it is a folder for temporary files."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(folders, "temporary_path", lambda: tmp_path / "temporary" / "ours")
    return tmp_path / "cache" / f"kernels-{kept.sources_fingerprint()}"


def is_elsewhere(cache: Path) -> bool:
    """Whether a private folder among temporary files is used instead, and the one that was meant left as it is."""
    found = kept.usable_folder()
    assert found is not None and mode_of(found) == mode_of(found.parent) == 0o700
    line = complaint(kernels=found, memory=False)
    assert line is not None and str(found.parent) in line and "NUMBA_CACHE_DIR" in line
    return found.parent.parent == cache.parent.parent / "temporary"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_folder_is_private_whatever_the_umask(cache: Path) -> None:
    before = os.umask(0)
    try:
        assert kept.usable_folder() == cache
    finally:
        os.umask(before)
    assert mode_of(cache) == 0o700


def test_one_that_others_could_read_is_closed_to_them(cache: Path) -> None:
    cache.mkdir(parents=True, mode=0o755)
    assert kept.usable_folder() == cache
    assert mode_of(cache) == 0o700


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_one_that_others_could_write_to_is_not_used(cache: Path, mode: int) -> None:
    """Kept kernels are pickles: whoever writes them decides what runs."""
    cache.mkdir(parents=True)
    cache.chmod(mode)
    assert is_elsewhere(cache)


def test_one_in_a_folder_where_others_could_put_another_is_not_used(cache: Path) -> None:
    cache.mkdir(parents=True, mode=0o700)
    cache.parent.chmod(0o777)
    assert is_elsewhere(cache)
    cache.parent.chmod(0o1777)
    assert kept.usable_folder() == cache


def test_a_link_is_not_followed(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    cache.parent.mkdir()
    cache.symlink_to(tmp_path / "elsewhere")
    assert is_elsewhere(cache)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_another_users_folder_is_not_used(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.mkdir(parents=True, mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: os.lstat(cache).st_uid + 1)
    assert kept.usable_folder() is None  # nor is one among temporary files: it belongs to the same user


def test_another_users_open_folder_is_not_used_by_root(cache: Path) -> None:
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    strangers.owned_by_stranger([cache])
    assert is_elsewhere(cache)


def test_a_file_in_its_place_is_no_folder(cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_bytes(b"")
    assert is_elsewhere(cache)


def test_a_link_to_nothing_beside_it_is_no_obstacle(cache: Path) -> None:
    """Former versions are looked for there, and a link that leads nowhere cannot be asked for its age."""
    cache.parent.mkdir()
    (cache.parent / "kernels-old").symlink_to(cache.parent / "nothing")
    assert kept.usable_folder() == cache


@pytest.mark.parametrize("put", [lambda path: os.mkfifo(path), lambda path: path.symlink_to("/dev/zero")])
def test_a_lock_or_stamp_that_is_no_file_costs_time_only(folder: Path, put: Any) -> None:
    put(folder / "lock")
    put(kept.stamp(folder))
    assert not kernels_are_kept() and not kept.somebody_compiles()
    assert ahead.compile_all() < 1.0  # without the lock nothing is compiled ahead


# Compiling ahead


def test_two_processes_compile_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []

    def compile_slowly(search: str) -> None:
        compiled.append(threading.get_ident())
        time.sleep(0.2)
        kept.put_stamp(folder)

    monkeypatch.setattr(ahead, "_compile", compile_slowly)
    both = [threading.Thread(target=ahead.compile_all) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(PATIENCE)
    assert len(compiled) == 1 and kernels_are_kept()
    assert ahead.compile_all() < 1.0 and len(compiled) == 1


def test_one_that_is_killed_lets_the_next_one_in(folder: Path) -> None:
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from aded_local.kernels import kept\n"
        "with kept.alone(Path(sys.argv[1])):\n"
        "    print('in', flush=True)\n"
        "    time.sleep(60)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(folder)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": ":".join(filter(None, sys.path))},
    )
    assert child.stdout is not None and child.stdout.readline() == b"in\n"
    child.send_signal(signal.SIGKILL)
    child.wait(PATIENCE)
    child.stdout.close()
    with kept.alone(folder):
        pass


def test_one_that_was_stopped_is_not_waited_for_forever(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "LONGEST_WAIT", 0.1)
    with kept.alone(folder), kept.alone(folder):
        pass


@pytest.fixture(scope="module")
def loaded() -> None:
    """Kernels are in this process already, and making a drafter in another folder compiles none."""
    make_drafter("auto", n_vocab=10)


def test_making_a_drafter_leaves_all_kernels_for_the_next_start(
    loaded: None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "_compile", lambda search: kept.put_stamp(folder))
    make_drafter("auto", n_vocab=10)
    assert kernels_are_kept()


def test_each_search_has_its_own_kernels(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(
        ahead, "_compile", lambda search: (compiled.append(search), kept.put_stamp(folder, search))
    )
    ahead.compile_all()
    assert kernels_are_kept() and not kernels_are_kept("puct")
    for _ in range(2):
        ahead.compile_all("puct")
        assert kernels_are_kept("puct")
    assert compiled == ["best-first", "puct"]


def test_a_folder_that_vanishes_costs_time_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "FOLDER", folder / "gone")
    monkeypatch.setattr(ahead, "_compile", lambda search: None)
    assert ahead.compile_all() < 1.0
    assert not kernels_are_kept()


USE = """
import json, sys
import numpy as np
from aded_local.drafters import make_drafter
from aded_local.kernels.kept import kernels_are_kept
from aded_local.ngrams import phrase_entries
from aded_local.drafters.ngram import prediction
from aded_local.drafters.ngram import search
from aded_local.kernels import top_k as topk
from aded_local.ngrams.phrases import phrase_table
from aded_local.step import Beginning, Likely, StepResult, said
kept = kernels_are_kept()
ids = {}
table = phrase_table(lambda text: [ids.setdefault(word, len(ids)) for word in text.split(" ")])
drafter = make_drafter("auto", n_vocab=49152, phrases=table)
text = np.array([3, 4, 5, 6, 3, 4, 5, 6, 3, 4], np.int32)
drafter.recall([(text, text[2:], False), (text, text, True)])
drafter.begin(Beginning(0, text[:0], text))
cost = np.linspace(0.1, 0.2, 66)
for most, prices in ((16, None), (64, cost), (1, cost)):
    tree = drafter.draft(most, prices)
    for verified in (tree.first(3), tree.with_leaves(1), tree.padded(len(tree) + 2)):
        rows = np.arange(len(verified) + 1, dtype=np.int32)
        tokens, shares = topk.new_rows(len(rows))
        logits = np.random.default_rng(0).normal(size=(len(rows), 49152)).astype(np.float32)
        topk.top_k_rows(logits, rows, tokens, shares)
        drafter.verifying(verified)
        drafter.observe(StepResult(verified, [5, 6], [], 0, Likely(tokens, shares)))
        drafter.observe(said([7]))
drafter.begin(Beginning(1, text[:0], text[:4]))
drafter.begin(Beginning(0, text, text[:4]))
drafter.begin(Beginning(0, text[:3], text[:4], 3))
used = (prediction.learn, search.best_first, topk.fill_rows)
used += (phrase_entries.list_successors, phrase_entries.weigh, phrase_entries.fill)
print(json.dumps([kept, [sum(one.stats.cache_misses.values()) for one in used],
                  [sum(one.stats.cache_hits.values()) for one in used]]))
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of processes for which everything was compiled ahead.

    Not compiled once more: what is compiled for all tests, ahead as well, is taken over, and the command goes on from
    there. What other tests had to compile besides is not among it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NUMBA_CACHE_DIR", conftest.KERNELS)  # the stamp's name tells settings of Numba apart
        whole = Path(conftest.KERNELS) / f"kernels-{kept.sources_fingerprint()}"
        names = json.loads(kept.stamp(whole).read_text())
    cache = tmp_path_factory.mktemp("cache")
    for name in names:
        copy = cache / whole.name / name
        copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copy2(whole / name, copy)
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "PYTHONPATH": ":".join(filter(None, sys.path)),
        "ADED_CACHE_DIR": str(cache),
    }
    done = subprocess.run(
        [sys.executable, *ahead.COMMAND], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and done.stdout.startswith("the drafter's kernels are kept"), done.stderr
    return environment


def use(environment: dict[str, str]) -> list[bool | list[int]]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", USE],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: list[bool | list[int]] = json.loads(done.stdout)
    return found


def test_after_compiling_ahead_an_ordinary_start_compiles_nothing(compiled: dict[str, str]) -> None:
    kept, misses, hits = use(compiled)
    assert kept
    assert misses == [0] * 6
    assert hits == [1] * 6  # and each kernel was compiled for one set of types


def test_only_what_is_missing_is_compiled(compiled: dict[str, str]) -> None:
    # Another checkout of the same sources may have kernels of its own beside, in folders named by its path.
    own = Path(phrase_entries.fill.stats.cache_path).name
    lost = next(Path(compiled["ADED_CACHE_DIR"]).glob(f"kernels-*/{own}/phrase_entries.fill*.nbc"))
    others = {path: path.stat().st_mtime_ns for path in lost.parent.glob("*.nbc") if path != lost}
    lost.unlink()
    assert use(compiled)[0] is False
    lost.unlink()  # the use compiled it, for itself
    again = subprocess.run([sys.executable, *ahead.COMMAND], env=compiled, check=False, capture_output=True)
    assert again.returncode == 0
    assert {path: path.stat().st_mtime_ns for path in others} == others
    assert use(compiled)[0] is True


def test_where_nothing_can_be_kept_it_says_so() -> None:
    environment = {"PYTHONPATH": ":".join(filter(None, sys.path)), "ADED_CACHE_DIR": "/dev/null/nowhere"}
    program = (
        "import runpy, tempfile; tempfile.tempdir = '/dev/null/nowhere'\n"
        f"runpy.run_module({ahead.COMMAND[1]!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "cannot be kept" in done.stderr


def test_asking_takes_no_compiler() -> None:
    """A chat asks at every start, and Numba takes half a second to import."""
    program = (
        "import sys\n"
        "from aded_local.kernels.kept import kernels_are_kept\n"
        "kernels_are_kept()\n"
        "assert 'numba' not in sys.modules\n"
    )
    environment = os.environ | {"PYTHONPATH": ":".join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
