"""The public API: text and messages in, text and statistics out."""

from __future__ import annotations

import contextlib
import threading
import time
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from aded_local.engine import PRESETS, EngineOptions
from aded_local.errors import (
    BusyError,
    ContextOverflowError,
    EmptyPromptError,
    OptionError,
    PromptError,
)
from aded_local.generation import FINISHED_STOP, Tally, generate
from aded_local.messages import ChatTemplate
from aded_local.opening import open_engine
from aded_local.planning import PlainPlanner, Planner
from aded_local.reply import Piece, Reply, Stats, joined, stats_of
from aded_local.target import ALL_LAYERS, Sampling
from aded_local.target.context import SMALLEST_CONTEXT
from aded_local.text import TextStream

__all__ = ["LocalADED", "Piece", "Reply", "Stats"]

LARGEST_CONTEXT = 2**20
"""Tokens of context accepted at most: a typing error above that, not a wish."""

LARGEST_THREADS = 512
"""llama.cpp ends the process above this many (``GGML_MAX_N_THREADS``, ggml.h)."""

REMEMBERED_ANSWERS = 512
"""Answers whose own token ids are kept, so that a later turn does not tokenize their text again."""


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=3)


def _quiet(_message: str) -> None:
    return


class LocalADED:
    """A GGUF that answers, with drafting.

    Args:
        model_path: the GGUF, or a model's name, ``smollm2`` or ``builtin`` (a ``Path`` is never a name). None
            loads SmolLM2 where it is installed, else the built-in model, with a notice.
        draft: ``auto`` (calibrated, as much as pays), ``paper`` (ADED as published) or ``off`` (plain
            decoding).
        exact: keep to batch sizes whose logits equal one-token decoding to the last bit, and to chains.
        n_ctx: tokens of context; None takes what model and memory allow, at most 8,192.
        n_threads: CPU threads; None takes the physical cores.
        n_gpu_layers: layers on the GPU; None for all, where the build has one.
        seed: of the random draws where a call gives none; None draws one per answer.
        flash_attention: None measures which is faster (or, with ``exact``, which is exact).
        cache_type: ``f16``, ``bf16``, ``f32`` or ``q8_0``; None likewise.
        memory: learn from earlier conversations with this model when opening, and keep each exchange, as token
            ids, in a private file in the user's data folder (see ``aded_local.store``).
        store: a static store for this model's tokenizer, made by ``aded-store build``, to draft from as well.
        top_k_learning: learn from what the target found likely and did not say too, where that is cheap enough.
        verbose: llama.cpp's log on standard error.
        on_progress: told before measurements that somebody waits for (``exact``, ``prepare``).
        on_notice: told what went wrong without stopping anything; None warns.

    Raises:
        ModelError: the file cannot be used.
        OptionError: an option is out of range.
        DeviceError: no context could be made here.
        StoreError: the static store cannot be used.
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
        verbose: bool = False,
        on_progress: Callable[[str], None] | None = None,
        on_notice: Callable[[str], None] | None = None,
    ) -> None:
        self._closed = True
        if draft not in PRESETS:
            raise OptionError(f"draft is {draft!r}; it must be one of {', '.join(PRESETS)}")
        if store is not None and draft != "auto":
            raise OptionError(
                f"draft={draft!r} does not draft from a store; leave store out, or take draft='auto'"
            )
        _check_range("n_ctx", n_ctx, SMALLEST_CONTEXT, LARGEST_CONTEXT)
        _check_range("n_threads", n_threads, 1, LARGEST_THREADS)
        _check_range("n_gpu_layers", n_gpu_layers, -1, 10_000)
        self._seed = Sampling(seed=seed).seed
        self._busy = threading.Lock()
        self._cancel = threading.Event()
        self._streams: weakref.WeakSet[Generator[Piece, None, None]] = weakref.WeakSet()
        self._answers: OrderedDict[str, tuple[int, ...]] = OrderedDict()
        self._template: ChatTemplate | None = None
        options = EngineOptions(
            draft=draft,
            exact=exact,
            n_ctx=n_ctx,
            n_threads=n_threads,
            n_gpu_layers=ALL_LAYERS if n_gpu_layers is None else n_gpu_layers,
            flash_attention=flash_attention,
            cache_type=cache_type,
            verbose=verbose,
            memory=memory,
            store=None if store is None else Path(store).expanduser(),
            top_k=top_k_learning,
        )
        from aded_models import find

        notice = on_notice or _warn
        found = find(model_path)
        if found.note is not None:
            notice(found.note)
        self._engine = open_engine(found.path, options, on_progress or _quiet, notice)
        self._target = self._engine.target
        self._model = self._engine.model
        self._plain: Planner | None = None
        self._on_progress = on_progress or _quiet
        self._closed = False

    # --- ready for drafting ---------------------------------------------------------------------

    @property
    def preparing(self) -> str:
        """What is still made ready beside and between answers: ``kernels``, ``measuring``, or ``ready``."""
        return self._engine.preparation.stage

    @property
    def machine_is_busy(self) -> bool:
        """Whether other programs ran beside what was measured: it is used and not kept."""
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
        self._require_open()
        if timeout is not None and not (isinstance(timeout, (int, float)) and 0 <= timeout < 1e9):
            raise OptionError(f"timeout is {timeout!r}; it must be seconds, or None")
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
        for stream in list(self._streams):
            with contextlib.suppress(ValueError):  # running in another thread
                stream.close()
        try:
            self.close()
        except BusyError:
            if value is None:
                raise

    def close(self) -> None:
        """Free the model; what was measured is kept for the next start.

        Raises:
            BusyError: a generation is running.
        """
        if self._closed:
            return
        self._begin()
        self._closed = True
        try:
            self._engine.close()
        finally:
            self._end()

    def _require_open(self) -> None:
        if self._closed:
            raise BusyError("this LocalADED is closed; make a new one")

    def _begin(self) -> None:
        self._require_open()
        if not self._busy.acquire(blocking=False):
            raise BusyError(
                "this LocalADED is already generating; finish or close that answer first, "
                "or use one object per thread"
            )
        try:
            self._engine.turns.begin_answer()
        except BaseException:
            self._busy.release()
            raise

    def _end(self) -> None:
        self._engine.turns.end_answer()
        self._busy.release()

    def cancel(self) -> None:
        """Ask the running generation to stop after its current step; from any thread or a signal handler."""
        self._cancel.set()

    def reset(self) -> None:
        """Forget the conversation: cache and remembered answers. What the drafter learnt stays.

        Raises:
            BusyError: a generation is running.
        """
        self._begin()
        try:
            self._target.forget()
            self._answers.clear()
            self._engine.planner.reset_context()
            if self._engine.memory is not None:
                self._engine.memory.new_conversation()
        finally:
            self._end()

    def forget_statistics(self) -> None:
        """Forget all the drafter learnt, as if newly made and without a memory.

        The memory on disk stays, and the next ``LocalADED`` learns from it; ``ConversationMemory.erase`` erases it.

        Raises:
            BusyError: a generation is running.
        """
        self._begin()
        try:
            self._engine.planner.reset()
        finally:
            self._end()

    def use_draft(self, preset: str) -> None:
        """Draft by another preset from the next answer on: ``off``, or the one this object was made with.

        Raises:
            OptionError: another preset; it would need another context.
            BusyError: a generation is running.
        """
        opened = self._engine.options.draft
        if preset not in (opened, "off"):
            raise OptionError(
                f"this LocalADED was made with draft={opened!r}; it can use that or 'off', not {preset!r}"
            )
        self._begin()
        try:
            self._plain = None if preset == opened else PlainPlanner()
        finally:
            self._end()

    # --- generating --------------------------------------------------------------------------------

    def generate(self, prompt: str | Sequence[int], **options: Any) -> Reply:
        """Continue ``prompt``; see ``stream`` for options and errors."""
        return joined(self.stream(prompt, **options))

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
        stop: str | Sequence[str] = (),
    ) -> Iterator[Piece]:
        """Continue ``prompt``, piece by piece.

        Args:
            prompt: text, in which control-token texts stay text; or token ids, which may be anything.
            max_tokens: tokens wanted at most; None goes on until the context is full.
            temperature, top_k, top_p, min_p, repeat_penalty: see ``Sampling``; None takes what the model
                suggests (``general.sampling.*`` in the GGUF), else llama.cpp's default.
            seed: of the random draws.
            stop: texts that end the answer and are not part of it.

        Raises:
            EmptyPromptError, ContextOverflowError, OptionError, BusyError, DeviceError
        """
        self._require_open()
        sampling = self._sampling(temperature, top_k, top_p, min_p, repeat_penalty, seed)
        stops = _stop_texts(stop)
        _check_range("max_tokens", max_tokens, 1, LARGEST_CONTEXT)
        if isinstance(prompt, str):
            tokens = self._model.tokenize(prompt, add_special=True, parse_special=False) if prompt else []
        else:
            tokens = self._checked_ids(prompt)
        return self._run(tokens, sampling, max_tokens, stops, remember=False)

    def chat(self, messages: Sequence[Mapping[str, str]], **options: Any) -> Reply:
        """Answer a conversation; see ``stream_chat``."""
        return joined(self.stream_chat(messages, **options))

    def stream_chat(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repeat_penalty: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
    ) -> Iterator[Piece]:
        """Answer a conversation, piece by piece, through the model's own chat template.

        Args:
            messages: ``role`` (system, user, assistant) and ``content`` of each turn, oldest first. An
                assistant turn with the text of an earlier answer is fed as the very tokens of that answer.

        Other options and errors as in ``stream``; and TemplateError.
        """
        self._require_open()
        sampling = self._sampling(temperature, top_k, top_p, min_p, repeat_penalty, seed)
        stops = _stop_texts(stop)
        _check_range("max_tokens", max_tokens, 1, LARGEST_CONTEXT)
        return self._run(self.chat_tokens(messages), sampling, max_tokens, stops, remember=True)

    def chat_tokens(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """The prompt a conversation becomes, as token ids, up to where the answer begins.

        Raises:
            PromptError, TemplateError
        """
        self._require_open()
        if self._template is None:
            self._template = self._make_template()
        if not messages:
            raise EmptyPromptError("the conversation is empty; add a user message")
        segments = self._template.render(messages, known_answers=self._answers)
        return self._template.to_tokens(segments, self._model)

    def count_chat_tokens(self, messages: Sequence[Mapping[str, str]]) -> int:
        """Tokens a conversation takes as a prompt; errors as in ``chat_tokens``."""
        return len(self.chat_tokens(messages))

    def _run(
        self,
        tokens: list[int],
        sampling: Sampling,
        max_tokens: int | None,
        stop: tuple[str, ...],
        *,
        remember: bool,
    ) -> Iterator[Piece]:
        if not tokens:
            raise EmptyPromptError("the prompt is empty; write something to answer")
        if len(tokens) >= self.n_ctx:
            raise ContextOverflowError(
                f"the prompt has {len(tokens)} tokens and the context holds {self.n_ctx}; "
                "shorten it or raise -c (n_ctx)"
            )
        limit = min(max_tokens or self.n_ctx, self.n_ctx - len(tokens) + 1)
        pieces = self._pieces(tokens, sampling, limit, stop, remember)
        self._streams.add(pieces)
        return pieces

    def _pieces(
        self, tokens: list[int], sampling: Sampling, limit: int, stop: tuple[str, ...], remember: bool
    ) -> Generator[Piece, None, None]:
        self._begin()
        try:
            self._cancel.clear()
            tally = Tally()
            text = TextStream(self._model.piece, stop)
            answer: list[int] = []
            emitted: list[int] = []
            written: list[str] = []
            idle = 0.0
            last = ""
            planner = self._plain or self._engine.planner
            steps = generate(self._target, planner, sampling, tokens, limit, tally, self._cancel.is_set)
            try:
                for step in steps:
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
                    idle += time.perf_counter() - paused
            finally:
                steps.close()
                if emitted:
                    self._engine.remember(tokens, emitted)
            last = last if text.stopped else text.flush()
            if remember and not text.stopped:
                self._remember("".join(written) + last, answer)
        finally:
            self._end()
        self._engine.turns.leave_a_moment()
        yield Piece(last, text.take_tokens(), tally.finish_reason, stats_of(tally, idle))

    def _remember(self, text: str, answer: list[int]) -> None:
        self._answers[text] = tuple(answer)
        self._answers.move_to_end(text)
        while len(self._answers) > REMEMBERED_ANSWERS:
            self._answers.popitem(last=False)

    # --- reading what callers give -----------------------------------------------------------------

    def _sampling(
        self,
        temperature: float | None,
        top_k: int | None,
        top_p: float | None,
        min_p: float | None,
        repeat_penalty: float | None,
        seed: int | None,
    ) -> Sampling:
        chosen: dict[str, Any] = {}
        names = {field.name for field in fields(Sampling)}
        chosen.update(
            {name: value for name, value in self._model.suggested_sampling().items() if name in names}
        )
        given = {
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "min_p": min_p,
            "repeat_penalty": repeat_penalty,
            "seed": self._seed if seed is None else seed,
        }
        chosen.update({name: value for name, value in given.items() if value is not None})
        return Sampling(**chosen)

    def _checked_ids(self, prompt: Sequence[int]) -> list[int]:
        try:
            ids = [int(token) for token in prompt]
        except (TypeError, ValueError) as error:
            raise PromptError("a prompt is a text or a list of token ids") from error
        if any(not 0 <= token < self._model.n_vocab for token in ids):
            raise PromptError(f"a token id is outside the vocabulary of {self._model.n_vocab}")
        return ids

    def _make_template(self) -> ChatTemplate:
        model = self._model
        return ChatTemplate(
            model.chat_template,
            bos=model.token_text(model.bos),
            eos=model.token_text(model.eos),
            control_texts=model.control_texts,
        )

    # --- what holds for the loaded model -------------------------------------------------------------

    @property
    def n_ctx(self) -> int:
        """Tokens of context."""
        return self._target.context.n_ctx

    def description(self) -> dict[str, Any]:
        """What holds for the loaded model on this machine, as plain data."""
        self._require_open()
        return self._engine.describe()

    def measure_exactness(self) -> None:
        """Find which batch sizes are exact, for ``description``; takes seconds on a large model, once.

        Raises:
            BusyError, DeviceError
        """
        self._begin()
        try:
            self._engine.measure_exactness()
        finally:
            self._end()

    def logits_after(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits after ``tokens``, the last one decoded alone: float32 ``(n_vocab,)``. For measuring.

        Raises:
            PromptError, ContextOverflowError, BusyError
        """
        self._require_open()
        ids = self._checked_ids(tokens)
        if not ids or len(ids) > self.n_ctx:
            raise ContextOverflowError(f"{len(ids)} tokens do not fit a context of {self.n_ctx}")
        self._begin()
        try:
            return self._target.logits_after(np.array(ids, np.int32))
        finally:
            self._end()

    def end_tokens(self) -> frozenset[int]:
        """Ids of all tokens that end an answer. For measuring: another program must stop where this one does."""
        self._require_open()
        return self._model.end_tokens


def _stop_texts(stop: str | Sequence[str]) -> tuple[str, ...]:
    texts = (stop,) if isinstance(stop, str) else tuple(stop)
    if any(not isinstance(text, str) or not text for text in texts):
        raise OptionError("stop must be texts that are not empty")
    return texts


def _check_range(name: str, value: int | None, low: int, high: int) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= value <= high:
        raise OptionError(f"{name} is {value}; it must be a whole number from {low} to {high}")
