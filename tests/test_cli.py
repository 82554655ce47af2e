"""aded-chat as its users meet it: in a pipe, at a terminal, with wrong input."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fake_engine import FakeEngine, FakeStats
from hypothesis import given, settings
from hypothesis import strategies as st

from aded_cli import chat, display, editing, history, texts
from aded_cli.conversation import Conversation
from aded_cli.keeping import Keeper
from aded_cli.repl import Repl
from aded_local.errors import ADEDError, DeviceError, ModelNotFoundError
from aded_local.shown import visible
from aded_models import BuiltinModelMissing, builtin_path

FAKE_PROGRAM = [sys.executable, str(Path(__file__).with_name("fake_engine.py"))]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """The engine that the next command will load; its options are filled in when it does."""
    fake = FakeEngine()

    def open_model(settings: Any, _say: Any) -> FakeEngine:
        fake.model, fake.options = settings.model, settings.engine
        return fake

    monkeypatch.setattr(chat, "open_model", open_model)
    return fake


def run(*args: str, stdin: str | bytes = b"") -> Result:
    return CliRunner().invoke(chat.main, list(args), input=stdin)


def refused(result: Result, *words: str) -> None:
    """One line on standard error that holds ``words``, nothing on standard output, exit code 2."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("aded-chat: ")
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


# One answer


def test_p_answers_once_on_standard_output(engine: FakeEngine) -> None:
    result = run("-p", "hello there")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "you said hello there\n", "")
    assert engine.closed


def test_text_on_standard_input_is_the_prompt_without_its_line_end(engine: FakeEngine) -> None:
    run(stdin="first\nsecond\n")
    assert engine.calls[0][1] == [{"role": "user", "content": "first\nsecond"}]


def test_with_p_standard_input_is_not_read(engine: FakeEngine) -> None:
    run("-p", "question", stdin="not this")
    assert engine.calls[0][1] == [{"role": "user", "content": "question"}]


def test_p_dash_puts_standard_input_among_the_parts_of_the_prompt(engine: FakeEngine) -> None:
    run("-p", "Summarise:", "-p", "-", "-p", "Briefly.", stdin="a text\n")
    assert engine.calls[0][1][-1]["content"] == "Summarise:\na text\nBriefly."


def test_a_prompt_may_begin_with_a_dash(engine: FakeEngine) -> None:
    run("-p", "--what?")
    assert engine.calls[0][1][-1]["content"] == "--what?"


def test_system_prompt_comes_first(engine: FakeEngine) -> None:
    run("-p", "q", "--system", "be brief")
    assert engine.calls[0][1][0] == {"role": "system", "content": "be brief"}


@pytest.mark.parametrize("spelling", ["--raw", "-no-cnv", "--no-conversation"])
def test_raw_completes_the_text_without_the_template(engine: FakeEngine, spelling: str) -> None:
    result = run(spelling, "-p", "Once")
    assert result.stdout == " and so on\n"
    assert engine.calls[0][:2] == ("stream", "Once")


@pytest.mark.parametrize("text", ["Once\n", "\r\n", "\ufeffdef f():\n    return 1\n\n", "  "])
def test_raw_text_is_continued_as_it_is_to_the_last_byte(
    engine: FakeEngine, tmp_path: Path, text: str
) -> None:
    (tmp_path / "file").write_text(text, newline="")
    run("--raw", stdin=text)
    run("--raw", "-f", str(tmp_path / "file"))
    run("--raw", "-p", text)
    assert [call[1] for call in engine.calls] == [text] * 3


def test_the_text_of_a_file_is_the_prompt_without_its_line_end(engine: FakeEngine, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"first\r\n")
    (tmp_path / "b").write_text("  second\n\n")
    run("-f", str(tmp_path / "a"), stdin="not read")
    run("--file", str(tmp_path / "a"), "-p", "Compare:", "-f", str(tmp_path / "b"))
    assert [call[1][-1]["content"] for call in engine.calls] == ["first", "Compare:\nfirst\n  second\n"]


def test_a_file_that_is_no_text_or_without_end_is_refused(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    refused(run("-f", str(tmp_path / "latin")), "latin", "UTF-8", "byte 3")
    monkeypatch.setattr(texts, "LARGEST_PROMPT", 1 << 20)
    (tmp_path / "large").write_bytes(bytes((1 << 20) + 1))
    refused(run("-f", str(tmp_path / "large")), "large", "1 MiB")
    refused(run(stdin=bytes((1 << 20) + 1)), "standard input", "1 MiB")
    refused(run("-f", str(tmp_path / "none\x1b[31m")), "none[31m", "No such file")
    assert engine.calls == []


@pytest.mark.parametrize("option", ["--chat-template", "--chat-template-file"])
def test_a_template_file_reaches_the_engine_as_a_path(engine: FakeEngine, option: str) -> None:
    assert run("-p", "q", option, "a.jinja").exit_code == 0
    assert engine.options["chat_template"] == Path("a.jinja")


@pytest.mark.parametrize("content", [None, b"\xff{{ 1 }}", b"no template", b"{{ 1 }}" * 200_000])
def test_a_template_file_that_is_none_is_one_line(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "a.jinja"
    if content is not None:
        file.write_bytes(content)
    refused(run("builtin", "-p", "q", "--chat-template", str(file)), "chat template", "a.jinja")


def test_json_is_one_object(engine: FakeEngine) -> None:
    result = run("--json", "-p", "grüß dich")
    assert result.stdout.count("\n") == 1
    reply = json.loads(result.stdout)
    assert set(reply) == {"text", "reasoning", "token_ids", "finish_reason", "stats"}
    assert (reply["text"], reply["reasoning"]) == ("you said grüß dich", None)
    assert reply["token_ids"] == [0, 1, 2]
    assert reply["finish_reason"] == "stop"
    assert reply["stats"] == FakeStats().to_dict()


def test_json_tells_thoughts_apart(engine: FakeEngine) -> None:
    engine.says = ["<thi", "nk>\nhm\n</think>\n\n", "yes"]
    reply = json.loads(run("--json", "-p", "q").stdout)
    assert (reply["text"], reply["reasoning"]) == ("yes", "hm")


def test_a_pipe_gets_the_answer_as_it_came(engine: FakeEngine) -> None:
    engine.says = ["<think>hm</think>", " yes"]
    assert run("-p", "q").stdout == "<think>hm</think> yes\n"


def test_json_holds_nothing_that_a_terminal_obeys(engine: FakeEngine) -> None:
    engine.says = ["a\x9b31m\u202eb\x7f"]
    result = run("--json", "-p", "q")
    assert visible(result.stdout) == result.stdout
    assert json.loads(result.stdout)["text"] == engine.says[0]


@pytest.mark.skipif(os.name == "nt", reason="locales of POSIX")
def test_text_on_the_command_line_is_utf8_in_every_locale() -> None:
    said = {}
    for locale in ("C", "C.UTF-8"):
        process = start_fake("--json", "-p", "café", "--system", "грибы", LC_ALL=locale, PYTHONUTF8="0")
        out, complaint = process.communicate(timeout=20)
        said[locale] = (json.loads(out)["text"], complaint)
    assert said == {"C": ("you said café", b""), "C.UTF-8": ("you said café", b"")}


def test_options_reach_the_engine_under_its_names(engine: FakeEngine) -> None:
    line = (
        "m.gguf -p q -n 9 -c 512 -t 2 -ngl 0 --temp 0.5 --top-k 7 --top-p 0.9 --min-p 0.1"
        " --repeat-penalty 1.1 -s 3 --draft paper --exact --no-memory"
    )
    assert run(*line.split()).exit_code == 0
    assert engine.model == "m.gguf"
    assert engine.options == {
        "draft": "paper",
        "same": "exact",
        "n_ctx": 512,
        "n_threads": 2,
        "n_gpu_layers": 0,
        "store": None,
        "verbose": False,
        "memory": False,
    }
    assert engine.calls[0][2] == {
        "max_tokens": 9,
        "temperature": 0.5,
        "top_k": 7,
        "top_p": 0.9,
        "min_p": 0.1,
        "repeat_penalty": 1.1,
        "seed": 3,
    }


def test_a_store_reaches_the_engine(engine: FakeEngine) -> None:
    assert run("-p", "q", "--store", "mine.store").exit_code == 0
    assert engine.options["store"] == "mine.store"


def test_a_draft_model_reaches_the_engine(engine: FakeEngine) -> None:
    line = "-p q -md smollm2 -td 2 -ngld 0 --draft-max 8 --draft-mode serial"
    assert run(*line.split()).exit_code == 0
    wanted = {
        "draft_model": "smollm2",
        "draft_threads": 2,
        "draft_gpu_layers": 0,
        "draft_max": 8,
        "draft_mode": "serial",
    }
    assert {name: engine.options[name] for name in wanted} == wanted


@pytest.mark.parametrize("option", ["-td 2", "-ngld 0", "--draft-mode serial"])
def test_what_is_about_a_draft_model_needs_one(engine: FakeEngine, option: str) -> None:
    result = run("-p", "q", *option.split())
    assert result.exit_code == 2
    assert "give one with -md" in result.stderr


def test_a_draft_model_is_no_use_without_drafting(engine: FakeEngine) -> None:
    result = run("-p", "q", "-md", "small.gguf", "--draft", "off")
    assert result.exit_code == 2
    assert "--draft off asks no draft model" in result.stderr


@pytest.mark.parametrize(
    ("given", "expected"), [("nonesuch", "nor the name of a model"), ("", "empty string")]
)
def test_a_draft_model_that_is_not_there_is_refused(engine: FakeEngine, given: str, expected: str) -> None:
    result = run("-p", "q", "-md", given)
    assert result.exit_code == 2
    assert expected in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize("preset", ["off", "paper"])
def test_a_store_is_no_use_to_other_presets(engine: FakeEngine, preset: str) -> None:
    result = run("-p", "q", "--store", "mine.store", "--draft", preset)
    assert result.exit_code == 2
    assert f"--draft {preset} does not draft from a store" in result.stderr


@pytest.mark.parametrize("search", ["best-first", "puct"])
def test_a_search_reaches_the_engine(engine: FakeEngine, search: str) -> None:
    assert run("-p", "q", "--search", search).exit_code == 0
    assert engine.options["search"] == search


def test_what_is_not_given_is_left_to_the_engine(engine: FakeEngine) -> None:
    run("-p", "q", "-n", "-1", "--seed", "-1", "-ngl", "-1", "-c", "0", "-t", "-1")
    assert engine.model is None
    assert engine.calls[0][2] == {}
    assert [engine.options[name] for name in ("n_gpu_layers", "n_ctx", "n_threads")] == [None] * 3


@pytest.mark.parametrize("spelling", [["-m", "m.gguf"], ["--model", "m.gguf"], ["m.gguf"]])
def test_a_model_is_named_by_an_option_or_alone(engine: FakeEngine, spelling: list[str]) -> None:
    assert run("-p", "q", *spelling).exit_code == 0
    assert engine.model == "m.gguf"


@pytest.mark.parametrize("spelling", [["--predict", "5"], ["--n-predict", "5"], ["-n5"], ["-n", "5"]])
def test_llama_cpp_spellings_of_one_option(engine: FakeEngine, spelling: list[str]) -> None:
    run("-p", "q", *spelling)
    assert engine.calls[0][2] == {"max_tokens": 5}


# Bad input


@pytest.mark.parametrize(
    ("option", "number", "expected"),
    [
        ("-ngld", "-7", "-1, the default, nor 0"),
        ("-td", "0", "-1, the default, nor 1"),
        ("-c", "-1", "0, the"),
    ],
)
def test_a_number_too_small_names_the_one_that_leaves_the_choice(
    engine: FakeEngine, option: str, number: str, expected: str
) -> None:
    result = run("-p", "q", "-md", "small.gguf", option, number)
    assert result.exit_code == 2
    assert f"{number} is neither {expected}" in result.stderr


@pytest.mark.parametrize(
    "args",
    [
        ["-n", "0"],
        ["-n", "99999999999"],
        ["-c", "-1"],
        ["-t", "0"],
        ["-t", "513"],
        ["-ngl", "-2"],
        ["--temp", "-0.1"],
        ["--temp", "nan"],
        ["--temp", "inf"],
        ["--top-k", "-1"],
        ["--top-p", "1.5"],
        ["--min-p", "nan"],
        ["--repeat-penalty", "0"],
        ["--seed", str(2**32)],
        ["--seed", "x"],
        ["--draft", "fast"],
        ["--search", "mcts"],
        ["--search", "puct", "--draft", "off"],
        ["--search", "puct", "--draft", "paper"],
        ["--what"],
        ["one.gguf", "two.gguf"],
        ["one.gguf", "-m", "two.gguf"],
        ["-m", ""],
        ["-f", "/no/such/file"],
        ["-f", "."],
        ["-f", "a\0b"],
        ["-cnv"],
        ["-no-cnv", "--system", "s"],
        [""],
        ["--raw", "--system", "s"],
        ["--raw", "--chat-template", "f"],
        ["-p", "-", "-p", "-"],
        ["-p", "a\udcff"],
        ["--system", "\udcff"],
    ],
)
def test_wrong_options_are_one_line_and_no_model_is_loaded(engine: FakeEngine, args: list[str]) -> None:
    refused(run("-p", "q", *args))
    assert engine.calls == []


@pytest.mark.parametrize("prompt", ["", "  \n\t"])
def test_an_empty_prompt_is_refused(engine: FakeEngine, prompt: str) -> None:
    refused(run("-p", prompt), "empty")
    refused(run(stdin=prompt), "empty")


def test_standard_input_that_is_not_utf8_is_refused(engine: FakeEngine) -> None:
    refused(run(stdin=b"caf\xe9"), "standard input", "UTF-8")


@pytest.mark.parametrize("option", ["--json", "--raw"])
def test_one_answer_options_are_refused_in_a_chat(
    engine: FakeEngine, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(display, "is_terminal", lambda _stream: True)
    refused(run(option), option, "-p")


def test_an_error_of_the_engine_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ModelNotFoundError("there is no file\nx.gguf\x1b[31m")

    monkeypatch.setattr(chat, "open_model", fail)
    refused(run("x.gguf", "-p", "q"), "there is no file x.gguf")


@pytest.mark.parametrize(
    ("model", "hint"),
    [
        ("how do I list files", "-p"),
        ("smolm2", "builtin and smollm2"),
        ("what is in /etc", "-p"),
        ("models/my file.gguf", ""),
        ("missing.gguf", ""),
        ("models/missing", "--hf models/missing"),
        ("./models/missing", ""),
    ],
)
def test_a_model_that_is_not_there_may_have_been_a_question_or_a_name(
    monkeypatch: pytest.MonkeyPatch, model: str, hint: str
) -> None:
    def fail(*_: Any) -> None:
        raise ModelNotFoundError("there is no file")

    monkeypatch.setattr(chat, "open_model", fail)
    result = run(model, stdin="q")
    refused(result, hint)
    assert bool(hint) == (result.stderr != "aded-chat: there is no file\n")


def test_words_without_quotes_are_refused_with_the_way_to_ask(engine: FakeEngine) -> None:
    refused(run("how", "do", "I", "list", "files"), "one MODEL", "-p")


def test_a_surprise_is_one_line_unless_verbose(engine: FakeEngine) -> None:
    engine.failure = RuntimeError("boom")
    quiet = run("-p", "q")
    assert quiet.exit_code == 1
    assert quiet.stderr == "aded-chat: unexpected RuntimeError: boom; --verbose shows where\n"
    engine.failure = RuntimeError("boom\x1b[31m")
    loud = run("-p", "q", "--verbose").stderr
    assert "Traceback" in loud and visible(loud) == loud


# Signals and pipes


def start_fake(*args: str, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*FAKE_PROGRAM, *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
    )


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_interrupt_keeps_the_partial_text_and_exits_130() -> None:
    with start_fake("-p", "q", FAKE_WORDS="1000", FAKE_PAUSE="0.02") as process:
        assert process.stdout is not None
        start = process.stdout.read(3)
        process.send_signal(signal.SIGINT)
        rest, complaint = process.communicate(timeout=20)
    assert process.returncode == 130
    assert start == b"w0 "
    assert rest.endswith(b"\n") and b"w999" not in rest
    assert complaint == b""


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_interrupted_json_is_still_one_object() -> None:
    with start_fake("--json", "-p", "q", FAKE_WORDS="1000", FAKE_PAUSE="0.02") as process:
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
    # A slow machine may be interrupted while Python itself still starts.
    assert process.returncode == 130 or (process.returncode == -signal.SIGINT and not out)
    if out:
        assert json.loads(out)["finish_reason"] == "cancelled"


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_reader_that_leaves_is_no_error() -> None:
    with start_fake("-p", "q", FAKE_WORDS="300", FAKE_PAUSE="0.01") as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        complaint = process.stderr.read()
    assert complaint == b""
    assert process.returncode == 141


def test_escape_sequences_pass_through_a_pipe() -> None:
    text = "a\x1b[31mb\x9bc\x07\td\r\n\x7f"
    with start_fake("-p", "q", FAKE_SAYS=text) as process:
        out, _ = process.communicate(timeout=20)
    assert out.decode() == text + "\n"


# The conversation


def talk(engine: FakeEngine, *lines: str | BaseException, **sampling: Any) -> Conversation:
    """Run the chat loop over ``lines``: strings are typed, exceptions raised, then Ctrl-D."""
    script = iter(lines)

    def read_line() -> str:
        line = next(script, EOFError())
        if isinstance(line, BaseException):
            raise line
        return str(line)

    conversation = Conversation("be brief")
    with Keeper(engine, conversation, sampling, keeps=False, warn=pytest.fail) as keeper:  # type: ignore[arg-type]
        Repl(engine, conversation, sampling, read_line, keeper).run()  # type: ignore[arg-type]
    return conversation


def test_turns_are_sent_with_all_that_was_said(capsys: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine()
    talk(engine, "one", "two", temperature=0.0)
    assert engine.calls[1] == (
        "stream_chat",
        [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "you said one"},
            {"role": "user", "content": "two"},
        ],
        {"temperature": 0.0},
    )
    shown = capsys.readouterr()
    assert shown.out == "you said one\nyou said two\n"
    assert "12.5 tokens/s · 2.00 tokens per pass" in shown.err


def test_a_change_of_threads_is_said_once_below_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine()
    engine.threads = [(2, False), (1, True), (1, True), (3, True), (4, False), (4, False)]
    talk(engine, *"abcdef")
    lines = [line for line in capsys.readouterr().err.splitlines() if "tokens/s" in line]
    said = [line.partition("per pass")[2] for line in lines]
    first, again = "other programs run: 1 thread", "other programs run: 3 threads"
    assert said == ["", f" · {first}", "", f" · {again}", " · 4 threads again", ""]


def test_empty_lines_are_ignored_and_quit_leaves() -> None:
    engine = FakeEngine()
    talk(engine, "", "   ", "/quit ", "never sent")
    assert engine.calls == []


MESSAGES = (
    "//etc/hosts?",
    "// a comment\n    int x;",
    "/etc/passwd: what is it?",
    "/etc/passwd",
    "/helpme please",
    " /help",
    "    if x:\n\treturn y",
    "\n  after a blank line",
)


def test_only_commands_are_commands_and_a_message_is_sent_as_it_is_typed() -> None:
    engine = FakeEngine()
    talk(engine, *MESSAGES)
    assert [call[1][-1]["content"] for call in engine.calls] == list(MESSAGES)


@pytest.mark.parametrize("line", ["/hlep", "/", "/Quit", "/quit now", "/reset the server"])
def test_what_was_meant_as_a_command_is_neither_sent_nor_guessed(
    capsys: pytest.CaptureFixture[str], line: str
) -> None:
    engine = FakeEngine()
    talk(engine, line, "still here")
    assert [call[1][-1]["content"] for call in engine.calls] == ["still here"]
    assert engine.resets == 0
    said = "takes nothing after it" if " " in line else f"unknown command {line}:"
    assert said in capsys.readouterr().err


def test_reset_forgets_the_turns_but_not_the_system_prompt() -> None:
    engine = FakeEngine()
    talk(engine, "one", "/reset", "two")
    assert engine.resets == 1
    assert [m["content"] for m in engine.calls[1][1]] == ["be brief", "two"]


def test_help_and_stats(capsys: pytest.CaptureFixture[str]) -> None:
    talk(FakeEngine(), "/help", "/stats", "one", "two", "/stats")
    shown = capsys.readouterr().err
    assert "/reset" in shown and "no answer yet" in shown
    assert "\x1b" not in shown.replace("\x1b[2m", "").replace("\x1b[0m", "")
    assert "fake" in shown and "12,345" in shown
    assert "seconds verify" in shown


def test_stats_says_what_is_known_at_once_and_measures_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine()
    engine.description = lambda: {"exact_sizes": None, "draft": "auto"}  # type: ignore[method-assign]
    talk(engine, "/stats")
    assert "not known" in capsys.readouterr().err
    assert not engine.measured


@pytest.mark.parametrize("method", ["description", "reset", "count_chat_tokens"])
def test_ctrl_c_ends_what_the_chat_is_at_and_not_the_chat(
    capsys: pytest.CaptureFixture[str], method: str
) -> None:
    engine = FakeEngine()
    works = getattr(engine, method)

    def interrupted(*_: Any) -> None:
        setattr(engine, method, works)
        signal.raise_signal(signal.SIGINT)

    setattr(engine, method, interrupted)
    talk(engine, {"description": "/stats", "reset": "/reset"}.get(method, "lost"), "one")
    assert [call[1][-1]["content"] for call in engine.calls] == ["one"]
    assert "stopped" in capsys.readouterr().err


def test_notices_wait_for_the_end_of_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine()

    def notice_from_a_thread() -> None:
        thread = threading.Thread(target=display.notices, args=("not remembered",))
        thread.start()
        thread.join()
        assert "not remembered" not in capsys.readouterr().err

    engine.at_the_end = notice_from_a_thread
    talk(engine, "one")
    assert capsys.readouterr().err.splitlines()[-1] == "not remembered"
    display.notices("at once")
    assert capsys.readouterr().err == "at once\n"


@pytest.mark.parametrize("words", [["half a li"], ["half a line\n"]])
def test_an_answer_that_fails_midway_leaves_its_error_a_line_of_its_own(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    engine = FakeEngine()

    def fail() -> None:
        raise ADEDError("it failed")

    engine.says, engine.at_the_end = words, fail
    talk(engine, "one")
    shown = capsys.readouterr()
    assert shown.out == words[0].rstrip("\n") + "\n"
    assert "aded-chat: it failed\n" in shown.err


def test_a_prompt_may_begin_a_conversation(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = iter(["/quit"])
    monkeypatch.setattr(display, "is_terminal", lambda _stream: True)
    monkeypatch.setattr(editing, "line_reader", lambda **_: lambda: next(lines))
    monkeypatch.setenv("TERM", "xterm")
    result = run("-cnv", "-p", "/help")
    assert result.exit_code == 0
    assert [call[1][-1]["content"] for call in engine.calls] == ["/help"]
    assert list(lines) == []


@pytest.mark.parametrize("other", ["--json", "--raw", "-no-cnv"])
def test_a_conversation_is_no_single_answer(engine: FakeEngine, other: str) -> None:
    refused(run("-cnv", other, "-p", "q"), "-cnv", "--json" if other == "--json" else "--raw")
    refused(run("-cnv", "-p", "-"), "-cnv")


def test_ctrl_c_at_an_empty_prompt_says_how_to_leave(capsys: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine()
    talk(engine, KeyboardInterrupt(), "one")
    assert "/quit" in capsys.readouterr().err
    assert len(engine.calls) == 1


def interrupting(engine: FakeEngine, after: int, times: int = 1) -> None:
    """Make ``engine`` receive SIGINT ``times`` times while its ``after``-th piece is made."""

    class Words(list):
        def __iter__(self) -> Iterator[str]:
            for number, word in enumerate(list.__iter__(self)):
                if number == after:
                    for _ in range(times):
                        signal.raise_signal(signal.SIGINT)
                yield word

    engine.says = Words(["some ", "words ", "and ", "more"])


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_stops_the_answer_and_keeps_what_was_said(
    times: int, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = FakeEngine()
    interrupting(engine, after=2, times=times)
    before = signal.getsignal(signal.SIGINT)
    conversation = talk(engine, "one", "two")
    assert conversation.turns[0].answer.startswith("some words")
    assert len(engine.calls) == 2
    assert "stopped" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before


def test_an_answer_stopped_before_its_first_word_leaves_no_turn() -> None:
    conversation = Conversation()
    conversation.record("q", "", stopped=True)
    assert conversation.turns == []


def test_an_error_in_one_message_does_not_end_the_chat(capsys: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine(n_ctx=8)
    conversation = talk(engine, "far too many words for such a small context", "one")
    assert "aded-chat: the prompt is longer" in capsys.readouterr().err
    assert [turn.user for turn in conversation.turns] == ["one"]


def test_a_failed_device_ends_the_chat() -> None:
    engine = FakeEngine()
    engine.failure = DeviceError("out of memory")
    with pytest.raises(ADEDError):
        talk(engine, "one")


def test_the_oldest_turns_leave_a_full_context_and_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine(n_ctx=40)
    conversation = talk(engine, *(f"number {n} of the messages" for n in range(8)))
    assert "oldest turn" in capsys.readouterr().err
    assert conversation.turns[-1].user == "number 7 of the messages"
    assert conversation.turns[0].user != "number 0 of the messages"
    for _, messages, _ in engine.calls:
        assert messages[0]["role"] == "system"
        assert messages[1]["role"] == "user"
        assert engine.count_chat_tokens(messages) <= 30  # a quarter stays free for the answer


def test_a_message_that_fits_drops_nothing() -> None:
    conversation = Conversation()
    conversation.record("a b", "c d")
    count = FakeEngine().count_chat_tokens
    assert conversation.make_room("e", count, n_ctx=8) == 0
    assert conversation.make_room("e f g h", count, n_ctx=8, max_tokens=1) == 1
    assert conversation.make_room("so many words that nothing helps them at all", count, n_ctx=8) == 0


def test_totals_weigh_rates_by_what_they_are_rates_of() -> None:
    slow = {**FakeStats().to_dict(), "generated_tokens": 10, "tokens_per_second": 5.0}
    fast = {**FakeStats().to_dict(), "generated_tokens": 10, "tokens_per_second": 10.0}
    total = display.sum_up([slow, fast])
    assert total["generated_tokens"] == 20
    assert total["tokens_per_second"] == pytest.approx(20 / 3)
    assert total["seconds verify"] == pytest.approx(0.4)


# History


@pytest.mark.skipif(os.name == "nt", reason="modes of POSIX")
def test_history_is_private(tmp_path: Path) -> None:
    path = history.private_file(tmp_path / "a" / "b")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.chmod(0o644)
    assert stat.S_IMODE(history.private_file(path.parent).stat().st_mode) == 0o600


def test_history_keeps_lines_between_chats_and_none_when_told_not_to(tmp_path: Path) -> None:
    said: list[str] = []
    history.open_history(remember=True, warn=said.append).store_string("a line \udcff")
    lines = list(history.open_history(remember=True, warn=said.append).load_history_strings())
    assert lines == ["a line ?"]
    private = history.open_history(remember=False, warn=said.append)
    private.store_string("secret")
    assert "secret" not in (tmp_path / "data" / "history").read_text()
    assert said == []


@pytest.mark.parametrize("folder", ["file/below", "~nosuchuser/x"])
def test_where_there_is_no_data_folder_lines_are_kept_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """The engine tells it, which keeps more there."""
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ADED_DATA_DIR", folder)
    said: list[str] = []
    kept = history.open_history(remember=True, warn=said.append)
    kept.store_string("x")
    assert list(kept.load_history_strings()) == ["x"]
    assert said == [] and [each.name for each in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.name == "nt", reason="links and pipes of POSIX")
@pytest.mark.parametrize("obstacle", ["link", "endless", "pipe", "folder", "a text of the user's"])
def test_what_lies_where_the_history_should_be_is_left_alone(tmp_path: Path, obstacle: str) -> None:
    victim, path = tmp_path / "victim", tmp_path / "data" / "history"
    victim.write_text("mine\n")
    victim.chmod(0o644)
    path.parent.mkdir()
    if obstacle == "link":
        path.symlink_to(victim)
    elif obstacle == "endless":
        path.symlink_to("/dev/zero")
    elif obstacle == "pipe":
        os.mkfifo(path)
    elif obstacle == "folder":
        path.mkdir()
    else:
        path.write_text("mine\n")
    said: list[str] = []
    kept = history.open_history(remember=True, warn=said.append)
    kept.store_string("x")
    assert list(kept.load_history_strings()) == ["x"]
    assert len(said) == 1 and str(path) in said[0] and "\n" not in said[0]
    assert victim.read_text() == "mine\n" and stat.S_IMODE(victim.stat().st_mode) == 0o644
    if obstacle.startswith("a text"):
        assert path.read_text() == "mine\n"


def test_a_link_that_is_put_there_during_a_chat_is_not_followed(tmp_path: Path) -> None:
    kept = history.open_history(remember=True, warn=pytest.fail)
    path, victim = tmp_path / "data" / "history", tmp_path / "victim"
    victim.write_text("mine\n")
    path.unlink()
    path.symlink_to(victim)
    kept.store_string("x")
    assert list(kept.load_history_strings()) == []
    assert victim.read_text() == "mine\n"


def test_of_a_history_of_gigabytes_the_newest_lines_are_loaded(tmp_path: Path) -> None:
    kept = history.open_history(remember=True, warn=pytest.fail)
    path = tmp_path / "data" / "history"
    os.truncate(path, 3 << 30)  # a hole: no line begins like that
    assert history.is_history(path) is False
    path.write_text("\n# then\n+" + "x" * history.MOST_LOADED + "\n+the same\n")
    kept.store_string("a\nb")
    kept.store_string("c")
    assert list(kept.load_history_strings()) == ["c", "a\nb"]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8")), max_size=5))
def test_typed_lines_come_back_and_are_those_of_prompt_toolkit(lines: list[str]) -> None:
    from prompt_toolkit.history import FileHistory

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADED_DATA_DIR", folder)
        theirs = FileHistory(os.path.join(folder, "history"))
        for number, line in enumerate(lines):
            if number % 2:
                theirs.store_string(line)
            else:
                history.open_history(remember=True, warn=pytest.fail).store_string(line)
        mine = list(history.open_history(remember=True, warn=pytest.fail).load_history_strings())
        assert mine == lines[::-1] == list(theirs.load_history_strings())


@pytest.mark.parametrize(("value", "is_off"), [("1", True), ("0", False)])
def test_the_environment_switches_memory_and_history_off_for_good(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, value: str, is_off: bool
) -> None:
    monkeypatch.setenv("ADED_NO_MEMORY", value)
    remembers: list[bool] = []

    def line_reader(*, remember: bool, warn: Any, words: Any) -> Any:
        remembers.append(remember)
        return lambda: (_ for _ in ()).throw(EOFError())

    monkeypatch.setattr(editing, "line_reader", line_reader)
    monkeypatch.setattr(display, "is_terminal", lambda stream: True)
    run()
    assert engine.options["memory"] is not is_off and remembers == [not is_off]


# The built-in model


def test_the_built_in_model_answers(tmp_path: Path) -> None:
    try:
        builtin_path()
    except BuiltinModelMissing:
        pytest.skip("the built-in model is not in this tree")
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "aded_cli.chat",
            "builtin",
            "--json",
            "--temp",
            "0",
            "-n",
            "48",
            "-p",
            "extract a tar.gz archive",
        ],
        capture_output=True,
        env={**os.environ, "ADED_CACHE_DIR": str(tmp_path)},
        check=True,
        timeout=120,
    )
    reply = json.loads(result.stdout)
    assert "tar" in reply["text"]
    ended = reply["finish_reason"] == "stop"  # the end token is counted, and is no part of the answer
    assert len(reply["token_ids"]) == reply["stats"]["generated_tokens"] - ended


def test_a_message_too_long_by_itself_costs_no_turns() -> None:
    conversation = Conversation()
    for turn in range(5):
        conversation.record(f"question {turn}", "answer")

    def count(messages: Sequence[dict[str, str]]) -> int:
        return sum(len(message["content"]) for message in messages)

    assert conversation.make_room("x" * 600, count, n_ctx=256) == 0
    assert len(conversation.turns) == 5


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_a_full_disk_is_one_line(extra: list[str]) -> None:
    with open("/dev/full", "w") as full:
        line = [*FAKE_PROGRAM, "-p", "hello", *extra]
        result = subprocess.run(
            line, stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "space" in result.stderr


def test_ranges_are_the_engine_s() -> None:
    from aded_cli import options as command_line
    from aded_local import request as options
    from aded_local.llama.context import SMALLEST_CONTEXT

    assert (command_line.MIN_CONTEXT, command_line.MAX_CONTEXT) == (SMALLEST_CONTEXT, options.LARGEST_CONTEXT)
    assert command_line.MAX_LAYERS == options.MOST_LAYERS
    refused(run("-c", "40", "-p", "q"), "-c", "256")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize(
    ("program", "option"),
    [
        *(
            (name, "--help")
            for name in ("aded_cli.chat", "aded_cli.store", "aded_cli.doctor", "aded_bench.main")
        ),
        ("aded_cli.chat", "--version"),
    ],
)
def test_help_that_cannot_be_written_is_one_line(program: str, option: str) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", program, option],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "No space left on device" in done.stderr
