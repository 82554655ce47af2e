"""One conversation on a loaded model: what was said in it, its answers' own tokens, and who may stop them.

Several sessions may share a model, by turns. Its cells hold one of them; those of the others are copied aside, so that
a turn decodes only what is new in it.
"""

from __future__ import annotations

import functools
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar, cast

import numpy as np
from typing_extensions import Unpack

from aded_local.access import ENDED, Cancelling
from aded_local.chat.detokenize import TextStream
from aded_local.chat.segments import text_tokens
from aded_local.chat.template import Message
from aded_local.continuation import Continuation, common_prefix, continuation
from aded_local.decode import FINISHED_STOP, Tally, generate
from aded_local.errors import BusyError, ContextOverflowError, EmptyPromptError
from aded_local.llama import SavedCells
from aded_local.request import Options, Request, token_ids
from aded_local.result import Piece, Reply, cancelled_piece, joined, stats_of
from aded_local.speed.tuning import setting_of
from aded_local.step import NO_TOKENS, Beginning
from aded_local.tree import IntArray

if TYPE_CHECKING:
    from aded_local.engine import Engine

P = ParamSpec("P")
R = TypeVar("R")

REMEMBERED_ANSWERS = 512
"""Answers whose own token ids are kept, so that a later turn does not tokenize their text again."""


def _reading(method: Callable[Concatenate[Session, P], R]) -> Callable[Concatenate[Session, P], R]:
    """A method that reads the model and leaves its cache alone: beside an answer, and never beside closing."""

    @functools.wraps(method)
    def read(self: Session, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._engine.access.reading():
            return method(self, *args, **kwargs)

    return read


class Session:
    """One conversation. ``LocalADED.session`` makes one; every ``LocalADED`` has a first.

    One thread at a time uses a session. Answers of several sessions of a model take turns: one that is asked for while
    another session's is computed in another thread waits for it.
    """

    def __init__(self, engine: Engine, number: int, seed: int | None, like: Session | None = None) -> None:
        """An empty conversation.

        Args:
            engine: the loaded model.
            number: names it among the model's sessions.
            seed: of the random draws where a call gives none; None draws one per answer.
            like: see ``LocalADED.session``.
        """
        self._engine = engine
        self._number = number
        self._seed = seed
        self._cancelling = Cancelling()
        self._answers: OrderedDict[str, tuple[int, ...]] = OrderedDict() if like is None else like._answers
        self._saved: SavedCells | None = None
        self._like = like
        self._forget()

    def _forget(self) -> None:
        self._said = NO_TOKENS  # prompt and answer, as last decoded
        self._is_learnt = False  # the drafter knows all of it
        self._conversation = secrets.randbits(32)
        self._turn = 0

    # --- generating --------------------------------------------------------------------------------

    def generate(self, prompt: str | Sequence[int], **options: Unpack[Options]) -> Reply:
        """Continue ``prompt``; see ``stream``."""
        return joined(self.stream(prompt, **options))

    def chat(self, messages: Sequence[Message], **options: Unpack[Options]) -> Reply:
        """Answer a conversation; see ``stream_chat``."""
        return joined(self.stream_chat(messages, **options))

    @_reading
    def stream(self, prompt: str | Sequence[int], **options: Unpack[Options]) -> Generator[Piece, None, None]:
        """Continue ``prompt``, piece by piece.

        An answer is computed as it is read. One that is left half read (a ``break``, with the iterator kept) ends when
        the main thread, having read it, calls something else that needs the model; whoever reads on then meets a
        BusyError. In other threads it has to be closed or cancelled. Answers of two sessions wait for each other in
        threads of their own; in a pool, read an answer to its end in one call.

        Args:
            prompt: text, in which control-token texts stay text; or token ids, which may be anything.
            options: see ``request.Options``.

        Raises:
            PromptError, EmptyPromptError, ContextOverflowError, OptionError, BusyError, DeviceError
        """
        number, request = self._asked(options)
        if isinstance(prompt, str):
            tokens = self.text_tokens(prompt)
        else:
            tokens = token_ids(prompt, self._engine.model.n_vocab)
        return self._run(number, tokens, request, is_chat=False)

    @_reading
    def stream_chat(
        self, messages: Sequence[Message] | Sequence[int], **options: Unpack[Options]
    ) -> Generator[Piece, None, None]:
        """Answer a conversation, piece by piece, through the model's own chat template.

        Args:
            messages: ``role`` (system, user, assistant) and ``content`` of each turn, oldest first; a content
                is text, or a list of OpenAI's text parts, which become lines. An assistant turn with the text of an
                earlier answer is fed as the very tokens of that answer. Where the last turn is the assistant's, the
                answer goes on right behind its content, trailing white space included. Or the token ids that
                ``chat_tokens`` made of them.
            options: see ``request.Options``.

        Raises:
            As ``stream``; and TemplateError.
        """
        number, request = self._asked(options)
        if isinstance(messages, Sequence) and messages and isinstance(messages[0], int):
            tokens = token_ids(cast("Sequence[int]", messages), self._engine.model.n_vocab)
        else:
            tokens = self.chat_tokens(cast("Sequence[Message]", messages))
        return self._run(number, tokens, request, is_chat=True)

    @_reading
    def chat_tokens(self, messages: Sequence[Message]) -> list[int]:
        """The prompt a conversation becomes, as token ids, up to where the answer begins or goes on.

        Raises:
            PromptError, TemplateError, BusyError
        """
        template = self._engine.template()
        if isinstance(messages, Sequence) and not messages:
            raise EmptyPromptError("the conversation is empty; add a user message")
        segments = template.render(messages, known_answers=self._answers)
        return template.to_tokens(segments, self._engine.model)

    @_reading
    def text_tokens(self, text: str) -> list[int]:
        """The prompt a text becomes, as token ids; control-token texts in it stay text.

        Raises:
            BusyError: it is closed.
        """
        return text_tokens(text, self._engine.model) if text else []

    def count_chat_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens a conversation takes as a prompt; errors as in ``chat_tokens``."""
        return len(self.chat_tokens(messages))

    def _asked(self, options: Options) -> tuple[int, Request]:
        self._engine.access.require_open()
        number = self._cancelling.ask()
        return number, Request.of(options, self._engine.model.suggested_sampling(), self._seed)

    def _run(
        self, number: int, tokens: list[int], request: Request, *, is_chat: bool
    ) -> Generator[Piece, None, None]:
        n_ctx = self._engine.n_ctx
        if not tokens:
            raise EmptyPromptError("the prompt is empty; write something to answer")
        if len(tokens) >= n_ctx:
            raise ContextOverflowError(
                f"the prompt has {len(tokens)} tokens and the context holds {n_ctx}; "
                "shorten it or raise -c (n_ctx)"
            )
        return self._read(number, self._steps(number, tokens, request, is_chat))

    def _read(self, number: int, steps: Generator[Piece, None, None]) -> Generator[Piece, None, None]:
        """Hand out what ``steps`` computes, alone with the model until the last piece is there."""
        access = self._engine.access
        is_cancelled = functools.partial(self._cancelling.is_cancelled, number)
        use = access.begin(steps, owner=self, is_cancelled=is_cancelled)
        if use is None:
            yield cancelled_piece()
            return
        try:
            while True:
                use.is_read_here()
                piece = next(steps, None)
                if piece is None and is_cancelled():
                    piece = cancelled_piece()
                if piece is None:
                    raise BusyError(ENDED)
                if piece.finish_reason is not None:
                    break
                yield piece
        finally:
            steps.close()
            access.end(use)
        self._engine.scheduler.leave_a_moment()
        yield piece

    def _steps(
        self, number: int, tokens: list[int], request: Request, is_chat: bool
    ) -> Generator[Piece, None, None]:
        engine = self._engine
        started = time.perf_counter()
        engine.seat(self)
        model = engine.model
        limit = min(request.max_tokens or engine.n_ctx, engine.n_ctx - len(tokens) + 1)
        tally = Tally()
        text = TextStream(model.piece, request.stop)
        prompt = np.array(tokens, np.int32)
        goes_on = continuation(self._said, prompt)
        n_cached = common_prefix(np.array(engine.target.cached, np.int32), prompt)
        engine.suit(len(tokens), n_cached, limit)
        emitted: list[int] = []
        written: list[str] = []
        idle = pause = 0.0
        last = ""
        steps = generate(
            engine.target,
            engine.planner_in_use,
            engine.threads_in_use(),
            request.sampling,
            tokens,
            self._beginning(prompt, goes_on),
            limit,
            tally,
            functools.partial(self._cancelling.is_cancelled, number),
            started,
        )
        try:
            for step in steps:
                idle += pause  # only now: the time that is told of ends with the last step
                emitted += step
                last = text.feed([token for token in step if not model.is_end(token)])
                if text.stopped:
                    tally.finish_reason = FINISHED_STOP
                    break
                written.append(last)
                paused = time.perf_counter()
                yield Piece(last, text.take_tokens())
                pause = time.perf_counter() - paused
        finally:
            steps.close()
            if emitted:
                self._keep(prompt, emitted, goes_on, is_learnt=not engine.plain)
            elif engine.target.n_cells == 0 or not engine.target.is_sure:
                # It was interrupted while the drafter was told of the prompt.
                self._is_learnt = False
        last = last if text.stopped else text.flush()
        if is_chat and not text.stopped:
            answer = tuple(token for token in emitted if not model.is_end(token))
            self._remember("".join(written) + last, answer)
        engine.answered(tally.plain_passes)
        yield Piece(
            last,
            text.take_tokens(),
            tally.finish_reason,
            stats_of(
                tally,
                idle,
                setting_of(engine.target.settings).name,
                same_words=engine.is_exact or tally.drafted == 0,
                answer_tokens=text.n_read,
            ),
        )

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
            with self._engine.access.alone():
                return self._engine.target.saved_size()
        return 0 if self._saved is None else self._saved.state.nbytes

    @property
    def said(self) -> list[int]:
        """Token ids of the last prompt and of what was answered, an end token included; empty before the first."""
        tokens: list[int] = self._said.tolist()
        return tokens

    # --- leaving and coming back -------------------------------------------------------------------

    def save(self) -> SavedCells:
        """A copy of what its cells hold, to go on from later; for this model, in this process or another.

        Raises:
            BusyError: a generation is running.
        """
        engine = self._engine
        with engine.access.alone():
            engine.seat(self)
            return engine.target.save()

    def load(self, saved: SavedCells) -> None:
        """Go on from what ``save`` gave. Where cells and settings do not fit, the next prompt is decoded whole.

        Raises:
            BusyError: a generation is running.
            PromptError: its tokens are none of this model's.
        """
        engine = self._engine
        said = token_ids(saved.tokens, engine.model.n_vocab)
        with engine.access.alone():
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

    # --- ending ------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Stop the answers asked for so far, after the current step; from any thread or a signal handler.

        That is the one under way, and one of which nothing has been read yet. Where there is none, nothing happens:
        what is asked for later is answered.
        """
        self._cancelling.cancel()

    def reset(self) -> None:
        """Forget the conversation: cache and remembered answers. What the drafter learnt stays.

        Raises:
            BusyError: a generation is running.
        """
        with self._engine.access.alone():
            self._saved = None
            if self._engine.has_seat(self):
                self._engine.target.forget()
            self._answers.clear()
            self._forget()
