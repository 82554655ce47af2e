"""A memory's file: what survives damage, killed writers, full disks, and several programs at once."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
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

from aded_local.errors import StoreError
from aded_local.memory import writing as files
from aded_local.memory.records import _FRAME as FRAME
from aded_local.memory.records import _HEAD as HEAD
from aded_local.memory.records import (
    LARGEST_BYTES,
    LARGEST_TOKEN,
    MAGIC,
    Exchange,
    Kind,
    RecordFile,
    decode,
    encode,
    header_line,
)

KEY = "0123456789ab"
LABELS = {"name": "tiny", "tokenizer": "t", "model": "llama tiny", "key": KEY}
OTHER = {**LABELS, "key": "ba9876543210"}
posix = pytest.mark.skipif(os.name == "nt", reason="modes and signals of POSIX")


def exchange(number: int, size: int = 5) -> Exchange:
    """One that tells by its tokens which it is and whether it is whole."""
    prompt = np.full(size, number, np.int32)
    return Exchange(prompt, np.arange(size, dtype=np.int32) + number, number % 2 == 1, 1_700_000_000 + number)


def written(path: Path, n: int) -> RecordFile:
    file = RecordFile(path, LABELS)
    for number in range(n):
        file.append(exchange(number))
    return file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memory" / "tiny.memory"


def test_what_is_appended_is_read_back_in_order(path: Path) -> None:
    file = written(path, 5)
    found = file.read()
    assert found.kind is Kind.SOUND
    assert found.exchanges == [exchange(number) for number in range(5)]
    assert found.damaged == 0 and found.size == path.stat().st_size
    assert found.exchanges[0].prompt.dtype == np.int32
    assert found.exchanges[0].prompt.flags.writeable  # kernels are compiled for such arrays


def test_no_file_is_an_empty_one_and_reading_makes_none(path: Path) -> None:
    assert RecordFile(path, LABELS).read().kind is Kind.ABSENT
    assert not path.parent.exists()


def test_an_empty_file_is_begun(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
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
    assert decode(b"".join(encode(each, KEY) for each in said), KEY) == (said, 0)


@pytest.mark.parametrize("token", [-1, LARGEST_TOKEN])
def test_ids_outside_any_vocabulary_are_refused(token: int) -> None:
    odd = Exchange(np.array([token], np.int32), np.zeros(0, np.int32), False, 0)
    with pytest.raises(ValueError, match="vocabulary"):
        encode(odd, KEY)


def test_tokens_never_hold_the_mark_of_a_record() -> None:
    number = int.from_bytes(MAGIC, "little")
    assert all((number >> shift) & 0xFF for shift in (0, 8, 16, 24))  # whereas each id's top byte is zero


# Damage

RECORDS = [encode(exchange(number, size=number * 3), KEY) for number in range(8)]
HEADER = header_line(LABELS)
WHOLE = HEADER + b"".join(RECORDS)
ENDS = [len(HEADER) + sum(len(record) for record in RECORDS[: n + 1]) for n in range(len(RECORDS))]


def untouched(start: int, end: int) -> list[int]:
    """Numbers of the records that lie outside the bytes ``start`` to ``end``."""
    return [n for n, stop in enumerate(ENDS) if stop <= start or stop - len(RECORDS[n]) >= end]


def read_numbers(path: Path, data: bytes) -> tuple[list[int], Kind]:
    path.write_bytes(data)
    found = RecordFile(path, LABELS).read()
    known = [exchange(number, size=number * 3) for number in range(len(RECORDS))]
    assert found.damaged <= found.size
    return [known.index(each) for each in found.exchanges], found.kind


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_bytes_overwritten_anywhere_cost_only_the_records_they_hit(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    start = data.draw(st.integers(0, len(WHOLE) - 1))
    patch = data.draw(st.binary(min_size=1, max_size=60))
    damaged = (WHOLE[:start] + patch + WHOLE[start + len(patch) :])[: len(WHOLE)]
    path = tmp_path_factory.getbasetemp() / "overwritten.memory"
    numbers, _ = read_numbers(path, damaged)
    assert numbers == sorted(set(numbers))
    assert set(numbers) >= set(untouched(start, start + len(patch)))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_bytes_cut_out_or_put_in_anywhere_cost_only_the_records_they_hit(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    start = data.draw(st.integers(0, len(WHOLE)))
    end = data.draw(st.integers(start, len(WHOLE)))
    put_in = data.draw(st.binary(max_size=40))
    path = tmp_path_factory.getbasetemp() / "cut.memory"
    numbers, kind = read_numbers(path, WHOLE[:start] + put_in + WHOLE[end:])
    assert numbers == sorted(set(numbers))
    if kind is not Kind.ABSENT:
        assert set(numbers) >= set(untouched(start, end))


def test_a_file_cut_anywhere_keeps_every_whole_record(path: Path) -> None:
    path.parent.mkdir()
    for length in range(len(WHOLE)):
        numbers, _ = read_numbers(path, WHOLE[:length])
        assert numbers == untouched(length, len(WHOLE))


def test_every_single_bit_matters(path: Path) -> None:
    path.parent.mkdir()
    for at in range(len(WHOLE)):
        data = bytearray(WHOLE)
        data[at] ^= 1 << (at % 8)
        numbers, kind = read_numbers(path, bytes(data))
        assert numbers == untouched(at, at + 1)
        assert (kind is Kind.SOUND) == (at >= len(HEADER))


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_noise_is_no_memory(noise: bytes) -> None:
    found, damaged = decode(noise, KEY)
    assert damaged == len(noise) and found == []


def test_a_claim_to_be_long_costs_no_more_than_the_record(path: Path) -> None:
    file = written(path, 3)
    data = bytearray(path.read_bytes())
    at = data.index(MAGIC)
    data[at + 4 : at + 8] = b"\xff\xff\xff\x7f"
    path.write_bytes(data)
    assert file.read().exchanges == [exchange(1), exchange(2)]


def test_a_torn_end_is_skipped_and_writing_goes_on_behind_it(path: Path) -> None:
    file = written(path, 3)
    whole = path.stat().st_size
    os.truncate(path, whole - 7)
    file.append(exchange(7))
    found = file.read()
    assert found.exchanges == [exchange(0), exchange(1), exchange(7)]
    assert found.damaged == len(encode(exchange(2), KEY)) - 7


def test_rewriting_leaves_damage_behind(path: Path) -> None:
    file = written(path, 3)
    os.truncate(path, path.stat().st_size - 7)
    before = file.rewrite(lambda found: found[1:])
    assert before.exchanges == [exchange(0), exchange(1)]
    after = file.read()
    assert (after.exchanges, after.damaged) == ([exchange(1)], 0)


def holding(path: Path, size: int) -> None:
    """Let a file have ``size`` bytes, zeros at the end."""
    os.truncate(path, size)


def test_gigabytes_of_zeros_are_not_read(path: Path) -> None:
    """As a crash of the machine may leave them; what was written before and after is saved."""
    file = written(path, 3)
    holding(path, 3 << 30)
    file.append(exchange(7))
    tracemalloc.start()
    found = file.read()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.kind is Kind.TOO_LARGE and most < 3 * LARGEST_BYTES
    assert found.exchanges == [exchange(0), exchange(1), exchange(2), exchange(7)]
    assert found.size == path.stat().st_size and 3 << 30 > found.damaged > (3 << 30) - 1000
    moved = file.set_aside()
    assert moved is not None and moved[1] == 4 and moved[0].stat().st_size == found.size
    after = file.read()
    assert (after.kind, after.exchanges, after.damaged) == (Kind.SOUND, found.exchanges, 0)


def test_zeros_within_the_bound_cost_no_record(path: Path) -> None:
    file = written(path, 3)
    holding(path, LARGEST_BYTES)
    found = file.read()
    assert found.kind is Kind.SOUND and found.exchanges == [exchange(n) for n in range(3)]


@pytest.mark.parametrize("unit", ["marks", "claims"])
def test_a_file_full_of_false_beginnings_is_given_up_within_seconds(path: Path, unit: str) -> None:
    """Each costs a look, or the checksum of all that it claims."""
    file = written(path, 1)
    size = LARGEST_BYTES // 2
    if unit == "marks":
        filling = MAGIC * (size // 4)
    else:  # records within records, each of them as long as what follows
        step, n = 64, size // 64
        filling = b"".join(
            (FRAME.pack(MAGIC, 25 + 4 * count, 0) + HEAD.pack(0, 0, 0, 0, count, 0)).ljust(step, b"\0")
            for count in (16 * (n - i) - 32 for i in range(n - 1))
        )
    with path.open("ab") as more:
        more.write(filling)
    started = time.process_time()
    found = file.read()
    assert found.exchanges == [exchange(0)] and found.damaged == len(filling)
    assert time.process_time() - started < 20  # under a second; a hundred thousand times that without a bound


# Files of other models and versions


def test_records_that_strayed_from_another_models_file_are_not_read(path: Path) -> None:
    file = written(path, 1)
    with path.open("ab") as more:
        more.write(encode(exchange(1), OTHER["key"]))
    assert file.read().exchanges == [exchange(0)]


def test_another_models_file_is_set_aside_whole(path: Path) -> None:
    written(path, 2)
    before = path.read_bytes()
    file = RecordFile(path, OTHER)
    assert file.read().kind is Kind.FOREIGN
    moved = file.set_aside()
    assert moved is not None
    assert (moved[0].name, moved[0].read_bytes(), moved[1]) == ("tiny.memory.damaged-1", before, 0)
    assert file.read().kind is Kind.ABSENT


def test_a_damaged_header_costs_no_record(path: Path) -> None:
    file = written(path, 3)
    for number in (1, 2):
        path.write_bytes(b"?" + path.read_bytes()[1:])
        moved = file.set_aside()
        assert moved is not None and (moved[0].name, moved[1]) == (f"tiny.memory.damaged-{number}", 3)
        assert file.read().kind is Kind.SOUND
        assert file.read().exchanges == [exchange(n) for n in range(3)]
    assert file.set_aside() is None


def test_another_versions_file_is_left_alone(path: Path) -> None:
    file = written(path, 1)
    path.write_bytes(path.read_bytes().replace(b"aded-memory 1 ", b"aded-memory 2 ", 1))
    assert file.read().kind is Kind.OTHER_VERSION
    assert file.set_aside() is None
    file.rewrite(lambda found: [])
    assert file.read().kind is Kind.OTHER_VERSION


# Failing disks


def test_a_full_disk_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(path, 2)
    before = path.read_bytes()
    real = os.write

    def half(handle: int, data: bytes) -> int:
        if len(data) < 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(handle, bytes(data)[: len(data) // 2])

    with monkeypatch.context() as full:
        full.setattr(os, "write", half)
        with pytest.raises(StoreError, match="No space left") as told:
            file.append(exchange(2))
        assert str(told.value).count("\n") == 0 and "free some space" in str(told.value)
        with pytest.raises(StoreError, match="No space left"):
            file.rewrite(lambda found: found[:1])
    assert path.read_bytes() == before
    assert file.beside() == []
    file.append(exchange(2))
    assert file.read().exchanges == [exchange(n) for n in range(3)]


def test_a_disk_too_full_for_salvage_keeps_the_damaged_file_in_its_place(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(path, 2)
    path.write_bytes(b"?" + path.read_bytes()[1:])
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda *_: 0)
        with pytest.raises(StoreError):
            file.set_aside()
    assert file.read().exchanges == [exchange(0), exchange(1)]
    assert file.beside() == []


LIMITED = """
import resource, sys
sys.path.insert(0, {tests!r})
import test_store_records as records
from pathlib import Path
file = records.RecordFile(Path(sys.argv[1]), records.LABELS)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
for number in range(1000):
    try:
        file.append(records.exchange(number))
    except records.StoreError as error:
        print(number, error)
        break
"""


@posix
def test_a_limit_on_file_sizes_is_one_line_and_costs_one_record(path: Path) -> None:
    program = LIMITED.format(tests=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=60, check=True
    )
    number, told = done.stdout.strip().split(" ", 1)
    assert "File too large" in told and "\n" not in told
    found = RecordFile(path, LABELS).read()
    assert (len(found.exchanges), found.damaged) == (int(number), 0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 kB, where this user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except OSError as error:
        pytest.skip(f"mount cannot be run: {error}")
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True, timeout=20)


def test_a_disk_that_fills_up_keeps_what_was_written(small_disk: Path) -> None:
    file = RecordFile(small_disk / "tiny.memory", LABELS)
    kept = 0
    with pytest.raises(StoreError, match="No space left"):
        for kept in range(1000):
            file.append(exchange(kept, size=100))
    found = file.read()
    assert (len(found.exchanges), found.damaged) == (kept, 0)
    with pytest.raises(StoreError, match="No space left"):
        file.rewrite(lambda all_of_them: all_of_them)
    assert len(file.read().exchanges) == kept
    file.erase()
    file.append(exchange(0))


# What lies where a memory should be


@pytest.mark.parametrize("obstacle", ["folder", "link", "pipe", "dangling link", "another user's"])
@posix
def test_what_is_no_file_is_one_clear_error(path: Path, obstacle: str) -> None:
    path.parent.mkdir()
    if obstacle == "folder":
        path.mkdir()
    elif obstacle == "pipe":
        os.mkfifo(path)
    elif obstacle == "another user's":
        path.write_bytes(WHOLE)
        strangers.owned_by_stranger([path])
    else:
        target = path.parent / "elsewhere"
        if obstacle == "link":
            target.write_bytes(WHOLE)
        path.symlink_to(target)
    file = RecordFile(path, LABELS)
    for attempt in (file.read, lambda: file.append(exchange(0))):
        with pytest.raises(StoreError) as told:
            attempt()
        assert str(path) in str(told.value) and "\n" not in str(told.value)


def test_a_file_where_the_folder_should_be_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot write"):
        RecordFile(tmp_path / "file" / "tiny.memory", LABELS).append(exchange(0))


@posix
def test_files_are_private_whatever_the_umask(path: Path) -> None:
    for umask in (0o000, 0o022, 0o777):
        before = os.umask(umask)
        try:
            file = written(path, 2)
            file.rewrite(lambda found: found)
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert {stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()} == {0o600}
        file.erase()
        path.parent.rmdir()


@posix
def test_a_copy_with_a_wider_mode_is_narrowed_by_the_next_append(path: Path) -> None:
    file = written(path, 1)
    path.chmod(0o644)
    file.append(exchange(1))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_erasing_leaves_nothing(path: Path) -> None:
    file = written(path, 1)
    path.write_bytes(b"?" + path.read_bytes()[1:])
    file.set_aside()
    path.with_name("tiny.memory.new-1").write_bytes(b"a rewrite that was killed")
    bystander = path.with_name("tiny.memory2.memory")
    bystander.touch()
    assert len(file.erase()) == 3
    assert list(path.parent.iterdir()) == [bystander]
    assert file.erase() == []


# Several programs at once


def append_many(path: Path, first: int, n: int) -> None:
    files.LOCK_SECONDS = 60.0  # no person writes without a pause, and this machine may be busy
    file = RecordFile(path, LABELS)
    for number in range(first, first + n):
        file.append(exchange(number))


def rewrite_many(path: Path, n: int) -> None:
    files.LOCK_SECONDS = 60.0
    file = RecordFile(path, LABELS)
    for _ in range(n):
        file.rewrite(lambda found: found)


def test_programs_that_write_at_once_lose_nothing(path: Path) -> None:
    n = 200
    fresh = multiprocessing.get_context("spawn")
    programs = [fresh.Process(target=append_many, args=(path, first, n)) for first in (0, 10_000)]
    programs.append(fresh.Process(target=rewrite_many, args=(path, 60)))
    for program in programs:
        program.start()
    for program in programs:
        program.join(60)
        assert program.exitcode == 0
    found = RecordFile(path, LABELS).read()
    assert found.damaged == 0
    for first in (0, 10_000):
        mine = [each for each in found.exchanges if first <= each.prompt[0] < first + n]
        assert mine == [exchange(number) for number in range(first, first + n)]


def test_a_program_that_does_not_give_the_lock_back_costs_one_clear_error(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(path, 1)
    monkeypatch.setattr(files, "LOCK_SECONDS", 0.05)
    with files.Lock(path.with_name("tiny.memory.lock")), pytest.raises(StoreError, match="another program"):
        file.append(exchange(1))
    file.append(exchange(1))


def test_a_lock_that_was_erased_while_one_waited_keeps_the_next_out(path: Path) -> None:
    written(path, 1)
    lock = path.with_name("tiny.memory.lock")
    with files.Lock(lock) as first:
        first.remove()
        with files.Lock(lock) as second:  # made anew
            assert second.held and lock.exists()


def test_without_locks_records_are_appended_all_the_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_here(_handle: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(files, "_try_lock", none_here)
    assert written(path, 3).read().exchanges == [exchange(n) for n in range(3)]


# Killed writers


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a child that dies")
@pytest.mark.parametrize("written_bytes", [0, 1, 11, 12, 40, 60])
def test_a_writer_that_dies_in_mid_write_costs_its_own_record_only(path: Path, written_bytes: int) -> None:
    file = written(path, 2)
    whole = path.stat().st_size
    real = os.write
    for doing in (lambda: file.append(exchange(2)), lambda: file.rewrite(lambda found: found[:1])):
        child = os.fork()
        if child == 0:

            def torn(handle: int, data: bytes) -> int:
                real(handle, bytes(data)[:written_bytes])
                os._exit(9)

            os.write = torn
            doing()
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert path.stat().st_size == whole + written_bytes
    assert len(file.beside()) == 1
    file.append(exchange(3))
    found = file.read()
    assert found.exchanges == [exchange(0), exchange(1), exchange(3)]
    assert found.damaged == written_bytes
    file.rewrite(lambda found: found)
    assert file.beside() == []
    assert file.read().exchanges == found.exchanges


WRITER = """
import sys
from pathlib import Path
import numpy as np
from aded_local.memory.records import Exchange, RecordFile
file = RecordFile(Path(sys.argv[1]), {labels})
for number in range(int(sys.argv[2]), 2**23):
    prompt = np.full({size}, number, np.int32)
    answer = np.arange({size}, dtype=np.int32) + number
    file.append(Exchange(prompt, answer, number % 2 == 1, 1_700_000_000 + number))
    print(number, flush=True)
    if number % 7 == 6:
        file.rewrite(lambda found: found[-60:])
"""
SIZE = 2000


def kill_writers(path: Path, kills: int) -> tuple[int, int]:
    """Kill a writing program ``kills`` times at random instants, and look after each what is left.

    Returns:
        Records looked for (the last 20 that a writer said it had written), and those of them that were lost.
    """
    draw = random.Random(0)
    program = [sys.executable, "-c", WRITER.format(labels=LABELS, size=SIZE), str(path)]
    file = RecordFile(path, LABELS)
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
        numbers = [int(each.prompt[0]) for each in found.exchanges]
        assert found.exchanges == [exchange(number, SIZE) for number in numbers]
        assert numbers == sorted(set(numbers))
        looked_for += len(said[-20:])
        lost += len(set(said[-20:]) - set(numbers))
    return looked_for, lost


@posix
@pytest.mark.parametrize("kills", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_a_writer_killed_at_any_instant_costs_no_record_that_was_written(
    path: Path, kills: int, capsys: pytest.CaptureFixture[str]
) -> None:
    looked_for, lost = kill_writers(path, kills)
    file = RecordFile(path, LABELS)
    if kills > 10:
        with capsys.disabled():
            torn = file.read().damaged
            print(f"\n{kills} kills: {looked_for - lost} records kept, {lost} lost, {torn} bytes torn")
    assert lost == 0
    file.rewrite(lambda found: found)
    assert file.beside() == []
