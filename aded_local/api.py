"""The public API: text and messages in, text and statistics out."""

from __future__ import annotations

import functools
import os
import time
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from aded_local import request as options
from aded_local.access import ENDED, Access
from aded_local.chat.detokenize import TextStream
from aded_local.chat.looking import analysed
from aded_local.chat.rendering import Renderer, read_template
from aded_local.chat.segments import text_tokens
from aded_local.chat.template import ChatTemplate, Message
from aded_local.decode import FINISHED_STOP, Tally, generate
from aded_local.engine import PRESETS, EngineOptions
from aded_local.errors import BusyError, ContextOverflowError, EmptyPromptError, OptionError
from aded_local.llama import ALL_LAYERS
from aded_local.llama.loading import is_forked, require_not_forked
from aded_local.opening import open_engine
from aded_local.request import Wanted
from aded_local.result import Piece, Reply, Stats, joined, stats_of
from aded_local.scheduler import Turns
from aded_local.shown import visible
from aded_local.speed.planner import PlainPlanner, Planner

__all__ = ["LocalADED", "Piece", "Reply", "Stats"]

P = ParamSpec("P")
R = TypeVar("R")

REMEMBERED_ANSWERS = 512
"""Answers whose own token ids are kept, so that a later turn does not tokenize their text again."""


def _warn(message: str) -> None:
    warnings.warn(visible(message), RuntimeWarning, stacklevel=3)  # Python prints it as it is


def _quiet(_message: str) -> None:
    return


def _reading(method: Callable[Concatenate[LocalADED, P], R]) -> Callable[Concatenate[LocalADED, P], R]:
    """A method that reads the model and leaves its cache alone: beside an answer, and never beside ``close``."""

    @functools.wraps(method)
    def read(self: LocalADED, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._access.reading():
            return method(self, *args, **kwargs)

    return read


class LocalADED:
    """A GGUF that answers, with drafting.

    Close it, or use it in a ``with`` block; one that is dropped frees its memory too, with a ``ResourceWarning``. A
    child forked after a model was loaded cannot use llama.cpp (``ForkedError``): start such children with spawn.

    Args:
        model_path: the GGUF, or a model's name, ``smollm2`` or ``builtin`` (a ``Path`` is never a name). None
            loads SmolLM2 where it is installed, else the built-in model, with a notice.
        draft: ``auto`` (calibrated, as much as pays), ``paper`` (ADED as published) or ``off`` (plain
            decoding).
        exact: keep to batch sizes whose logits equal one-token decoding to the last bit, and to chains.
        n_ctx: tokens of context; None or 0 takes what model and memory allow, at most 8,192.
        n_threads: CPU threads; None or -1 takes the physical cores.
        n_gpu_layers: layers on the GPU; None or -1 for all, where the build has one.
        seed: of the random draws where a call gives none; None or -1 draws one per answer.
        flash_attention: None measures which is faster (or, with ``exact``, which is exact).
        cache_type: ``f16``, ``bf16``, ``f32`` or ``q8_0``; None likewise.
        memory: learn from earlier conversations with this model when opening, and keep each exchange, as token
            ids, in a private file in the user's data folder (see ``aded_local.memory``).
        store: a static store for this model's tokenizer, made by ``aded-store build``, to draft from as well.
        top_k_learning: learn from what the target found likely and did not say too, where that is cheap enough.
        chat_template: a Jinja template to use instead of the GGUF's: its text, or a ``Path`` of its file.
        verbose: llama.cpp's log on standard error.
        on_progress: told before measurements that somebody waits for (``exact``, ``prepare``).
        on_notice: told what went wrong without stopping anything; None warns.

    Raises:
        ModelError: the file cannot be used.
        OptionError: an option is out of range.
        DeviceError: no context could be made here.
        StoreError: the static store cannot be used.
        ForkedError: a model was loaded before this process was forked.
    """

    def __init__(
        self,
        model_path: str | Path | None = None,
        *,
        draft: str = "auto",
        exact: bool = False,
        n_ctx: int | None = None,
        n_threads: int | None = None,
        n_gpu_layers: int | None = None,
        seed: int | None = None,
        flash_attention: bool | None = None,
        cache_type: str | None = None,
        memory: bool = False,
        store: str | Path | None = None,
        top_k_learning: bool = True,
        chat_template: str | Path | None = None,
        verbose: bool = False,
        on_progress: Callable[[str], None] | None = None,
        on_notice: Callable[[str], None] | None = None,
    ) -> None:
        require_not_forked()
        if draft not in PRESETS:
            raise OptionError(f"draft is {draft!r}; it must be one of {', '.join(PRESETS)}")
        if store is not None and draft != "auto":
            raise OptionError(
                f"draft={draft!r} does not draft from a store; leave store out, or take draft='auto'"
            )
        if store is not None and not isinstance(store, (str, os.PathLike)):
            raise OptionError(f"store is {store!r}; it must be the path of a static store")
        options.require_flags(
            exact=exact,
            flash_attention=flash_attention,
            memory=memory,
            top_k_learning=top_k_learning,
            verbose=verbose,
        )
        gpu_layers = options.layers(n_gpu_layers)
        self._chat_template = None if chat_template is None else read_template(chat_template)
        self._seed = options.seed_of(seed)
        self._answers: OrderedDict[str, tuple[int, ...]] = OrderedDict()
        self._template: ChatTemplate | None = None
        how = EngineOptions(
            draft=draft,
            exact=exact,
            n_ctx=options.context_size(n_ctx),
            n_threads=options.threads(n_threads),
            n_gpu_layers=ALL_LAYERS if gpu_layers is None else gpu_layers,
            flash_attention=flash_attention,
            cache_type=cache_type,
            verbose=verbose,
            memory=memory,
            store=None if store is None else Path(os.path.expanduser(store)),
            top_k=top_k_learning,
        )
        from aded_models import find

        notice = on_notice or _warn
        found = find(model_path)
        if found.note is not None:
            notice(found.note)
        self._engine = open_engine(found.path, how, on_progress or _quiet, notice)
        self._target = self._engine.target
        self._model = self._engine.model
        self._plain: Planner | None = None
        self._on_progress = on_progress or _quiet
        self._access = Access(self._engine.turns)
        self._dropped = weakref.finalize(self, _let_go, self._engine.turns, str(found.path))
        self._dropped.atexit = False

    # --- ready for drafting ---------------------------------------------------------------------

    @property
    def preparing(self) -> str:
        """What is still made ready beside and between answers: ``kernels``, ``measuring``, or ``ready``."""
        require_not_forked()
        return self._engine.preparation.stage

    @property
    def machine_is_busy(self) -> bool:
        """Whether other programs ran beside what was measured: it is used and not kept."""
        require_not_forked()
        return self._engine.tuner.busy

    def prepare(self, timeout: float | None = None) -> bool:
        """Wait until drafting is ready, for whoever would rather wait than have the first answers decoded plainly.

        The first start on a machine compiles kernels (some 15 s), the first with a model measures what passes cost
        (some 10 s, more with a large model).

        Args:
            timeout: seconds to wait at most; None waits as long as it takes.

        Returns:
            Whether all is ready.
        """
        self._access.require_open()
        timeout = options.seconds("timeout", timeout)
        preparation, tuner = self._engine.preparation, self._engine.tuner
        if preparation.running:
            self._on_progress(preparation.describe())
            tuner.progress = self._on_progress
        try:
            return preparation.wait(timeout)
        finally:
            tuner.progress = _quiet

    # --- one object, one generation --------------------------------------------------------------

    def __enter__(self) -> LocalADED:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        # An answer left half-way by the block ends with it, and must not hide why the block was left.
        self._access.end_half_read()
        try:
            self.close()
        except BusyError:
            if value is None:
                raise

    def close(self) -> None:
        """Free the model; what was measured is kept for the next start.

        Waits for calls in other threads that read the model, as ``chat_tokens`` does. In a forked child nothing
        happens: what it inherited is its parent's.

        Raises:
            BusyError: a generation is running.
        """
        with self._access.closing() as is_first:
            if is_first:
                self._dropped.detach()
                if self._template is not None:
                    self._template.close()
                self._engine.close()

    def cancel(self) -> None:
        """Stop the answers asked for so far, after the current step; from any thread or a signal handler.

        That is the one under way, and one of which nothing has been read yet. Where there is none, nothing happens:
        what is asked for later is answered.
        """
        self._access.cancel()

    def reset(self) -> None:
        """Forget the conversation: cache and remembered answers. What the drafter learnt stays.

        Raises:
            BusyError: a generation is running.
        """
        with self._access.alone():
            self._target.forget()
            self._answers.clear()
            self._engine.planner.reset_context()
            self._engine.new_conversation()

    def forget_statistics(self) -> None:
        """Forget all the drafter learnt, as if newly made and without a memory.

        The memory on disk stays, and the next ``LocalADED`` learns from it; ``ConversationMemory.erase`` erases it.

        Raises:
            BusyError: a generation is running.
        """
        with self._access.alone():
            self._engine.planner.reset()

    def use_draft(self, preset: str) -> None:
        """Draft by another preset from the next answer on: ``off``, or the one this object was made with.

        Raises:
            OptionError: another preset; it would need another context.
            BusyError: a generation is running.
        """
        self._access.require_open()
        opened = self._engine.options.draft
        if preset not in (opened, "off"):
            raise OptionError(
                f"this LocalADED was made with draft={opened!r}; it can use that or 'off', not {preset!r}"
            )
        with self._access.alone():
            self._plain = None if preset == opened else PlainPlanner()

    # --- generating --------------------------------------------------------------------------------

    def generate(self, prompt: str | Sequence[int], **options: Any) -> Reply:
        """Continue ``prompt``; see ``stream`` for options and errors."""
        return joined(self.stream(prompt, **options))

    @_reading
    def stream(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repeat_penalty: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
    ) -> Iterator[Piece]:
        """Continue ``prompt``, piece by piece.

        Args:
            prompt: text, in which control-token texts stay text; or token ids, which may be anything.
            max_tokens: tokens wanted at most; None or -1 goes on until the model ends the answer or the context is
                full, which may be thousands of tokens.
            temperature, top_k, top_p, min_p, repeat_penalty: see ``Sampling``; None takes what the model
                suggests (``general.sampling.*`` in the GGUF), else llama.cpp's default.
            seed: of the random draws; None takes this object's, -1 draws one. The same seed gives the same answer with
                ``exact`` or ``draft="off"`` in one setting of attention and cache; else drafts follow measured
                times, and wider passes round differently.
            stop: texts that end the answer and are not part of it; None for none.

        An answer is computed as it is read. One that is left half read (a ``break``, with the iterator kept) ends when
        the main thread, having read it, calls something else that needs the model; whoever reads on then meets a
        BusyError. In other threads it has to be closed: ``iterator.close()``.

        Raises:
            PromptError, EmptyPromptError, ContextOverflowError, OptionError, BusyError, DeviceError
        """
        number = self._access.ask()
        wanted = self._wanted(
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repeat_penalty=repeat_penalty,
            seed=seed,
            stop=stop,
        )
        if isinstance(prompt, str):
            tokens = text_tokens(prompt, self._model) if prompt else []
        else:
            tokens = options.token_ids(prompt, self._model.n_vocab)
        return self._run(number, tokens, wanted, remember=False)

    def chat(self, messages: Sequence[Message], **options: Any) -> Reply:
        """Answer a conversation; see ``stream_chat``."""
        return joined(self.stream_chat(messages, **options))

    @_reading
    def stream_chat(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repeat_penalty: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
    ) -> Iterator[Piece]:
        """Answer a conversation, piece by piece, through the model's own chat template.

        Args:
            messages: ``role`` (system, user, assistant) and ``content`` of each turn, oldest first; a content
                is text, or a list of OpenAI's text parts, which become lines. An assistant turn with the text of an
                earlier answer is fed as the very tokens of that answer. Where the last turn is the assistant's, the
                answer goes on right behind its content, trailing white space included.

        Other options and errors as in ``stream``; and TemplateError.
        """
        number = self._access.ask()
        wanted = self._wanted(
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repeat_penalty=repeat_penalty,
            seed=seed,
            stop=stop,
        )
        return self._run(number, self.chat_tokens(messages), wanted, remember=True)

    @_reading
    def chat_tokens(self, messages: Sequence[Message]) -> list[int]:
        """The prompt a conversation becomes, as token ids, up to where the answer begins or goes on.

        Raises:
            PromptError, TemplateError, BusyError
        """
        if self._template is None:
            self._template = self._make_template()
        if isinstance(messages, Sequence) and not messages:
            raise EmptyPromptError("the conversation is empty; add a user message")
        segments = self._template.render(messages, known_answers=self._answers)
        return self._template.to_tokens(segments, self._model)

    def count_chat_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens a conversation takes as a prompt; errors as in ``chat_tokens``."""
        return len(self.chat_tokens(messages))

    def _wanted(self, **given: Any) -> Wanted:
        return options.wanted(self._model.suggested_sampling(), self._seed, **given)

    def _run(self, number: int, tokens: list[int], wanted: Wanted, *, remember: bool) -> Iterator[Piece]:
        if not tokens:
            raise EmptyPromptError("the prompt is empty; write something to answer")
        if len(tokens) >= self.n_ctx:
            raise ContextOverflowError(
                f"the prompt has {len(tokens)} tokens and the context holds {self.n_ctx}; "
                "shorten it or raise -c (n_ctx)"
            )
        return self._read(self._steps(number, tokens, wanted, remember))

    def _read(self, steps: Generator[Piece, None, None]) -> Generator[Piece, None, None]:
        """Hand out what ``steps`` computes, alone with the model until the last piece is there."""
        use = self._access.begin(steps)
        try:
            while True:
                use.is_read_here()
                piece = next(steps, None)
                if piece is None:
                    raise BusyError(ENDED)
                if piece.finish_reason is not None:
                    break
                yield piece
        finally:
            steps.close()
            self._access.end(use)
        self._engine.turns.leave_a_moment()
        yield piece

    def _steps(
        self, number: int, tokens: list[int], wanted: Wanted, remember: bool
    ) -> Generator[Piece, None, None]:
        limit = min(wanted.max_tokens or self.n_ctx, self.n_ctx - len(tokens) + 1)
        tally = Tally()
        text = TextStream(self._model.piece, wanted.stop)
        answer: list[int] = []
        emitted: list[int] = []
        written: list[str] = []
        idle = pause = 0.0
        last = ""
        steps = generate(
            self._target,
            self._plain or self._engine.planner,
            wanted.sampling,
            tokens,
            limit,
            tally,
            functools.partial(self._access.is_cancelled, number),
        )
        try:
            for step in steps:
                idle += pause  # only now: the time that is told of ends with the last step
                emitted += step
                spoken = [token for token in step if not self._model.is_end(token)]
                answer += spoken
                last = text.feed(spoken)
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
                self._engine.remember(tokens, emitted)
        last = last if text.stopped else text.flush()
        if remember and not text.stopped:
            self._remember("".join(written) + last, answer)
        yield Piece(last, text.take_tokens(), tally.finish_reason, stats_of(tally, idle))

    def _remember(self, text: str, answer: list[int]) -> None:
        self._answers[text] = tuple(answer)
        self._answers.move_to_end(text)
        while len(self._answers) > REMEMBERED_ANSWERS:
            self._answers.popitem(last=False)

    def _make_template(self) -> ChatTemplate:
        model = self._model
        source = model.chat_template if self._chat_template is None else self._chat_template
        bos, eos = model.token_text(model.bos), model.token_text(model.eos)
        looking = None if source is None else analysed(source, {"bos_token": bos, "eos_token": eos})
        # Its process starts while the vocabulary is read, which takes a third of a second where it is large.
        renderer = None if looking is None else Renderer(looking.source, looking.original)
        return ChatTemplate(
            looking,
            bos=bos,
            eos=eos,
            control_texts=model.control_texts,
            defined_texts=model.defined_texts,
            renderer=renderer,
        )

    # --- what holds for the loaded model -------------------------------------------------------------

    @property
    def n_ctx(self) -> int:
        """Tokens of context."""
        return self._target.context.n_ctx

    @_reading
    def description(self) -> dict[str, Any]:
        """What holds for the loaded model on this machine, as plain data."""
        return self._engine.describe()

    def measure_exactness(self) -> None:
        """Find which batch sizes are exact, for ``description``; takes seconds on a large model, once.

        Raises:
            BusyError, DeviceError
        """
        with self._access.alone():
            self._engine.measure_exactness()

    def logits_after(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits after ``tokens``, the last one decoded alone: float32 ``(n_vocab,)``. For measuring.

        Raises:
            PromptError, ContextOverflowError, BusyError
        """
        with self._access.alone():
            ids = options.token_ids(tokens, self._model.n_vocab)
            if not ids or len(ids) > self.n_ctx:
                raise ContextOverflowError(f"{len(ids)} tokens do not fit a context of {self.n_ctx}")
            return self._target.logits_after(np.array(ids, np.int32))

    @_reading
    def end_tokens(self) -> frozenset[int]:
        """Ids of all tokens that end an answer. For measuring: another program must stop where this one does."""
        return self._model.end_tokens


def _let_go(turns: Turns, path: str) -> None:
    """Nobody closed an object before it was dropped: whoever measures for it stops, and then nobody holds the model."""
    if not is_forked():
        turns.close()
        warnings.warn(f"a LocalADED of {path} was dropped and not closed", ResourceWarning, stacklevel=2)
