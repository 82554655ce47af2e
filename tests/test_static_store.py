"""Static stores: whole or not there, never a crash whatever the bytes, and what they count is what was written."""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aded_local.errors import StoreError
from aded_local.ngrams import static
from aded_local.ngrams.static import is_static, open_static
from aded_local.ngrams.static_build import Origin, build_static, merge, prune
from aded_local.ngrams.static_count import FEW_TOKENS, Counting
from aded_local.ngrams.table import (
    CHECK_MASK,
    CHECK_SHIFT,
    COUNT_MASK,
    COUNT_SHIFT,
    ORDERS,
    SEED_KEY,
    TOKEN_MASK,
    UNIT,
    WIDE_ORDERS,
    Table,
    check_of,
    count_text,
    extend_hash,
    first_entry,
    new_table,
)
from aded_local.tree import IntArray

N_VOCAB = 5000


def origin(key: str = "key") -> Origin:
    return Origin(key, f"tokenizer {key}", N_VOCAB)


def random_texts(seed: int, lengths: list[int], n_vocab: int = N_VOCAB) -> list[IntArray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, n_vocab, n).astype(np.int32) for n in lengths]


def successors(table: Table, *newest_first: int) -> dict[int, int]:
    """Counts of what followed a context, in whole occurrences."""
    key = SEED_KEY
    for token in newest_first:
        key = np.uint64(int(extend_hash(key, token)) % 2**64)
    wide = len(newest_first) <= WIDE_ORDERS
    first = first_entry(table, key, wide)
    check = int(check_of(key)) & CHECK_MASK
    found = {}
    for entry in table[first : first + (16 if wide else 8)].tolist():
        if entry != 0 and (entry >> CHECK_SHIFT) & CHECK_MASK == check:
            found[entry & TOKEN_MASK] = ((entry >> COUNT_SHIFT) & COUNT_MASK) // UNIT
    return found


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "a.store"
    build_static(random_texts(0, [50, 1, 400]), path, origin(), memory=1)
    return path


# What is counted


def test_what_followed_each_context_is_counted_for_all_orders(tmp_path: Path) -> None:
    text = np.array([1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 9], np.int32)
    build_static([text, text[:8]], tmp_path / "s", origin())
    table = open_static(tmp_path / "s", "key").table
    for order in range(1, ORDERS + 1):
        assert successors(table, *[6, 5, 4, 3, 2, 1][:order]) == {7: 2, 9: 1}
    assert successors(table, 8) == {1: 1}
    assert successors(table, 9) == {}


def test_a_small_corpus_is_counted_as_the_drafter_counts_it(tmp_path: Path) -> None:
    texts = random_texts(1, [300, 300], n_vocab=300)
    build_static(texts, tmp_path / "s", origin())
    table = open_static(tmp_path / "s").table
    live = new_table(18)
    for text in texts:
        count_text(live, text, 0)
    same = [
        successors(table, *context) == successors(live, *context)
        for text in texts
        for i in range(ORDERS, len(text))
        for order in range(3, ORDERS + 1)
        if (context := text[i - order : i][::-1].tolist())
    ]
    assert np.mean(same) > 0.95  # here and there a bucket of the smaller table is full


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=60), min_size=1, max_size=8), st.integers(0, 8)
)
def test_merging_counts_what_building_from_all_counts(
    tmp_path_factory: pytest.TempPathFactory, lists: list[list[int]], split: int
) -> None:
    folder = tmp_path_factory.mktemp("merge")
    texts = [np.array(one, np.int32) for one in lists]
    parts = [part for part in (texts[:split], texts[split:]) if part]
    for i, part in enumerate(parts):
        build_static(part, folder / f"{i}", origin(), memory=1)
    merged = merge([folder / f"{i}" for i in range(len(parts))], folder / "merged", memory=1)
    whole = build_static(texts, folder / "whole", origin(), memory=1)
    assert (merged.tokens, merged.texts, merged.entries) == (whole.tokens, whole.texts, whole.entries)
    np.testing.assert_array_equal(open_static(folder / "merged").table, open_static(folder / "whole").table)


def test_a_corpus_larger_than_the_memory_fills_a_smaller_table_and_keeps_what_came_often(
    tmp_path: Path,
) -> None:
    often = np.arange(100, 120, dtype=np.int32)
    texts = [text for one in random_texts(2, [2000] * 60) for text in (one, often)]
    facts = build_static(texts, tmp_path / "s", origin(), memory=1)
    store = open_static(tmp_path / "s")
    assert len(store.table) * 8 <= 2**20 / 4
    assert facts.forgotten > 0
    assert successors(store.table, 104, 103, 102, 101, 100)[105] == 60
    assert sum(len(text) for text in store.texts()) == facts.tokens  # the texts are whole


@pytest.mark.parametrize("n_tokens", [10, FEW_TOKENS])
@pytest.mark.parametrize("memory", [1, 3, 40])
def test_tables_take_no_more_than_their_memory(memory: int, n_tokens: int) -> None:
    counting = Counting(memory)
    counting.add(np.arange(n_tokens, dtype=np.int32) % 1000)
    table, entries, _ = counting.finish()
    assert counting.short is not None
    assert counting.long is not None
    assert counting.short.nbytes + counting.long.nbytes + (8 << counting.most_bits) <= memory * 2**20
    assert table.nbytes <= min(counting.short.nbytes, counting.long.nbytes)
    assert entries == np.count_nonzero(table)


# What is kept


def test_the_texts_come_back_in_order(tmp_path: Path) -> None:
    texts = random_texts(3, [7, 1, 900])
    build_static([texts[0], np.zeros(0, np.int32), *texts[1:]], tmp_path / "s", origin())
    found = list(open_static(tmp_path / "s", "key").texts())
    assert len(found) == 3
    for one, other in zip(found, texts, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == np.int32


def test_a_very_long_text_is_kept_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aded_local.ngrams.static_build.LONGEST_TEXT", 100)
    (text,) = random_texts(4, [250])
    assert build_static([text], tmp_path / "s", origin()).texts == 3
    np.testing.assert_array_equal(np.concatenate(list(open_static(tmp_path / "s").texts())), text)


def test_only_its_owner_may_read_it_and_the_table_is_aligned(store: Path) -> None:
    assert stat.S_IMODE(store.stat().st_mode) == 0o600
    opened = open_static(store, "key")
    assert opened.table.ctypes.data % 4096 == 0
    assert opened.facts.entries == np.count_nonzero(opened.table)


def test_writing_to_the_table_changes_no_file(store: Path) -> None:
    before = store.read_bytes()
    opened = open_static(store)
    opened.table[:] = -1
    assert store.read_bytes() == before
    assert open_static(store).table[0] != -1


def test_opening_does_not_read_the_table(store: Path) -> None:
    data = bytearray(store.read_bytes())
    data[-8:] = b"\xff" * 8
    store.write_bytes(bytes(data))
    opened = open_static(store, "key")
    with pytest.raises(StoreError, match="damaged"):
        opened.check()


# Pruning


def test_pruning_drops_what_was_counted_first(store: Path) -> None:
    newest = list(open_static(store).texts())[1:]
    facts, dropped = prune(store, 401)
    assert (dropped, facts.tokens, facts.texts, facts.pruned_texts) == (1, 401, 2, 1)
    opened = open_static(store, "key")
    opened.check()
    for one, other in zip(opened.texts(), newest, strict=True):
        np.testing.assert_array_equal(one, other)
    other = store.with_name("other")
    build_static(newest, other, origin())
    np.testing.assert_array_equal(opened.table, open_static(other).table)


def test_pruning_to_more_than_there_is_leaves_the_file_alone(store: Path) -> None:
    before = store.stat().st_mtime_ns
    assert prune(store, 10_000)[1] == 0
    assert store.stat().st_mtime_ns == before


def test_pruning_to_nothing_is_refused(store: Path) -> None:
    with pytest.raises(StoreError, match="erase the store"):
        prune(store, 10)
    open_static(store).check()


# Whatever the bytes


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Path]:
    path = tmp_path_factory.mktemp("sound") / "s"
    build_static(random_texts(0, [50, 1, 400]), path, origin(), memory=1)
    return path.read_bytes(), path


def opens_right_or_not_at_all(path: Path, expected: static.StaticFacts) -> None:
    try:
        opened = open_static(path, "key")
    except StoreError as error:
        assert "\n" not in str(error)
        return
    assert opened.facts == expected
    assert len(opened.table) & (len(opened.table) - 1) == 0
    for use in (lambda: list(opened.texts()), opened.lengths, opened.check):
        try:
            use()
        except StoreError as error:
            assert "damaged" in str(error)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_refused_or_says_what_is_true(
    sound: tuple[bytes, Path], data: st.DataObject
) -> None:
    whole, path = sound
    expected = open_static(path, "key").facts
    broken = bytearray(whole)
    # Header, texts and facts are a small part of the bytes and most of what can go wrong.
    place = st.one_of(st.integers(0, 100), st.integers(0, 8192), st.integers(0, len(whole) - 1))
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(place)
        new = data.draw(st.binary(min_size=1, max_size=8))[: len(whole) - at]
        broken[at : at + len(new)] = new
    if data.draw(st.booleans()):
        del broken[data.draw(place) :]
    copy = path.with_name("broken")
    copy.write_bytes(bytes(broken))
    opens_right_or_not_at_all(copy, expected)


@settings(max_examples=150, deadline=None)
@given(fields=st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 20_000), min_size=5, max_size=5))
def test_a_crafted_first_page_with_a_right_checksum_is_no_danger(
    sound: tuple[bytes, Path], fields: list[int]
) -> None:
    whole, path = sound
    places = static.HEADER.unpack_from(whole, 0)
    crafted = static.Places(*fields, *places[-2:])
    copy = path.with_name("crafted")
    copy.write_bytes(crafted.to_page() + whole[static.PAGE :])
    opens_right_or_not_at_all(copy, open_static(path).facts)


def test_crafted_records_are_no_danger(sound: tuple[bytes, Path]) -> None:
    import zlib

    whole, path = sound
    bomb = zlib.compress(bytes(1 << 22))
    for length, tokens, payload in [
        (2**32 - 1, 50, bomb),
        (len(bomb), 2**32 - 1, bomb),
        (len(bomb), 50, bomb),  # unpacks to more than it says
        (len(bomb), 0, bomb),
        (8, 50, b"no zlib!"),
    ]:
        record = static.RECORD.pack(length, tokens, zlib.crc32(payload)) + payload
        copy = path.with_name("records")
        copy.write_bytes(
            whole[: static.PAGE] + record[:1000].ljust(1000, b"\0") + whole[static.PAGE + 1000 :]
        )
        opens_right_or_not_at_all(copy, open_static(path).facts)
        with pytest.raises(StoreError):
            list(open_static(copy).texts())


HUGE = json.dumps(
    dict.fromkeys(("tokenizer_key", "tokenizer_name", "layout"), "x")
    | dict.fromkeys(("tokens", "texts", "entries", "forgotten", "created", "more_sources", "pruned_texts"), 1)
    | {"n_vocab": 5, "sources": [{"name": "a", "bytes": 10**400}]}
).encode()


@pytest.mark.parametrize(
    "facts", [b"[]", b"{}", b"nonsense", b"[" * 10_000, b'{"tokens": -1}', b'{"tokens": 1e400}', HUGE]
)
def test_crafted_facts_are_refused(sound: tuple[bytes, Path], facts: bytes) -> None:
    import zlib

    whole, path = sound
    old = static.Places(*static.HEADER.unpack_from(whole, 0)[3:])
    table_at = static.PAGE + -(-len(facts) // static.PAGE) * static.PAGE
    places = static.Places(
        static.PAGE, static.PAGE, len(facts), table_at, old.entries, zlib.crc32(facts), old.table_crc
    )
    copy = path.with_name("facts")
    copy.write_bytes(places.to_page() + facts.ljust(table_at - static.PAGE, b"\0") + whole[old.table_at :])
    with pytest.raises(StoreError, match="facts make no sense"):
        open_static(copy)


def test_every_wrong_path_is_one_line(tmp_path: Path, store: Path) -> None:
    (tmp_path / "text").write_text("no store")
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    for name, words in {
        "missing": "there is no file",
        "": "folder",
        "text": "no static store",
        "empty": "no static store",
        "pipe": "no regular file",
        "a\0b": "check the path",
    }.items():
        with pytest.raises(StoreError, match=words) as caught:
            open_static(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert not is_static(tmp_path / name) if "\0" not in name else True
    assert is_static(store)


def test_another_tokenizer_version_or_layout_is_refused(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoreError, match="another tokenizer"):
        open_static(store, "other")
    build_static(random_texts(0, [9]), tmp_path / "other", origin("other"))
    with pytest.raises(StoreError, match="different tokenizers"):
        merge([store, tmp_path / "other"], tmp_path / "out")
    with pytest.raises(StoreError, match="the same file"):
        merge([store, store], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(static, "LAYOUT", "of tomorrow")
    with pytest.raises(StoreError, match="counts it anew"):
        open_static(store, "key")
    open_static(store)  # so that merge can
    monkeypatch.setattr(static, "FORMAT", 2)
    with pytest.raises(StoreError, match="version 1 of the format"):
        open_static(store)


def test_the_hash_of_contexts_is_that_of_the_format() -> None:
    """Where this fails, the meaning of tables changed: raise ``static.FORMAT`` with it."""
    key = np.uint64(int(extend_hash(np.uint64(int(extend_hash(SEED_KEY, 7)) % 2**64), 123_456)) % 2**64)
    assert (int(key), int(check_of(key)) & CHECK_MASK, static.FORMAT) == EXPECTED_HASH


EXPECTED_HASH = (2129389861729569012, 47046, 1)


# Whole or not at all


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_interruption_leaves_nothing_and_keeps_what_was_there(tmp_path: Path, store: Path) -> None:
    before = store.read_bytes()

    def interrupted() -> Iterator[IntArray]:
        yield from random_texts(5, [100])
        raise KeyboardInterrupt

    for out, replaces in ((store, True), (tmp_path / "new", False)):
        with pytest.raises(KeyboardInterrupt):
            build_static(interrupted(), out, origin(), replaces=replaces)
    assert left_behind(tmp_path) == [store.name]
    assert store.read_bytes() == before


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ([], "nothing to count"),
        ([np.zeros(0, np.int32)], "nothing to count"),
        ([np.array([N_VOCAB], np.int32)], "outside the vocabulary"),
        ([np.array([-1], np.int32)], "outside the vocabulary"),
    ],
)
def test_what_cannot_be_counted_leaves_nothing(tmp_path: Path, texts: list[IntArray], words: str) -> None:
    with pytest.raises(StoreError, match=words):
        build_static(texts, tmp_path / "s", origin())
    assert left_behind(tmp_path) == []


def test_outputs_that_cannot_be_are_refused_first(tmp_path: Path, store: Path) -> None:
    def never() -> Iterator[IntArray]:
        raise AssertionError("read before the output was checked")
        yield

    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for out in (
        store,
        tmp_path,
        tmp_path / "no" / "folder",
        Path("/dev/null"),
        tmp_path / "link",
        Path("a\0b"),
    ):
        with pytest.raises(StoreError) as caught:
            build_static(never(), out, origin())
        assert "\n" not in str(caught.value)


def test_through_a_link_the_file_it_means_is_replaced(tmp_path: Path, store: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(store)
    build_static(random_texts(6, [10]), link, origin(), replaces=True)
    assert link.is_symlink()
    assert open_static(store).facts.tokens == 10


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    program = """
        import sys
        import numpy as np
        from pathlib import Path
        from aded_local.errors import StoreError
        from aded_local.ngrams.static_build import Origin, build_static
        try:
            build_static([np.arange(4000, dtype=np.int32) * 7919 % 5000] * 9, Path(sys.argv[1]), Origin("k", "k", 5000))
        except StoreError as error:
            print(error)
    """
    out = tmp_path / "full"
    out.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(out / "s")],
        capture_output=True,
        text=True,
        preexec_fn=limit,
        timeout=120,
    )
    assert done.stdout.startswith("cannot write"), done.stderr
    assert done.stdout.count("\n") == 1
    assert left_behind(out) == []
