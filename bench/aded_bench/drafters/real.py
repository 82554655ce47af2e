"""A model's own answers, and what it finds likely after anything else: real logits, decoded once and kept.

Where logits do not depend on the size of a pass, what the model finds likely after some tokens is a fact about those
tokens. So each is decoded once, in passes of exact size, and every way to draft is measured on the same facts.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from aded_local.continuation import common_prefix
from aded_local.errors import OptionError, StoreError
from aded_local.files import replacing
from aded_local.kernels.top_k import new_rows, top_k_rows, warm_up
from aded_local.llama import Target
from aded_local.llama.layout import Layout
from aded_local.step import Likely
from aded_local.tree import EMPTY_TREE, ROOT, DraftTree, FloatArray, IntArray, chain

WIDEST: Final = 16
"""Tokens of a pass. Up to here all sizes are equal to the last bit where a setting is exact at all."""

Way = tuple[int, ...]
Key = tuple[int, Way]
Row = tuple[IntArray, FloatArray]


@dataclass
class RealText:
    """A prompt, the model's own greedy answer, and what it finds likely in places that were asked for.

    Attributes:
        tokens: prompt and answer.
        start: tokens of the prompt.
        rows: the likeliest tokens and their shares after the first so many tokens and a path that leaves the text
            at once; the path is empty on the text itself.
    """

    id: str
    category: str
    tokens: list[int]
    start: int
    rows: dict[Key, Row] = field(default_factory=dict)

    def key(self, at: int, path: Way) -> Key:
        """Where ``path`` after the first ``at`` tokens leaves the text, and the rest of it."""
        n = 0
        while n < len(path) and at + n < len(self.tokens) and path[n] == self.tokens[at + n]:
            n += 1
        return at + n, path[n:]


class World(Protocol):
    """What a draft meets."""

    def look(self, tokens: Sequence[int], tree: DraftTree) -> Likely:
        """What the model finds likely after ``tokens``, the root of the tree the last of them, and each node."""
        ...

    def take(self, tree: DraftTree, path: list[int]) -> None:
        """The nodes of ``path`` were accepted."""
        ...


class Speaker:
    """A model that answers greedily, and is asked what else it finds likely.

    Attributes:
        passes: decoded.
        parted: by text, how often a pass found another token likeliest than an earlier one in the same place.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.passes = 0
        self.parted: dict[str, int] = {}
        warm_up()

    def write(self, name: str, category: str, prompt: Sequence[int], most: int) -> RealText:
        """Answer a prompt plainly, one token per pass, with ``most`` tokens at most."""
        text = RealText(name, category, list(prompt), len(prompt))
        self.target.forget()  # what is likely within the prompt is wanted too
        self.bring(text, len(prompt) - 1)
        token, end = -1, len(prompt) + most
        while len(text.tokens) < end and not self.is_end(token):
            likely = self.decode(text.tokens[-1], EMPTY_TREE, [])
            self._keep(text, (len(text.tokens), ()), likely, 0)
            token = int(likely.tokens[0, 0])
            text.tokens.append(token)
        return text

    def is_end(self, token: int) -> bool:
        """Whether a token ends an answer."""
        return token >= 0 and self.target.model.is_end(token)

    def bring(self, text: RealText, n: int) -> None:
        """Let the cache hold the first ``n`` tokens; what is likely after each of them is kept."""
        target, tokens = self.target, text.tokens
        target.trim(common_prefix(np.array(target.cached, np.int32), np.array(tokens[:n], np.int32)))
        while (start := target.n_cells) < n:
            end = min(n, start + WIDEST)
            tree = chain(np.array(tokens[start + 1 : end], np.int32), np.ones(end - start - 1, np.float32))
            likely = self.decode(tokens[start], tree, list(range(len(tree))))
            for row in range(end - start):
                self._keep(text, (start + 1 + row, ()), likely, row)

    def decode(self, root: int, tree: DraftTree, path: list[int]) -> Likely:
        """One pass, of which ``path`` is kept."""
        layout, likely = self.verify(root, tree)
        self.target.accept(root, tree, layout, path)
        return likely

    def verify(self, root: int, tree: DraftTree) -> tuple[Layout, Likely]:
        """One pass, of which nothing is kept yet."""
        layout, _ = self.target.verify(root, tree)
        rows = np.array([0, *layout.row_of], np.int32)
        likely = Likely(*new_rows(len(rows)))
        top_k_rows(self.target.verified_logits(), rows, likely.tokens, likely.shares)
        self.passes += 1
        return layout, likely

    def _keep(self, text: RealText, key: Key, likely: Likely, row: int) -> None:
        found = likely.tokens[row].copy(), likely.shares[row].copy()
        if text.rows.setdefault(key, found)[0][0] != found[0][0]:
            self.parted[text.id] = self.parted.get(text.id, 0) + 1

    def learn(self, text: RealText, at: int, paths: Iterable[Way]) -> None:
        """Decode what is likely after the first ``at`` tokens and each path that leaves the text there."""
        for piece in pieces(paths):
            self.bring(text, at - 1)
            likely = self.decode(text.tokens[at - 1], tree_of(piece), [])
            for row, path in enumerate(((), *piece)):
                self._keep(text, (at, path), likely, row)


def pieces(paths: Iterable[Way]) -> list[list[Way]]:
    """Paths with all their beginnings, parents first, in parts small enough for a pass."""
    found: list[dict[Way, None]] = []
    for path in paths:
        way = [path[:n] for n in range(1, len(path) + 1)]
        if not found or len(found[-1] | dict.fromkeys(way)) > WIDEST - 1:
            found.append({})
        found[-1] |= dict.fromkeys(way)
    return [list(piece) for piece in found]


def tree_of(paths: Sequence[Way]) -> DraftTree:
    """The tree of these paths, parents first."""
    place = {path: i for i, path in enumerate(paths)}
    return DraftTree(
        np.array([path[-1] for path in paths], np.int32),
        np.array([place.get(path[:-1], ROOT) for path in paths], np.int32),
        np.array([len(path) for path in paths], np.int32),
        np.ones(len(paths), np.float32),
    )


@dataclass
class Remembered:
    """A world in which a pass is looked up; only what nobody asked for before is decoded."""

    speaker: Speaker
    text: RealText

    def look(self, tokens: Sequence[int], tree: DraftTree) -> Likely:
        text, at = self.text, len(tokens)
        keys = [text.key(at, ())]
        paths: list[Way] = []
        for parent, token in zip(tree.parents.tolist(), tree.tokens.tolist(), strict=True):
            paths.append((*(paths[parent] if parent != ROOT else ()), token))
            keys.append(text.key(at, paths[-1]))
        missing: dict[int, dict[Way, None]] = {}
        for place, path in keys:
            if (place, path) not in text.rows:
                missing.setdefault(place, {})[path] = None
        for place, unknown in missing.items():
            self.speaker.learn(text, place, unknown)
        rows = [text.rows[key] for key in keys]
        return Likely(np.stack([row[0] for row in rows]), np.stack([row[1] for row in rows]))

    def take(self, tree: DraftTree, path: list[int]) -> None:
        pass


class Decoded:
    """A world in which every tree is decoded whole in one pass, as the engine does."""

    def __init__(self, speaker: Speaker, text: RealText) -> None:
        self._speaker = speaker
        self._verified: tuple[int, Layout] | None = None
        speaker.bring(text, text.start)

    def look(self, tokens: Sequence[int], tree: DraftTree) -> Likely:
        layout, likely = self._speaker.verify(tokens[-1], tree)
        self._verified = tokens[-1], layout
        return likely

    def take(self, tree: DraftTree, path: list[int]) -> None:
        assert self._verified is not None
        root, layout = self._verified
        self._speaker.target.accept(root, tree, layout, path)


def save(path: Path, texts: Sequence[RealText], origin: str) -> None:
    """Write texts with their rows; ``origin`` says what they depend on.

    Raises:
        StoreError: it cannot be written; what was there stays.
    """
    where, ways, tokens, shares = [], list[int](), [], []
    for index, text in enumerate(texts):
        for (at, way), (likeliest, share) in text.rows.items():
            where.append((index, at, len(way)))
            ways += way
            tokens.append(likeliest)
            shares.append(share)
    try:
        with replacing(path) as file:
            np.savez_compressed(
                file,
                origin=np.array(origin),
                names=np.array([(text.id, text.category) for text in texts]),
                starts=np.array([(text.start, len(text.tokens)) for text in texts], np.int32),
                texts=np.array([token for text in texts for token in text.tokens], np.int32),
                where=np.array(where, np.int32),
                ways=np.array(ways, np.int32),
                tokens=np.stack(tokens),
                shares=np.stack(shares),
            )
    except OSError as error:
        raise StoreError(f"{path} was not written: {error.strerror or error}") from None


def load(path: Path, origin: str) -> list[RealText]:
    """Read what ``save`` wrote.

    Raises:
        StoreError: it cannot be read, or is something else.
        OptionError: it is of another origin.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
        of = str(found["origin"])
        texts, end = [], 0
        for (name, category), (start, length) in zip(
            found["names"].tolist(), found["starts"].tolist(), strict=True
        ):
            texts.append(RealText(name, category, found["texts"][end : end + length].tolist(), start))
            end += length
        ways, end = found["ways"].tolist(), 0
        for (index, at, length), likeliest, shares in zip(
            found["where"].tolist(), found["tokens"], found["shares"], strict=True
        ):
            texts[index].rows[at, tuple(ways[end : end + length])] = (likeliest, shares)
            end += length
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, LookupError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error):
        raise StoreError(f"{path} is no file of --logits; name another") from None
    if of != origin:
        raise OptionError(f"{path} holds logits of {of}, not of {origin}; name another file")
    return texts
