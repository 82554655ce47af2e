"""A model's earlier conversations: bounded, shared by all programs of a person, and theirs to look at and erase."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aded_local.errors import StoreError
from aded_local.files import data_folder, read_ends
from aded_local.llama.identity import SUFFIX, Identity
from aded_local.memory.records import (
    LONGEST_HEADER,
    UNUSABLE,
    Contents,
    Exchange,
    Kind,
    RecordFile,
    parse_header,
)
from aded_local.memory.writing import failure

FOLDER = "memory"
"""In the data folder."""

LARGEST_TOKENS = 1_000_000
"""Tokens a memory holds at most: read and learnt in about a second, at every start."""

PRUNED_SHARE = 0.8
"""Share of that left by pruning, so that it is not done again after every answer."""

YOUNG_SHARE = 0.25
"""Share of the room kept for the newest exchanges, whatever their use: it could not show yet."""

GRAM = 4
"""Tokens in a row that must come again to count as a use: the shortest run worth drafting."""

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
        raise StoreError(
            f"cannot list {folder}: {error.strerror or error}; check its permissions, or set ADED_DATA_DIR"
        ) from error


@dataclass(frozen=True, slots=True)
class Facts:
    """What a memory holds.

    Attributes:
        path: the file.
        identity: what it belongs to.
        exchanges: number of prompts with their answers.
        tokens: in all of them.
        bytes: size of the file; 0 where there is none yet.
        first, last: seconds since 1970 of the oldest and the newest exchange; None without any.
        damaged_bytes: bytes of the file that belong to no sound record.
        beside: files set aside because they were damaged or of another model, and unfinished rewrites.
    """

    path: Path
    identity: Identity
    exchanges: int
    tokens: int
    bytes: int
    first: int | None
    last: int | None
    damaged_bytes: int
    beside: tuple[Path, ...]


class ConversationMemory:
    """What was said with one model.

    Several programs may append at the same time; each sees the others' exchanges when it reads again.
    Not thread-safe within one program.

    Args:
        identity: what it belongs to.
        path: the file; by default the identity's own in ``memory_folder()``. The first append makes it.

    Raises:
        StoreError: there is no place for it.
    """

    def __init__(self, identity: Identity, path: Path | None = None) -> None:
        self.identity = identity
        self.path = memory_folder() / identity.file_name if path is None else path
        self._file = RecordFile(self.path, identity.labels())
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
        try:
            beginning, _, _ = read_ends(path, LONGEST_HEADER, 0)
        except FileNotFoundError:
            raise StoreError(f"there is no memory {path}; check the path") from None
        except OSError as error:
            raise failure("read", path, error) from error
        header = parse_header(beginning)
        identity = Identity.from_file_name(path)
        if header is not None:
            with contextlib.suppress(KeyError):
                identity = Identity.from_labels(header[1])
        if identity is None:
            raise StoreError(f"{path} is not a memory of aded-local; check the path")
        return cls(identity, path)

    # --- reading -----------------------------------------------------------------------------------

    def exchanges(self) -> list[Exchange]:
        """All that can be read, oldest first; none where there is no file yet.

        ``continues`` holds for the exchange just before: it is taken back where that one was dropped or damaged, or
        where another program's came between.

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
            tokens=sum(exchange.tokens for exchange in contents.exchanges),
            bytes=contents.size,
            first=min(times, default=None),
            last=max(times, default=None),
            damaged_bytes=contents.damaged,
            beside=tuple(self._file.beside()),
        )

    def _read(self) -> Contents:
        contents = self._file.read()
        self._refuse(contents)
        return contents

    def _refuse(self, contents: Contents) -> None:
        if contents.kind is Kind.OTHER_VERSION:
            raise StoreError(
                f"{self.path} was written by another version of aded-local; use that one, or erase the file"
            )
        if contents.kind is Kind.FOREIGN:
            raise StoreError(f"{self.path} belongs to another model; move it away, or erase it")

    # --- writing -----------------------------------------------------------------------------------

    def remember(
        self, prompt: Sequence[int], answer: Sequence[int], *, known: int, conversation: int, turn: int
    ) -> None:
        """Append what was just said.

        Args:
            prompt: token ids of the whole prompt.
            answer: token ids the model emitted.
            known: so many tokens of the prompt were said before, and are not kept again.
            conversation: its number.
            turn: how many exchanges of it came before.

        Raises:
            StoreError: it could not be written; the memory is as before.
        """
        asked = np.array(prompt, np.int32)
        # Asked again word for word, it is kept word for word: see ``usefulness``.
        start = known if turn else (0 if known == len(asked) else max(0, known - OVERLAP))
        self.append(
            Exchange(
                asked[start:], np.array(answer, np.int32), turn > 0, int(time.time()), conversation, turn
            )
        )

    def append(self, exchange: Exchange) -> None:
        """Append an exchange as it is, and prune when there are more than ``LARGEST_TOKENS`` then.

        Pruning that fails is left to the next start, which tells of it.

        Raises:
            StoreError: it could not be written; the memory is as before.
        """
        self._file.append(exchange)
        self._tokens += exchange.tokens
        with contextlib.suppress(StoreError):
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
            StoreError: the file could not be rewritten; it is as before.
        """
        self._set_right()
        kept: list[Exchange] = []

        def choose(exchanges: list[Exchange]) -> list[Exchange]:
            kept.extend(most_useful(exchanges, tokens))
            return kept

        before = self._file.rewrite(choose)
        self._tokens = sum(exchange.tokens for exchange in kept)
        return len(before.exchanges) - len(kept)

    def erase(self) -> list[Path]:
        """Remove the file and all that was set aside from it. A program that uses it begins a new one.

        Returns:
            The files removed.

        Raises:
            StoreError: something could not be removed.
        """
        self._tokens = 0
        return self._file.erase()

    def _set_right(self) -> list[str]:
        """Set a file aside that cannot be used, and count what is there.

        Returns:
            What to tell, in lines.
        """
        told = []
        found = self._file.read()
        if found.kind in UNUSABLE:
            moved = self._file.set_aside()
            if moved is not None:
                aside, saved = moved
                reason = {
                    Kind.FOREIGN: "belongs to another model",
                    Kind.TOO_LARGE: f"has {found.size:,} bytes, far more than a memory",
                }.get(found.kind, "was damaged")
                rest = "" if found.kind is Kind.FOREIGN else f"; exchanges saved from it: {saved}"
                told.append(f"{self.path} {reason}: it is now {aside.name}{rest}")
            found = self._file.read()
        self._refuse(found)
        self._tokens = sum(exchange.tokens for exchange in found.exchanges)
        return told


def most_useful(exchanges: Sequence[Exchange], tokens: int) -> list[Exchange]:
    """The exchanges to keep where there is room for ``tokens``, in their order.

    The newest stay; of the others the least useful go first, the oldest first where none was of use. Use is
    counted per token kept: room is what they compete for.
    """
    sizes = np.array([exchange.tokens for exchange in exchanges], np.int64)
    total = int(sizes.sum())
    if total <= tokens:
        return list(exchanges)
    upto = np.cumsum(sizes[::-1])[::-1]  # tokens from here to the newest
    young = (upto - sizes < YOUNG_SHARE * tokens) & (upto <= tokens)
    keep = np.ones(len(exchanges), np.bool_)
    for i in np.argsort(usefulness(exchanges) / np.maximum(sizes, 1), kind="stable"):
        if total <= tokens:
            break
        if not young[i]:
            keep[i] = False
            total -= int(sizes[i])
    return [exchange for exchange, kept in zip(exchanges, keep, strict=True) if kept]


def usefulness(exchanges: Sequence[Exchange]) -> npt.NDArray[np.float64]:
    """How often each answer would have helped to draft a later one, float64 ``(n,)``.

    A run of ``GRAM`` tokens that comes again in a later answer counts for the newest earlier answer that holds it,
    once per later answer. An exchange said again word for word has no use (-1); what it earned counts for the last
    time it was said.
    """
    n = len(exchanges)
    answers = [exchange.answer for exchange in exchanges]
    tokens = np.concatenate([np.zeros(0, np.int32), *answers]).astype(np.uint64)
    owners = np.repeat(np.arange(n), [len(answer) for answer in answers])
    n_runs = max(0, len(tokens) - GRAM + 1)
    runs = np.zeros(n_runs, np.uint64)
    for k in range(GRAM):
        runs = (runs ^ tokens[k : k + n_runs]) * np.uint64(0x9E3779B97F4A7C15)
        runs ^= runs >> np.uint64(29)
    inside = owners[:n_runs] == owners[GRAM - 1 :][:n_runs]  # not across two answers
    runs, owners = runs[inside], owners[:n_runs][inside]
    order = np.argsort(runs, kind="stable")  # equal runs stay oldest first
    runs, owners = runs[order], owners[order]
    again = (runs[1:] == runs[:-1]) & (owners[1:] != owners[:-1])
    use = np.bincount(owners[:-1][again], minlength=n).astype(np.float64)
    last: dict[tuple[bytes, bytes], int] = {}
    for i in range(n - 1, -1, -1):
        twin = last.setdefault((exchanges[i].prompt.tobytes(), exchanges[i].answer.tobytes()), i)
        if twin != i:
            use[twin] += use[i]
            use[i] = -1.0
    return use


def _linked(exchanges: Sequence[Exchange]) -> list[Exchange]:
    """The same, with ``continues`` only where the exchange it means stands just before."""
    linked: list[Exchange] = []
    before: Exchange | None = None
    for exchange in exchanges:
        follows = before is not None and (exchange.conversation, exchange.turn - 1) == (
            before.conversation,
            before.turn,
        )
        before = exchange
        linked.append(exchange if follows or not exchange.continues else replace(exchange, continues=False))
    return linked
