"""The chat keeps its conversation and goes on with it: --continue, /reset, other chats beside it, full disks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fake_engine import FakeEngine

from aded_cli import chat, display, keeping, store
from aded_cli.conversation import Conversation, Turn
from aded_cli.keeping import Keeper
from aded_local import conversations
from aded_local.config import config_path
from aded_local.conversations import KeptConversation, conversations_folder, kept, read, write
from aded_local.errors import EmptyPromptError, StoreError


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    fake = FakeEngine()

    def open_model(settings: Any, _say: Any) -> FakeEngine:
        fake.model, fake.options = settings.model, settings.engine
        return fake

    monkeypatch.setattr(chat, "open_model", open_model)
    return fake


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def chatting(engine: FakeEngine, told: list[str]) -> Iterator[tuple[Keeper, Conversation]]:
    conversation = Conversation("be brief")
    keeper = Keeper(engine, conversation, {"temperature": 0.5}, keeps=True, warn=told.append)  # type: ignore[arg-type]
    yield keeper, conversation
    keeper.close()


def turn(chatting: tuple[Keeper, Conversation], user: str, answer: str = "so") -> None:
    keeper, conversation = chatting
    conversation.record(user, answer)
    keeper.turn_ended()


def run(*args: str, stdin: str = "") -> Result:
    return CliRunner().invoke(chat.main, list(args), input=stdin)


def only() -> KeptConversation:
    [path] = kept()
    return read(path)


def test_each_turn_is_kept_and_the_cells_at_the_end(
    chatting: tuple[Keeper, Conversation], engine: FakeEngine, told: list[str]
) -> None:
    keeper, _ = chatting
    turn(chatting, "one")
    keeper._wait()
    assert [message["content"] for message in only().messages] == ["be brief", "one", "so"]
    turn(chatting, "two")
    keeper._wait()
    assert len(only().messages) == 5 and only().settings == {"temperature": 0.5}
    assert engine.saved == []
    keeper.close()
    assert engine.saved == kept()
    keeper.close()
    assert len(told) == 1 and str(conversations_folder()) in told[0]  # that they are kept at all


def test_after_a_reset_another_conversation_begins(chatting: tuple[Keeper, Conversation]) -> None:
    keeper, conversation = chatting
    turn(chatting, "one")
    keeper.begin_anew()
    conversation.clear()
    turn(chatting, "two")
    keeper.close()
    assert sorted(read(path).title for path in kept()) == ["one", "two"]


def test_turns_that_the_context_has_no_room_for_are_kept(
    chatting: tuple[Keeper, Conversation], engine: FakeEngine
) -> None:
    keeper, conversation = chatting
    for number in range(4):
        turn(chatting, f"{number} " + "word " * 20)
    assert conversation.make_room(
        "next", lambda messages: sum(len(m["content"].split()) for m in messages), n_ctx=80
    )
    turn(chatting, "next")
    keeper.close()
    asked = [m["content"][:1] for m in only().messages if m["role"] == "user"]
    assert asked == ["0", "1", "2", "3", "n"] and len(conversation.turns) < 5
    resumed = Conversation()
    with Keeper(engine, resumed, {}, keeps=True, warn=pytest.fail) as other:  # type: ignore[arg-type]
        other.load("last")
    assert resumed == conversation


def test_nothing_is_kept_where_that_is_not_wanted_and_save_still_saves(
    engine: FakeEngine, tmp_path: Path, told: list[str]
) -> None:
    conversation = Conversation()
    with Keeper(engine, conversation, {}, keeps=False, warn=told.append) as keeper:  # type: ignore[arg-type]
        with pytest.raises(EmptyPromptError):
            keeper.save()
        conversation.record("one", "so")
        keeper.turn_ended()
        assert keeper.save(str(tmp_path / "mine.json")) == (tmp_path / "mine.json", None)
    assert not conversations_folder().exists() and read(tmp_path / "mine.json").title == "one" and told == []


def test_a_chat_that_another_model_goes_on_with_stays_one_conversation(
    chatting: tuple[Keeper, Conversation], engine: FakeEngine
) -> None:
    keeper, conversation = chatting
    turn(chatting, "one")
    keeper.close()
    other = Keeper(engine, conversation, {}, keeps=True, warn=pytest.fail, before=keeper)  # type: ignore[arg-type]
    with other:
        turn((other, conversation), "two")
    assert len(only().messages) == 5


def test_a_name_is_where_it_is_kept_from_then_on(
    chatting: tuple[Keeper, Conversation], tmp_path: Path
) -> None:
    keeper, _ = chatting
    turn(chatting, "one")
    path, _ = keeper.save("my garden")
    assert kept() == [path] and path.name == "my garden.json"
    keeper.save(str(tmp_path / "copy.json"))
    turn(chatting, "two")
    keeper.close()
    assert kept() == [path] and len(read(path).messages) == 5
    assert len(read(tmp_path / "copy.json").messages) == 3


def users(path: Path) -> list[str]:
    return [message["content"] or "" for message in read(path).messages if message["role"] == "user"]


def test_every_name_that_was_saved_stays(
    chatting: tuple[Keeper, Conversation], engine: FakeEngine, told: list[str]
) -> None:
    keeper, _ = chatting
    turn(chatting, "first")
    one, _ = keeper.save("one")
    conversations.state_path(one).write_bytes(b"cells")
    turn(chatting, "second")
    two, _ = keeper.save("two")
    turn(chatting, "third")
    keeper.close()
    assert users(one) == ["first", "second"] and users(two) == ["first", "second", "third"]
    assert conversations.state_path(one).read_bytes() == b"cells" and set(kept()) == {one, two}
    other = Conversation()
    with Keeper(engine, other, {}, keeps=True, warn=told.append) as beside:  # type: ignore[arg-type]
        beside.load("one")
        turn((beside, other), "fourth")
        notes, _ = beside.save("notes.md")
    assert users(one) == users(notes) == ["first", "second", "fourth"] and set(kept()) == {one, two, notes}


def test_a_made_name_that_another_chat_went_on_with_stays(
    chatting: tuple[Keeper, Conversation], engine: FakeEngine, told: list[str]
) -> None:
    keeper, _ = chatting
    turn(chatting, "one")
    keeper._wait()
    [made] = kept()
    other = Conversation()
    with Keeper(engine, other, {}, keeps=True, warn=told.append) as beside:  # type: ignore[arg-type]
        beside.load("last")
        turn((beside, other), "theirs")
    keeper.save("mine")
    assert users(made) == ["one", "theirs"]
    keeper.save()
    assert set(kept()) == {made, conversations_folder() / "mine.json"}


def test_save_alone_leaves_a_file_to_the_chat_that_went_on_with_it(
    chatting: tuple[Keeper, Conversation], engine: FakeEngine, told: list[str]
) -> None:
    keeper, _ = chatting
    turn(chatting, "one")
    keeper._wait()
    [made] = kept()
    other = Conversation()
    with Keeper(engine, other, {}, keeps=True, warn=told.append) as beside:  # type: ignore[arg-type]
        beside.load("last")
        turn((beside, other), "theirs")
    mine, _ = keeper.save()
    assert users(made) == ["one", "theirs"] and users(mine) == ["one"]


@pytest.mark.parametrize("is_path", [False, True])
@pytest.mark.parametrize("keeps", [False, True])
def test_another_conversation_is_not_replaced(
    engine: FakeEngine, tmp_path: Path, keeps: bool, is_path: bool
) -> None:
    name = str(tmp_path / "dup.json") if is_path else "dup"
    conversation = Conversation()
    with Keeper(engine, conversation, {}, keeps=keeps, warn=lambda _: None) as keeper:  # type: ignore[arg-type]
        turn((keeper, conversation), "first")
        path, _ = keeper.save(name)
        keeper.begin_anew()
        conversation.clear()
        turn((keeper, conversation), "second")
        with pytest.raises(StoreError) as refused:
            keeper.save(name)
        line = str(refused.value)
        assert "“first”" in line and "\n" not in line and users(path) == ["first"]
        free = line.partition("/save ")[2].partition(" keeps")[0]
        assert users(keeper.save(free)[0]) == ["second"] and users(path) == ["first"]
        with pytest.raises(StoreError, match="-3"):
            conversation.turns[:] = [Turn("third", "so")]
            keeper.begin_anew()
            keeper.save(name)


@pytest.mark.parametrize("name", ["x" * 100, "x" * 98])
def test_a_long_name_that_is_taken_has_another_like_it(
    chatting: tuple[Keeper, Conversation], name: str
) -> None:
    keeper, conversation = chatting
    turn(chatting, "first")
    keeper.save(name)
    keeper.begin_anew()
    conversation.turns[:] = [Turn("second", "so")]
    with pytest.raises(StoreError, match=r"/save x+-2 keeps both"):
        keeper.save(name)


def test_what_is_an_earlier_state_of_the_conversation_is_replaced(
    chatting: tuple[Keeper, Conversation], engine: FakeEngine, tmp_path: Path
) -> None:
    keeper, conversation = chatting
    name = str(tmp_path / "a.json")
    turn(chatting, "one")
    keeper.save(name)
    turn(chatting, "two")
    other = Keeper(engine, conversation, {}, keeps=False, warn=pytest.fail)  # type: ignore[arg-type]
    with other:  # it did not write the file, and loses nothing of it
        assert users(other.save(name)[0]) == ["one", "two"]
        conversation.turns.pop()
        assert users(other.save(name)[0]) == ["one"]  # it wrote this one


def test_going_on_brings_turns_and_settings_back(
    chatting: tuple[Keeper, Conversation], engine: FakeEngine, told: list[str]
) -> None:
    turn(chatting, "one")
    chatting[0].close()
    conversation = Conversation()
    sampling: dict[str, Any] = {}
    with Keeper(engine, conversation, sampling, keeps=True, warn=told.append) as keeper:  # type: ignore[arg-type]
        resumed = keeper.load("last")
        assert (resumed.cached, resumed.refusal) == (7, None)
        assert conversation == Conversation("be brief", [Turn("one", "so")])
        assert sampling == {"temperature": 0.5}
        turn((keeper, conversation), "two")
    assert len(only().messages) == 5


def test_what_was_said_on_the_command_line_stands_above_what_was_kept(engine: FakeEngine) -> None:
    path = conversations.new_path()
    settings = {
        "temperature": 0.5,
        "top_k": -5,
        "grammar": "root ::= x",
        "presence_penalty": 1,
        "min_p": 10**400,
    }
    write(path, KeptConversation.of([{"role": "user", "content": "x"}], answers={}, settings=settings))
    sampling: dict[str, Any] = {"temperature": 0.9}
    with Keeper(engine, Conversation(), sampling, keeps=True, warn=pytest.fail) as keeper:  # type: ignore[arg-type]
        keeper.load("last")
    assert sampling == {
        "temperature": 0.9,
        "presence_penalty": 1,
    }  # neither what is out of range nor what no chat has


def test_two_chats_that_go_on_with_the_same_conversation_lose_nothing(
    chatting: tuple[Keeper, Conversation], engine: FakeEngine, told: list[str]
) -> None:
    keeper, _ = chatting
    turn(chatting, "one")
    keeper._wait()
    other = Conversation()
    with Keeper(engine, other, {}, keeps=True, warn=told.append) as beside:  # type: ignore[arg-type]
        beside.load("last")
        turn((beside, other), "theirs")
    turn(chatting, "mine")
    keeper.close()
    last = sorted(read(path).messages[-2]["content"] for path in kept())
    assert last == ["mine", "theirs"] and "another chat went on with" in told[-1]


def test_one_that_is_erased_meanwhile_stays_erased(
    chatting: tuple[Keeper, Conversation], told: list[str]
) -> None:
    keeper, _ = chatting
    turn(chatting, "one")
    keeper._wait()
    kept()[0].unlink()
    turn(chatting, "two")
    keeper.close()
    assert kept() == [] and "was erased meanwhile" in told[-1]


def test_a_full_disk_is_told_once_and_ends_nothing(
    chatting: tuple[Keeper, Conversation], told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    for number in range(3):
        turn(chatting, str(number))
    chatting[0]._wait()
    [line] = [line for line in told if "is not kept" in line]
    assert "free some space" in line and "\n" not in line


def test_why_the_cells_are_not_kept_is_told(
    chatting: tuple[Keeper, Conversation], engine: FakeEngine, told: list[str]
) -> None:
    engine.refusal = "the disk is small"
    turn(chatting, "one")
    chatting[0].close()
    assert told[-1] == "the next chat reads this conversation again: the disk is small"


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "assistant", "content": "hi"}],
        [{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}],
        [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "assistant", "content": "c"},
        ],
    ],
)
def test_what_a_terminal_cannot_go_on_with_is_refused_and_the_chat_stays(
    chatting: tuple[Keeper, Conversation], tmp_path: Path, messages: list[dict[str, str]]
) -> None:
    keeper, conversation = chatting
    conversation.record("one", "so")
    write(tmp_path / "x.json", KeptConversation.of(messages, answers={}))
    with pytest.raises(StoreError, match=r"LocalADED\.load"):
        keeper.load(str(tmp_path / "x.json"))
    assert conversation.turns == [Turn("one", "so")]


# The programs


def test_continue_answers_behind_what_was_said_and_keeps_it(engine: FakeEngine) -> None:
    write(
        conversations.new_path(), KeptConversation.of(Conversation("s", [Turn("a", "b")]).whole(), answers={})
    )
    result = run("--continue", "-p", "c")
    assert (result.exit_code, result.stdout) == (0, "you said c\n")
    assert [message["content"] for message in engine.calls[0][1]] == ["s", "a", "b", "c"]
    assert [message["content"] for message in only().messages] == ["s", "a", "b", "c", "you said c"]


def test_one_answer_alone_is_not_kept(engine: FakeEngine) -> None:
    assert run("-p", "c").exit_code == 0
    assert not conversations_folder().exists()


def test_continue_takes_the_conversation_s_model_unless_one_is_named(
    engine: FakeEngine, tmp_path: Path
) -> None:
    (tmp_path / "m.gguf").write_bytes(b"")
    model = conversations.KeptModel("m", str(tmp_path / "m.gguf"), "Q4_0", "a", "b")
    made = KeptConversation.of([{"role": "user", "content": "x"}], answers={}, model=model)
    write(conversations.new_path(), made)
    run("--continue", "-p", "c")
    assert engine.model == model.file
    run("--continue", "-p", "c", "other.gguf")
    assert engine.model == "other.gguf"


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b'{"messages": [', b"[" * 5000])
def test_continue_names_what_it_cannot_read_and_what_goes_on_instead(
    engine: FakeEngine, damage: bytes
) -> None:
    older, newer = conversations_folder() / "older.json", conversations_folder() / "newer.json"
    write(older, KeptConversation.of([{"role": "user", "content": "old one"}], answers={}))
    os.utime(older, (100, 100))
    newer.write_bytes(damage)
    result = run("--continue", "-p", "c")
    assert (result.exit_code, result.stdout) == (0, "you said c\n")
    assert result.stderr.splitlines()[0].startswith(str(newer)) and "left as it is" in result.stderr
    assert "older goes on instead: “old one”" in result.stderr
    assert newer.read_bytes() == damage
    older.unlink()
    result = run("--continue", "-p", "c")
    assert result.exit_code == 2 and str(newer) in result.stderr and result.stderr.count("\n") == 1


def test_the_configuration_names_the_usual_model(engine: FakeEngine) -> None:
    config_path().parent.mkdir()
    config_path().write_text('model = "usual.gguf"')
    run("-p", "x")
    assert engine.model == "usual.gguf"
    run("-p", "x", "builtin")
    assert engine.model == "builtin"
    config_path().write_text("no_memory = true")
    run("-p", "x")
    assert engine.options["memory"] is False
    config_path().write_text("no_memory = maybe")
    result = run("-p", "x")
    assert result.exit_code == 2 and result.stderr.count("\n") == 1 and str(config_path()) in result.stderr


def test_a_usual_model_that_there_is_not_is_told_with_the_file_that_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config_path().parent.mkdir()
    config_path().write_text('model = "nonexist"')
    result = run("-p", "x")
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert f"{config_path()} has model = 'nonexist'" in result.stderr and "aded-models list" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--stop", ""], "--stop is empty"),
        (["--temp", "hot"], "'hot' is not a number"),
        (["--top-k", "1.5"], "'1.5' is not a whole number"),
        (["--temp", "x" * 300], "…' is not a number"),
    ],
)
def test_an_option_that_takes_something_else_says_what(
    engine: FakeEngine, arguments: list[str], words: str
) -> None:
    result = run("-p", "x", *arguments)
    assert result.exit_code == 2 and words in result.stderr and result.stderr.count("\n") == 1
    assert len(result.stderr) < 160


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--no-memory"], "--no-memory says that none is read"),
        (["--raw"], "--raw"),
        (["--system", "x"], "--system"),
        ([], "no conversation is kept"),
    ],
)
def test_what_continue_does_not_go_with_is_a_line(
    engine: FakeEngine, arguments: list[str], words: str
) -> None:
    result = run("--continue", "-p", "x", *arguments)
    assert result.exit_code == 2 and words in result.stderr and result.stderr.count("\n") == 1


def test_the_chat_shows_how_the_conversation_ended(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = [Turn(f"q{number}", f"a{number} \x1b[31m") for number in range(8)]
    write(conversations.new_path(), KeptConversation.of(Conversation(None, turns).whole(), answers={}))
    monkeypatch.setattr(display, "is_terminal", lambda stream: True)
    monkeypatch.setattr("aded_cli.editing.line_reader", lambda **_: lambda: (_ for _ in ()).throw(EOFError()))
    result = run("--continue")
    assert result.exit_code == 0, result.output
    shown = result.stdout
    assert "q7" in shown and "a7 [31m" in shown and "q1" not in shown and "\x1b[31m" not in shown
    assert keeping.SHOWN_TURNS == 6 and "… 2 earlier turns" in result.stderr
    assert "7 tokens need not be read again" in result.stderr


# aded-store conversations


def stored(*args: str | Path, stdin: str = "") -> Result:
    return CliRunner().invoke(store.main, [str(arg) for arg in args], input=stdin)


def done(*args: str | Path) -> str:
    result = stored(*args)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def two() -> tuple[Path, Path]:
    paths = conversations_folder() / "garden.json", conversations_folder() / "travel.json"
    for path, text in zip(paths, ("When do I sow\x1b[31m beans?", "Which train to Straße 5?"), strict=True):
        asked = [{"role": "user", "content": text}, {"role": "assistant", "content": "In May."}]
        write(path, KeptConversation.of(asked, answers={"In May.": [1]}, settings={}))
    os.utime(paths[0], (100, 100))
    return paths


def test_conversations_are_listed_shown_and_searched(two: tuple[Path, Path]) -> None:
    lines = done("conversations", "list").splitlines()
    assert [line.split()[0] for line in lines] == ["name", "travel", "garden"] and "\x1b" not in "".join(
        lines
    )
    assert '"title": "Which train' in done("conversations", "list", "--json")
    assert "## You\n\nWhen do I sow[31m beans?\n\n## Answer\n\nIn May." in done(
        "conversations", "show", "gard"
    )
    assert "Which train" in done("conversations", "show")
    found = done("conversations", "search", "STRASSE 5")
    assert (
        found.startswith("travel  ") and "user: Which train to Straße 5?" in found and "garden" not in found
    )
    assert done("conversations", "search", "in may").count("assistant: In May.") == 2
    assert "nothing was found" in done("conversations", "search", "winter")
    assert "empty" in stored("conversations", "search", " ").stderr


def test_a_damaged_one_hides_no_other(two: tuple[Path, Path]) -> None:
    damaged = conversations.new_path()
    damaged.write_text("{")
    listed = done("conversations", "list")
    assert "unreadable" in listed and "garden" in listed and "is no sound JSON" in listed
    result = stored("conversations", "search", "beans")
    assert "garden" in result.stdout and "is no sound JSON" in result.stderr
    assert f"erased {damaged}" in done("conversations", "erase", damaged.stem, "--yes")


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b"no JSON at all"])
def test_one_by_a_given_name_is_listed_and_refused_however_damaged(
    two: tuple[Path, Path], damage: bytes
) -> None:
    damaged = two[1]
    damaged.write_bytes(damage)
    other = conversations_folder() / "package.json"
    other.write_text('{"name": "x"}')
    listed = done("conversations", "list")
    assert "travel" in listed and "unreadable" in listed and f"{damaged} is no" in listed
    assert "package" not in listed
    shown = stored("conversations", "show", "travel")
    assert shown.exit_code == 2 and "left as it is" in shown.stderr and shown.stderr.count("\n") == 1
    # All are erased that are conversations for sure; what may be somebody else's file is named.
    told = done("conversations", "erase", "--all", "--yes")
    assert f"{damaged} stayed" in told and damaged.exists() and other.exists() and not two[0].exists()
    assert f"erased {damaged}" in done("conversations", "erase", "travel", "--yes")
    assert "stayed" not in done("conversations", "erase", "--all", "--yes")


def test_conversations_are_exported_as_markdown_and_as_what_goes_on(
    two: tuple[Path, Path], tmp_path: Path
) -> None:
    assert done("conversations", "export", "travel").startswith("# Which train to Straße 5?")
    done("conversations", "export", "travel", "-o", tmp_path / "t.md")
    assert "## Answer" in (tmp_path / "t.md").read_text("utf-8")
    done("conversations", "export", "travel", "-o", tmp_path / "t.json")
    assert read(tmp_path / "t.json") == read(two[1])
    assert "--force" in stored("conversations", "export", "travel", "-o", tmp_path / "t.json").stderr
    done("conversations", "export", "travel", "-o", tmp_path / "t.json", "--format", "markdown", "--force")
    assert "## You" in (tmp_path / "t.json").read_text("utf-8")


def test_erasing_takes_the_state_too_and_asks_first(two: tuple[Path, Path], tmp_path: Path) -> None:
    state = conversations.state_path(two[0])
    state.write_bytes(b"x")
    assert "--yes" in stored("conversations", "erase", "garden").stderr and two[0].exists()
    assert done("conversations", "erase", "garden", "--yes").splitlines() == [
        f"erased {two[0]}",
        f"erased {state}",
    ]
    (tmp_path / "notes.json").write_text("{}")
    refused = stored("conversations", "erase", tmp_path / "notes.json", "--yes")
    assert refused.exit_code == 2 and (tmp_path / "notes.json").exists()
    assert stored("conversations", "erase", "--yes").exit_code == 2
    done("conversations", "erase", "--all", "--yes")
    assert list(conversations_folder().iterdir()) == []
    assert "none was erased" in done("conversations", "erase", "--all", "--yes")


def test_erasing_all_names_the_conversations_and_erases_them_with_history(two: tuple[Path, Path]) -> None:
    named = f"2 conversations in {conversations_folder()} stayed: --all --history erases them too"
    assert named in done("erase", "--all", "--yes") and two[0].exists()
    assert stored("erase", "--history", "--yes").exit_code == 2
    told = done("erase", "--all", "--history", "--yes")
    assert f"erased {two[0]}\n" in told and "stayed" not in told
    assert list(conversations_folder().iterdir()) == []
