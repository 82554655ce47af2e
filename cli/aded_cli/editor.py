"""A message written in the person's own editor."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import tempfile
from contextlib import AbstractContextManager, suppress
from typing import Final

from aded_local.errors import ADEDError

DEFAULT_EDITORS: Final = ("nano", "vi")
"""Where neither $VISUAL nor $EDITOR names one."""


def edited(text: str, apart: AbstractContextManager[object]) -> str:
    """A text as the person left it, without the line end that an editor adds.

    Args:
        text: to begin with.
        apart: gives the terminal to the editor.

    Raises:
        ADEDError: there is no editor, or it failed.
    """
    command = _editor()
    handle, path = tempfile.mkstemp(prefix="aded-", suffix=".md")  # readable by nobody else
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
        with apart:
            _run([*command, path])
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read().removesuffix("\n")
    except OSError as error:
        raise ADEDError(f"{command[0]} cannot be used: {error.strerror or error}; set EDITOR") from None
    finally:
        with suppress(OSError):
            os.unlink(path)


def _editor() -> list[str]:
    import shutil

    for name in ("VISUAL", "EDITOR"):
        with suppress(ValueError):  # quotes that nobody closes
            command = shlex.split(os.environ.get(name, ""))
            if command:
                return command
    for editor in DEFAULT_EDITORS:
        if shutil.which(editor) is not None:
            return [editor]
    raise ADEDError("no editor was found: set EDITOR to the name of one")


def _run(command: list[str]) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the editor's
    try:
        listen = _listen if os.name == "posix" else None
        code = subprocess.run(command, check=False, preexec_fn=listen).returncode
    finally:
        signal.signal(signal.SIGINT, before)
    if code:
        raise ADEDError(f"{command[0]} ended with {code}: nothing is sent")


def _listen() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
