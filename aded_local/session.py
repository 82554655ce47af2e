"""One conversation on a loaded model: what was said in it, its answers' own tokens, and who may stop them.

Several sessions may share a model, by turns. Its cells hold one of them; those of the others are copied aside, so that
a turn decodes only what is new in it.
"""

from __future__ import annotations

import functools
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import numpy as np
from typing_extensions import Unpack

from aded_local.access import ENDED, Asked, Cancelling
from aded_local.asking import Asking, ChatPrompt, Tools
from aded_local.chat.calling import Calling, ToolChoice, call_grammar
from aded_local.chat.detokenize import TextStream, showing
from aded_local.chat.messages import Message, checked_messages
from aded_local.chat.segments import text_tokens
from aded_local.chat.style import AnswerStyle
from aded_local.continuation import Continuation, common_prefix, continuation
from aded_local.conversations import KeptCells, KeptConversation
from aded_local.decode import FINISHED_STOP, Tally, generate
from aded_local.drafters import NOBODY
from aded_local.drafters.model.tally import ModelDrafting
from aded_local.errors import BusyError, ContextOverflowError, EmptyPromptError, OptionError
from aded_local.llama import SavedCells
from aded_local.logprobs import TokenLogprob, token_logprob
from aded_local.request import Options, Request, require_short, token_ids
from aded_local.result import Piece, cancelled_piece, stats_of
from aded_local.resuming import Resumable, take_cells
from aded_local.speed.planner import PlainPlanner
from aded_local.speed.tuning import setting_of
from aded_local.step import NO_TOKENS, Beginning
from aded_local.stream import Stream
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


class Session(Resumable, Asking):
    """One conversation. ``LocalADED.session`` makes one; every ``LocalADED`` has a first.

    One thread at a time uses a session, or several that ask with ``wait=True``. Answers of several sessions of a model
    take turns: one that is asked for while another session's is computed in another thread waits for it.
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
        self._messages: list[Message] = []  # the last chat, as far as it was one of messages
        self._began: int | None = None  # seconds since 1970
        self._is_learnt = False  # the drafter knows all of it
        self._conversation = secrets.randbits(32)
        self._turn = 0

    # --- generating --------------------------------------------------------------------------------

    @_reading
    def stream(self, prompt: str | Sequence[int], **options: Unpack[Options]) -> Stream:
        """Continue ``prompt``, piece by piece; see ``Asking.stream``."""
        asked, request = self._asked(options)
        if isinstance(prompt, str):
            self.require_short(prompt)
        n_vocab = self._engine.model.n_vocab
        tokens = self.text_tokens(prompt) if isinstance(prompt, str) else token_ids(prompt, n_vocab)
        return self._run(asked, tokens, request, None, [])

    @_reading
    def stream_chat(
        self,
        messages: Sequence[Message] | ChatPrompt,
        *,
        tools: Tools = None,
        tool_choice: ToolChoice | None = None,
        **options: Unpack[Options],
    ) -> Stream:
        """Answer a conversation, piece by piece; see ``Asking.stream_chat``."""
        asked_of: list[Message] = []
        if isinstance(messages, ChatPrompt):
            prompt = messages
        else:
            self.require_short([messages, tools])
            prompt = self.chat_prompt(messages, tools=tools, tool_choice=tool_choice)
            asked_of = [dict(message) for message in messages]
        if prompt.grammar is not None:
            if options.get("grammar") is not None or options.get("json_schema") is not None:
                raise OptionError(
                    "tool_choice asks for a call, so no grammar or schema can be asked for beside it"
                )
            options["grammar"] = prompt.grammar
        asked, request = self._asked(options)
        return self._run(asked, prompt.tokens, request, prompt.style, asked_of)

    @_reading
    def chat_prompt(
        self, messages: Sequence[Message], *, tools: Tools = None, tool_choice: ToolChoice | None = None
    ) -> ChatPrompt:
        """The prompt a conversation becomes; see ``Asking.chat_prompt``."""
        if isinstance(messages, Sequence) and not messages:
            raise EmptyPromptError("the conversation is empty; add a user message")
        calling, template = Calling.of(tools, tool_choice), self._engine.template()
        prompt = template.prompt(messages, tools=calling.tools, known_answers=self._answers)
        tokens = template.to_tokens(prompt.segments, self._engine.model)
        return ChatPrompt(tokens, prompt.style, call_grammar(calling, prompt.style))

    @_reading
    def text_tokens(self, text: str) -> list[int]:
        """The prompt a text becomes, as token ids; control-token texts in it stay text.

        Raises:
            BusyError: it is closed.
        """
        return text_tokens(text, self._engine.model) if text else []

    @_reading
    def require_short(self, given: object) -> None:
        """Refuse a prompt's texts before they are tokenized where no tokens of the context could spell them.

        Args:
            given: a text, or messages, or lists of these.

        Raises:
            ContextOverflowError: they are too long.
            BusyError: it is closed.
        """
        model = self._engine.model
        require_short(given, self._engine.n_ctx, lambda: model.longest_token)

    def _asked(self, options: Options) -> tuple[Asked, Request]:
        self._engine.access.require_open()
        model = self._engine.model
        asked = self._cancelling.ask()
        request = Request.of(options, model.suggested_sampling(), self._seed, model.n_vocab)
        return asked, self._with_grammar(request)

    def _with_grammar(self, request: Request) -> Request:
        """The request with its grammar compiled, which says what is wrong with it before anything is decoded."""
        if request.grammar is None and request.json_schema is None:
            return request
        from aded_local.llama.grammar import Grammar

        grammar = Grammar.of(self._engine.model, gbnf=request.grammar, schema=request.json_schema)
        return replace(request, steering=replace(request.steering, grammar=grammar))

    def _run(
        self,
        asked: Asked,
        tokens: list[int],
        request: Request,
        style: AnswerStyle | None,
        messages: list[Message],
    ) -> Stream:
        """Compute an answer, in ``style`` where it is a chat's, to ``messages`` where these are known."""
        self._require_fitting(tokens)
        steps = self._steps(asked, tokens, request, style, messages)
        return Stream(self._read(asked, steps, request.waits), asked)

    def _require_fitting(self, tokens: list[int]) -> None:
        n_ctx = self._engine.n_ctx
        if not tokens:
            raise EmptyPromptError("the prompt is empty; write something to answer")
        if len(tokens) >= n_ctx:
            raise ContextOverflowError(
                f"the prompt has {len(tokens)} tokens and the context holds {n_ctx}; "
                "shorten it or raise -c (n_ctx)"
            )

    def _read(
        self, asked: Asked, steps: Generator[Piece, None, None], waits: bool
    ) -> Generator[Piece, None, None]:
        """Hand out what ``steps`` computes, alone with the model until the last piece is there."""
        access = self._engine.access
        use = access.begin(steps, owner=self, is_cancelled=asked.is_cancelled, wait=waits)
        if use is None:
            yield cancelled_piece()
            return
        try:
            while True:
                use.is_read_here()
                piece = next(steps, None)
                if piece is None and asked.is_cancelled():
                    piece = cancelled_piece()
                if piece is None:
                    raise BusyError(ENDED)
                if piece.finish_reason is not None:
                    break
                yield piece
        finally:
            try:
                steps.close()
                access.end(use)
            finally:
                access.end(use)  # a Ctrl-C may have come in the lines above
        self._engine.scheduler.leave_a_moment()
        yield piece

    def _steps(
        self,
        asked: Asked,
        tokens: list[int],
        request: Request,
        style: AnswerStyle | None,
        messages: list[Message],
    ) -> Generator[Piece, None, None]:
        engine = self._engine
        started = time.perf_counter()
        engine.seat(self)
        model = engine.model
        limit = min(request.max_tokens or engine.n_ctx, engine.n_ctx - len(tokens) + 1)
        tally = Tally()
        model_did = engine.model_did()
        text = TextStream(model.piece if style is None else showing(model, style.markers), request.stop)
        likely: deque[TokenLogprob] | None = None if request.steering.logprobs is None else deque()
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
            PlainPlanner() if request.is_plain else engine.planner_in_use,
            engine.threads_in_use(),
            request.sampling,
            tokens,
            self._beginning(prompt, goes_on),
            limit,
            tally,
            asked.is_cancelled,
            started,
            request.steering,
            NOBODY if request.is_plain else engine.beside_in_use,
        )
        try:
            for step in steps:
                idle += pause  # only now: the time that is told of ends with the last step
                emitted += step
                if likely is not None:
                    likely.extend(tally.logprobs[len(emitted) - len(step) : len(emitted)])
                last = text.feed([token for token in step if not model.is_end(token)])
                if text.stopped:
                    tally.finish_reason = FINISHED_STOP
                    break
                written.append(last)
                paused = time.perf_counter()
                told = text.take_tokens()
                yield Piece(last, told, logprobs=_taken(likely, len(told)))
                pause = time.perf_counter() - paused
        finally:
            steps.close()
            self._messages = _answered(messages, "".join(written))
            self._began = self._began or int(time.time())
            if emitted:
                self._keep(prompt, emitted, goes_on, is_learnt=not (engine.plain or request.is_plain))
            elif engine.target.n_cells == 0 or not engine.target.is_sure:
                # It was interrupted while the drafter was told of the prompt.
                self._is_learnt = False
        last = last if text.stopped else text.flush()
        if style is not None and not text.stopped:
            answer = tuple(token for token in emitted if not model.is_end(token))
            self._remember("".join(written) + last, answer)
        self._messages = _answered(messages, "".join(written) + last)
        engine.answered(tally.plain_passes)
        told = text.take_tokens()
        yield Piece(
            last,
            told,
            tally.finish_reason,
            stats_of(
                tally,
                idle,
                setting_of(engine.target.settings).name,
                same_words=engine.is_exact or tally.drafted == 0,
                answer_tokens=text.n_read,
                draft_model=_since(engine.model_did(), model_did),
            ),
            _taken(likely, len(told)),
        )

    def prompt_logprobs(self, prompt: Sequence[int], n_top: int) -> list[TokenLogprob]:
        """How likely the model found the tokens of a prompt, all but the first; its cells hold them afterwards.

        Args:
            prompt: at least one token id.
            n_top: the number of likeliest tokens to tell beside each.

        Raises:
            PromptError, EmptyPromptError, ContextOverflowError, BusyError, DeviceError
        """
        engine = self._engine
        tokens = token_ids(prompt, engine.model.n_vocab)
        self._require_fitting(tokens)
        found: list[TokenLogprob] = []
        with engine.access.alone():
            engine.seat(self)
            for end, logits in engine.target.read(tokens):
                if end < len(tokens):
                    found.append(token_logprob(logits, tokens[end], n_top))
        return found

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

    def copy_cells(self) -> SavedCells:
        """A copy of what its cells hold, to go on from later in this process.

        Raises:
            BusyError: a generation is running.
        """
        engine = self._engine
        with engine.access.alone():
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

    def _go_on(
        self, kept: KeptConversation, answers: Mapping[str, tuple[int, ...]], cells: KeptCells | None
    ) -> tuple[int, str | None]:
        engine = self._engine
        refusal = None
        with engine.access.alone():
            self._saved = self._like = None
            engine.seat(self)
            engine.target.forget()
            self._forget()
            if cells is not None:
                refusal = take_cells(engine, cells)
                self._said = np.array(engine.target.cached, np.int32)
            for text, ids in answers.items():
                self._remember(text, ids)
            self._messages, self._began = list(kept.messages), kept.created
            return len(engine.target.cached), refusal

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


def _since(now: ModelDrafting | None, before: ModelDrafting | None) -> ModelDrafting | None:
    return now if now is None or before is None else now.since(before)


def _answered(messages: list[Message], text: str) -> list[Message]:
    """A chat with its answer; one that was to go on goes on."""
    if not messages or not text:
        return messages
    if messages[-1]["role"] == "assistant":
        [begun] = checked_messages(messages[-1:])
        return [*messages[:-1], {**begun, "content": begun["content"] + text}]
    return [*messages, {"role": "assistant", "content": text}]


def _taken(likely: deque[TokenLogprob] | None, n: int) -> tuple[TokenLogprob, ...] | None:
    """The first ``n`` of what was not told yet."""
    return None if likely is None else tuple(likely.popleft() for _ in range(n))
