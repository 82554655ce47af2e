"""The commands of the chat: what each does, and that nothing else is one."""

from __future__ import annotations

import asyncio
import base64
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from fake_engine import FakeEngine
from hypothesis import given, settings
from hypothesis import strategies as st
from prompt_toolkit import PromptSession
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from aded_cli import chat as program
from aded_cli import commands, copying, display, editing, setting, why
from aded_cli.answer import Answer
from aded_cli.attachments import Attachment, with_files, without_files
from aded_cli.commands import COMMANDS, command_in, completions
from aded_cli.conversation import Conversation
from aded_cli.keeping import Keeper
from aded_cli.repl import NEARLY_FULL, Repl
from aded_local.drafters.ngram.components import KIND_OF_SOURCE
from aded_local.errors import DeviceError, ModelError, OptionError
from aded_local.tree import Source


def chat(engine: FakeEngine, *lines: str | BaseException, **sampling: Any) -> Repl:
    """Run the chat over ``lines``, then Ctrl-D."""
    script = iter(lines)

    def read_line() -> str:
        line = next(script, EOFError())
        if isinstance(line, BaseException):
            raise line
        return str(line)

    conversation = Conversation()
    with Keeper(engine, conversation, sampling, keeps=False, warn=pytest.fail) as keeper:  # type: ignore[arg-type]
        repl = Repl(engine, conversation, sampling, read_line, keeper)  # type: ignore[arg-type]
        repl.run()
    assert list(script) == [] or repl.is_over
    return repl


def asked(engine: FakeEngine) -> list[str]:
    return [call[1][-1]["content"] for call in engine.calls]


def test_help_names_every_command_with_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    chat(FakeEngine(), "/?")
    said = capsys.readouterr().err
    for command in COMMANDS:
        assert all(name in said for name in command.names) and command.takes in said
    assert "Alt-Enter" in said


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.names[0])
def test_help_on_one_command_says_more_than_the_list(
    command: commands.Command, capsys: pytest.CaptureFixture[str]
) -> None:
    chat(FakeEngine(), f"/help {command.names[0]}")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith(command.words) and " ".join(lines[1:]) == command.more
    assert len(command.more) > 40
    argument = command.takes.strip("[]").split("|")[0].split(" ")[0]
    assert argument in command.more


def test_help_on_one_command(capsys: pytest.CaptureFixture[str]) -> None:
    chat(FakeEngine(), "/help set", "/help /why", "/help nothing")
    said = capsys.readouterr().err
    assert "/set" in said and "/why" in said and "/undo" not in said and "no command nothing" in said


@pytest.mark.parametrize("name", ["/quit", "/exit", "/bye", "/bye "])
def test_ways_to_leave(name: str) -> None:
    engine = FakeEngine()
    chat(engine, name, "never sent")
    assert engine.calls == []


@pytest.mark.parametrize("word", ["exit", "quit"])
def test_exit_and_quit_alone_ask(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    for answer, leaves in (("", True), ("y", True), (word, True), ("n", False), ("no", False)):
        engine = FakeEngine()
        chat(engine, word, answer, "hello")
        assert asked(engine) == ([] if leaves else ["hello"])
    engine = FakeEngine()
    chat(engine, f" {word}", f"{word} the loop", EOFError())
    assert asked(engine) == [f" {word}", f"{word} the loop"]
    assert "leave the chat?" in capsys.readouterr().err


def test_a_mistyped_command_is_not_sent_and_the_like_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine()
    chat(engine, "/retyr")
    assert engine.calls == [] and "was /retry meant?" in capsys.readouterr().err


@given(st.text(max_size=40))
def test_only_a_known_name_makes_a_command(text: str) -> None:
    found = command_in(text)
    if found is not None:
        assert text.startswith(tuple(commands.BY_NAME))


@pytest.mark.parametrize(
    "text",
    ["//x", "/etc/passwd", "/set\nof words", "/help\nme", " /help", "/helpme", "/\n", "", "/file a\nb"],
)
def test_texts_that_are_no_commands(text: str) -> None:
    assert command_in(text) is None


def test_clear_forgets_turns_and_files_and_keeps_the_system_prompt(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    engine = FakeEngine()
    chat(engine, "/system be brief", "one", f"/file {tmp_path / 'a.txt'}", "/clear", "two")
    assert engine.resets == 1
    assert [m["content"] for m in engine.calls[-1][1]] == ["be brief", "two"]


def test_the_system_prompt_is_shown_changed_and_removed(capsys: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine()
    chat(
        engine,
        "/system",
        "/system You are\na pirate.",
        "one",
        "/system",
        '/system ""',
        "two",
        '/set system "S"',
        "three",
    )
    firsts = [call[1][0] for call in engine.calls]
    assert firsts[0] == {"role": "system", "content": "You are\na pirate."}
    assert firsts[1]["role"] == "user" and firsts[2] == {"role": "system", "content": "S"}
    said = capsys.readouterr().err
    assert (
        "no system prompt; /system TEXT" in said
        and "a pirate." in said
        and "reads the conversation again" in said
    )


def test_settings_hold_from_the_next_answer_on(capsys: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine()
    lines = [
        "/set temp 0.5",
        "/set parameter num_predict 7",
        "/set stop END",
        "one",
        "/set temperature default",
        "two",
    ]
    chat(engine, *lines, "/set", seed=3)
    assert engine.calls[0][2] == {"seed": 3, "temperature": 0.5, "max_tokens": 7, "stop": ["END"]}
    assert "temperature" not in engine.calls[1][2]
    said = capsys.readouterr().err
    assert "temperature is 0.5" in said and all(name in said for name in setting.SETTINGS)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("temperature hot", "must be a number"),
        ("temperature -1", "temperature"),
        ("temperature nan", "temperature"),
        ("top_k 1.5", "whole number"),
        ("seed 99999999999", "seed"),
        ("max_tokens 0", "max_tokens"),
        ("colour red", "no setting colour"),
        ("num_ctx 8192", "start the chat with -c"),
        ("temperature", "needs a value"),
        ("x" * 300, "no setting x{59}…"),
        ("temperature " + "x" * 300, "is 'x{59}…'"),
    ],
)
def test_a_setting_that_is_none_changes_nothing(typed: str, words: str) -> None:
    sampling = {"seed": 1}
    with pytest.raises(OptionError, match=words):
        setting.change(sampling, typed)
    assert sampling == {"seed": 1}


@pytest.mark.parametrize("name", [name for name in setting.SETTINGS if name != "stop"])
def test_every_setting_is_an_option_of_the_engine(name: str) -> None:
    from aded_local.request import Options

    sampling: dict[str, Any] = {}
    setting.change(sampling, f"{name} 1")
    assert sampling == {name: 1} and name in Options.__annotations__


def test_texts_that_stop() -> None:
    sampling: dict[str, Any] = {}
    setting.change(sampling, r"stop a \n\n")
    assert sampling["stop"] == ["a", "\n\n"]
    setting.change(sampling, 'stop "two words"')
    assert sampling["stop"] == ["two words"]


def test_files_go_with_the_next_message_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.py").write_text("x = '```'\n")
    (tmp_path / "my notes.txt").write_text("text")
    engine = FakeEngine()
    chat(
        engine, f"/file {tmp_path / 'a.py'}", f'/file "{tmp_path / "my notes.txt"}"', "/file", "what?", "and?"
    )
    assert asked(engine) == [
        "a.py:\n````python\nx = '```'\n````\n\nmy notes.txt:\n```txt\ntext\n```\n\nwhat?",
        "and?",
    ]
    said = capsys.readouterr().err
    assert "a.py goes with the next message (" in said and "with the next message: a.py, my notes.txt" in said


def test_a_file_that_cannot_be_sent_is_one_line_and_the_chat_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    (tmp_path / "empty").write_text(" \n")
    engine = FakeEngine()
    chat(
        engine,
        "/file /no/such",
        f"/file {tmp_path / 'bytes'}",
        f"/file {tmp_path}",
        f"/file {tmp_path / 'empty'}",
        "x",
    )
    said = capsys.readouterr().err
    assert "/no/such cannot be read" in said and "not valid UTF-8" in said and "holds no text" in said
    assert asked(engine) == ["x"]


def test_a_file_that_cannot_fit_is_not_sent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, words in (("half", 50), ("more", 60), ("big", 200), ("huge", 1_000_000)):
        (tmp_path / name).write_text("word " * words)
    engine = FakeEngine(n_ctx=100)
    chat(engine, *(f"/file {tmp_path / name}" for name in ("big", "half", "more", "huge")), "/file")
    said = capsys.readouterr().err
    assert "more is not sent: its 63 tokens beside the 53 of other files do not fit" in said
    assert "big is not sent: its 203 tokens do not fit the context of 100" in said
    assert "huge is not sent: the prompt has 5,000," in said and "cannot spell as many" in said
    assert "with the next message: half\n" in said


def test_a_file_goes_once_and_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, link = tmp_path / "a.txt", tmp_path / "link"
    path.write_text("old")
    link.symlink_to(path)
    engine = FakeEngine()
    repl = chat(engine, f"/file {path}", f"/file {path}", "/file")
    assert [file.text for file in repl.attached] == ["old"]
    said = capsys.readouterr().err
    assert "a.txt goes with the next message already\n" in said and "next message: a.txt\n" in said
    typed = iter([f"/file {path}", f"/file {path}", "what?"])

    def read_line() -> str:
        line = next(typed, None)
        if line is None:
            raise EOFError
        path.write_text(path.read_text() + "er")
        return line

    repl._read_line = read_line
    repl.attached.clear()
    repl.run()
    assert asked(engine) == ["a.txt:\n```txt\nolderer\n```\n\nwhat?"]
    assert "next message as it is now (" in capsys.readouterr().err


@given(
    st.lists(st.tuples(st.sampled_from(["a.py", "my notes.txt", "x"]), st.text(min_size=1)), max_size=3),
    st.text().filter(lambda text: "```" not in text),
)
def test_a_question_is_told_from_the_files_that_went_with_it(
    files: list[tuple[str, str]], typed: str
) -> None:
    sent = with_files(typed, [Attachment(name, text) for name, text in files])
    assert without_files(sent) == "".join(f"[{name}] " for name, _ in files) + typed


def test_a_message_that_is_refused_keeps_its_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("word " * 8)
    engine = FakeEngine(n_ctx=12)
    repl = chat(engine, f"/file {tmp_path / 'a'}", "q and so on")
    assert len(repl.attached) == 1 and repl.conversation.turns == []


def test_retry_answers_again_in_place_of_the_last_answer() -> None:
    engine = FakeEngine()
    repl = chat(engine, "one", "two", "/retry")
    assert asked(engine) == ["one", "two", "two"]
    assert len(engine.calls[2][1]) == 3 and [turn.user for turn in repl.conversation.turns] == ["one", "two"]


def test_a_retry_that_fails_keeps_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine()
    count = iter([1, 1, 10**6, 10**6, 10**6])
    engine.count_chat_tokens = lambda messages: next(count, 1)  # type: ignore[method-assign]
    repl = chat(engine, "one", "/retry")
    assert [turn.answer for turn in repl.conversation.turns] == ["you said one"]
    assert "longer than the context" in capsys.readouterr().err


def test_undo_shows_the_question_and_not_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("secret " * 30)
    chat(FakeEngine(), f"/file {tmp_path / 'a.txt'}", "what is it?", "/undo")
    assert "taken back: [a.txt] what is it?\n" in capsys.readouterr().err


def test_undo_takes_the_last_turn_back(capsys: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine()
    chat(engine, "one", "two", "/undo", "three", "/undo", "/undo", "/undo", "/retry")
    assert [m["content"] for m in engine.calls[2][1]] == ["one", "you said one", "three"]
    said = capsys.readouterr().err
    assert "taken back: two" in said and said.count("nothing was said yet") == 2


@pytest.mark.skipif(os.name == "nt", reason="an editor of POSIX")
def test_edit_sends_what_the_editor_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    editor = tmp_path / "editor"
    editor.write_text(
        '#!/bin/sh\n[ "$(stat -c %a "$2")" = 600 ] || exit 9\nprintf "  indented\\n\\nmore\\n" >> "$2"\n'
    )
    editor.chmod(0o755)
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", f"{editor} --wait")
    engine = FakeEngine()
    chat(engine, "/edit", "/edit begins\n")
    assert asked(engine) == ["  indented\n\nmore", "begins  indented\n\nmore"]
    monkeypatch.setenv("EDITOR", "true")
    chat(engine, "/edit")
    monkeypatch.setenv("EDITOR", "false")
    chat(engine, "/edit")
    monkeypatch.setenv("EDITOR", "/no/such/editor")
    chat(engine, "/edit x")
    said = capsys.readouterr().err
    assert len(engine.calls) == 2
    assert "nothing was written" in said and "false ended with 1" in said and "set EDITOR" in said


CODE = "text\n```python\nx = 1\n```\nand\n\n  ```\n  y\n    z\n  ```\n"


def test_blocks_of_code_are_found_without_their_fences() -> None:
    assert copying.code_blocks(CODE) == ["x = 1", "y\n  z"]
    assert copying.code_blocks("````\n```\n````\n> ~~~\n> q\n> ~~~\nopen\n```\nend") == ["```", "q", "end"]


def test_copy_hands_the_answer_to_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SSH_CONNECTION", "there here")
    monkeypatch.delenv("TMUX", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    engine = FakeEngine()
    engine.says = ["<think>hm</think>", CODE]
    chat(engine, "/copy", "q", "/copy", "/copy code", "/copy 1", "/copy 3")
    shown = capsys.readouterr()
    parts = [part.split("\x07")[0] for part in shown.out.split("\x1b]52;c;")[1:]]
    copied = [base64.b64decode(part).decode() for part in parts]
    assert copied == [CODE, "y\n  z", "x = 1"]
    assert "no answer to copy" in shown.err and "1 to 2" in shown.err and "OSC 52" in shown.err


@pytest.mark.skipif(os.name == "nt", reason="a program of POSIX")
def test_copy_uses_a_program_of_the_desktop_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "wl-copy"
    program.write_text(f'#!/bin/sh\ncat > "{tmp_path}/copied"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    assert "wl-copy" in copying.copy("é\n")
    assert (tmp_path / "copied").read_text() == "é\n"


def test_a_text_that_no_terminal_takes_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_CONNECTION", "x")
    assert "not copied" in copying.copy("x" * copying.LARGEST_SEQUENCE)


def test_save_and_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine()
    path = tmp_path / "kept.json"
    repl = chat(
        engine, "/save", "one", f"/save {path}", "/clear", f"/load {path}", "two", "/load", "/load nowhere"
    )
    assert [turn.user for turn in repl.conversation.turns] == ["one", "two"]
    shown = capsys.readouterr()
    assert "no conversation to keep" in shown.err and f"kept as {path}" in shown.err and "> one" in shown.out
    assert "no conversation is kept" in shown.err
    assert shown.out.count("> one") == 1 and "“one”" not in shown.err


def test_another_model_goes_on_with_the_conversation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(b"GGUF")
    engine = FakeEngine()
    conversation, sampling = Conversation(), {}  # type: ignore[var-annotated]
    lines = iter(["one", "/model", "/model /no/such.gguf", f"/model {model}"])
    with Keeper(engine, conversation, sampling, keeps=False, warn=pytest.fail) as keeper:  # type: ignore[arg-type]
        repl = Repl(engine, conversation, sampling, lambda: next(lines), keeper)  # type: ignore[arg-type]
        assert repl.run() == str(model)
        other = FakeEngine()
        repl.go_on_with(other, keeper)  # type: ignore[arg-type]
        lines = iter(["two", "/bye"])
        assert repl.run() is None
    assert [m["content"] for m in other.calls[0][1]] == ["one", "you said one", "two"]
    assert "/no/such.gguf" in capsys.readouterr().err


def test_how_full_the_context_is(capsys: pytest.CaptureFixture[str]) -> None:
    chat(FakeEngine(n_ctx=100), "/context", "one", "/context", "/system be brief", "/context")
    said = capsys.readouterr().err
    assert "0 of 100 tokens: 0 turns" in said and "9 of 100 tokens: 1 turn\n" in said and "9%" in said
    assert "1 turn, a system prompt" in said


def test_a_context_that_gets_full_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    chat(FakeEngine(n_ctx=12), "a", "b")  # an answer's figures say 9 tokens
    assert NEARLY_FULL <= 9 / 12 and capsys.readouterr().err.count("the context is 75% full") == 1


def test_stats_probe_only_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine()
    chat(engine, "/stats")
    assert not engine.measured
    chat(engine, "/stats probe", "/stats all")
    assert engine.measured and "or probe" in capsys.readouterr().err


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), DeviceError("no memory for a second context")])
def test_a_probe_that_ends_early_does_not_end_the_chat(failure: BaseException) -> None:
    engine = FakeEngine()

    def fail() -> None:
        raise failure

    engine.measure_exactness = fail  # type: ignore[method-assign]
    chat(engine, "/stats probe", "still here")
    assert asked(engine) == ["still here"]


def test_drafting_is_switched_off_and_on(capsys: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine()
    chat(engine, "/draft", "/draft off", "/draft", "/draft on", "/draft fast")
    assert engine.drafts == ["off", "auto"]
    said = capsys.readouterr().err
    assert (
        said.count("drafting is on (auto)") == 2
        and said.count("drafting is off") == 2
        and "on or off" in said
    )


# What foresaw the answer


def answer_of(words: list[str], passes: Iterable[tuple[int, int]], *sources: str) -> tuple[Answer, Any]:
    from fake_engine import FakeStats

    stats: Any = FakeStats(pass_sizes=tuple(passes), sources=sources)
    return Answer("".join(words), list(range(len(words))), "stop", stats), lambda token: words[token].encode()


def test_each_token_has_what_foresaw_it() -> None:
    answer, piece = answer_of(["a", "b", "c", "d", "e"], [(3, 3), (2, 1)], "passage", "memory")
    assert why.sources_of(answer) == ["", "passage", "memory", "", ""]
    assert list(why.stretches(answer, piece)) == [("a", ""), ("b", "passage"), ("c", "memory"), ("de", "")]


def test_an_answer_that_was_cut_has_no_more_sources_than_tokens() -> None:
    answer, _ = answer_of(["a", "b"], [(4, 4)], "memory", "memory", "memory")
    assert why.sources_of(answer) == ["", "memory"]


def test_why_says_what_was_foreseen_and_by_what(capsys: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine()
    engine.says = ["so ", "it ", "is"]
    engine.foreseen = (((3, 3),), ("passage", "conversation"))
    chat(engine, "/why", "q", "/why")
    shown = capsys.readouterr()
    assert "so [it ][is]" in shown.out and "2 of 3 tokens were foreseen" in shown.out
    assert why.WORDS["passage"] in shown.out and "no answer yet" in shown.err


def test_why_after_an_answer_that_nobody_foresaw(capsys: pytest.CaptureFixture[str]) -> None:
    chat(FakeEngine(), "q", "/why")
    assert "nothing of the last answer was foreseen" in capsys.readouterr().err


def test_every_source_has_words_and_a_colour() -> None:
    names = {source.name.lower() for source in Source}
    assert set(why.WORDS) == names == set(why._styles())
    assert set(KIND_OF_SOURCE.tolist()) <= set(Source)


# Typing


def test_completion_knows_commands_settings_and_files() -> None:
    assert [word for word, _ in completions("/s") or ()] == ["/system", "/set", "/save", "/stats"]
    assert ("top_k", setting.SETTINGS["top_k"].words) in (completions("/set to") or ())
    assert completions("/file x") is None and completions("/load ") is None
    assert [word for word, _ in completions("/draft o") or ()] == ["on", "off"]
    assert completions("/nothing ") == [] and completions("/set top_k ") == []
    assert [word for word, _ in completions("/help wh") or ()] == ["why"]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.builds(
            "\x1b[{}{}{}".format,
            st.sampled_from(["", "<", "?", ">", "M"]),
            st.text("0123456789;", max_size=8),
            st.sampled_from("ABCDHJKMRZmtu~ "),
        ),
        max_size=4,
    )
)
def test_whatever_sequence_is_typed_the_editor_goes_on(sequences: list[str]) -> None:
    failures: list[Any] = []
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        pipe.send_text("".join(sequences) + "\x1b[201~\x05end\r")

        async def read() -> str:
            asyncio.get_running_loop().set_exception_handler(lambda _loop, context: failures.append(context))
            session: PromptSession[str] = PromptSession(
                multiline=True, key_bindings=editing._bindings([False])
            )
            return await session.prompt_async(set_exception_handler=False)

        typed = asyncio.run(asyncio.wait_for(read(), 20))
    assert failures == [] and typed.endswith("end")


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        ('"""a\n  b"""', "a\n  b"),
        ('"""\na\n"""', "a"),
        ('"""a""" b', '"""a""" b'),
        ('say """x"""', 'say """x"""'),
        ('"""', '"""'),
        ('""""""', ""),
    ],
)
def test_three_quotes_around_a_message_are_not_part_of_it(typed: str, sent: str) -> None:
    assert editing.unquoted(typed) == sent


def test_lines_are_read_until_the_quotes_close() -> None:
    lines = iter(['"""a', "  b", '"""', "c"])
    read = editing.unquoting(lambda: next(lines), lambda: next(lines))
    assert [read(), read()] == ["a\n  b", "c"]


def test_help_fits_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    display.tell_help([command.as_typed for command in COMMANDS])
    assert max(map(len, capsys.readouterr().err.splitlines())) < 60


def test_the_table_of_commands_is_that_of_the_documentation() -> None:
    text = (Path(__file__).parent.parent / "docs" / "chat-commands.md").read_text(encoding="utf-8")
    for command in COMMANDS:
        for name in command.names:
            assert f"`{name}" in text, name


def test_the_chat_starts_without_what_colours_code() -> None:
    """Nothing heavy is imported for --help, and nothing that colours before there is code."""
    source = "import sys, aded_cli.chat, aded_cli.commands; print(sorted(sys.modules))"
    names = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True, timeout=60
    )
    assert "pygments" not in names.stdout and "prompt_toolkit" not in names.stdout


def test_an_error_of_the_options_is_one_line_in_the_chat(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_chat: Repl, _typed: str) -> None:
        raise click.UsageError("not\nthat")

    engine = FakeEngine()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(commands.BY_NAME, "/why", commands.Command(("/why",), "", "", "", fail))  # type: ignore[arg-type]
        chat(engine, "/why", "x")
    assert "aded-chat: not that\n" in capsys.readouterr().err and asked(engine) == ["x"]


def test_a_model_that_cannot_be_loaded_leaves_the_chat_with_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(b"no model")
    opened: list[str | None] = []

    def open_model(settings: Any, _say: Any) -> FakeEngine:
        opened.append(settings.model)
        if settings.model == str(other):
            raise ModelError("it is no GGUF")
        return FakeEngine()

    lines = iter(["one", f"/model {other}", "two", "/bye"])
    monkeypatch.setattr(program, "open_model", open_model)
    monkeypatch.setattr(display, "is_terminal", lambda _stream: True)
    monkeypatch.setattr(editing, "line_reader", lambda **_: lambda: next(lines))
    monkeypatch.setenv("TERM", "xterm")
    result = CliRunner().invoke(program.main, ["smollm2", "--no-memory"])
    assert result.exit_code == 0 and opened == ["smollm2", str(other), "smollm2"]
    assert "it is no GGUF" in result.stderr and "you said two" in result.stdout
    assert "None answers from now on (fake, 4,096 tokens of context)\n" in result.stderr
