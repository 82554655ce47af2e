"""Kept conversations as files: what is written is what is read, and whatever else lies there is refused in a line."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aded_local.conversations import (
    KeptCells,
    KeptConversation,
    KeptModel,
    StateRefused,
    Wanted,
    as_markdown,
    conversations_folder,
    everything,
    find,
    folder,
    kept,
    make_room,
    named,
    new_path,
    read,
    read_state,
    state_path,
    title_of,
    write,
    write_state,
)
from aded_local.errors import OptionError, StoreError
from aded_local.files import data_folder

MODEL = KeptModel("tiny", "/models/tiny.gguf", "Q4_0", "a" * 64, "b" * 64)
CHAT = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "how do I\nlist files?"},
    {"role": "assistant", "content": "ls"},
]
CELLS = KeptCells(
    "b" * 64, "build", True, "f16", np.array([1, 2, 3], np.int32), np.arange(200, dtype=np.uint8)
)
WANTED = Wanted("b" * 64, "build", None, None, 100, 1 << 20)


def a_conversation(**changes: Any) -> KeptConversation:
    made = KeptConversation.of(CHAT, answers={"ls": (7, 8)}, model=MODEL, settings={"temperature": 0.5})
    return replace(made, **changes)


def refusal(path: Path, wanted: Wanted = WANTED) -> str:
    with pytest.raises(StateRefused) as refused:
        read_state(path, wanted)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.fixture
def stateful(tmp_path: Path) -> Path:
    """A conversation with its state."""
    path = tmp_path / "chat.json"
    write(path, a_conversation())
    write_state(path, CELLS)
    return path


# The text


YEARS_1_TO_9999 = (-62_135_596_800, 253_402_300_799)
"""Seconds since 1970."""

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@settings(max_examples=60)
@given(
    turns=st.lists(st.tuples(texts, texts, st.lists(st.integers(0, 2**31 - 1), max_size=5)), max_size=4),
    values=st.dictionaries(texts, st.one_of(st.integers(), st.floats(allow_nan=False), texts), max_size=3),
    times=st.tuples(st.integers(*YEARS_1_TO_9999), st.integers(*YEARS_1_TO_9999)),
)
def test_what_is_written_is_what_is_read(turns: Any, values: Any, times: tuple[int, int]) -> None:
    messages, ids = [], []
    for asked, answer, tokens in turns:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        ids += [(), tuple(tokens)]
    made = KeptConversation(tuple(messages), tuple(ids), MODEL, values, *times)
    assert KeptConversation.from_json(made.to_json()) == made


def test_a_file_is_private_and_has_a_line_for_each_message(tmp_path: Path) -> None:
    path = tmp_path / "new" / "chat.json"
    write(path, a_conversation())
    assert read(path) == a_conversation(created=read(path).created, changed=read(path).changed)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert len(path.read_text().splitlines()) == len(CHAT) + 2
    assert json.loads(path.read_text())["messages"][2] == {
        "role": "assistant",
        "content": "ls",
        "tokens": [7, 8],
    }


def test_a_model_s_file_name_need_not_be_text(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    model = replace(MODEL, file=os.fsdecode(b"/models/\xff.gguf"))
    write(path, a_conversation(model=model))
    assert read(path).model == model


def test_where_nothing_can_be_written_advice_is_given_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "chat.json", tmp_path / ("a" * 300 + ".json")):
        with pytest.raises(StoreError) as refused:
            write(path, a_conversation())
        said = str(refused.value).replace(str(path), "PATH")
        assert "\n" not in said and said.count(";") == 1, said


@pytest.mark.parametrize("look", [find, named])
def test_a_path_that_no_file_can_have_is_refused(look: Callable[[str], Path]) -> None:
    with pytest.raises(OptionError, match=r"the conversation is .* no file can have such a name"):
        look("a\0b.json")


def test_calls_of_functions_and_their_results_are_kept() -> None:
    call = {"type": "function", "id": "a", "function": {"name": "now", "arguments": {"zone": "utc"}}}
    messages = [
        {"role": "user", "content": "what time is it?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "noon"},
    ]
    made = KeptConversation.of(messages, answers={})
    assert list(KeptConversation.from_json(made.to_json()).messages) == messages


DAMAGED = {
    "empty": "",
    "cut short": a_conversation().to_json()[:-40],
    "not JSON": "hello",
    "too deep": "[" * 100_000,
    "another format": json.dumps({"format": "of somebody else", "messages": []}),
    "a later version": a_conversation().to_json().replace('"version": 1', '"version": 2'),
    "no messages": json.dumps({**json.loads(a_conversation().to_json()), "messages": "hi"}),
    "a message without role": a_conversation().to_json().replace('"role": "user", ', ""),
    "a message that is none": json.dumps({**json.loads(a_conversation().to_json()), "messages": [1]}),
    "content that is no text": a_conversation().to_json().replace('"ls"', "17"),
    "ids that are none": a_conversation().to_json().replace("[7, 8]", "[7, -8]"),
    "ids that are texts": a_conversation().to_json().replace("[7, 8]", '["7"]'),
    "settings that are none": a_conversation().to_json().replace("0.5", '{"a": 1}'),
    "no model": a_conversation().to_json().replace('"name": "tiny", ', ""),
    "no time": a_conversation().to_json().replace("Z", ""),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_text_is_refused_in_a_line_and_stays(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "chat.json"
    path.write_text(DAMAGED[damage])
    with pytest.raises(StoreError, match=r"chat\.json .*; it was left as it is") as refused:
        read(path)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 300 + len(str(path))
    with pytest.raises(StoreError, match=r"is there already, .*, and is not replaced; name another file$"):
        write(path, a_conversation())
    assert path.read_text() == DAMAGED[damage]


@pytest.mark.skipif(os.name != "posix", reason="links and pipes")
@pytest.mark.parametrize("obstacle", ["link", "pipe", "folder", "missing", "bytes"])
def test_what_is_no_text_file_is_refused(tmp_path: Path, obstacle: str) -> None:
    path = tmp_path / "chat.json"
    if obstacle == "link":
        write(tmp_path / "other.json", a_conversation())
        path.symlink_to(tmp_path / "other.json")
    elif obstacle == "pipe":
        os.mkfifo(path)
    elif obstacle == "folder":
        path.mkdir()
    elif obstacle == "bytes":
        path.write_bytes(b"\xff\xfe")
    with pytest.raises(StoreError, match=r"chat\.json"):
        read(path)


def test_a_conversation_is_replaced_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "chat.json"
    write(path, a_conversation())
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StoreError, match="free some space"):
        write(path, a_conversation(settings={}))
    assert path.read_bytes() == before and [each.name for each in tmp_path.iterdir()] == ["chat.json"]


@pytest.mark.parametrize(
    ("asked", "title"),
    [
        ("how do I\n  list files?", "how do I list files?"),
        ("a" * 100, "a" * 59 + "…"),
        ("red \x1b[31m", "red [31m"),
        ("", ""),
    ],
)
def test_the_title_is_the_first_question_on_a_line(asked: str, title: str) -> None:
    assert title_of([{"role": "system", "content": "x"}, {"role": "user", "content": asked}]) == title


def test_markdown_keeps_texts_and_closes_what_an_answer_left_open() -> None:
    messages = [
        {"role": "user", "content": "show me\n# code"},
        {"role": "assistant", "content": "so:\n```python\nx = 1"},
        {"role": "user", "content": "and?"},
    ]
    text = as_markdown(KeptConversation.of(messages, answers={}, model=MODEL))
    assert "# show me # code\n" in text and "with tiny (Q4_0)" in text
    assert "## Answer\n\nso:\n```python\nx = 1\n```\n\n## You\n\nand?\n" in text


# The state


def test_a_state_comes_back_as_it_was(stateful: Path) -> None:
    found = read_state(stateful, WANTED)
    assert found.tokens.tolist() == [1, 2, 3] and np.array_equal(found.state, CELLS.state)
    assert stat.S_IMODE(state_path(stateful).stat().st_mode) == 0o600
    assert stat.S_IMODE((conversations_folder() / "key").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (replace(WANTED, weights="c" * 64), "by another model, or another file of it"),
        (replace(WANTED, build="newer"), "by another build of llama.cpp"),
        (replace(WANTED, flash_attention=False), "with flash attention on, and off was asked for"),
        (replace(WANTED, cache_type="q8_0"), "with the cache type f16, and q8_0 was asked for"),
        (replace(WANTED, most_tokens=2), "holds 3 tokens, and the context has room for 2"),
        (replace(WANTED, most_bytes=100), "of memory may be used"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(stateful: Path, wanted: Wanted, words: str) -> None:
    assert words in refusal(stateful, wanted)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def _grown(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


def _flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-100] ^= 1  # within llama.cpp's own
    path.write_bytes(data)


def _other_file(path: Path) -> None:
    path.write_text("GGUF and other things")


def _later_version(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"ADEDkv\x00\x01", b"ADEDkv\x00\x02"))


def _header_of_nothing(path: Path) -> None:
    path.write_bytes(b"ADEDkv\x00\x01" + b"\xff\xff\xff\xff" + b"x" * 100)


def _header_that_lies(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"n_bytes": 200', b'"n_bytes": -20'))


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _link(path: Path) -> None:
    path.rename(path.with_suffix(".elsewhere"))
    path.symlink_to(path.with_suffix(".elsewhere"))


def _gone(path: Path) -> None:
    path.unlink()


def _of_somebody_else(path: Path) -> None:
    (conversations_folder() / "key").write_bytes(b"s" * 32)


def _key_is_gone(path: Path) -> None:
    (conversations_folder() / "key").unlink()


@pytest.mark.skipif(os.name != "posix", reason="links")
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_cut, "is cut short"),
        (_grown, "is longer than it should be"),
        (_flipped, "damaged: its checksum is another"),
        (_other_file, "is no state"),
        (_empty, "is no state"),
        (_later_version, "another version"),
        (_header_of_nothing, "its header makes no sense"),
        (_header_that_lies, "its header makes no sense"),
        (_link, "symbolic link"),
        (_gone, "no state is kept with it"),
        (_of_somebody_else, "not written by a program of yours"),
        (_key_is_gone, "your key was erased"),
    ],
)
def test_a_damaged_or_foreign_state_is_refused(stateful: Path, damage: Any, words: str) -> None:
    damage(state_path(stateful))
    assert words in refusal(stateful)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0), change=st.integers(1, 255))
def test_no_changed_byte_goes_unnoticed(stateful: Path, at: int, change: int) -> None:
    path = state_path(stateful)
    whole = path.read_bytes()
    data = bytearray(whole)
    data[at % len(data)] ^= change
    path.write_bytes(data)
    try:
        refusal(stateful)
    finally:
        path.write_bytes(whole)


def test_a_state_that_cannot_be_written_leaves_what_was_there(
    stateful: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state_path(stateful).read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StoreError, match="free some space"):
        write_state(stateful, CELLS)
    assert state_path(stateful).read_bytes() == before
    assert {each.name for each in stateful.parent.iterdir()} >= {"chat.json", "chat.json.state"}
    assert not [each for each in stateful.parent.iterdir() if ".new-" in each.name]


# The folder


def kept_one(name: str, when: int, state: int = 0) -> Path:
    path = conversations_folder() / f"{name}.json"
    write(path, a_conversation())
    if state:
        state_path(path).write_bytes(bytes(state))
        os.utime(state_path(path), (when, when))
    os.utime(path, (when, when))
    return path


def test_conversations_are_found_by_the_beginning_of_their_names_and_the_last_by_its_time() -> None:
    one, two = kept_one("garden", 200), kept_one("gardening", 100)
    other = kept_one("holiday", 300)
    assert kept() == [other, one, two]
    assert (find("last"), find("hol"), find("garden"), find("gardeni")) == (other, other, one, two)
    assert find("./x.json") == Path("x.json")
    for name, words in (
        ("gard", "2 conversations begin with"),
        ("x", "no kept conversation"),
        ("", "called"),
    ):
        with pytest.raises(StoreError, match=words):
            find(name)


def test_without_any_it_says_where_they_would_be() -> None:
    with pytest.raises(StoreError, match="no conversation is kept in"):
        find("last")


def test_a_number_of_thousands_of_digits_is_told_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(a_conversation().to_json().replace('"version": 1', '"version": ' + "1" * 5000))
    with pytest.raises(StoreError, match="holds a number of thousands of digits; it was left as it is"):
        read(path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ('a"b', "letters, digits, spaces, dots, dashes, 100 at most"),
        ("x" * 300, "'x{59}…'"),
        ("last", "changed last"),
    ],
)
def test_a_name_that_is_refused_says_what_a_name_is(name: str, words: str) -> None:
    with pytest.raises(StoreError, match=words) as refused:
        named(name)
    assert len(str(refused.value)) < 260


def test_a_long_name_that_nothing_has_is_cut() -> None:
    kept_one("chat", 1)
    with pytest.raises(StoreError, match=r"no kept conversation is called x{59}…;"):
        find("x" * 300)


@pytest.mark.parametrize("name", ["last", "", ".hidden", "a\nb", "x" * 101, "-x"])
def test_some_names_are_refused(name: str) -> None:
    with pytest.raises(StoreError, match="cannot be called"):
        named(name)


def test_a_name_is_a_file_in_the_folder_and_a_path_is_itself(tmp_path: Path) -> None:
    assert named("my garden") == conversations_folder() / "my garden.json"
    assert named(str(tmp_path / "x")) == tmp_path / "x" and named("x.json") == Path("x.json")
    assert new_path().parent == conversations_folder() and new_path() != new_path()


def test_the_oldest_states_make_room_and_texts_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "LARGEST_STATES", 1000)
    paths = [kept_one(f"chat{number}", number, state=300) for number in (3, 1, 2)]
    assert make_room(paths[0], 300) is None
    assert all(state_path(path).exists() for path in paths)  # its own is replaced
    assert make_room(conversations_folder() / "new.json", 300) is None
    assert [state_path(path).exists() for path in paths] == [True, False, True]
    assert all(path.exists() for path in paths)
    assert "MiB" in (make_room(paths[0], 1001) or "")
    assert "free on the disk" in (make_room(conversations_folder().parent / "x.json", 1 << 60) or "")


def test_what_a_killed_program_left_is_removed_and_what_is_being_written_is_not() -> None:
    path = kept_one("chat", 100)
    left, fresh = (path.with_name(f"chat.json.state.new-{name}") for name in ("left", "fresh"))
    left.write_bytes(b"x")
    fresh.write_bytes(b"x")
    os.utime(left, (100, 100))
    make_room(path, 1)
    assert not left.exists() and fresh.exists()
    assert fresh in everything()


def test_what_is_not_ours_in_the_folder_is_neither_listed_nor_erased() -> None:
    mine = kept_one("chat", 100)
    write_state(mine, CELLS)
    for name in ("package.json", "notes.txt", "tunes.state"):
        (conversations_folder() / name).write_text("{}")
    (conversations_folder() / "more.json").mkdir()
    key = conversations_folder() / "key"
    assert kept() == [mine] and set(everything()) == {mine, state_path(mine), key}
    assert data_folder() in key.parents


def test_one_by_a_made_name_is_ours_however_damaged() -> None:
    path = new_path()
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    assert kept() == [path]
