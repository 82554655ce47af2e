"""What was said in one conversation, as token ids: what the drafter knows of it, and which cells hold it."""

from __future__ import annotations

import secrets
from collections import OrderedDict

import numpy as np

from aded_local.chat.messages import Message
from aded_local.continuation import Continuation, common_prefix
from aded_local.engine import Engine
from aded_local.llama import SavedCells
from aded_local.request import token_ids
from aded_local.step import NO_TOKENS, Beginning
from aded_local.tree import IntArray

REMEMBERED_ANSWERS = 512
"""Answers whose own token ids are kept, so that a later turn does not tokenize their text again."""


class Said:
    """What a session has said, and a copy of its cells while another one has them."""

    def __init__(self, engine: Engine, number: int, like: Said | None = None) -> None:
        """Nothing was said; arguments as of ``Session``."""
        self._engine = engine
        self._access = engine.access
        self._number = number
        self._answers: OrderedDict[str, tuple[int, ...]] = OrderedDict() if like is None else like._answers
        self._saved: SavedCells | None = None
        self._like = like
        self._forget()

    def _forget(self) -> None:
        self._said = NO_TOKENS  # prompt and answer, as last decoded
        self._messages: list[Message] = []  # the last chat, as far as it was one of messages
        self._began: int | None = None  # seconds since 1970
        self._is_learnt = False  # the drafter knows all of it
        self._conversation = secrets.randbits(32)
        self._turn = 0

    # --- what was said -----------------------------------------------------------------------------

    def _beginning(self, prompt: IntArray, goes_on: Continuation) -> Beginning:
        """What the drafter has to be told of a prompt."""
        if not self._is_learnt:
            return Beginning(self._number, NO_TOKENS, prompt)
        past = self._said[: goes_on.past]
        return Beginning(self._number, past, prompt[goes_on.known :], undone=len(self._said) - len(past))

    def _keep(
        self,
        prompt: IntArray,
        emitted: list[int],
        goes_on: Continuation,
        *,
        is_learnt: bool,
    ) -> None:
        """Take note of an exchange, also of one that was stopped."""
        if not goes_on.follows:
            self._conversation, self._turn = secrets.randbits(32), 0
        self._engine.remember(
            prompt,
            emitted,
            known=goes_on.known if goes_on.follows else goes_on.shared,
            conversation=self._conversation,
            turn=self._turn,
        )
        self._turn += 1
        self._said = np.concatenate((prompt, np.array(emitted, np.int32)))
        # Where a step was interrupted, nobody knows what was learnt of it.
        self._is_learnt = is_learnt and self._engine.target.is_sure and self._engine.target.n_cells > 0

    def _remember(self, text: str, answer: tuple[int, ...]) -> None:
        self._answers[text] = answer
        self._answers.move_to_end(text)
        while len(self._answers) > REMEMBERED_ANSWERS:
            self._answers.popitem(last=False)

    # --- what its cells hold -----------------------------------------------------------------------

    def overlap(self, prompt: IntArray) -> tuple[int, int]:
        """How far a prompt says again what this session's cells, or the copy of them, hold.

        Call it between answers.

        Args:
            prompt: all its token ids, int32 ``(n,)``.

        Returns:
            Tokens that both begin with, and tokens in the cells: none where no copy of them could be kept.
        """
        if self._engine.has_seat(self):
            held = len(self._engine.target.cached)
        else:
            held = 0 if self._saved is None else len(self._saved.tokens)
        return min(common_prefix(self._said, prompt), held), held

    def kept_bytes(self) -> int:
        """Bytes that the copy of its cells takes, or would take were another session to answer next.

        Raises:
            BusyError: a generation is running.
        """
        if self._engine.has_seat(self):
            with self._access.alone():
                return self._engine.target.saved_size()
        return 0 if self._saved is None else self._saved.state.nbytes

    @property
    def said(self) -> list[int]:
        """Token ids of the last prompt and of what was answered, an end token included; empty before the first."""
        tokens: list[int] = self._said.tolist()
        return tokens

    # --- leaving and coming back -------------------------------------------------------------------

    def copy_cells(self) -> SavedCells:
        """A copy of what its cells hold, to go on from later in this process.

        Raises:
            BusyError: a generation is running.
        """
        engine = self._engine
        with self._access.alone():
            engine.seat(self)
            return engine.target.save()

    def put_cells(self, saved: SavedCells) -> None:
        """Go on from what ``copy_cells`` gave. Where cells and settings do not fit, the next prompt is decoded whole.

        Raises:
            BusyError: a generation is running.
            PromptError: its tokens are none of this model's.
        """
        engine = self._engine
        said = token_ids(saved.tokens, engine.model.n_vocab)
        with self._access.alone():
            engine.seat(self)
            engine.put_back(saved)
            self._forget()
            self._said = np.array(said, np.int32)

    def leave(self) -> None:
        """Another session takes the cells: keep a copy of them, where there is memory for it."""
        self._saved = self._engine.copy_of_cells()

    def come_back(self) -> None:
        """Take the cells again."""
        saved, self._saved = self._saved, None
        like, self._like = self._like, None
        self._engine.put_back(like._saved if saved is None and like is not None else saved)
