"""A model's earlier conversations: bounded, shared by all programs of a person, and theirs to look at and erase."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from aded_local.errors import StoreError
from aded_local.files import data_folder, failure
from aded_local.llama.identity import SUFFIX, Identity
from aded_local.memory.database import UNUSABLE, Contents, Database, Kind, labels_in
from aded_local.memory.exchange import Exchange
from aded_local.memory.usefulness import most_useful

FOLDER = "memory"
"""In the data folder."""

EARLIER_SUFFIX = ".memory"
"""Of a file by a version of aded-local before SQLite; it is not read, only erased."""

EARLIER = "is a memory of an earlier version of aded-local and is not read; `aded-store erase` removes it"

_LEFT_OVER = re.compile(r".+-[0-9a-f]{12}(\.sqlite\.damaged-\d.*|\.memory(\.(lock|damaged-\d+|new-\d+))?)")

LARGEST_TOKENS = 1_000_000
"""Tokens a memory holds at most: read and learnt in about a second, at every start."""

PRUNED_SHARE = 0.8
"""Share of that left by pruning, so that it is not done again after every answer."""

OVERLAP = 16
"""Tokens kept before the place where a prompt leaves what was said before, so that what follows there is learnt: as
many as the longest context a drafter looks at."""


def memory_folder() -> Path:
    """Where memories lie.

    Raises:
        StoreError: there is no such place.
    """
    return data_folder() / FOLDER


def memories(folder: Path | None = None) -> list[Path]:
    """Files of all memories in ``folder``, by default ``memory_folder()``, by name; none where there is no folder.

    Raises:
        StoreError: the folder cannot be read.
    """
    folder = memory_folder() if folder is None else folder
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == SUFFIX)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise failure("list", folder, error, otherwise="set ADED_DATA_DIR") from error


def is_left_over(path: Path) -> bool:
    """Whether a file's name says that it was set aside from a memory, or is one of an earlier version."""
    return _LEFT_OVER.fullmatch(path.name) is not None


@dataclass(frozen=True, slots=True)
class Facts:
    """What a memory holds.

    Attributes:
        path: the file.
        identity: what it belongs to.
        exchanges: number of prompts with their answers.
        tokens: in all of them.
        bytes: size of the file and its log; 0 where there is none yet.
        first, last: seconds since 1970 of the oldest and the newest exchange; None without any.
        damaged: exchanges that cannot be read, as far as they can be counted; at least 1 in a damaged file.
        beside: files set aside because they were damaged or of another model, or left by an earlier version.
    """

    path: Path
    identity: Identity
    exchanges: int
    tokens: int
    bytes: int
    first: int | None
    last: int | None
    damaged: int
    beside: tuple[Path, ...]


class ConversationMemory:
    """What was said with one model.

    Several programs may append at the same time; each sees the others' exchanges when it reads again.

    Args:
        identity: what it belongs to.
        path: the file; by default the identity's own in ``memory_folder()``. The first append makes it.

    Raises:
        StoreError: there is no place for it.
    """

    def __init__(self, identity: Identity, path: Path | None = None) -> None:
        self.identity = identity
        self.path = memory_folder() / identity.file_name if path is None else path
        self._file = Database(self.path, identity.labels())
        self._tokens = 0  # as last read, and appended since

    @classmethod
    def open(cls, identity: Identity, notice: Callable[[str], None]) -> ConversationMemory | None:
        """The memory of a model about to be used: set right if it is damaged, pruned if it is too large.

        Args:
            identity: of the model.
            notice: told in one line what went wrong.

        Returns:
            None where nothing can be remembered.
        """
        try:
            memory = cls(identity)
            for line in memory._set_right():
                notice(line)
        except StoreError as error:
            notice(f"conversations are not remembered: {error}")
            return None
        try:
            memory._keep_bound()
        except StoreError as error:
            notice(f"the memory is larger than it should be: {error}")
        return memory

    @classmethod
    def at(cls, path: Path) -> ConversationMemory:
        """The memory in a file, without its model.

        Raises:
            StoreError: there is none, it cannot be read, or it is something else.
        """
        if path.suffix == EARLIER_SUFFIX and path.is_file():
            raise StoreError(f"{path} {EARLIER}")
        try:
            labels = labels_in(path)
        except FileNotFoundError:
            raise StoreError(f"there is no memory {path}; check the path") from None
        except OSError as error:
            raise failure("read", path, error, otherwise="set ADED_DATA_DIR") from error
        try:
            identity: Identity | None = Identity.from_labels(labels)
        except KeyError:
            identity = Identity.from_file_name(path)
        if identity is None:
            raise StoreError(f"{path} is not a memory of aded-local; check the path")
        return cls(identity, path)

    # --- reading -----------------------------------------------------------------------------------

    def exchanges(self) -> list[Exchange]:
        """All that can be read: conversations by their beginning, oldest first; none where there is no file yet.

        ``continues`` holds for the exchange just before: it is taken back where that one was dropped or damaged.

        Raises:
            StoreError: the file cannot be read, or is of another version or model.
        """
        return _linked(self._read().exchanges)

    def inspect(self) -> Facts:
        """What the memory holds.

        Raises:
            StoreError: as ``exchanges``.
        """
        contents = self._read()
        times = [exchange.when for exchange in contents.exchanges]
        return Facts(
            path=self.path,
            identity=self.identity,
            exchanges=len(contents.exchanges),
            tokens=_tokens(contents.exchanges),
            bytes=contents.size,
            first=min(times, default=None),
            last=max(times, default=None),
            damaged=contents.damaged,
            beside=tuple([*self._file.beside(), *self._earlier()]),
        )

    def _read(self) -> Contents:
        contents = self._file.read()
        self._refuse(contents)
        return contents

    def _refuse(self, contents: Contents) -> None:
        if contents.kind in (Kind.OTHER_VERSION, Kind.FOREIGN):
            raise StoreError(f"{self.path} {contents.kind.value}; move it away, or erase it")

    def _earlier(self) -> list[Path]:
        """What a version before SQLite left of this model."""
        name = self.path.name.removesuffix(SUFFIX) + EARLIER_SUFFIX
        with contextlib.suppress(OSError):
            return sorted(path for path in self.path.parent.iterdir() if path.name.startswith(name))
        return []

    # --- writing -----------------------------------------------------------------------------------

    def remember(
        self, prompt: Sequence[int], answer: Sequence[int], *, known: int, conversation: int, turn: int
    ) -> None:
        """Append what was just said.

        Args:
            prompt: token ids of the whole prompt.
            answer: token ids the model emitted.
            known: tokens at its beginning that were said before: in the exchange before, which holds them, or with
                ``turn`` 0 in another conversation.
            conversation: number of the conversation, uint32; two programs must not choose the same.
            turn: number of the exchange within it, from 0.

        Raises:
            StoreError: it could not be written; the memory is as before.
        """
        asked, said = np.array(prompt, np.int32), np.array(answer, np.int32)
        with self._file.writing() as rows:
            continues = turn > 0 and rows.holds(conversation, turn - 1)
            start = 0
            if continues:
                start = known
            elif turn == 0 and known < len(asked) and rows.any():
                # Templates that leave out earlier thoughts, and questions below one long system prompt. A question
                # asked again word for word is kept word for word: see ``usefulness``.
                start = max(0, known - OVERLAP)
            exchange = Exchange(asked[start:], said, continues, int(time.time()), conversation, turn)
            rows.add([exchange])
        self._grown(exchange)

    def append(self, exchange: Exchange) -> None:
        """Append an exchange as it is.

        Raises:
            StoreError: it could not be written; the memory is as before.
        """
        with self._file.writing() as rows:
            rows.add([exchange])
        self._grown(exchange)

    def _grown(self, exchange: Exchange) -> None:
        self._tokens += exchange.tokens
        with contextlib.suppress(StoreError):  # pruning is left to the next start, which tells of it
            self._keep_bound()

    def _keep_bound(self) -> None:
        if self._tokens > LARGEST_TOKENS:
            room = int(PRUNED_SHARE * LARGEST_TOKENS)
            self._tokens = room  # should pruning fail, it is not tried again after every answer
            self.prune(room)

    def prune(self, tokens: int) -> int:
        """Drop the least useful exchanges until ``tokens`` are left at most, and what is damaged with them.

        Returns:
            How many exchanges were dropped.

        Raises:
            StoreError: the file could not be written; it is as before.
        """
        self._set_right()
        if not self._tokens:
            return 0
        with self._file.writing("prune") as rows:
            dropped, kept = rows.keep(lambda exchanges: most_useful(exchanges, tokens))
        self._tokens = _tokens(kept)
        self._file.shrink()
        return dropped

    def erase(self) -> list[Path]:
        """Remove the file, all that was set aside from it, and what an earlier version left of it.

        While another program uses the file, an empty one stays; that program goes on with it.

        Returns:
            The files removed or emptied.

        Raises:
            StoreError: something could not be removed.
        """
        self._tokens = 0
        gone = self._file.erase()
        for path in self._earlier():
            try:
                path.unlink()
            except OSError as error:
                raise failure("erase", path, error) from error
            gone.append(path)
        return gone

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        self._file.close()

    def _set_right(self) -> list[str]:
        """Set a file aside that cannot be used, and count what is there.

        Returns:
            What to tell, in lines.
        """
        told = []
        contents = self._file.read()
        if contents.kind in UNUSABLE:
            moved = self._file.set_aside()
            if moved is not None:
                aside, saved = moved
                rest = "" if contents.kind is Kind.FOREIGN else f"; exchanges saved from it: {saved}"
                told.append(f"{self.path} {contents.kind.value}: it is now {aside.name}{rest}")
                contents = self._file.read()
        self._refuse(contents)
        self._tokens = _tokens(contents.exchanges)
        if contents.kind is Kind.ABSENT:  # said once: the first answer makes a file
            told += [f"{path} {EARLIER}" for path in self._earlier() if path.suffix == EARLIER_SUFFIX]
        return told


def _tokens(exchanges: Sequence[Exchange]) -> int:
    return sum(exchange.tokens for exchange in exchanges)


def _linked(exchanges: Sequence[Exchange]) -> list[Exchange]:
    """The same, conversations one after another, and ``continues`` only where the exchange it means stands before."""
    begun: dict[int, int] = {}
    for number, exchange in enumerate(exchanges):
        begun.setdefault(exchange.conversation, number)
    linked: list[Exchange] = []
    before: tuple[int, int] | None = None
    for exchange in sorted(exchanges, key=lambda exchange: begun[exchange.conversation]):
        follows = before == (exchange.conversation, exchange.turn - 1)
        before = (exchange.conversation, exchange.turn)
        linked.append(exchange if follows or not exchange.continues else replace(exchange, continues=False))
    return linked
