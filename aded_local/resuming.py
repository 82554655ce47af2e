"""What a conversation that is kept has to do with a loaded model: what of it fits, and what is written of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import psutil

from aded_local.chat.detokenize import TextStream, showing
from aded_local.chat.messages import Message
from aded_local.conversations import (
    KeptCells,
    KeptConversation,
    KeptModel,
    StateRefused,
    Wanted,
    make_room,
    read,
    read_state,
    write,
    write_state,
)
from aded_local.conversations.record import Setting
from aded_local.engine import SAVED_SHARE, Engine
from aded_local.errors import ADEDError, EmptyPromptError, StoreError
from aded_local.files import given_path
from aded_local.llama import SavedCells
from aded_local.said import Said
from aded_local.speed.tuning import setting_of
from aded_local.trials import library

A_CONVERSATION: Final = "a conversation's file"
"""What a path is to be of, in the words of an error."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """A conversation that goes on.

    Attributes:
        conversation: as it was kept.
        cached: tokens in the cells again, which need not be read once more.
        refusal: why there are none; None where there are.
    """

    conversation: KeptConversation
    cached: int
    refusal: str | None


class Resumable(Said):
    """What a session can keep on disk and go on with."""

    @property
    def messages(self) -> list[Message]:
        """The conversation so far, with the last answer as far as it got; empty where the last prompt was no chat's
        messages."""
        return list(self._messages)

    def kept(
        self, messages: Sequence[Message] | None = None, *, settings: Mapping[str, Setting] | None = None
    ) -> KeptConversation:
        """The conversation as it would be kept; writes nothing.

        Args:
            messages: to keep in place of ``messages``.
            settings: of the answers, to be kept with them.

        Raises:
            EmptyPromptError: nothing was said.
            PromptError: a message is none.
            StoreError: the model's file cannot be read any more.
            BusyError: it is closed.
        """
        said = self.messages if messages is None else messages
        if not said:
            raise EmptyPromptError("there is no conversation to keep: nothing was asked in a chat yet")
        with self._access.reading():
            model = _model_of(self._engine)
        return KeptConversation.of(
            said, answers=self._answers, model=model, settings=settings, created=self._began
        )

    def save(
        self,
        path: str | Path,
        messages: Sequence[Message] | None = None,
        *,
        settings: Mapping[str, Setting] | None = None,
    ) -> str | None:
        """Keep the conversation in a JSON file, and beside it what the cells hold, so that it goes on at once later.

        Args:
            path: a new file, or that of a conversation, which is replaced.
            messages, settings: as for ``kept``.

        Returns:
            Why the cells are not kept with it, so that its text is read again; None where they are.

        Raises:
            StoreError: the file cannot be written, or is something else.
            OptionError: ``path`` is no path.
            EmptyPromptError, PromptError, BusyError
        """
        to = given_path("path", path, A_CONVERSATION)
        kept = self.kept(messages, settings=settings)
        write(to, kept, lasting=True)
        return self.save_cells(to)

    def save_cells(self, path: Path) -> str | None:
        """Write what the cells hold beside a conversation that is kept already; see ``save``."""
        if self.kept_bytes() > SAVED_SHARE * psutil.virtual_memory().available:
            return "there is no memory for a copy of the cells"
        try:
            return _keep_cells(self._engine, self.copy_cells(), path)
        except StoreError as error:
            return str(error)

    def load(self, path: str | Path) -> Resumed:
        """Go on with a kept conversation: ``messages`` are its messages then, and nothing is read again if its state
        fits.

        Raises:
            StoreError: there is none, or it cannot be read. What was said before stays then.
            OptionError: ``path`` is no path.
            BusyError: a generation is running.
        """
        found = given_path("path", path, A_CONVERSATION)
        kept = read(found)
        cells, refusal = None, None
        with self._access.reading():
            answers = _sound_answers(self._engine, kept)
            try:
                cells = _read_cells(self._engine, found)
            except StateRefused as error:
                refusal = str(error)
        cached, untaken = self._go_on(kept, answers, cells)
        return Resumed(kept, cached, refusal or untaken)

    def _go_on(
        self, kept: KeptConversation, answers: Mapping[str, tuple[int, ...]], cells: KeptCells | None
    ) -> tuple[int, str | None]:
        """Have said what was kept.

        Returns:
            Tokens that the cells hold then, and why they did not take ``cells``.
        """
        engine = self._engine
        refusal = None
        with self._access.alone():
            self._saved = self._like = None
            engine.seat(self)
            engine.target.forget()
            self._forget()
            if cells is not None:
                refusal = _take_cells(engine, cells)
                self._said = np.array(engine.target.cached, np.int32)
            for text, ids in answers.items():
                self._remember(text, ids)
            self._messages, self._began = list(kept.messages), kept.created
            return len(engine.target.cached), refusal


def _model_of(engine: Engine) -> KeptModel:
    """The loaded model, as a conversation that is kept names it.

    Raises:
        StoreError: its file cannot be read any more.
    """
    model = engine.model
    identity = model.identity
    return KeptModel(
        identity.name, str(model.path.absolute()), model.quantization, identity.tokenizer, model.weights
    )


def _sound_answers(engine: Engine, kept: KeptConversation) -> dict[str, tuple[int, ...]]:
    """Token ids of a kept conversation's answers, by their text, as far as they say just that text.

    Ids of another tokenizer mean nothing here, and ids that show nothing could be control tokens that nobody sees in
    the text. Such an answer's text is tokenized again.
    """
    known = kept.known_answers()
    model = engine.model
    if not known or kept.model is None or kept.model.tokenizer != model.identity.tokenizer:
        return {}
    try:
        markers = engine.template().prompt(kept.messages).style.markers
    except ADEDError:  # whoever asks next is told
        return {}
    piece = showing(model, markers)
    return {text: ids for text, ids in known.items() if _says(ids, text, piece, model.n_vocab)}


def _says(ids: Sequence[int], text: str, piece: Callable[[int], bytes], n_vocab: int) -> bool:
    if not all(token < n_vocab and piece(token) for token in ids):
        return False
    stream = TextStream(piece)
    return stream.feed(ids) + stream.flush() == text


def _read_cells(engine: Engine, conversation: Path) -> KeptCells:
    """What the cells held at the end of a kept conversation, if this model can go on with it.

    Raises:
        StateRefused: it cannot; the message says why.
    """
    model, options = engine.model, engine.options
    try:
        weights = model.weights
    except StoreError as error:
        raise StateRefused(str(error)) from error
    cells = read_state(
        conversation,
        Wanted(
            weights,
            library.build(),
            options.flash_attention,
            options.cache_type,
            engine.n_ctx,
            int(SAVED_SHARE * psutil.virtual_memory().available),
        ),
    )
    if int(cells.tokens.min()) < 0 or int(cells.tokens.max()) >= model.n_vocab:
        raise StateRefused("its state is damaged: it holds tokens that the model has not")
    return cells


def _take_cells(engine: Engine, cells: KeptCells) -> str | None:
    """Put a state back into the seated session's cells, which are empty; tells why they stay so."""
    setting = setting_of(engine.target.settings)._replace(
        flash_attention=cells.flash_attention, cache_type=cells.cache_type
    )
    if not engine.take_setting(setting):
        return f"its state was computed in {setting.name}, which was not measured here"
    tokens = cells.tokens.tolist()
    engine.target.restore(SavedCells(engine.target.settings, tokens, cells.state))
    return None if len(engine.target.cached) == len(tokens) else "llama.cpp did not take its state"


def _keep_cells(engine: Engine, saved: SavedCells, conversation: Path) -> str | None:
    """Write what cells held beside a kept conversation; tells why not, where there is nothing, or too much.

    Raises:
        StoreError: they cannot be written.
    """
    if not saved.tokens:
        return "the cells hold nothing"
    reason = make_room(conversation, saved.state.nbytes)
    if reason is None:
        settings = saved.settings
        write_state(
            conversation,
            KeptCells(
                engine.model.weights,
                library.build(),
                settings.flash_attention,
                settings.cache_type,
                np.array(saved.tokens, np.int32),
                saved.state,
            ),
        )
    return reason
