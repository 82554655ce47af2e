"""Renders chat templates in a child process, with bounded time and memory.

A template comes with a GGUF from anywhere. The sandbox keeps it from Python and bounds most of what it may take, but
not all: one call into a library can take minutes or gigabytes. A process can be ended. So each ``Renderer`` has one
(``rendering_child``), from the first use of the template until the renderer is closed. A process that takes too long is
ended, and the next rendering starts another.

Its cost on a two-core Xeon server: it starts within 0.1 s, while the vocabulary is read, and takes 20 MB. A rendering
takes 0.2 ms more than in this process, and 3 ms more for a conversation of 100 turns and 200 KB. Only the templates of
models that this program ships or installs are rendered in this process.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
import psutil

from aded_local.chat.bounds import MAX_OUTPUT, TooMuch
from aded_local.chat.rendering_child import (
    REFUSED_PACKET,
    TEMPLATE_PACKET,
    TOO_MUCH_MEMORY,
    TOO_MUCH_PACKET,
    VARIABLES_PACKET,
    receive,
    send,
)
from aded_local.chat.sandbox import MAX_SOURCE, SECONDS, Sandbox, complaint
from aded_local.errors import OptionError, TemplateError, TemplateLimitError
from aded_local.files import given_path
from aded_local.llama.interrupts import held_back
from aded_local.trials import trial

VOUCHED = frozenset(
    {
        "a086826e0c6afad7bb70ea5798c21f33c8ffb0937ce70db29f2bc4c98a0bcb0e",
        "7e9ffe5b1005bb0a8f7733719b917c36ef0753359499b1681e557e637aa195c1",
        "872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788",
    }
)
"""SHA-256 of templates that are known to be harmless: ChatML, the built-in models' and SmolLM2's. They are rendered in
this process, so that the first answer of those models does not wait for another."""

MORE_SECONDS = 0.2
"""Processor time a child may take beyond the sandbox's bound, so that the sandbox's own message comes first."""

COMPILING_SECONDS = 1.0
"""Processor time for compiling. The slowest of 301 public templates takes 0.1 s on that server."""

CHILD_MEMORY = 400 << 20
"""Bytes a child may take; it takes 20 MB before it reads anything. Linux refuses more (``RLIMIT_DATA``); on other
systems a child that has more is ended at the next look."""

LATE = 1.5
"""After so many seconds half of that processor time is too much: beside other programs, too, the user waits."""

LOOK = 0.02
"""Seconds between looks at a working child."""

CHILD_PATIENCE = 30.0
"""Seconds after which a child that has not answered is ended, however little processor time it had: the machine may be
very busy, or somebody may have stopped the child."""

STARTING = 60.0
"""The same for its start, which may wait for a busy disk."""

_SERVE = (
    "import sys; sys.path += sys.argv[4:]; from aded_local.chat import rendering_child; "
    "rendering_child.serve(*map(float, sys.argv[1:4]))"
)
"""The child's first statements. It starts without the user's folders and settings, which must not influence it, and
without a search for installed packages, which would take most of the time: it needs two of them."""


def read_template(given: str | os.PathLike[str]) -> str:
    """The source of a template that somebody chose.

    Args:
        given: the source itself, or the path of its file.

    Raises:
        OptionError: it cannot be read, or is no template.
    """
    if isinstance(given, str):
        what, source = "chat_template", given
    elif isinstance(given, os.PathLike):
        path = given_path("chat_template", given, "a template")
        what, source = f"the chat template {path}", _read_file(path)
    else:
        raise OptionError(f"chat_template is {given!r}; it must be a template's text, or a Path of its file")
    if len(source) > MAX_SOURCE:
        raise OptionError(f"{what} has more than {MAX_SOURCE:,} characters; no template is that long")
    if "{{" not in source and "{%" not in source:
        raise OptionError(
            f"{what} holds neither {{{{ nor {{%, so it is no Jinja template; a file needs a Path"
        )
    return source


def _read_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(4 * MAX_SOURCE + 1)  # a device has no end
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise OptionError(
            f"the chat template {path} is not valid UTF-8 text (byte {error.start:,})"
        ) from None
    except OSError as error:
        why = error.strerror or error
        raise OptionError(f"the chat template {path} cannot be read: {why}; name another file") from None


class Renderer:
    """One template, compiled and rendered; usable from several threads, which wait for each other.

    The child process starts at once, beside what the caller does next. Close the renderer to end it; it also ends with
    this process, however that ends, and when nobody holds the renderer any more. A child forked from this process
    starts one of its own.

    Where no process can be started (a frozen program, a system that forbids it) templates are rendered in this process.
    The sandbox's own bounds hold there, which a template made to do harm can pass: it could waste time and memory, of
    a program whose user chose that file. Refusing all models' templates would be worse for everybody else.

    Args:
        source: the Jinja template.
        original: the template as it came, where ``source`` was made of it; a known template is known by that.
    """

    def __init__(self, source: str, original: str | None = None) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._child: _Child | None = None
        known_by = source if original is None else original
        self._known = hashlib.sha256(known_by.encode("utf-8", "surrogatepass")).hexdigest() in VOUCHED
        self._here = self._known
        self._compiled: tuple[Sandbox, jinja2.Template] | None = None
        if not self._here:
            self._child = self._start()

    def compile(self) -> None:
        """Wait until the template is compiled.

        Raises:
            TemplateError: it does not compile, or not within its bounds.
        """
        with self._lock:
            if self._ready_child() is None:
                self._compile_here()

    def render(self, variables: Mapping[str, Any]) -> str:
        """What the template makes of ``variables``, which are plain JSON.

        Raises:
            TemplateLimitError: it wants more time or memory than it may have.
            TemplateError: it refused them, or failed.
        """
        with self._lock:
            child = self._ready_child()
            if child is None:
                return self._render_here(variables)
            request = json.dumps(variables, ensure_ascii=False)
            if len(request) > MAX_OUTPUT:
                raise TemplateLimitError(
                    f"the conversation has more than {MAX_OUTPUT:,} characters; shorten it"
                )
            kind, text = self._ask(child, VARIABLES_PACKET, request, SECONDS + MORE_SECONDS)
            if kind == REFUSED_PACKET:
                raise TemplateError(_refused(text))
            return text

    def close(self) -> None:
        """End the child; a later rendering starts another."""
        child, self._child = self._child, None
        if child is not None:
            child.end()

    # --- in a child ------------------------------------------------------------------------------

    def _start(self) -> _Child | None:
        try:
            return _Child()
        except (OSError, ValueError, RuntimeError):
            self._here = True
            return None

    def _ready_child(self) -> _Child | None:
        """A child that has compiled the template; None where there can be none, or none is needed."""
        if self._here:
            return None
        child = self._child
        if child is None or not child.is_ours_and_alive:
            self.close()
            child = self._child = self._start()
        if child is None or child.is_ready:
            return child
        try:
            if child.answer(STARTING, STARTING) is None:
                self.close()
                self._here = True
                return None
            kind, text = self._ask(child, TEMPLATE_PACKET, self._source, COMPILING_SECONDS)
        except BaseException:
            self.close()
            raise
        if kind == REFUSED_PACKET:
            self.close()
            raise TemplateError(_uncompiled(text))
        child.is_ready = True
        return child

    def _ask(self, child: _Child, kind: bytes, text: str, seconds: float) -> tuple[bytes, str]:
        try:
            answer = child.answer(seconds, CHILD_PATIENCE, (kind, text))
        except BaseException:  # Ctrl-C: its answer would be taken for the next one's
            self.close()
            raise
        if answer is None:
            self.close()
            raise TemplateLimitError(_stopped(child.verdict))
        if answer[0] == TOO_MUCH_PACKET:
            raise TemplateLimitError(_stopped(answer[1]))
        return answer

    # --- in this process -------------------------------------------------------------------------

    def _compile_here(self) -> tuple[Sandbox, jinja2.Template]:
        if self._compiled is None:
            # Time counts whatever this thread does, a large program's garbage collection too: none for known ones.
            sandbox = Sandbox(math.inf if self._known else SECONDS)
            try:
                self._compiled = sandbox, sandbox.from_string(self._source)
            # Compiling runs Python's parser and Jinja's: RecursionError, SyntaxError and others are possible.
            except Exception as error:
                raise TemplateError(_uncompiled(complaint(error))) from error
        return self._compiled

    def _render_here(self, variables: Mapping[str, Any]) -> str:
        sandbox, template = self._compile_here()
        try:
            return sandbox.render_within_bounds(template, variables)
        except TooMuch as error:
            raise TemplateLimitError(_stopped(complaint(error))) from error
        # A template can raise whatever Python can: TypeError, ZeroDivisionError, RecursionError, MemoryError.
        except Exception as error:
            raise TemplateError(_refused(complaint(error))) from error


_ANOTHER = "give another with --chat-template (chat_template)"


def _uncompiled(why: str) -> str:
    return f"the chat template does not compile: {why}; {_ANOTHER}"


def _refused(why: str) -> str:
    return f"the chat template refused the conversation: {why}"


def _stopped(why: str) -> str:
    return f"the chat template was stopped: {why}; {_ANOTHER}"


class _Child:
    """The process, and what can be asked of it.

    Raises:
        OSError, ValueError, RuntimeError: it cannot be started.

    Attributes:
        is_ready: it has compiled the template.
        verdict: why there was no answer.
    """

    def __init__(self) -> None:
        self.is_ready = False
        self.verdict = ""
        self._owner = os.getpid()
        self._process = _start_process()
        self.end = weakref.finalize(self, _end, self._process, self._owner)

    @property
    def is_ours_and_alive(self) -> bool:
        """Whether this process started it, rather than the one it was forked from, and it still runs."""
        return os.getpid() == self._owner and self._process.poll() is None

    def answer(
        self, seconds: float, patience: float, request: tuple[bytes, str] | None = None
    ) -> tuple[bytes, str] | None:
        """Ask, and wait for the answer; None where there was none, and ``verdict`` says why.

        Args:
            seconds: processor time it may take.
            patience: seconds it may take.
            request: what to ask; None where it has something to say of itself.
        """
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        answered = threading.Lock()
        answered.acquire()
        watch = threading.Thread(target=self._watch, args=(answered, seconds, patience), daemon=True)
        with held_back():
            watch.start()
        answer = None
        try:
            with contextlib.suppress(OSError, ValueError):
                if request is not None:
                    send(process.stdin, *request)
                answer = receive(process.stdout)
        finally:
            answered.release()
            watch.join()
        if answer is None and not self.verdict:
            code = process.wait()
            self.verdict = f"it ended its process ({trial.fault_of(code) or f'exit code {code}'})"
        return answer

    def _watch(self, answered: threading.Lock, seconds: float, patience: float) -> None:
        """End the process when it has taken too much before ``answered`` is free; it then gives no answer."""
        started = time.monotonic()
        watched: psutil.Process | None = None
        before = 0.0
        while not answered.acquire(timeout=LOOK):
            used, memory = 0.0, 0
            with contextlib.suppress(psutil.Error):
                if watched is None:
                    watched = psutil.Process(self._process.pid)
                    before = _processor_time(watched)
                used, memory = _processor_time(watched) - before, watched.memory_info().rss
            waited = time.monotonic() - started
            if used > seconds or (waited > LATE and used > seconds / 2):
                self.verdict = "it takes too long"
            elif waited > patience:
                self.verdict = f"there was no answer within {patience:g} seconds"
            elif memory > CHILD_MEMORY:
                self.verdict = TOO_MUCH_MEMORY
            else:
                continue
            self._process.kill()
            return


def _start_process() -> subprocess.Popen[bytes]:
    # The executable of a frozen program is that program, which would begin anew.
    if not sys.executable or getattr(sys, "frozen", False):
        raise OSError("there is no Python interpreter to start")
    libraries = (Path(str(module.__file__)).absolute().parent.parent for module in (jinja2, markupsafe))
    needed = (Path(__file__).absolute().parents[2], *libraries)
    limits = (SECONDS, CHILD_MEMORY, CHILD_PATIENCE + MORE_SECONDS)
    # A Ctrl-C in the terminal goes to the whole group, and is none of this process's business.
    own_group: dict[str, Any]
    if sys.platform == "win32":
        own_group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    else:
        own_group = {"start_new_session": True}
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-B", "-c", _SERVE, *map(str, limits), *dict.fromkeys(map(str, needed))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        **own_group,
    )


def _processor_time(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    """End a process and wait for its end, unless it belongs to the process this one was forked from."""
    if os.getpid() != owner:
        return
    process.kill()
    for stream in (process.stdin, process.stdout):
        with contextlib.suppress(OSError, ValueError):  # what it was not told is lost
            assert stream is not None
            stream.close()
    process.wait()
