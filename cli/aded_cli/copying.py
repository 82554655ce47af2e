"""Text for the clipboard: by a program of the desktop, else by the terminal itself."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

from .rendering.blocks import Fence, fence_of, without_quotes

PROGRAMS: Final[Sequence[tuple[str | None, tuple[str, ...]]]] = (
    ("WAYLAND_DISPLAY", ("wl-copy",)),
    ("DISPLAY", ("xclip", "-selection", "clipboard")),
    ("DISPLAY", ("xsel", "--clipboard", "--input")),
    (None, ("pbcopy",)),
    (None, ("clip.exe",)),
)
"""Programs that take a text for the clipboard, each with the variable that says that there is one to reach."""

SECONDS: Final = 5.0
"""How long such a program may take. Chosen."""

LARGEST_SEQUENCE: Final = 74_994
"""Characters of base64 that terminals take in one OSC 52: xterm's limit, the smallest."""


def code_blocks(text: str) -> list[str]:
    """The blocks of code in an answer's Markdown, without their fences and the white space before them."""
    found: list[str] = []
    lines: list[str] = []
    fence: Fence | None = None
    for line in text.split("\n"):
        if fence is None:
            fence, lines = fence_of(line), []
        elif fence.is_closed_by(without_quotes(line, fence.quotes)):
            found.append("\n".join(lines))
            fence = None
        else:
            lines.append(fence.text_of(line))
    if fence is not None:  # the answer was cut
        found.append("\n".join(lines))
    return found


def copy(text: str) -> str:
    """Put a text on the clipboard; a line on how that was done, or why it was not."""
    program = _copied_by_program(text)
    if program is not None:
        return f"copied {_size(text)} ({program})"
    sequence = base64.b64encode(text.encode("utf-8", "replace")).decode("ascii")
    if len(sequence) > LARGEST_SEQUENCE:
        return f"not copied: {_size(text)} are more than a terminal takes, and no clipboard program is here"
    sys.stdout.write(_wrapped(f"\x1b]52;c;{sequence}\x07"))
    sys.stdout.flush()
    return (
        f"sent {_size(text)} to the terminal's clipboard (OSC 52; some terminals have to be told to allow it)"
    )


def _copied_by_program(text: str) -> str | None:
    if os.environ.get("SSH_CONNECTION"):  # its clipboard is not the person's
        return None
    for variable, command in PROGRAMS:
        if (variable is not None and not os.environ.get(variable)) or shutil.which(command[0]) is None:
            continue
        encoding = "utf-16-le" if command[0] == "clip.exe" else "utf-8"
        try:
            subprocess.run(
                command,
                input=text.encode(encoding, "replace"),
                stdout=subprocess.DEVNULL,  # xclip stays behind, and would keep a pipe open
                stderr=subprocess.DEVNULL,
                timeout=SECONDS,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            continue
        return command[0]
    return None


def _wrapped(sequence: str) -> str:
    """The sequence as tmux and screen hand it on to the terminal they run in."""
    if os.environ.get("TMUX"):
        return "\x1bPtmux;" + sequence.replace("\x1b", "\x1b\x1b") + "\x1b\\"
    if os.environ.get("TERM", "").startswith("screen"):
        return f"\x1bP{sequence}\x1b\\"
    return sequence


def _size(text: str) -> str:
    n = text.count("\n") + (not text.endswith("\n"))
    return f"{len(text):,} characters" + (f" in {n} lines" if n > 1 else "")
