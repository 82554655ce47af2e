"""A text that a draft model has read, and a tree of ways on below it, in one cache.

Every branch is a sequence, and several grow in one decode. A cell carries the sequences of all branches that run
through it. A new branch costs no computing: the cells of its path get one more sequence. Sequences that no branch uses
carry the beginning of the text only; they get the rest when they are needed, since llama.cpp looks at all cells for
each change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from aded_local.continuation import common_prefix
from aded_local.llama.context import Context
from aded_local.llama.context_settings import LARGEST_PASS, ContextSettings
from aded_local.llama.model import Model
from aded_local.tree import IntArray

SEQUENCES: Final = 16
"""Branches at a time. A token costs a draft model about as much as in a pass of its own, so no draft has more."""

READING_CHUNK: Final = 128
"""Tokens of a text that are read in one decode, beside whatever else runs."""

LEAD: Final = 32
"""Tokens of the text that a question may decode on its way, in the same batch. More are read before."""

MOST_ROWS: Final = LARGEST_PASS - 1
"""Places that one decode may tell of."""

Path = tuple[int, ...]
"""Tokens behind the last one of the text; empty for what follows the text itself."""


class Place:
    """A token that was decoded, or is about to be: the end of the text, or one below it."""

    __slots__ = ("children", "parent", "position", "sequences", "token")

    def __init__(self, token: int, position: int, parent: Place | None, sequences: list[int]) -> None:
        self.token = token
        self.position = position
        self.parent = parent
        self.sequences = (
            sequences  # as decoded; the first one runs on through the place for as long as it stands
        )
        self.children: dict[int, Place] = {}

    def below(self) -> Iterator[Place]:
        """This place and all below it."""
        waiting = [self]
        while waiting:
            place = waiting.pop()
            yield place
            waiting.extend(place.children.values())


class Branches:
    """See this module's first line. One thread at a time uses it.

    Args:
        model: a model whose memory is a cache; not closed with it.
        n_ctx: cells, for text and branches.
        n_threads: CPU threads.
        n_sequences: branches at a time.

    Attributes:
        text: what continuations are asked for; its last token may not be decoded yet.
        n_read: so many of its tokens are in the cells.

    Raises:
        DeviceError: llama.cpp could not make the context.
    """

    def __init__(self, model: Model, *, n_ctx: int, n_threads: int, n_sequences: int = SEQUENCES) -> None:
        self.context = Context(
            model,
            ContextSettings(
                n_ctx=n_ctx,
                n_threads=n_threads,
                flash_attention=False,
                cache_type="f16",
                n_sequences=n_sequences,
            ),
        )
        self._n_sequences = n_sequences
        self.clear()

    def close(self) -> None:
        """Free the context; the weights stay."""
        self.context.close()

    def clear(self) -> None:
        """Forget the text and all below it."""
        self.context.clear()
        self.text: list[int] = []
        self.n_read = 0
        self._end = Place(-1, -1, None, [0])
        self._tips: list[Place | None] = [None] * self._n_sequences
        self._tips[0] = self._end
        self._carried = [0] * self._n_sequences  # of a sequence without a branch: cells of the text

    @property
    def room(self) -> int:
        """Cells that are free."""
        return self.context.n_ctx - self.n_read - self.n_below

    @property
    def n_below(self) -> int:
        """Places below the text."""
        return sum(1 for _ in self._end.below()) - 1

    @property
    def unread(self) -> int:
        """Tokens of the text that are not in the cells."""
        return len(self.text) - self.n_read

    @property
    def top(self) -> Place | None:
        """The place of the text's last token; None where it is not decoded."""
        return None if self.unread or not self.text else self._end

    # --- the text ------------------------------------------------------------------------------------

    def follow(self, text: IntArray) -> None:
        """Another text, int32 ``(n,)``, not empty: what both begin with stays, save its last token."""
        kept = min(common_prefix(np.array(self.text[: self.n_read], np.int32), text), len(text) - 1)
        self.context.drop(-1, kept)
        for sequence, tip in enumerate(self._tips):
            carried = self.n_read if tip is not None else self._carried[sequence]
            self._carried[sequence] = min(carried, kept)
        self.text = text.tolist()
        self.n_read = kept
        first = self._end.sequences[0]
        self._end = Place(self.text[kept - 1] if kept else -1, kept - 1, None, [first])
        self._tips = [None] * self._n_sequences
        self._tips[first] = self._end

    def read(self) -> int:
        """Read a chunk of what is unread before the text's last token; returns its tokens.

        Raises:
            DeviceError: llama.cpp refused; everything is forgotten.
        """
        start, stop = self.n_read, min(self.n_read + READING_CHUNK, len(self.text) - 1)
        if stop <= start:
            return 0
        sequence = self._end.sequences[0]
        self._decode(self.text[start:stop], range(start, stop), [[sequence]] * (stop - start), 0)
        self._end = Place(self.text[stop - 1], stop - 1, None, [sequence])
        self._tips[sequence] = self._end
        self.n_read = stop
        return stop - start

    def _decode(
        self, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[Sequence[int]], wanted: int
    ) -> float:
        try:
            return self.context.decode_placed(tokens, positions, sequences, wanted)
        except BaseException:
            self.clear()
            raise

    # --- growing -------------------------------------------------------------------------------------

    def ask(self, paths: Sequence[Path]) -> tuple[list[tuple[Path, int]], float]:
        """Decode the places at the end of ``paths``, and those on the way that are new, in one batch.

        A path that would need a sequence, a row or a cell too many is left out.

        Args:
            paths: likeliest first; what is unread of the text, ``LEAD`` tokens at most, is the way to all of them.

        Returns:
            The paths of all new places with the rows where ``logits`` has what follows, valid until the next decode;
            and the seconds in llama.cpp.

        Raises:
            DeviceError: llama.cpp refused; everything is forgotten.
        """
        if self.unread > LEAD:
            return [], 0.0
        lead = self.text[self.n_read :]
        new: list[Place] = []
        named: list[tuple[Path, Place]] = []
        most = min(MOST_ROWS, self.room)
        for path in paths:
            self._grow((*lead, *path), len(lead), most, new, named)
        self._give_sequences(new)
        if not new:
            return [], 0.0
        seconds = self._decode(
            [place.token for place in new],
            [place.position for place in new],
            [place.sequences for place in new],
            len(new) - max(0, len(lead) - 1),
        )
        if lead:
            self._end = new[len(lead) - 1]  # places are in the order of growing, and all lie behind these
            self._end.parent = None
            self.n_read = len(self.text)
        rows = {id(place): row for row, place in enumerate(new)}
        return [(path, rows[id(place)]) for path, place in named if id(place) in rows], seconds

    def logits(self, row: int) -> npt.NDArray[np.float32]:
        """What follows a place by its row, a view: float32 ``(n_vocab,)``."""
        return self.context.logits(row)

    def _grow(
        self, steps: Path, n_lead: int, most: int, new: list[Place], named: list[tuple[Path, Place]]
    ) -> None:
        """Put the places of a path into the tree, without sequences yet."""
        place, known = self._end, 0
        while known < len(steps) and steps[known] in place.children:
            place = place.children[steps[known]]
            known += 1
        if len(new) + len(steps) - known > most:
            return
        for depth in range(known, len(steps)):
            below = Place(steps[depth], place.position + 1, place, [])
            place.children[below.token] = below
            new.append(below)
            if depth >= n_lead - 1:
                named.append((steps[n_lead : depth + 1], below))
            place = below

    def _give_sequences(self, new: list[Place]) -> None:
        """A sequence for each branch that ends among ``new``; places that get none leave the tree, and the list."""
        fresh = set(map(id, new))
        for leaf in new:
            if leaf.children:
                continue
            way = []
            place: Place = leaf
            while place.parent is not None and id(place) in fresh:
                way.append(place)
                place = place.parent
            # A sequence that ends at the parent goes on; else a free one takes the way down to it.
            sequence = next((s for s in place.sequences if self._tips[s] is place), None)
            if sequence is None:
                sequence = self._branch_off(place)
            if sequence is None:
                continue
            self._tips[sequence] = leaf
            for each in way:
                each.sequences.append(sequence)
        for place in reversed(new):
            if not place.sequences and place.parent is not None:
                del place.parent.children[place.token]
        new[:] = [place for place in new if place.sequences]

    def _branch_off(self, place: Place) -> int | None:
        """A free sequence that has the cells of the text and those down to ``place``; None without one."""
        sequence = next((s for s, tip in enumerate(self._tips) if tip is None), None)
        if sequence is None:
            return None
        if self._carried[sequence] < self.n_read:
            self.context.share(self._end.sequences[0], sequence, self._carried[sequence], self.n_read)
        if place.position >= self.n_read:
            self.context.share(place.sequences[0], sequence, self.n_read, place.position + 1)
        self._carried[sequence] = self.n_read
        return sequence

    # --- going on ------------------------------------------------------------------------------------

    def advance(self, tokens: Sequence[int]) -> int:
        """The text went on with ``tokens``: what lies below them stays, all other places go.

        Returns:
            Places that went.
        """
        place, n = self._end, 0
        if not self.unread:
            while n < len(tokens) and tokens[n] in place.children:
                place = place.children[tokens[n]]
                n += 1
        before = self.n_below
        self.text.extend(tokens)
        stays = n == len(tokens) and not (self.unread - len(tokens))
        if not stays:
            place.children = {}
        kept = {id(each) for each in place.below()}
        first = place.sequences[0]
        for sequence, tip in enumerate(self._tips):
            if tip is None or id(tip) in kept:
                continue
            if sequence == first:
                self.context.drop(sequence, place.position + 1)
                self._tips[sequence] = place
            else:
                self.context.drop(sequence, self.n_read)
                self._tips[sequence] = None
                self._carried[sequence] = self.n_read
        place.parent = None
        self._end = place
        self.n_read = place.position + 1
        return before - n - (len(kept) - 1)
