"""Reading a corpus: files, folders and standard input as a stream of texts, in bounded memory."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from aded_local.errors import StoreError
from aded_local.files import failure

STDIN: Final = "-"

PIECE: Final = 1 << 18
"""Bytes of a text at most; longer ones are cut at a line end where there is one. What must fit into memory."""

LONGEST_LINE: Final = 1 << 26
"""Bytes of a line of JSONL at most."""

SNIFFED: Final = 8192
"""Bytes at the beginning of a file where a zero byte tells that it is no text."""

FIELDS: Final = ("text", "output", "answer", "content", "messages")
"""Of a JSON object the first of these that is there, unless a field is named."""

_GZIP_MAGIC: Final = b"\x1f\x8b"


def _silent(_done: int) -> None:
    return


@dataclass
class Corpus:
    """Files to be read, and what became of them.

    Attributes:
        files: in order; ``STDIN`` for standard input.
        wanted: field of JSON objects; None for the first of ``FIELDS``.
        as_jsonl: every file is JSONL, whatever its name.
        tell: called with the bytes read from the disk so far.
        total: bytes on the disk; None where a file has no size.
        read: (name, bytes of text) of every file that gave some.
        binary, unreadable: files left out, because they are no text or may not be read.
        not_utf8: files with bytes that were replaced.
        without_field: lines of JSONL left out.
        lines: of JSONL that were read.
    """

    files: list[str]
    wanted: str | None = None
    as_jsonl: bool = False
    tell: Callable[[int], None] = _silent
    total: int | None = 0
    read: list[tuple[str, int]] = field(default_factory=list)
    binary: int = 0
    unreadable: int = 0
    not_utf8: int = 0
    without_field: int = 0
    lines: int = 0
    _done: int = 0
    _given: frozenset[str] = frozenset()

    @classmethod
    def at(cls, paths: Sequence[str], *, field: str | None = None, as_jsonl: bool = False) -> Corpus:
        """The files at ``paths``, and those in folders among them, by name; hidden ones only when named.

        Raises:
            StoreError: a path that is not there, or no file or folder; standard input twice.
        """
        files: list[str] = []
        total: int | None = 0
        for path in paths:
            if path == STDIN:
                files.append(path)
                total = None
                continue
            mode, size = _kind(path)
            if stat.S_ISDIR(mode):
                for inside, bytes_inside in _files_below(path):
                    files.append(inside)
                    total = None if total is None else total + bytes_inside
            else:
                files.append(path)
                total = None if total is None or stat.S_ISFIFO(mode) else total + size
        if files.count(STDIN) > 1:
            raise StoreError("- reads all of standard input, so it can be given only once")
        given = frozenset(paths)
        return cls(files, wanted=field, as_jsonl=as_jsonl, total=total, _given=given)

    def texts(self) -> Iterator[str]:
        """All texts, at most ``PIECE`` bytes each.

        Raises:
            StoreError: a file that was named cannot be read, or one is damaged.
        """
        for name in self.files:
            before = self._done
            count = 0
            try:
                for text, size in self._texts_of(name):
                    count += size
                    yield text
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise StoreError(f"{name} is damaged: {error}; pack it again, or leave it out") from error
            except OSError as error:
                if name in self._given:
                    raise failure("read", name, error, otherwise="leave it out") from error
                self.unreadable += 1
            if name != STDIN:
                self._done = before + _size(name)
                self.tell(self._done)
            if count:
                self.read.append(("standard input" if name == STDIN else os.path.basename(name), count))

    def _texts_of(self, name: str) -> Iterator[tuple[str, int]]:
        """Texts and their bytes."""
        with _opened(name) as raw:
            packed = raw.peek(2)[:2] == _GZIP_MAGIC
            data: Any = gzip.GzipFile(fileobj=raw) if packed else raw
            before = self._done
            plain = name.removesuffix(".gz").lower()
            if self.as_jsonl or plain.endswith((".jsonl", ".ndjson")):
                found = self._from_jsonl(name, data)
            else:
                found = self._from_text(data)
            for text, size in found:
                yield text, size
                self.tell(before + _position(raw))

    # --- running text --------------------------------------------------------------------------------

    def _from_text(self, data: Any) -> Iterator[tuple[str, int]]:
        rest = data.read(PIECE)
        if b"\0" in rest[:SNIFFED]:
            self.binary += 1
            return
        rest = rest.removeprefix(b"\xef\xbb\xbf")
        damaged = False
        while rest:
            block = rest + data.read(PIECE + 1 - len(rest))
            end = _cut(block) if len(block) > PIECE else len(block)
            text, rest = block[:end], block[end:]
            decoded, replaced = _decoded(text)
            damaged |= replaced
            if decoded.strip():
                yield decoded, len(text)
        self.not_utf8 += damaged

    # --- JSONL ---------------------------------------------------------------------------------------

    def _from_jsonl(self, name: str, data: Any) -> Iterator[tuple[str, int]]:
        damaged = False
        number = 0
        while line := data.readline(LONGEST_LINE + 1):
            number += 1
            if len(line) > LONGEST_LINE:
                raise StoreError(f"{name}, line {number:,}: longer than {LONGEST_LINE >> 20} MiB; split it")
            decoded, replaced = _decoded(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)
            damaged |= replaced
            if not decoded.strip():
                continue
            try:
                parts = _texts_in(json.loads(decoded), self.wanted)
            except (ValueError, RecursionError) as error:
                reason = getattr(error, "msg", "nested too deeply")
                raise StoreError(f"{name}, line {number:,} is no JSON: {reason}; mend or drop it") from error
            self.lines += 1
            if not parts:
                self.without_field += 1
            for part in parts:
                for piece in _short(part):
                    yield piece, len(piece.encode("utf-8", "replace"))
        self.not_utf8 += damaged


def _kind(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except FileNotFoundError as error:
        raise StoreError(f"there is no file or folder {path}; check the path") from error
    except ValueError as error:
        raise StoreError(f"{path!r} is no path: {error}") from error
    except OSError as error:
        raise failure("read", path, error, otherwise="leave it out") from error
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode) or stat.S_ISFIFO(found.st_mode)):
        raise StoreError(f"{path} is neither a file nor a folder; give one that holds text")
    if stat.S_ISDIR(found.st_mode) and not os.access(path, os.R_OK | os.X_OK):
        raise StoreError(f"the folder {path} may not be read; change its permissions")
    return found.st_mode, found.st_size


def _files_below(folder: str) -> Iterator[tuple[str, int]]:
    """Regular files in a folder and below, by name, and their sizes; neither hidden ones nor linked folders."""
    for inside, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = os.path.join(inside, name)
            if not name.startswith(".") and os.path.isfile(path):
                yield path, _size(path)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


@contextlib.contextmanager
def _opened(name: str) -> Iterator[Any]:
    """A file, or standard input, which stays open."""
    if name != STDIN:
        with open(name, "rb") as file:
            yield file
        return
    if sys.stdin is None or sys.stdin.closed:
        raise StoreError("standard input is closed; give a file instead of -")
    stream: Any = sys.stdin.buffer  # it has what a raw stream has
    reader = io.BufferedReader(stream)
    try:
        yield reader
    finally:
        reader.detach()


def _position(raw: Any) -> int:
    try:
        return int(raw.tell())
    except (OSError, ValueError):  # a pipe
        return 0


def _decoded(raw: bytes) -> tuple[str, bool]:
    """The text, and whether something in it had to be replaced."""
    try:
        return raw.decode("utf-8"), False
    except UnicodeDecodeError:
        return raw.decode("utf-8", "replace"), True


def _cut(block: bytes) -> int:
    """Where to cut a block of more than ``PIECE`` bytes: behind its last line end, else between two characters."""
    end = block.rfind(b"\n", 0, PIECE) + 1
    if end:
        return end
    end = PIECE
    while end > PIECE - 4 and block[end] & 0xC0 == 0x80:  # inside a character
        end -= 1
    return end


def _short(text: str) -> Iterator[str]:
    """A text in pieces of at most ``PIECE`` characters, cut at line ends where there are some."""
    while len(text) > PIECE:
        end = text.rfind("\n", 0, PIECE) + 1 or PIECE
        yield text[:end]
        text = text[end:]
    if text.strip():
        yield text


def _texts_in(found: Any, name: str | None) -> list[str]:
    """The texts of a line of JSON: itself where it is a string; of an object the field wanted."""
    if isinstance(found, str):
        return [found]
    if not isinstance(found, dict):
        return []
    value = found.get(name) if name else next((found[key] for key in FIELDS if found.get(key)), None)
    return [text for text in _strings(value) if text.strip()]


def _strings(value: Any) -> list[str]:
    """A string; or all of a list: strings, messages ``{"content": …}``, and parts ``{"text": …}`` of such."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return _strings(value.get("content", value.get("text")))
    if isinstance(value, list):
        return [text for one in value for text in _strings(one)]
    return []
