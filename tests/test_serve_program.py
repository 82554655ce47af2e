"""aded-serve as a program: its command line, its port, its end; and OpenAI's client against a real model."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from click.testing import CliRunner, Result
from patience import PATIENCE, until

from aded_cli.serve import program
from aded_models import find

COMMAND = [sys.executable, "-c", "from aded_cli.entry import serve; serve()"]

# fmt: off
WORDS = [
    "apple", "river", "stone", "cloud", "tiger", "piano", "lemon", "ocean", "maple", "candle",
    "rabbit", "silver", "window", "garden", "copper", "planet", "ribbon", "bottle", "kitten", "anchor",
    "button", "castle", "dragon", "engine", "forest", "guitar", "hammer", "island", "jacket", "ladder",
    "magnet", "needle", "orange", "pencil", "quartz", "rocket", "saddle", "tunnel", "velvet", "walnut",
    "yellow", "zipper", "basket", "carpet", "donkey", "escape", "feather", "goblet", "helmet", "insect",
]
# fmt: on
"""A word for each of fifty clients."""


def test_small_packets_leave_at_once() -> None:
    """asyncio sees to that where a socket names its protocol; else each answer waits for the client's next packet."""
    with program._bound("127.0.0.1", 0, None) as listening:
        assert listening.proto == socket.IPPROTO_TCP


class Program:
    """A server in a process of its own.

    Attributes:
        lines: what it said on standard error.
    """

    def __init__(self, *arguments: str, **environment: str) -> None:
        variables = {key: value for key, value in os.environ.items() if key != program.KEY_VARIABLE}
        self.process = subprocess.Popen(
            [*COMMAND, "--port", "0", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**variables, **environment},
        )
        self.lines: list[str] = []
        self.port = 0
        self._heard = threading.Condition()
        threading.Thread(target=self._listen, daemon=True).start()
        with self._heard:
            self._heard.wait_for(lambda: self.port or self.process.poll() is not None, 60)
        assert self.port, self.lines

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._heard:
                self.lines.append(line.rstrip())
                found = re.match(r"listening on http://127\.0\.0\.1:(\d+)", line)
                if found:
                    self.port = int(found.group(1))
                self._heard.notify_all()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def await_ready(self, seconds: float = 120) -> None:
        with self._heard:
            assert self._heard.wait_for(lambda: "ready" in self.lines, seconds), self.lines

    def get(self, path: str) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(self.url + path, timeout=30) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def client(self, **options: Any) -> Any:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=600, **options)

    def end(self, signal_number: int = signal.SIGTERM) -> int:
        self.process.send_signal(signal_number)
        return self.process.wait(PATIENCE)


@pytest.fixture(scope="module")
def smollm2() -> str:
    try:
        return str(find("smollm2").path)
    except Exception as error:
        pytest.skip(f"SmolLM2 is not installed: {error}")


@pytest.fixture(scope="module")
def server(smollm2: str) -> Iterator[Program]:
    found = Program(smollm2, "-t", "1", "-c", "2048", "--draft", "off", "--queue", "60")
    found.await_ready()
    yield found
    assert found.end() == 0, found.lines


# The command line


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(program.main, list(arguments), env={program.KEY_VARIABLE: None, **environment})


def refused(result: Result, *words: str) -> None:
    """One line on standard error that holds ``words``; exit code 2."""
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("aded-serve: ") and result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_beyond_loopback_it_listens_with_a_key_only(host: str) -> None:
    refused(run("builtin", "--host", host), host, program.KEY_VARIABLE)
    refused(run("builtin", "--host", host, ADED_API_KEY=""), program.KEY_VARIABLE)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port", "-1"],
        ["--port", "65536"],
        ["--queue", "-1"],
        ["--host", "no.such.host.invalid"],
        ["--session-memory", "x"],
        ["one.gguf", "two.gguf"],
        ["--store", "s", "--draft", "off"],
        ["-p", "question"],
    ],
)
def test_wrong_options_are_one_line(arguments: list[str]) -> None:
    refused(run(*arguments))


def test_a_port_that_is_taken_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        refused(run("builtin", "--port", str(taken.getsockname()[1])), "--port")


def failed(result: Result, *words: str) -> None:
    """The same after the line that says where it listens."""
    assert result.exit_code == 2, result.output
    first, complaint = result.stderr.splitlines()
    assert first.startswith("listening on ") and complaint.startswith("aded-serve: ")
    for word in words:
        assert word in complaint


def test_a_model_that_is_not_there_is_one_line() -> None:
    failed(run("no-such-model.gguf", "--port", "0"), "no-such-model.gguf")


def test_rpc_servers_are_refused_in_one_line_where_the_build_has_none() -> None:
    from aded_local.llama.loading import lib

    failed(run("builtin", "--port", "0", "--rpc", "here"), "HOST:PORT")
    if not lib.llama_supports_rpc():
        failed(run("builtin", "--port", "0", "--rpc", "127.0.0.1:50052"), "GGML_RPC")


def test_nothing_heavy_is_imported_for_help_and_usage_errors() -> None:
    heavy = ("numpy", "numba", "llama_cpp", "starlette", "uvicorn", "msgspec", "prometheus_client")
    for arguments in ("--help", "--version", "--port x"):
        script = (
            "import sys; from aded_cli.serve.program import main\n"
            f"try: main({arguments.split()!r})\n"
            f"except SystemExit: print('loaded', [name for name in {heavy!r} if name in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "loaded []"


# Starting and ending


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_running_answer_ends_after_sigterm_and_new_requests_are_refused(smollm2: str) -> None:
    server = Program(smollm2, "-t", "1", "-c", "2048", "--draft", "off")
    server.await_ready()
    stream = server.client().chat.completions.create(
        model="any", messages=[{"role": "user", "content": "Count to fifty."}], max_tokens=60, stream=True
    )
    chunks = iter(stream)
    next(chunks)
    server.process.send_signal(signal.SIGTERM)
    rest = list(chunks)
    assert rest[-1].choices[0].finish_reason in ("stop", "length")
    assert server.process.wait(PATIENCE) == 0
    assert not [line for line in server.lines if "Traceback" in line or "unexpected" in line]


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_server_that_still_loads_says_so_and_ends_at_once() -> None:
    server = Program("builtin", "--draft", "off")
    status, health = server.get("/health")
    assert (status, health["status"]) in ((503, "loading"), (200, "ok"))
    assert server.end(signal.SIGINT) == 0


# OpenAI's client


def ask(client: Any, word: str, **options: Any) -> str:
    """The answer to a list of one word over and over, which the model goes on with on any processor.

    After seven lines the likeliest tokens are 2 nats ahead or more; after four "yellow" wavers, by 0.01.
    """
    lines = "".join(f"{number}. {word}\n" for number in range(1, 8)) + "8."
    found = client.completions.create(model="any", prompt=lines, max_tokens=4, temperature=0, **options)
    return str(found.choices[0].text)


def test_fifty_clients_at_once_and_none_gets_another_ones_answer(server: Program) -> None:
    with ThreadPoolExecutor(50) as clients:
        answers = list(clients.map(lambda word: ask(server.client(), word), WORDS))
    for word, answer in zip(WORDS, answers, strict=True):
        assert word in answer
        assert not [other for other in WORDS if other != word and other in answer.split()]


def test_a_conversation_that_goes_on_is_not_read_again(server: Program) -> None:
    client = server.client()
    messages: list[Any] = [{"role": "user", "content": "Name three rivers, one in each line, please."}]
    first = client.chat.completions.create(model="any", messages=messages, max_tokens=30, temperature=0)
    ask(client, "between")
    messages += [
        {"role": "assistant", "content": first.choices[0].message.content},
        {"role": "user", "content": "And three more."},
    ]
    second = client.chat.completions.create(model="any", messages=messages, max_tokens=30, temperature=0)
    known = first.usage.prompt_tokens + first.usage.completion_tokens
    assert second.timings["reused_tokens"] >= known - 2


def test_a_stream_has_what_the_whole_answer_has(server: Program) -> None:
    asked: dict[str, Any] = {
        "model": "any",
        "messages": [{"role": "user", "content": "What is a river?"}],
        "max_tokens": 30,
        "temperature": 0,
    }
    client = server.client()
    whole = client.chat.completions.create(**asked)
    chunks = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert "river" in said.lower() and "river" in str(whole.choices[0].message.content).lower()
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens
    timed = [chunk for chunk in chunks if getattr(chunk, "timings", None)]
    assert len(timed) == 1 and set(timed[0].timings) == set(whole.timings)


def test_a_client_that_hangs_up_frees_the_server(server: Program) -> None:
    stream = server.client().completions.create(
        model="any", prompt="Once upon a time", max_tokens=1500, temperature=1, stream=True
    )
    next(iter(stream))
    stream.close()
    until(lambda: not server.get("/health")[1]["running"])
    assert ask(server.client(), "river")


def test_embeddings_are_vectors_of_length_one(server: Program) -> None:
    client = server.client()
    texts = ["a cat", "a kitten", "quarterly revenue"]
    found = [each.embedding for each in client.embeddings.create(model="any", input=texts).data]
    plain = client.embeddings.create(model="any", input=texts, encoding_format="float").data
    assert [pytest.approx(each.embedding, abs=1e-6) for each in plain] == found
    assert [sum(number * number for number in each) for each in found] == pytest.approx([1, 1, 1], abs=1e-4)


def test_errors_are_openais(server: Program) -> None:
    client = server.client()
    with pytest.raises(openai.BadRequestError, match="temperature"):
        ask(client, "river", extra_body={"temperature": "hot"})
    with pytest.raises(openai.BadRequestError, match="context"):
        client.completions.create(model="any", prompt="a " * 5000)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
    assert client.models.list().data[0].id


def test_nothing_that_was_asked_is_logged_or_written(server: Program, tmp_path: Path) -> None:
    word = "xylophonist"
    ask(server.client(), word)
    with pytest.raises(openai.BadRequestError):
        ask(server.client(), word, extra_body={"nonsense": word})
    assert not [line for line in server.lines if word in line]


def test_a_key_is_asked_for() -> None:
    server = Program("builtin", "-c", "512", "--draft", "off", ADED_API_KEY="open sesame")
    try:
        with pytest.raises(openai.AuthenticationError):
            server.client().models.list()
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="open sesame", max_retries=0)
        server.await_ready()
        assert client.models.list().data
    finally:
        assert server.end() == 0
