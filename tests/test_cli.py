"""aded-chat as its users meet it: in a pipe, at a terminal, with wrong input."""

from __future__ import annotations

import json
import os
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fake_engine import FakeEngine, FakeStats

from aded_cli import chat, display, history
from aded_cli.repl import Repl
from aded_cli.session import Conversation
from aded_local.errors import ADEDError, DeviceError, ModelNotFoundError
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


def test_raw_completes_the_text_without_the_template(engine: FakeEngine) -> None:
    result = run("--raw", "-p", "Once")
    assert result.stdout == " and so on\n"
    assert engine.calls[0][:2] == ("stream", "Once")


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
    assert set(reply) == {"text", "token_ids", "finish_reason", "stats"}
    assert reply["text"] == "you said grüß dich"
    assert reply["token_ids"] == [0, 1, 2]
    assert reply["finish_reason"] == "stop"
    assert reply["stats"] == FakeStats().to_dict()


def test_options_reach_the_engine_under_its_names(engine: FakeEngine) -> None:
    line = (
        "m.gguf -p q -n 9 -c 512 -t 2 -ngl 0 --temp 0.5 --top-k 7 --top-p 0.9 --min-p 0.1"
        " --repeat-penalty 1.1 -s 3 --draft paper --exact --no-memory"
    )
    assert run(*line.split()).exit_code == 0
    assert engine.model == "m.gguf"
    assert engine.options == {
        "draft": "paper",
        "exact": True,
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


@pytest.mark.parametrize("preset", ["off", "paper"])
def test_a_store_is_no_use_to_other_presets(engine: FakeEngine, preset: str) -> None:
    result = run("-p", "q", "--store", "mine.store", "--draft", preset)
    assert result.exit_code == 2
    assert f"--draft {preset} does not draft from a store" in result.stderr


def test_what_is_not_given_is_left_to_the_engine(engine: FakeEngine) -> None:
    run("-p", "q", "-n", "-1", "--seed", "-1", "-ngl", "-1")
    assert engine.model is None
    assert engine.calls[0][2] == {}
    assert engine.options["n_gpu_layers"] is None


@pytest.mark.parametrize("spelling", [["--predict", "5"], ["--n-predict", "5"], ["-n5"], ["-n", "5"]])
def test_llama_cpp_spellings_of_one_option(engine: FakeEngine, spelling: list[str]) -> None:
    run("-p", "q", *spelling)
    assert engine.calls[0][2] == {"max_tokens": 5}


# Bad input


@pytest.mark.parametrize(
    "args",
    [
        ["-n", "0"],
        ["-n", "99999999999"],
        ["-c", "0"],
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
        ["--what"],
        ["one.gguf", "two.gguf"],
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


def test_a_surprise_is_one_line_unless_verbose(engine: FakeEngine) -> None:
    engine.failure = RuntimeError("boom")
    quiet = run("-p", "q")
    assert quiet.exit_code == 1
    assert quiet.stderr == "aded-chat: unexpected RuntimeError: boom; --verbose shows where\n"
    assert "Traceback" in run("-p", "q", "--verbose").stderr


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
    assert process.returncode == 130
    if out:  # a slow machine may be interrupted while it still starts
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


def test_escape_sequences_pass_through_a_pipe_but_not_to_a_terminal() -> None:
    text = "a\x1b[31mb\x9bc\x07\td\r\n\x7f"
    assert display.visible(text) == "a[31mbc\td\n"
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
    Repl(engine, conversation, sampling, read_line).run()  # type: ignore[arg-type]
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


def test_empty_lines_are_ignored_and_quit_leaves() -> None:
    engine = FakeEngine()
    talk(engine, "", "   ", "/quit", "never sent")
    assert engine.calls == []


def test_a_double_slash_sends_one(capsys: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine()
    talk(engine, "//etc/hosts?", "/etc/hosts?")
    assert [call[1][-1]["content"] for call in engine.calls] == ["/etc/hosts?"]
    assert "unknown command /etc/hosts?" in capsys.readouterr().err


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
    assert conversation.turns[0].stopped
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


def test_a_folder_that_cannot_be_written_costs_the_history_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ADED_DATA_DIR", str(tmp_path / "file" / "below"))
    said: list[str] = []
    history.open_history(remember=True, warn=said.append).store_string("x")
    assert len(said) == 1 and "not kept" in said[0]


# At a real terminal

PROMPT_SHOWN = b"\x1b[?2004h"  # line editing begins: it asks the terminal to bracket what is pasted


@pytest.mark.skipif(os.name == "nt", reason="pseudo-terminals of POSIX")
def test_a_chat_at_a_terminal(tmp_path: Path) -> None:
    import pty

    child, terminal = pty.fork()
    if child == 0:
        variables = {
            "FAKE_WORDS": "200",
            "FAKE_PAUSE": "0.05",
            "PROMPT_TOOLKIT_NO_CPR": "1",
            "ADED_DATA_DIR": str(tmp_path),
        }
        os.execve(sys.executable, FAKE_PROGRAM, {**os.environ, **variables})
    seen = b""

    def wait_for(text: bytes) -> None:
        nonlocal seen
        deadline = time.monotonic() + 20
        while text not in seen:
            ready, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, seen
            try:
                seen += os.read(terminal, 4096)
            except OSError:  # Linux's way of saying that the program has left
                break
        assert text in seen, seen
        seen = seen.split(text, 1)[1]

    try:
        wait_for(PROMPT_SHOWN)
        os.write(terminal, b"hello\r")
        wait_for(b"w3 ")
        os.write(terminal, b"\x03")
        wait_for(b"stopped")
        wait_for(PROMPT_SHOWN)
        os.write(terminal, b"\x03")
        wait_for(b"/quit")
        wait_for(PROMPT_SHOWN)
        os.write(terminal, b"\x04")
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
    finally:
        os.close(terminal)
    assert "+hello" in (tmp_path / "history").read_text()


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
