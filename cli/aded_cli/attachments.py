"""Files that go with the next message."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .texts import read_text

LANGUAGES = {
    ".py": "python",
    ".js": "javascript",
    ".ts": "typescript",
    ".rs": "rust",
    ".sh": "bash",
    ".md": "markdown",
}
"""Names of languages that are not those of their files' endings."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file's name, text, and path, links resolved."""

    name: str
    text: str
    path: str = ""

    def as_markdown(self) -> str:
        """The text in a fence that nothing in it closes, below the file's name."""
        longest = max((len(run) for run in re.findall("`{3,}", self.text)), default=2)
        fence = "`" * max(3, longest + 1)
        ending = os.path.splitext(self.name)[1].lower()
        return f"{self.name}:\n{fence}{LANGUAGES.get(ending, ending[1:])}\n{self.text}\n{fence}"


def attachment(path: str) -> Attachment:
    """A file, read.

    Raises:
        click.UsageError: see ``texts.read_text``.
    """
    place = os.path.expanduser(path)
    return Attachment(os.path.basename(path), read_text(place, path), os.path.realpath(place))


_FENCED: Final = re.compile(r"([^\n]+):\n(`{3,})[^\n`]*\n(?:.*?\n)??\2(?:\n\n|\Z)", re.DOTALL)
"""A file in front of a message, as ``Attachment.as_markdown`` writes it."""


def without_files(message: str) -> str:
    """A message as it was typed: of the files that went with it only the names."""
    names = []
    at = 0
    while (found := _FENCED.match(message, at)) is not None:
        names.append(found[1])
        at = found.end()
    return "".join(f"[{name}] " for name in names) + message[at:]


def with_files(message: str, files: Sequence[Attachment]) -> str:
    """A message behind the files that go with it."""
    return "\n\n".join([*(file.as_markdown() for file in files), message])
