"""llama.cpp's own server as an arm: started on loopback, asked over HTTP, stopped whatever happens.

Nothing of it is a dependency: the user names a binary. It gets the attention, cache type, threads, context and
batch size of the other arms, and decodes greedily.
"""

from __future__ import annotations

import atexit
import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from aded_bench.run.arms import BATCH, UNKNOWN_TOKEN, Answer, Setup
from aded_bench.run.methods import DRAFT_SERVER, SERVER, SPEC_DEFAULT
from aded_local.errors import DeviceError, OptionError

HOST = "127.0.0.1"
START_SECONDS = 600.0  # to load a model from a slow disk
STOP_SECONDS = 10.0  # before it is killed: it has nothing to save
ANSWER_SECONDS = 600.0  # between two tokens, a prompt's prefill included
PROBE_SECONDS = 30.0  # for --version
HEALTH_SECONDS, POLL_SECONDS = 5.0, 0.05  # to wait for a sign that it is ready, and between two looks

# The kernel ends the server when the bench dies, however it dies. Set by a short program that then becomes the
# server, since code between fork and exec is unsafe in a process with threads.
DIE_WITH_PARENT = (
    "import ctypes, os, signal, sys\n"
    "parent = int(sys.argv[1])\n"
    "ctypes.CDLL(None).prctl(1, signal.SIGKILL)\n"  # PR_SET_PDEATHSIG, linux/prctl.h
    "if os.getppid() != parent: sys.exit('the bench is gone')\n"
    "try: os.execv(sys.argv[2], sys.argv[2:])\n"
    "except OSError as error: sys.exit(str(error))\n"
)

KEPT = {
    "server": "nothing (prompt caching is off)",
    "server-ngram-simple": "nothing: it looks back in the conversation",
    "server-ngram-map-k": "statistics of keys before the point where the new prompt ends",
    "server-ngram-map-k4v": "statistics of keys before the point where the new prompt ends",
    "server-ngram-mod": "one hash table of 24-grams over all prompts; emptied when a quarter full, or after five "
    "drafts in a row of which less than a quarter was accepted",
    "server-ngram-cache": "counts over all prompts; a prompt enters only from the length of the longest before it",
    "server-draft-simple": "nothing: its draft model reads what the target reads",
    "server-spec-default": "what server-ngram-mod keeps: in this version --spec-default is that, with its lengths",
}
"""What each keeps from prompt to prompt, by llama.cpp's common/speculative.cpp and ngram-map.cpp of 0.3.36."""

# Whatever proxy the user's environment names: the server is on this machine.
_http = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Binary:
    """A llama-server that runs here, and its version in its own words."""

    path: Path
    version: str


def inspect(path: Path) -> Binary:
    """Look at a binary before a long run depends on it.

    Raises:
        OptionError: there is none, or it is no llama-server that runs here.
    """
    path = path.expanduser().absolute()
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    try:
        done = subprocess.run([path, "--version"], **options, timeout=PROBE_SECONDS, env=_environment())
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise OptionError(f"{path} does not run: {getattr(error, 'strerror', None) or error}") from None
    said = done.stdout + done.stderr
    version = re.search(r"version: *(.+)", said)
    if done.returncode != 0 or version is None:
        raise OptionError(f"{path} does not answer --version as llama-server does: {_last_line(said)}")
    return Binary(path, version[1].strip())


def _environment() -> dict[str, str]:
    """Ours without the variables by which llama-server takes options: only the bench sets them."""
    return {key: value for key, value in os.environ.items() if not key.startswith("LLAMA_ARG_")}


def _last_line(text: str) -> str:
    """The last line that says anything, an error line before all others."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"\bE\b|error|fail", line)]
    return (errors or lines or ["no word"])[-1][:300]


class ServerArm:
    """One llama-server process; it starts with the first question.

    Args:
        name: ``server`` or ``server-TYPE``.
        binary: the executable.
        setup: what all arms share.
    """

    def __init__(self, name: str, binary: Path, setup: Setup) -> None:
        self.name, self.binary, self.setup = name, binary, setup
        self._url = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    def command(self, port: int) -> list[str]:
        """The server's command line."""
        s = self.setup
        options = {
            "--model": s.model,
            "--host": HOST,
            "--port": port,
            "--ctx-size": s.n_ctx,
            "--parallel": 1,
            "--threads": s.n_threads,
            "--threads-batch": s.n_threads,
            "--batch-size": BATCH,
            "--ubatch-size": BATCH,
            "--n-gpu-layers": "all" if s.n_gpu_layers < 0 else s.n_gpu_layers,
            "--flash-attn": "on" if s.flash_attention else "off",
            "--cache-type-k": s.cache_type,
            "--cache-type-v": s.cache_type,
            "--fit": "off",  # or it changes what was not asked for
            "--cache-ram": 0,
        }
        drafting = ["--spec-type", "none" if self.name == SERVER else self.name.removeprefix(f"{SERVER}-")]
        if self.name == SPEC_DEFAULT:
            drafting = ["--spec-default"]
        elif self.name == DRAFT_SERVER and s.draft_model is not None:
            layers = str(options["--n-gpu-layers"])
            drafting += ["--model-draft", str(s.draft_model), "--n-gpu-layers-draft", layers]
        words = [str(word) for pair in options.items() for word in pair]
        return [
            str(self.binary),
            *words,
            *drafting,
            "--swa-full",
            "--no-cache-prompt",
            "--no-ui",
            "--offline",
        ]

    def start(self) -> None:
        """Start, and wait until the model is loaded; without effect while it runs.

        Raises:
            DeviceError: it does not start; with its last line.
        """
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        with socket.socket() as free:
            free.bind((HOST, 0))
            port = free.getsockname()[1]
        self._url = f"http://{HOST}:{port}"
        words = self.command(port)
        if sys.platform == "linux":
            words = [sys.executable, "-c", DIE_WITH_PARENT, str(os.getpid()), *words]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - nameless, so it goes with the two processes
        pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": self._log, "stderr": self._log}
        atexit.register(self.close)
        try:
            # A session of its own: Ctrl-C is ours to handle, and then the server is stopped in order.
            self._process = subprocess.Popen(words, **pipes, env=_environment(), start_new_session=True)
            self._wait_until_ready()
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise DeviceError(f"{self.name}: {self.binary} does not start: {error}") from None
            raise

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            self._require_alive("did not start")
            with (
                contextlib.suppress(OSError, http.client.HTTPException),
                _http.open(f"{self._url}/health", timeout=HEALTH_SECONDS),
            ):
                self._require_alive("did not start")  # else another program has its port
                return
            time.sleep(POLL_SECONDS)
        raise DeviceError(f"{self.name}: {self.binary} was not ready after {START_SECONDS:.0f} s")

    def _require_alive(self, what: str) -> None:
        code = self._process.poll() if self._process else None
        if code is not None and self._log is not None:
            self._log.seek(0)
            said = _last_line(self._log.read().decode("utf-8", errors="replace"))
            raise DeviceError(f"{self.name}: {self.binary} {what} (exit code {code}): {said}")

    def answer(self, prompt: Sequence[int], max_tokens: int, temperature: float, seed: int) -> Answer:
        """Generate greedily after ``prompt``; ids of tokens that end inside a character are not sent.

        Raises:
            DeviceError: the server is gone, refuses, or says what is no answer.
            OptionError: a temperature, since its seeds mean another thing.
        """
        if temperature:
            raise OptionError(f"{self.name} is compared greedily only")
        self.start()
        try:
            return self._read_answer(list(prompt), max_tokens)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise DeviceError(f"{self.name}: its answer is not llama-server's: {error!r}") from None

    def _read_answer(self, prompt: list[int], max_tokens: int) -> Answer:
        """The answer as its events tell it."""
        # The likeliest token and nothing else, as the other arms choose it.
        body = {
            "prompt": prompt,
            "n_predict": max_tokens,
            "temperature": 0.0,
            "samplers": ["top_k"],
            "top_k": 1,
        }
        clock = time.perf_counter
        started, first = clock(), None
        tokens: dict[int, int] = {}
        last: dict[str, Any] = {}
        for event in self._events(body | {"return_tokens": True, "cache_prompt": False, "stream": True}):
            if first is None:
                first = clock()
            if event.get("stop"):
                last = event
                break
            for token in event["tokens"]:
                tokens[event["tokens_predicted"] - 1] = token
        total = clock() - started
        if first is None or not last:
            raise DeviceError(f"{self.name}: the answer ended without a result")
        generated, ended = int(last["tokens_predicted"]), last.get("stop_type") == "eos"
        timings = last.get("timings", {})
        accepted = int(timings.get("draft_n_accepted", 0))
        # Where the first token reached us late (a small model on a busy machine), what it took at least is the
        # server's own time from the first token to the last.
        decode = max(total - (first - started), timings.get("predicted_ms", 0.0) / 1e3)
        return Answer(
            tokens=[tokens.get(i, UNKNOWN_TOKEN) for i in range(generated - ended)],
            ended=ended,
            generated=generated,
            first_seconds=max(0.0, total - decode),
            decode_seconds=decode,
            passes=max(0, generated - 1 - accepted),  # a pass yields one token more than it accepts
            drafted=int(timings.get("draft_n", 0)),
            accepted=accepted,
            own_tokens_per_second=timings.get("predicted_per_second"),
        )

    def _events(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The server-sent events of one completion, as they arrive."""
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self._url}/completion", json.dumps(body).encode(), headers)
        try:
            with _http.open(request, timeout=ANSWER_SECONDS) as response:
                for line in response:
                    if line.startswith(b"data: {"):
                        event = json.loads(line[len(b"data: ") :])
                        if error := event.get("error"):  # in mid-stream the status was sent long ago
                            said = error.get("message", error) if isinstance(error, dict) else error
                            raise DeviceError(f"{self.name}: the server gives up: {str(said)[:300]}")
                        yield event
        except urllib.error.HTTPError as error:
            said = error.read(2000).decode("utf-8", errors="replace")
            raise DeviceError(f"{self.name}: the server refuses (HTTP {error.code}): {said}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._require_alive("ended during an answer")
            raise DeviceError(f"{self.name}: no answer over HTTP: {error}") from None

    def memory(self) -> dict[str, float]:
        """Of the process, in MB: ``resident`` now and, on Linux, at its ``peak``; {} while it does not run."""
        import psutil

        found: dict[str, float] = {}
        with contextlib.suppress(psutil.Error, OSError):
            if self._process is not None:
                found["resident"] = psutil.Process(self._process.pid).memory_info().rss / 1e6
                status = Path(f"/proc/{self._process.pid}/status").read_text()
                if peak := re.search(r"VmHWM:\s+(\d+) kB", status):
                    found["peak"] = int(peak[1]) * 1024 / 1e6
        return found

    def forget(self) -> None:
        """Stop; the next question starts it anew, which is not timed."""
        self.close()

    def close(self) -> None:
        """Stop the process and remove its log; always, and more than once if need be."""
        process, self._process = self._process, None
        log, self._log = self._log, None
        atexit.unregister(self.close)
        try:
            if process is not None and process.poll() is None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_SECONDS)
        finally:
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
            if log is not None:
                log.close()
