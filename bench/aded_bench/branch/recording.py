"""What a target wrote and found likely, its hidden states, and what draft models say there and elsewhere.

A draft model's statement after some tokens is a fact about those tokens. So each is decoded once and kept, and every
mode of a simulation meets the same statements.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from aded_bench.drafters.real import Key, RealText, Row, Speaker, Way, load, save
from aded_bench.drafters.virtual import Step, open_speaker
from aded_local.errors import OptionError, StoreError
from aded_local.files import replacing
from aded_local.llama import Target
from aded_local.llama.layout import Layout
from aded_local.step import Likely
from aded_local.tree import EMPTY_TREE, DraftTree, chain

TARGET, STATES, DRAFT = "target.npz", "states.npz", "draft-{}.npz"
"""Files of a recording's folder."""

States = npt.NDArray[np.float16]

SAVE_EVERY: Final = 4000
"""Statements decoded between two saves: half a minute's work."""

Prompt = tuple[str, str, list[int]]
"""Name, category and token ids."""


class Listener(Speaker):
    """A target that answers, and whose hidden states are kept.

    Attributes:
        states: behind each token that was decoded alone, since ``listen``.
    """

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        target.read_hidden(True)
        self.states: list[npt.NDArray[np.float32]] = []

    def decode(self, root: int, tree: DraftTree, path: list[int]) -> Likely:
        """As a speaker does; what is decoded alone is a part of the answer."""
        found = super().decode(root, tree, path)
        if not len(tree):
            self.states.append(self.target.hidden_at(0))
        return found

    def answer(self, prompt: Prompt, most: int) -> tuple[RealText, States]:
        """The answer, and for each of its tokens the state that it was chosen from: float16 ``(n, n_hidden)``."""
        name, category, tokens = prompt
        self.states.clear()
        text = self.write(name, category, tokens, most)
        return text, np.array(self.states[-(len(text.tokens) - text.start) :], np.float16)


class Sayer(Speaker):
    """A draft model, whose statements have probabilities among all tokens in place of shares among those named."""

    def verify(self, root: int, tree: DraftTree) -> tuple[Layout, Likely]:
        """As a speaker does."""
        layout, found = super().verify(root, tree)
        logits = self.target.verified_logits()[[0, *layout.row_of]]
        largest = logits.max(axis=1, keepdims=True)
        first = 1.0 / np.exp(logits - largest).sum(axis=1)
        found.shares[:] *= (first / np.maximum(found.shares[:, 0], first))[:, None]
        return layout, found

    def go_on(self, text: RealText, at: int, path: Way, n: int) -> None:
        """Decode what is likely after a path that leaves the text at once, and along its ``n`` likeliest tokens."""
        self.bring(text, at - 1)
        tree = chain(np.array(path, np.int32), np.ones(len(path), np.float32))
        likely = self.decode(text.tokens[at - 1], tree, list(range(len(path))))
        for row in range(len(path) + 1):
            self._keep(text, (at, path[:row]), likely, row)
        for _ in range(n):
            path = (*path, int(likely.tokens[-1, 0]))
            likely = self.decode(path[-1], EMPTY_TREE, [])
            self._keep(text, (at, path), likely, 0)


@dataclass
class Draft:
    """What a draft model says in the course of texts that it did not write.

    Attributes:
        name: of the model.
        texts: the target's, with this model's statements, by id.
        speaker: decodes what nobody asked for before; None where the recording is all there is.
        folder: where statements are kept; None for nowhere.
        origin: what they depend on.
    """

    name: str
    texts: dict[str, RealText]
    speaker: Sayer | None = None
    folder: Path | None = None
    origin: str = ""
    _unsaved: int = field(default=0, repr=False)

    def says(self, text: RealText, at: int, path: Way) -> Row:
        """The likeliest tokens after the first ``at`` tokens of a text and ``path``, and their probabilities.

        Raises:
            OptionError: it was not recorded, and there is no model to ask.
        """
        own = self.texts[text.id]
        key = own.key(at, path)
        if key not in own.rows:
            self.learn(text, [key])
        return own.rows[key]

    def learn(self, text: RealText, keys: Sequence[Key], ahead: int = 0) -> None:
        """Decode what was not recorded of these places, those that leave the text at one token together.

        Args:
            keys: of places.
            ahead: tokens of the model's own chain behind each, whose places will be asked for next.

        Raises:
            OptionError: something is missing, and there is no model to ask.
        """
        own = self.texts[text.id]
        missing: dict[int, list[Way]] = {}
        for at, way in dict.fromkeys(keys):
            if (at, way) not in own.rows:
                missing.setdefault(at, []).append(way)
        if not missing:
            return
        if self.speaker is None:
            raise OptionError(f"the recording of {self.name} lacks a place that this simulation comes to")
        for at, ways in missing.items():
            if ahead:
                for way in ways:
                    self.speaker.go_on(own, at, way, ahead)
            else:
                self.speaker.learn(own, at, ways)
            self._unsaved += len(ways) * (1 + ahead)
        if self._unsaved >= SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Keep the statements, if there is a folder."""
        if self.folder is not None and self.speaker is not None:
            save(self.folder / DRAFT.format(self.name), list(self.texts.values()), self.origin)
        self._unsaved = 0


@dataclass(frozen=True)
class Recording:
    """What a target wrote.

    Attributes:
        texts: prompts and answers, with what the target found likely on them.
        states: by text, for each token of the answer the hidden state that it was chosen from.
    """

    texts: Sequence[RealText]
    states: dict[str, States]

    @property
    def n_hidden(self) -> int:
        """Numbers of a state."""
        return next((int(found.shape[1]) for found in self.states.values()), 0)


def record(
    model: Path,
    prompts: Sequence[Prompt],
    *,
    most: int,
    n_ctx: int,
    n_threads: int,
    folder: Path | None,
    origin: str,
    step: Step = lambda note: None,
) -> Recording:
    """Let the target answer greedily; what ``folder`` holds of the same origin is taken from there.

    Raises:
        ADEDError: the model cannot be used, or the folder holds another recording.
    """
    texts, states = _kept(folder, origin)
    known = {text.id for text in texts}
    missing = [prompt for prompt in prompts if prompt[0] not in known]
    if missing:
        speaker, close = open_speaker(model, n_ctx, n_threads)
        try:
            listener = Listener(speaker.target)
            for prompt in missing:
                text, found = listener.answer(prompt, most)
                texts.append(text)
                states[text.id] = found
                step(text.id)
        finally:
            close()
        if folder is not None:
            save(folder / TARGET, texts, origin)
            _save_states(folder / STATES, states)
    wanted = [prompt[0] for prompt in prompts]
    by_id = {text.id: text for text in texts}
    return Recording([by_id[name] for name in wanted], {name: states[name] for name in wanted})


def _kept(folder: Path | None, origin: str) -> tuple[list[RealText], dict[str, States]]:
    if folder is None or not (folder / TARGET).exists():
        return [], {}
    texts = load(folder / TARGET, origin)
    path = folder / STATES
    try:
        with np.load(path, allow_pickle=False) as file:
            states = {text.id: np.asarray(file[text.id], np.float16) for text in texts}
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, LookupError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
        raise StoreError(f"{path} holds no hidden states of {TARGET}; remove the folder's files") from None
    return texts, states


def _save_states(path: Path, states: dict[str, States]) -> None:
    arrays: dict[str, Any] = dict(states)
    try:
        with replacing(path) as file:
            np.savez_compressed(file, **arrays)
    except OSError as error:
        raise StoreError(f"{path} was not written: {error.strerror or error}") from None


@contextmanager
def listening(
    name: str,
    model: Path,
    recording: Recording,
    *,
    n_ctx: int,
    n_threads: int,
    folder: Path | None,
    origin: str,
) -> Iterator[Draft]:
    """A draft model that is asked as need be; its statements are kept at the end.

    Raises:
        ADEDError: the model cannot be used, or the folder holds other statements.
    """
    path = None if folder is None else folder / DRAFT.format(name)
    texts = {text.id: text for text in (load(path, origin) if path is not None and path.exists() else [])}
    for text in recording.texts:
        if text.id not in texts or texts[text.id].tokens != text.tokens:
            texts[text.id] = RealText(text.id, text.category, list(text.tokens), text.start)
    opened, close = open_speaker(model, n_ctx, n_threads)
    speaker = Sayer(opened.target)
    draft = Draft(name, texts, speaker, folder, origin)
    try:
        for text in recording.texts:
            own = texts[text.id]
            if any((at, ()) not in own.rows for at in range(own.start, len(own.tokens))):
                speaker.target.forget()
                speaker.bring(own, len(own.tokens) - 1)
        yield draft
    finally:
        draft.save()
        close()
