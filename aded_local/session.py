"""One conversation on a loaded model: it is asked, answers, and may be stopped; ``said`` keeps what was said in it.

Several sessions may share a model, by turns. Its cells hold one of them; those of the others are copied aside, so that
a turn decodes only what is new in it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from typing_extensions import Unpack

from aded_local.access import ENDED, Asked, Cancelling, reads
from aded_local.asking import Asking, ChatPrompt, Tools
from aded_local.chat.calling import Calling, ToolChoice, call_grammar
from aded_local.chat.detokenize import TextStream, showing
from aded_local.chat.messages import Message, checked_messages
from aded_local.chat.segments import text_tokens
from aded_local.chat.style import AnswerStyle
from aded_local.continuation import common_prefix, continuation
from aded_local.decode import FINISHED_STOP, Tally, generate
from aded_local.drafters import NOBODY
from aded_local.drafters.model.tally import ModelDrafting
from aded_local.errors import BusyError, ContextOverflowError, EmptyPromptError, OptionError
from aded_local.logprobs import TokenLogprob, token_logprob
from aded_local.request import Options, Request, require_short, token_ids
from aded_local.result import Piece, cancelled_piece, stats_of
from aded_local.resuming import Resumable
from aded_local.speed.planner import PlainPlanner
from aded_local.speed.tuning import setting_of
from aded_local.stream import Stream

if TYPE_CHECKING:
    from aded_local.engine import Engine


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
        super().__init__(engine, number, like)
        self._seed = seed
        self._cancelling = Cancelling()

    # --- generating --------------------------------------------------------------------------------

    @reads
    def stream(self, prompt: str | Sequence[int], **options: Unpack[Options]) -> Stream:
        """Continue ``prompt``, piece by piece; see ``Asking.stream``."""
        asked, request = self._asked(options)
        if isinstance(prompt, str):
            self.require_short(prompt)
        n_vocab = self._engine.model.n_vocab
        tokens = self.text_tokens(prompt) if isinstance(prompt, str) else token_ids(prompt, n_vocab)
        return self._run(asked, tokens, request, None, [])

    @reads
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

    @reads
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

    @reads
    def text_tokens(self, text: str) -> list[int]:
        """The prompt a text becomes, as token ids; control-token texts in it stay text.

        Raises:
            BusyError: it is closed.
        """
        return text_tokens(text, self._engine.model) if text else []

    @reads
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
        self._access.require_open()
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
        access = self._access
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
        with self._access.alone():
            engine.seat(self)
            for end, logits in engine.target.read(tokens):
                if end < len(tokens):
                    found.append(token_logprob(logits, tokens[end], n_top))
        return found

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
        with self._access.alone():
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
