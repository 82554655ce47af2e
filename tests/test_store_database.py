"""A memory's file: what survives damage, killed writers, full disks, and several programs at once."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import sqlite3
import stat
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import strangers
from hypothesis import given, settings
from hypothesis import strategies as st
from interrupting import instants
from patience import PATIENCE

from aded_local.errors import StoreError
from aded_local.memory import Exchange, rows, sharing
from aded_local.memory.database import Database, Kind
from aded_local.memory.exchange import LARGEST_TOKEN, from_row, to_row
from aded_local.memory.rows import LARGEST_BYTES, PAGE_BYTES, Rows

KEY = "0123456789ab"
LABELS = {"name": "tiny", "tokenizer": "t", "model": "llama tiny", "key": KEY}
OTHER = {**LABELS, "key": "ba9876543210"}
posix = pytest.mark.skipif(os.name == "nt", reason="modes and signals of POSIX")


def exchange(number: int, size: int = 5) -> Exchange:
    """One that tells by its tokens which it is and whether it is whole."""
    prompt = np.full(size, number, np.int32)
    return Exchange(prompt, np.arange(size, dtype=np.int32) + number, number % 2 == 1, 1_700_000_000 + number)


def append(file: Database, *exchanges: Exchange) -> None:
    with file.writing() as opened:
        opened.add(exchanges)


def written(path: Path, n: int, size: int = 5) -> Database:
    """A file of ``n`` exchanges, closed."""
    file = Database(path, LABELS)
    for number in range(n):
        append(file, exchange(number, size))
    file.close()
    return file


def numbers(file: Database) -> list[int]:
    return [int(each.prompt[0]) for each in file.read().exchanges]


def listed(path: Path) -> list[str]:
    return sorted(each.name for each in path.parent.iterdir())


@contextlib.contextmanager
def altered(path: Path) -> Iterator[sqlite3.Connection]:
    """The file as somebody changes it by hand."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as by_hand:
        yield by_hand


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memory" / "tiny.sqlite"


# What is kept


def test_what_is_appended_is_read_back_in_order_and_one_file_stays(path: Path) -> None:
    file = written(path, 5)
    found = file.read()
    assert found.kind is Kind.SOUND and found.damaged == 0
    assert found.exchanges == [exchange(number) for number in range(5)]
    assert found.exchanges[0].prompt.dtype == np.int32
    assert found.exchanges[0].prompt.flags.writeable  # kernels are compiled for such arrays
    file.close()
    assert listed(path) == ["tiny.sqlite"] and found.size >= path.stat().st_size


def test_no_file_is_an_empty_one_and_reading_makes_none(path: Path) -> None:
    assert Database(path, LABELS).read().kind is Kind.ABSENT
    assert not path.parent.exists()


def test_an_empty_file_is_begun(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    assert Database(path, LABELS).read().kind is Kind.ABSENT
    assert written(path, 1).read().exchanges == [exchange(0)]


@st.composite
def exchanges(draw: st.DrawFn) -> Exchange:
    ids = st.lists(st.integers(0, LARGEST_TOKEN - 1), max_size=12)
    return Exchange(
        np.array(draw(ids), np.int32),
        np.array(draw(ids), np.int32),
        draw(st.booleans()),
        draw(st.integers(0, 2**40)),
        draw(st.integers(0, 2**32 - 1)),
        draw(st.integers(0, 2**32 - 1)),
    )


@settings(deadline=None)
@given(st.lists(exchanges(), max_size=5))
def test_any_exchanges_come_back(said: list[Exchange]) -> None:
    assert [from_row(to_row(each, KEY), KEY) for each in said] == said
    assert [from_row(to_row(each, KEY), OTHER["key"]) for each in said] == [None] * len(said)


@pytest.mark.parametrize("token", [-1, LARGEST_TOKEN])
def test_ids_outside_any_vocabulary_are_refused(path: Path, token: int) -> None:
    file = written(path, 1)
    odd = Exchange(np.array([token], np.int32), np.zeros(0, np.int32), False, 0)
    with pytest.raises(ValueError, match="vocabulary"):
        append(file, exchange(1), odd)
    assert numbers(file) == [0]  # all or nothing


def test_what_is_dropped_is_nowhere_in_the_files(path: Path) -> None:
    file = written(path, 6, size=3000)
    secret = exchange(3, 100).prompt.tobytes()
    append(file, exchange(7))  # it is open, and has a log
    assert secret in path.read_bytes()
    with file.writing() as opened:
        assert opened.keep(lambda found: [each for each in found if each.prompt[0] != 3])[0] == 1
    file.shrink()
    assert numbers(file) == [0, 1, 2, 4, 5, 7]
    assert not any(secret in each.read_bytes() for each in path.parent.iterdir())
    before = path.stat().st_size
    with file.writing() as opened:
        opened.keep(lambda found: found[:1])
    file.shrink()
    assert path.stat().st_size < before / 2


# Damage


def pages(path: Path) -> int:
    return path.stat().st_size // PAGE_BYTES


def overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_bytes_overwritten_anywhere_never_change_what_is_read(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """They cost exchanges, and never make another of one; a file that SQLite cannot read is set aside and saved."""
    folder = tmp_path_factory.mktemp("damaged")
    path = folder / "tiny.sqlite"
    written(path, 40, size=150)
    start = data.draw(st.integers(0, path.stat().st_size - 1))
    overwrite(path, start, data.draw(st.binary(min_size=1, max_size=60)))
    file = Database(path, LABELS)
    whole = [exchange(number, 150) for number in range(40)]
    found = file.read()
    if found.kind is Kind.OTHER_VERSION or found.kind is Kind.ABSENT:
        return  # the number of the format was hit
    assert all(each in whole for each in found.exchanges)
    if found.kind is not Kind.FOREIGN:
        # A page holds three, the pages above them and those that say where all are some more.
        assert len(found.exchanges) >= 20 or start <= 2 * PAGE_BYTES
    if found.kind is not Kind.SOUND:
        assert file.set_aside() is not None
        assert file.read().exchanges == found.exchanges
    try:
        append(file, exchange(50))
    except StoreError as error:
        assert "readonly" in str(error) and start <= 18  # the byte that says so was hit
    else:
        assert file.read().exchanges == [*found.exchanges, exchange(50)]
    file.close()


def test_a_page_of_noise_costs_what_it_holds(path: Path) -> None:
    file = written(path, 60, size=150)
    overwrite(path, (pages(path) // 2) * PAGE_BYTES, b"\xa5" * PAGE_BYTES)
    found = file.read()
    assert found.kind is Kind.DAMAGED and found.damaged >= 1
    assert len(found.exchanges) >= 55 and found.exchanges[0] == exchange(0, 150)
    assert found.exchanges[-1] == exchange(59, 150)


@pytest.mark.parametrize("noise", [b"\0" * PAGE_BYTES, b"?"])
def test_a_damaged_first_page_costs_no_exchange(path: Path, noise: bytes) -> None:
    file = written(path, 30, size=150)
    for number in (1, 2):
        overwrite(path, 0, noise)
        found = file.read()
        assert found.kind is Kind.DAMAGED and len(found.exchanges) == 30
        moved = file.set_aside()
        assert moved is not None and (moved[0].name, moved[1]) == (f"tiny.sqlite.damaged-{number}", 30)
        assert file.read().exchanges == [exchange(n, 150) for n in range(30)]
        file.close()
    assert file.set_aside() is None
    assert [each.name for each in file.beside()] == ["tiny.sqlite.damaged-1", "tiny.sqlite.damaged-2"]


def test_a_file_cut_short_keeps_its_beginning(path: Path) -> None:
    file = written(path, 60, size=150)
    os.truncate(path, (pages(path) - 5) * PAGE_BYTES + 100)
    found = file.read()
    assert found.kind is Kind.DAMAGED and 35 <= len(found.exchanges) < 60
    moved = file.set_aside()
    assert moved is not None and moved[1] == len(found.exchanges)
    append(file, exchange(7))
    assert file.read().exchanges == [*found.exchanges, exchange(7)]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE exchanges SET prompt = x'01000000' WHERE id = 2",
        "UPDATE exchanges SET at = 'yesterday' WHERE id = 2",
        "UPDATE exchanges SET turn = 99999999999999 WHERE id = 2",
        "UPDATE exchanges SET answer = NULL WHERE id = 2",
        "UPDATE exchanges SET answer = 17, checksum = NULL WHERE id = 2",
        "UPDATE exchanges SET continues = 0 WHERE id = 2",
    ],
)
def test_a_row_that_was_changed_is_not_read_and_goes_with_the_next_pruning(path: Path, change: str) -> None:
    file = written(path, 3)
    with altered(path) as by_hand:
        by_hand.execute(change)
    found = file.read()
    assert (found.kind, found.damaged) == (Kind.SOUND, 1)
    assert numbers(file) == [0, 2]
    append(file, exchange(7))
    with file.writing() as opened:
        assert opened.keep(lambda all_of_them: all_of_them)[0] == 0
    assert file.read().damaged == 0 and numbers(file) == [0, 2, 7]


@pytest.mark.parametrize(
    "change",
    [
        "CREATE TRIGGER t AFTER INSERT ON exchanges BEGIN DELETE FROM exchanges; END",
        "ALTER TABLE exchanges ADD COLUMN more",
        "DROP TABLE labels",
        "PRAGMA application_id = 7",
    ],
)
def test_a_database_with_other_tables_is_not_used(path: Path, change: str) -> None:
    file = written(path, 3)
    with altered(path) as by_hand:
        by_hand.execute(change)
    assert file.read().kind is Kind.DAMAGED
    with pytest.raises(StoreError):
        append(file, exchange(3))
    assert file.set_aside() is not None
    append(file, exchange(3))
    assert file.read().kind is Kind.SOUND


def test_gigabytes_of_zeros_are_not_read_and_go_with_the_next_pruning(path: Path) -> None:
    """As a crash of the machine may leave them."""
    file = written(path, 3)
    os.truncate(path, 3 << 30)
    tracemalloc.start()
    found = file.read()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.kind is Kind.SOUND and most < LARGEST_BYTES
    assert numbers(file) == [0, 1, 2] and found.size >= 3 << 30
    append(file, exchange(3))
    file.shrink()
    assert numbers(file) == [0, 1, 2, 3] and path.stat().st_size < LARGEST_BYTES


def test_no_more_is_read_than_a_memory_may_hold(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(path, 30, size=1000)
    monkeypatch.setattr(rows, "LARGEST_BYTES", 100_000)
    assert numbers(file) == list(range(12))
    with file.writing() as opened:
        assert opened.keep(lambda found: found[:2])[0] == 10
    monkeypatch.undo()
    assert numbers(file) == [0, 1]


def test_damage_that_only_writing_would_meet_is_found_by_reading(path: Path) -> None:
    file = written(path, 40, size=150)
    overwrite(path, 16 * PAGE_BYTES + 1, b"\1")  # where a page says that it has a free block
    assert file.read().kind is Kind.DAMAGED


@pytest.mark.parametrize("broken", ["key", "text"])
def test_a_damaged_label_does_not_make_it_another_models(path: Path, broken: str) -> None:
    file = written(path, 3)
    value = "'ba9876543210'" if broken == "key" else "CAST(x'80' AS TEXT)"
    with altered(path) as by_hand:
        by_hand.execute(f"UPDATE labels SET value = {value} WHERE name = 'key'")
    assert file.read().kind is Kind.DAMAGED and len(file.read().exchanges) == 3
    assert file.set_aside() is not None and numbers(file) == [0, 1, 2]


def test_a_text_or_noise_is_no_memory(path: Path) -> None:
    path.parent.mkdir()
    for content in (b"a text", random.Random(0).randbytes(30_000)):
        path.write_bytes(content)
        file = Database(path, LABELS)
        started = time.process_time()
        assert file.read().kind is Kind.DAMAGED and file.read().exchanges == []
        assert time.process_time() - started < 20  # 0.1 s
        with pytest.raises(StoreError):
            append(file, exchange(0))
        assert path.read_bytes() == content
        moved = file.set_aside()
        assert moved is not None and moved[1] == 0 and moved[0].read_bytes() == content


# Files of other models and versions


def test_another_models_file_is_set_aside_whole(path: Path) -> None:
    written(path, 2)
    before = path.read_bytes()
    file = Database(path, OTHER)
    assert file.read().kind is Kind.FOREIGN
    with pytest.raises(StoreError, match="another model"):
        append(file, exchange(3))
    moved = file.set_aside()
    assert moved is not None
    assert (moved[0].name, moved[0].read_bytes(), moved[1]) == ("tiny.sqlite.damaged-1", before, 0)
    assert file.read().kind is Kind.ABSENT


def test_another_versions_file_is_left_alone(path: Path) -> None:
    file = written(path, 1)
    with altered(path) as by_hand:
        by_hand.execute("PRAGMA user_version = 2")
        by_hand.execute("ALTER TABLE exchanges ADD COLUMN more")
    before = path.read_bytes()
    assert file.read().kind is Kind.OTHER_VERSION
    assert file.set_aside() is None
    with pytest.raises(StoreError, match="another version"):
        append(file, exchange(1))
    file.close()
    assert path.read_bytes() == before


# Failing disks


def test_a_file_that_may_not_grow_is_as_it_was(path: Path) -> None:
    file = written(path, 2)
    append(file, exchange(2))
    assert file._opened is not None
    file._opened.execute("PRAGMA max_page_count = 4")
    with pytest.raises(StoreError, match="full") as told:
        append(file, exchange(3, size=20_000))
    assert "\n" not in str(told.value) and "free some space" in str(told.value)
    assert numbers(file) == [0, 1, 2]
    append(file, exchange(3))
    assert numbers(file) == [0, 1, 2, 3]


def test_a_disk_too_full_for_salvage_keeps_the_damaged_file_in_its_place(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(path, 2)
    overwrite(path, 0, b"?")
    before = path.read_bytes()

    def refuse(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as full:
        full.setattr(Rows, "add", refuse)
        with pytest.raises(StoreError, match="free some space"):
            file.set_aside()
    assert path.read_bytes() == before and listed(path) == ["tiny.sqlite"]
    assert len(file.read().exchanges) == 2


LIMITED = """
import resource, sys
sys.path.insert(0, {tests!r})
import test_store_database as tests
from pathlib import Path
file = tests.Database(Path(sys.argv[1]), tests.LABELS)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for number in range(1000):
    try:
        tests.append(file, tests.exchange(number))
    except tests.StoreError as error:
        print(number, error)
        break
"""


@posix
def test_a_limit_on_file_sizes_is_one_line_and_costs_one_exchange(path: Path) -> None:
    program = LIMITED.format(tests=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == ""
    number, told = done.stdout.strip().split(" ", 1)
    assert told.startswith("cannot write") and "\n" not in told
    assert numbers(Database(path, LABELS)) == list(range(int(number)))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 kB, where this user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except OSError as error:
        pytest.skip(f"mount cannot be run: {error}")
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True, timeout=20)


def test_a_disk_that_fills_up_keeps_what_was_written(small_disk: Path) -> None:
    path = small_disk / "tiny.sqlite"
    file = Database(path, LABELS)
    kept = 0
    with pytest.raises(StoreError, match="cannot write"):
        for kept in range(1000):
            append(file, exchange(kept, size=100))
    assert numbers(file) == list(range(kept)) and kept > 10
    file.close()
    assert numbers(Database(path, LABELS)) == list(range(kept))
    file.erase()
    assert list(small_disk.iterdir()) == []
    append(file, exchange(0))
    file.close()


# What lies where a memory should be


@pytest.mark.parametrize("obstacle", ["folder", "link", "pipe", "dangling link", "another user's"])
@pytest.mark.parametrize("name", ["tiny.sqlite", "tiny.sqlite-wal", "tiny.sqlite-shm"])
@posix
def test_what_is_no_file_is_one_clear_error(path: Path, obstacle: str, name: str) -> None:
    sound = written(path, 1)
    whole = path.read_bytes()
    at = path.with_name(name)
    at.unlink(missing_ok=True)
    target = path.parent / "elsewhere"
    if obstacle == "folder":
        at.mkdir()
    elif obstacle == "pipe":
        os.mkfifo(at)
    elif obstacle == "another user's":
        at.write_bytes(whole)
        strangers.owned_by_stranger([at])
    else:
        if obstacle == "link":
            target.write_bytes(whole)
        at.symlink_to(target)
    for attempt in (sound.read, lambda: append(sound, exchange(0))):
        with pytest.raises(StoreError) as told:
            attempt()
        assert str(path.parent) in str(told.value) and "\n" not in str(told.value)
    assert not target.exists() or target.read_bytes() == whole


def test_a_file_where_the_folder_should_be_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot write"):
        append(Database(tmp_path / "file" / "tiny.sqlite", LABELS), exchange(0))


@posix
def test_files_are_private_whatever_the_umask(path: Path) -> None:
    for umask in (0o000, 0o022, 0o777):
        before = os.umask(umask)
        try:
            file = Database(path, LABELS)
            append(file, exchange(0))
            file.shrink()
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert listed(path) == ["tiny.sqlite", "tiny.sqlite-shm", "tiny.sqlite-wal"]
        assert {stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()} == {0o600}
        file.erase()
        path.parent.rmdir()


@posix
def test_a_copy_with_a_wider_mode_is_narrowed_by_the_next_append(path: Path) -> None:
    file = written(path, 1)
    path.chmod(0o644)
    append(file, exchange(1))
    assert {stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()} == {0o600}


# Erasing


def test_erasing_leaves_nothing(path: Path) -> None:
    file = written(path, 1)
    overwrite(path, 0, b"?")
    file.set_aside()
    append(file, exchange(1))
    bystander = path.with_name("tiny.sqlite2.sqlite")
    bystander.touch()
    assert [each.name for each in file.erase()] == ["tiny.sqlite", "tiny.sqlite.damaged-1"]
    assert list(path.parent.iterdir()) == [bystander]
    assert file.erase() == []


def test_a_damaged_file_and_its_log_are_erased_too(path: Path) -> None:
    file = written(path, 1)
    path.write_bytes(b"noise")
    path.with_name("tiny.sqlite-wal").write_bytes(b"more noise")
    assert file.erase() == [path] and list(path.parent.iterdir()) == []


def test_erasing_what_another_uses_empties_it_and_the_other_goes_on(path: Path) -> None:
    file = written(path, 3, size=3000)
    append(file, exchange(3, size=3000))
    assert Database(path, LABELS).erase() == [path]
    secret = exchange(1, 100).prompt.tobytes()
    assert not any(secret in each.read_bytes() for each in path.parent.iterdir())
    assert numbers(file) == []
    append(file, exchange(4))
    assert numbers(file) == [4]
    file.erase()
    assert list(path.parent.iterdir()) == []


def test_a_file_that_somebody_removed_by_hand_is_begun_anew(path: Path) -> None:
    file = written(path, 3)
    append(file, exchange(3))  # it is open
    path.unlink()  # its log stays
    assert file.read().kind is Kind.ABSENT
    append(file, exchange(4))
    assert numbers(file) == [4] and numbers(Database(path, LABELS)) == [4]


# Several programs at once


def append_many(path: Path, first: int, n: int) -> None:
    sharing.LOCK_SECONDS = 60.0  # no person writes without a pause, and this machine may be busy
    file = Database(path, LABELS)
    for number in range(first, first + n):
        append(file, exchange(number))
        if number % 20 == 0:
            file.close()
    file.close()


def rewrite_many(path: Path, n: int) -> None:
    sharing.LOCK_SECONDS = 60.0
    file = Database(path, LABELS)
    for number in range(n):
        if file.read().kind is Kind.SOUND:
            with file.writing() as opened:
                opened.keep(lambda found: found)
        if number % 10 == 0:
            file.shrink()
    file.close()


def test_programs_that_write_at_once_lose_nothing(path: Path) -> None:
    n = 100
    fresh = multiprocessing.get_context("spawn")
    programs = [fresh.Process(target=append_many, args=(path, first, n)) for first in (0, 10_000)]
    programs.append(fresh.Process(target=rewrite_many, args=(path, 40)))
    for program in programs:
        program.start()
    for program in programs:
        program.join(PATIENCE)
        assert program.exitcode == 0
    found = Database(path, LABELS).read()
    assert (found.kind, found.damaged) == (Kind.SOUND, 0)
    for first in (0, 10_000):
        mine = [each for each in found.exchanges if first <= each.prompt[0] < first + n]
        assert mine == [exchange(number) for number in range(first, first + n)]


def erase_many(path: Path, n: int) -> None:
    sharing.LOCK_SECONDS = 60.0
    for _ in range(n):
        Database(path, LABELS).erase()
        time.sleep(0.01)


def test_programs_that_write_while_others_erase_go_on(path: Path) -> None:
    fresh = multiprocessing.get_context("spawn")
    programs = [fresh.Process(target=append_many, args=(path, first, 100)) for first in (0, 10_000)]
    programs.append(fresh.Process(target=erase_many, args=(path, 30)))
    for program in programs:
        program.start()
    for program in programs:
        program.join(PATIENCE)
        assert program.exitcode == 0
    file = Database(path, LABELS)
    append(file, exchange(7))
    found = file.read()
    assert (found.kind, found.damaged) == (Kind.SOUND, 0)


def test_a_program_that_does_not_give_the_lock_back_costs_one_clear_error(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(path, 1)
    monkeypatch.setattr(sharing, "LOCK_SECONDS", 0.05)
    with altered(path) as by_hand:
        by_hand.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="another program"):
            append(file, exchange(1))
        assert numbers(file) == [0]  # reading waits for nobody
        with pytest.raises(StoreError, match="another program"):
            file.erase()
    append(file, exchange(1))
    assert numbers(file) == [0, 1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a forked child")
def test_a_forked_child_that_ends_disturbs_nobody(path: Path) -> None:
    file = written(path, 1)
    append(file, exchange(1))
    child = os.fork()
    if child == 0:
        file.close()
        del file
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    append(file, exchange(2))
    assert path.with_name("tiny.sqlite-wal").exists()
    assert numbers(Database(path, LABELS)) == [0, 1, 2]


# Killed writers


WRITER = """
import sys
from pathlib import Path
import numpy as np
from aded_local.memory import Exchange
from aded_local.memory.database import Database
file = Database(Path(sys.argv[1]), {labels})
for number in range(int(sys.argv[2]), 2**23):
    prompt = np.full({size}, number, np.int32)
    answer = np.arange({size}, dtype=np.int32) + number
    with file.writing() as opened:
        opened.add([Exchange(prompt, answer, number % 2 == 1, 1_700_000_000 + number)])
    print(number, flush=True)
    if number % 7 == 6:
        with file.writing() as opened:
            opened.keep(lambda found: found[-60:])
        file.shrink()
"""
SIZE = 2000


def kill_writers(path: Path, kills: int) -> tuple[int, int]:
    """Kill a writing program ``kills`` times at random instants, and look after each what is left.

    Returns:
        Exchanges looked for (the last 20 that a writer said it had written), and those of them that were lost.
    """
    draw = random.Random(0)
    program = [sys.executable, "-c", WRITER.format(labels=LABELS, size=SIZE), str(path)]
    file = Database(path, LABELS)
    said: list[int] = []
    looked_for = lost = 0
    for _ in range(kills):
        next_number = said[-1] + 2 if said else 0  # the one after may have been written and never said
        with subprocess.Popen([*program, str(next_number)], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            said.append(int(writer.stdout.readline()))
            time.sleep(draw.uniform(0.0, 0.03))
            writer.kill()
            said += [int(line) for line in writer.stdout.read().splitlines()]
        found = file.read()
        there = [int(each.prompt[0]) for each in found.exchanges]
        assert (found.kind, found.damaged) == (Kind.SOUND, 0)
        assert found.exchanges == [exchange(number, SIZE) for number in there]
        assert there == sorted(set(there))
        looked_for += len(said[-20:])
        lost += len(set(said[-20:]) - set(there))
        file.close()
    return looked_for, lost


@posix
@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_a_writer_killed_at_any_instant_costs_no_exchange_that_was_written(
    path: Path, kills: int, capsys: pytest.CaptureFixture[str]
) -> None:
    looked_for, lost = kill_writers(path, kills)
    if kills > 5:
        with capsys.disabled():
            print(f"\n{kills} kills: {looked_for - lost} exchanges kept, {lost} lost")
    assert lost == 0
    Database(path, LABELS).erase()
    assert list(path.parent.iterdir()) == []


def test_an_interrupt_at_any_instant_leaves_no_transaction_open(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "LOCK_SECONDS", 0.0)
    file, other = written(path, 1), Database(path, LABELS)
    for error in instants(lambda: lambda: append(file, exchange(2)), every=5):
        assert type(error) is KeyboardInterrupt
        append(other, exchange(3))
    append(file, exchange(4))
    assert set(numbers(file)) <= {0, 2, 3, 4}
