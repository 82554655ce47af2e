"""What a memory keeps, what it drops, and whose it is."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import stat
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tiny_models
from hypothesis import given, settings
from hypothesis import strategies as st

from aded_local.errors import StoreError
from aded_local.llama.gguf import read_header
from aded_local.memory import ConversationMemory, Exchange, Identity, conversations, identity_of, memories
from aded_local.memory.conversations import memory_folder
from aded_local.memory.database import Database
from aded_local.memory.rows import Rows
from aded_local.memory.usefulness import most_useful, usefulness

WHO = Identity("tiny-llama", "t" * 64, "llama tiny", "0123456789ab")


def said(prompt: list[int], answer: list[int], **other: Any) -> Exchange:
    fields = {"continues": False, "when": 0, **other}
    return Exchange(np.array(prompt, np.int32), np.array(answer, np.int32), **fields)


def opened(told: list[str] | None = None) -> ConversationMemory:
    notices: list[str] = []
    memory = ConversationMemory.open(WHO, notices.append if told is None else told.append)
    assert memory is not None and notices == []
    return memory


def pairs(memory: ConversationMemory) -> list[tuple[list[int], list[int], bool]]:
    return [(each.prompt.tolist(), each.answer.tolist(), each.continues) for each in memory.exchanges()]


# Turns

FIRST, ANSWER = list(range(100, 120)), [1, 2, 3, 4, 9]
SECOND = [*FIRST, *ANSWER, 50]
KNOWN = len(FIRST) + len(ANSWER)


def remember(
    memory: ConversationMemory,
    prompt: list[int],
    answer: list[int],
    *,
    known: int = 0,
    conversation: int = 1,
    turn: int = 0,
) -> None:
    memory.remember(prompt, answer, known=known, conversation=conversation, turn=turn)


def test_a_turn_keeps_only_what_is_new() -> None:
    memory = opened()
    remember(memory, FIRST, ANSWER)
    remember(memory, [*SECOND, 51], [6, 9], known=KNOWN, turn=1)
    assert pairs(opened()) == [(FIRST, ANSWER, False), ([50, 51], [6, 9], True)]
    assert opened().exchanges()[0].when == pytest.approx(time.time(), abs=60)


def test_a_conversation_that_shares_a_beginning_is_kept_from_a_little_before_its_end() -> None:
    memory = opened()
    remember(memory, FIRST, ANSWER)
    remember(memory, [*FIRST, 50], [6], known=len(FIRST), conversation=2)
    assert pairs(memory)[1] == ([*FIRST[-conversations.OVERLAP :], 50], [6], False)


def test_a_question_asked_again_is_kept_whole() -> None:
    memory = opened()
    remember(memory, FIRST, ANSWER)
    remember(memory, FIRST, ANSWER, known=len(FIRST), conversation=2)
    assert pairs(memory) == [(FIRST, ANSWER, False)] * 2


@pytest.mark.parametrize("turn", [0, 1, 7])
def test_where_what_was_said_before_is_not_in_the_file_the_prompt_is_kept_whole(turn: int) -> None:
    """It was erased or pruned by another program, or could not be written."""
    memory = opened()
    remember(memory, SECOND, [6], known=KNOWN, turn=turn)
    assert pairs(memory) == [(SECOND, [6], False)]


def test_turns_that_another_program_came_between_continue_all_the_same() -> None:
    one, other = opened(), opened()
    remember(one, FIRST, ANSWER)
    remember(other, [70, 71, 72], [73], conversation=2)
    remember(one, SECOND, [6], known=KNOWN, turn=1)
    assert pairs(opened()) == [(FIRST, ANSWER, False), ([50], [6], True), ([70, 71, 72], [73], False)]


def test_after_a_damaged_turn_the_next_continues_nothing() -> None:
    memory = opened()
    remember(memory, FIRST, ANSWER)
    remember(memory, SECOND, [6], known=KNOWN, turn=1)
    remember(memory, [*SECOND, 6, 51], [7], known=len(SECOND) + 1, turn=2)
    memory.close()
    with contextlib.closing(sqlite3.connect(memory.path, isolation_level=None)) as by_hand:
        by_hand.execute("UPDATE exchanges SET answer = x'01000000' WHERE turn = 1")
    assert pairs(memory) == [(FIRST, ANSWER, False), ([51], [7], False)]
    assert memory.inspect().damaged == 1


TURNS = st.lists(
    st.tuples(st.integers(0, 2), st.lists(st.integers(0, 9), min_size=1, max_size=4)), max_size=12
)


@settings(max_examples=40, deadline=None)
@given(TURNS, st.integers(0, 30))
def test_every_prompt_can_be_put_together_again(
    turns: list[tuple[int, list[int]]], erased_before: int
) -> None:
    """From what each exchange continues, however conversations take turns, and after an erasure too."""
    with tempfile.TemporaryDirectory() as folder:
        memory = ConversationMemory(WHO, Path(folder, "memory", WHO.file_name))
        said: dict[int, list[int]] = {}
        prompts: dict[int, list[list[int]]] = {}
        n_turns = {number: 0 for number in range(3)}
        for number, (conversation, new) in enumerate(turns):
            if number == erased_before:
                ConversationMemory(WHO, memory.path).erase()
                prompts.clear()
            before = said.get(conversation, [])
            prompt = before + new
            remember(
                memory, prompt, [11], known=len(before), conversation=conversation, turn=n_turns[conversation]
            )
            n_turns[conversation] += 1
            said[conversation] = [*prompt, 11]
            prompts.setdefault(conversation, []).append(prompt)
        whole: list[int] = []
        found: dict[int, list[list[int]]] = {}
        for exchange in memory.exchanges():
            prompt = [*(whole if exchange.continues else []), *exchange.prompt.tolist()]
            found.setdefault(exchange.conversation, []).append(prompt)
            whole = [*prompt, *exchange.answer.tolist()]
        assert found == prompts
        memory.close()


def test_a_failure_costs_that_exchange_and_what_continues_it_is_kept_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = opened()
    remember(memory, FIRST, ANSWER)

    def refuse(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as full, pytest.raises(StoreError, match="free some space"):
        full.setattr(Rows, "add", refuse)
        remember(memory, SECOND, [6], known=KNOWN, turn=1)
    remember(memory, [*SECOND, 6, 51], [7], known=len(SECOND) + 1, turn=2)
    assert pairs(memory) == [(FIRST, ANSWER, False), ([*SECOND, 6, 51], [7], False)]


# Looking after it


def test_a_memory_can_be_found_inspected_exported_and_erased_without_its_model() -> None:
    assert memories() == []
    opened().append(said([1, 2], [3], when=1000))
    opened().append(said([4], [5], when=2000))
    [path] = memories()
    memory = ConversationMemory.at(path)
    assert memory.identity == WHO
    facts = memory.inspect()
    assert (facts.exchanges, facts.tokens, facts.first, facts.last) == (2, 5, 1000, 2000)
    assert (facts.bytes >= path.stat().st_size, facts.damaged, facts.beside) == (True, 0, ())
    assert pairs(memory) == [([1, 2], [3], False), ([4], [5], False)]
    assert memory.erase() == [path]
    assert list(memory_folder().iterdir()) == []
    assert memories() == []


def test_inspecting_before_the_first_exchange_makes_nothing() -> None:
    facts = opened().inspect()
    assert (facts.exchanges, facts.bytes, facts.first) == (0, 0, None)
    assert not memory_folder().exists()


def test_a_program_goes_on_after_another_erased_its_memory() -> None:
    memory = opened()
    remember(memory, FIRST, ANSWER)
    ConversationMemory.at(memory.path).erase()
    remember(memory, SECOND, [6], known=KNOWN, turn=1)
    assert pairs(memory) == [(SECOND, [6], False)]


@pytest.mark.parametrize("name", ["x.sqlite", "x-0123456789ab.sqlite"])
def test_what_is_no_memory_is_refused_or_holds_nothing(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(StoreError, match="there is no memory"):
        ConversationMemory.at(path)
    path.write_text("a text")
    if name == "x.sqlite":
        with pytest.raises(StoreError, match="not a memory"):
            ConversationMemory.at(path)
    else:  # the name says that it was one
        assert ConversationMemory.at(path).inspect().damaged == 1


def test_a_damaged_file_is_set_aside_at_the_next_start_with_one_notice() -> None:
    memory = opened()
    remember(memory, FIRST, ANSWER)
    memory.close()
    [path] = memories()
    path.write_bytes(b"?" + path.read_bytes()[1:])
    assert ConversationMemory.at(path).inspect().exchanges == 1
    told: list[str] = []
    memory = opened(told)
    assert len(told) == 1 and "damaged-1" in told[0] and "saved from it: 1" in told[0]
    assert pairs(memory) == [(FIRST, ANSWER, False)]
    assert [each.name for each in memory.inspect().beside] == [f"{path.name}.damaged-1"]
    assert len(memory.erase()) == 2


def test_a_file_of_gigabytes_is_used_and_shrinks_when_it_is_pruned() -> None:
    memory = opened()
    remember(memory, FIRST, ANSWER)
    memory.close()
    os.truncate(memory.path, 3 << 30)
    memory = opened()
    assert pairs(memory) == [(FIRST, ANSWER, False)]
    assert memory.prune(1000) == 0 and memory.inspect().bytes < 100_000


def test_another_models_file_under_this_name_is_set_aside() -> None:
    other = replace(WHO, key="ba9876543210")
    memory = ConversationMemory(other, memory_folder() / WHO.file_name)
    memory.append(said([1], [2]))
    memory.close()
    told: list[str] = []
    assert pairs(opened(told)) == []
    assert len(told) == 1 and "belongs to another model: it is now" in told[0]


def test_another_versions_file_is_not_touched_and_nothing_is_remembered() -> None:
    memory = opened()
    remember(memory, FIRST, ANSWER)
    memory.close()
    [path] = memories()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as by_hand:
        by_hand.execute("PRAGMA user_version = 9")
    data = path.read_bytes()
    told: list[str] = []
    assert ConversationMemory.open(WHO, told.append) is None
    assert len(told) == 1 and "another version" in told[0]
    with pytest.raises(StoreError, match="another version"):
        ConversationMemory.at(path).prune(0)
    assert path.read_bytes() == data


def test_what_an_earlier_version_left_is_told_until_there_is_a_new_file_and_goes_with_it() -> None:
    left = memory_folder() / f"{WHO.name}-{WHO.key}.memory"
    left.parent.mkdir(parents=True)
    left.write_text("aded-memory 1 …")
    left.with_name(f"{left.name}.lock").touch()
    bystander = memory_folder() / "other-ba9876543210.memory"
    bystander.touch()
    told: list[str] = []
    memory = opened(told)
    assert len(told) == 1 and str(left) in told[0] and "aded-store erase" in told[0]
    remember(memory, FIRST, ANSWER)
    told.clear()
    assert pairs(opened(told)) == [(FIRST, ANSWER, False)] and told == []
    assert left in memory.inspect().beside
    memory.erase()
    assert list(memory_folder().iterdir()) == [bystander]


@pytest.mark.parametrize("obstacle", ["folder", "link", "file for a folder"])
@pytest.mark.skipif(os.name == "nt", reason="links of POSIX")
def test_what_stands_in_the_way_is_one_notice_and_no_memory(tmp_path: Path, obstacle: str) -> None:
    path = memory_folder() / WHO.file_name
    if obstacle == "file for a folder":
        path.parent.parent.mkdir(parents=True)
        path.parent.write_text("")
    else:
        path.parent.mkdir(parents=True)
        if obstacle == "folder":
            path.mkdir()
        else:
            path.symlink_to(tmp_path / "elsewhere")
    told: list[str] = []
    assert ConversationMemory.open(WHO, told.append) is None
    assert len(told) == 1 and "\n" not in told[0] and "not remembered" in told[0]


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs another user in a process of its own")
def test_a_folder_that_may_only_be_read_is_recalled_from(monkeypatch: pytest.MonkeyPatch, log: bool) -> None:
    """In a child that gives up root's rights, where the test has them: modes do not stop root."""
    with tempfile.TemporaryDirectory() as folder:  # not below pytest's own, which nobody else may enter
        os.chmod(folder, 0o755)
        monkeypatch.setenv("ADED_DATA_DIR", folder)
        memory = opened()
        remember(memory, FIRST, ANSWER)
        if not log:
            memory.close()
        [path] = memories()
        for each in path.parent.iterdir():
            each.chmod(0o644)
        path.parent.chmod(0o555)
        child = os.fork()
        if child == 0:
            verdict = 1
            try:
                if os.getuid() == 0:
                    os.setuid(65534)
                if not os.access(path, os.R_OK):
                    os._exit(77)
                memory = opened()
                assert pairs(memory) == [(FIRST, ANSWER, False)]
                with pytest.raises(StoreError, match=r"Permission denied|another user"):
                    remember(memory, FIRST, ANSWER)
                assert memory.inspect().exchanges == 1
                verdict = 0
            finally:
                os._exit(verdict)
        _, status = os.waitpid(child, 0)
        path.parent.chmod(0o700)
    if os.waitstatus_to_exitcode(status) == 77:
        pytest.skip("another user may not enter the folder for temporary files")
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.skipif(os.name == "nt", reason="modes of POSIX")
def test_a_memory_is_private() -> None:
    memory = opened()
    remember(memory, FIRST, ANSWER)
    assert stat.S_IMODE(memory_folder().stat().st_mode) == 0o700
    assert {stat.S_IMODE(each.stat().st_mode) for each in memory_folder().iterdir()} == {0o600}


# What is useful

ONCE, TWICE = list(range(10, 30)), list(range(40, 60))


def test_an_answer_is_useful_as_often_as_its_runs_come_again() -> None:
    exchanges = [
        said([1], TWICE),
        said([2], ONCE),
        said([3], [*TWICE, 7]),  # 17 runs of four come again, all from the first
        said([4], TWICE[:5]),  # two, and the third is the newest that holds them
    ]
    assert usefulness(exchanges).tolist() == [17, 0, 2, 0]


def test_prompts_and_repetitions_within_one_answer_are_no_use() -> None:
    assert usefulness([said([1], TWICE + TWICE), said(TWICE, ONCE)]).tolist() == [0, 0]


def test_runs_do_not_reach_across_answers() -> None:
    assert usefulness([said([], [1, 2]), said([], [3, 4]), said([], [1, 2, 3, 4])]).tolist() == [0, 0, 0]


def test_what_is_said_again_word_for_word_is_useful_only_once() -> None:
    exchanges = [said([1], TWICE), said([1], TWICE), said([1], TWICE), said([2], [5, 6])]
    assert usefulness(exchanges).tolist() == [-1, -1, 34, 0]


def test_nothing_and_short_answers_are_no_trouble() -> None:
    assert usefulness([]).tolist() == []
    assert usefulness([said([2], []), said([1], [2, 3])]).tolist() == [0, 0]
    assert most_useful([], 0) == []


def test_the_useless_go_first_then_the_oldest_and_the_newest_stay() -> None:
    useful = said([0], TWICE)
    fillers = [said([1000 + i], list(range(2000 + 20 * i, 2020 + 20 * i))) for i in range(9)]
    exchanges = [useful, *fillers, said([1], TWICE[:10])]
    kept = most_useful(exchanges, 5 * 21)
    assert kept[0] == useful  # the oldest, and the only one that was of use
    assert kept[1:] == exchanges[-(len(kept) - 1) :]
    assert sum(each.tokens for each in kept) <= 5 * 21


def test_a_repeated_exchange_is_dropped_before_one_that_was_never_of_use() -> None:
    exchanges = [
        said([9], ONCE),
        said([1], TWICE),
        said([1], TWICE),
        *(said([i], [i]) for i in range(60, 100)),
    ]
    kept = most_useful(exchanges, sum(each.tokens for each in exchanges) - 1)
    assert kept == [exchanges[0], *exchanges[2:]]


TOKENS = st.lists(st.integers(0, 3), max_size=9)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(TOKENS.filter(bool), TOKENS), max_size=9),
    st.integers(0, 60),
)
def test_pruning_keeps_the_order_the_bound_and_the_newest_quarter(
    texts: list[tuple[list[int], list[int]]], tokens: int
) -> None:
    exchanges = [said(prompt, answer, when=i) for i, (prompt, answer) in enumerate(texts)]
    kept = [each.when for each in most_useful(exchanges, tokens)]
    assert kept == sorted(kept)
    assert sum(exchanges[i].tokens for i in kept) <= tokens
    newest, used = len(exchanges), 0
    while newest and used + exchanges[newest - 1].tokens <= tokens / 4:
        newest -= 1
        used += exchanges[newest].tokens
    assert set(kept) >= set(range(newest, len(exchanges)))


def test_pruning_says_how_many_went_and_cuts_what_continued_them() -> None:
    memory = opened()
    remember(memory, FIRST, ANSWER)
    remember(memory, SECOND, [6], known=KNOWN, turn=1)
    assert memory.prune(10) == 1
    assert pairs(memory) == [([50], [6], False)]
    assert memory.prune(10) == 0
    assert memory.prune(0) == 1


def test_a_memory_never_grows_beyond_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversations, "LARGEST_TOKENS", 1000)
    memory = opened()
    most = 0
    for i in range(120):
        remember(memory, [i, i + 1, i + 2], list(range(i, i + 17)), conversation=i)
        most = max(most, memory.inspect().tokens)
    assert 980 <= most <= 1000
    assert memory.exchanges()[-1].prompt[0] == 119
    monkeypatch.setattr(conversations, "LARGEST_TOKENS", 500)
    assert opened().inspect().tokens <= 400  # at the next start


def test_a_memory_that_cannot_be_pruned_is_used_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = opened()
    for number in range(3):
        remember(memory, FIRST, ANSWER, conversation=number)

    def refuse(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(conversations, "LARGEST_TOKENS", 50)
    monkeypatch.setattr(Rows, "keep", refuse)
    told: list[str] = []
    memory = opened(told)
    assert len(told) == 1 and "larger than it should be" in told[0]
    for number in range(3):
        remember(memory, FIRST, ANSWER, conversation=9 + number)
    assert len(memory.exchanges()) == 6


def test_a_full_memory_is_read_and_pruned_in_about_a_second() -> None:
    """A bound far above what was measured (0.1 s to read twice, 0.3 s to prune a million tokens), for slow machines."""
    draw = np.random.default_rng(0)
    file = Database(memory_folder() / WHO.file_name, WHO.labels())
    tokens = draw.zipf(1.3, 1_000_000).clip(0, 30_000).astype(np.int32).reshape(5000, 200)
    with file.writing() as rows:
        rows.add([Exchange(row[:60], row[60:], False, i) for i, row in enumerate(tokens)])
    file.close()
    started = time.perf_counter()
    memory = opened()
    assert len(memory.exchanges()) == 5000
    read = time.perf_counter()
    memory.prune(800_000)
    pruned = time.perf_counter()
    print(f"read twice in {read - started:.3f} s, pruned in {pruned - read:.3f} s")
    assert read - started < 3 and pruned - read < 10


# Whose it is


def identity(path: Path) -> Identity:
    return identity_of(read_header(path))


def rewritten(source: Path, target: Path, **changed: str) -> Path:
    """A copy of a GGUF with other texts in its metadata; names with ``_`` for ``.``; None for none."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", *changed):
            continue
        kind, *inner = field.types
        writer.add_key_value(name, field.contents(), kind, inner[0] if inner else None)
    for name, text in changed.items():
        if text:
            writer.add_string(name, text)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def test_a_name_is_readable_and_unique(tiny: dict[str, Path], tmp_path: Path) -> None:
    path = rewritten(tiny["llama"], tmp_path / "x.gguf", **{"general.name": "TinyLlama 1.1B  Chat/"})
    found = identity(path)
    assert found.file_name == f"tinyllama-1.1b-chat-{found.key}.sqlite"
    assert len(found.key) == 12 and len(found.tokenizer) == 64
    assert Identity.from_file_name(Path(found.file_name)) == Identity(
        "tinyllama-1.1b-chat", "", "", found.key
    )


def test_quantizations_of_one_model_share_a_memory(tiny: dict[str, Path], tmp_path: Path) -> None:
    source = rewritten(tiny["llama"], tmp_path / "a.gguf", **{"general.name": "One"})
    quantized = rewritten(source, tmp_path / "b.gguf", **{"general.quantized_by": "somebody"})
    assert identity(source) == identity(quantized)
    nameless = tmp_path / "nameless.gguf"
    rewritten(tiny["llama"], nameless, **{"general.name": "", "general.basename": ""})
    found = []
    for name in ("my-model-Q4_K_M.gguf", "my-model.q8_0.gguf", "my-model-IQ2_XXS.gguf", "my-model-f16.gguf"):
        shutil.copy(nameless, tmp_path / name)
        found.append(identity(tmp_path / name))
    assert found[0].name == "my-model"
    assert len(set(found)) == 1


def test_another_model_or_another_tokenizer_has_another_memory(tiny: dict[str, Path], tmp_path: Path) -> None:
    one = identity(rewritten(tiny["llama"], tmp_path / "a.gguf", **{"general.name": "One"}))
    two = identity(rewritten(tiny["llama"], tmp_path / "b.gguf", **{"general.name": "Two"}))
    tuned = identity(
        rewritten(tiny["llama"], tmp_path / "c.gguf", **{"general.name": "One", "general.finetune": "chat"})
    )
    assert len({one.key, two.key, tuned.key}) == 3
    assert one.tokenizer == two.tokenizer
    pre = identity(
        rewritten(
            tiny["llama"], tmp_path / "d.gguf", **{"general.name": "One", "tokenizer.ggml.pre": "other"}
        )
    )
    assert pre.tokenizer != one.tokenizer and pre.key != one.key


def test_every_token_counts(tiny: dict[str, Path], tmp_path: Path) -> None:
    path = shutil.copy(tiny["llama"], tmp_path / "a.gguf")
    before = identity(path)
    data = bytearray(path.read_bytes())
    at = data.rindex(b"last", 0, data.index(b"tokenizer.ggml.scores"))
    data[at : at + 4] = b"lost"
    path.write_bytes(data)
    assert identity(path).tokenizer != before.tokenizer


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/home/me/Models/Llama 3/", "...", "中文", "a" * 300, "CON"]
)
def test_no_name_in_a_file_leaves_the_folder(tiny: dict[str, Path], tmp_path: Path, name: str) -> None:
    found = identity(rewritten(tiny["llama"], tmp_path / "x.gguf", **{"general.name": name}))
    assert (memory_folder() / found.file_name).parent == memory_folder()
    assert len(found.file_name) < 90 and found.file_name.isascii()
    assert not found.file_name.startswith(".")


def test_a_model_that_vanished_is_one_clear_error(tmp_path: Path) -> None:
    path = tiny_models.GENERATING["llama"](tmp_path / "x.gguf")
    header = read_header(path)
    path.unlink()
    with pytest.raises(StoreError, match="vocabulary"):
        identity_of(header)
