"""The public API: text and messages in, text and statistics out."""

from __future__ import annotations

import itertools
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Unpack

from aded_local import conversations, request
from aded_local.asking import Asking, ChatPrompt, Tools
from aded_local.chat.calling import ToolChoice
from aded_local.chat.messages import Message
from aded_local.chat.rendering import read_template
from aded_local.conversations import KeptConversation
from aded_local.description import Described
from aded_local.drafters import Search
from aded_local.drafters.model import DraftMode
from aded_local.embedding import LONGEST_TEXT, TextEmbedder
from aded_local.engine_options import EngineOptions
from aded_local.errors import BusyError, OptionError
from aded_local.files import given_path
from aded_local.llama.context_settings import LARGEST_PASS
from aded_local.llama.loading import is_forked, require_not_forked
from aded_local.opening import open_engine
from aded_local.request import Options
from aded_local.result import Piece, Reply, Stats, TokenLogprob
from aded_local.resuming import A_CONVERSATION, Resumed
from aded_local.scheduler import Scheduler
from aded_local.session import Session
from aded_local.shown import warn
from aded_local.speed.pricing import Same
from aded_local.stream import AsyncStream, Stream

__all__ = [
    "AsyncStream",
    "LocalADED",
    "Options",
    "Piece",
    "Reply",
    "Resumed",
    "Session",
    "Stats",
    "Stream",
    "TokenLogprob",
]

A_MODEL = "a GGUF, or the name of a model"
"""What ``model_path`` may be, in the words of an error."""


def _quiet(_message: str) -> None:
    return


class LocalADED(Described, Asking):
    """A GGUF that answers, with drafting: its own calls are those of its first session.

    Close it, or use it in a ``with`` block; one that is dropped frees its memory too, with a ``ResourceWarning``. A
    child forked after a model was loaded cannot use llama.cpp (``ForkedError``): start such children with spawn.

    Args:
        model_path: the GGUF; a model's name, such as ``smollm2`` or ``builtin`` (a ``Path`` is never a name); or
            ``hf:OWNER/NAME[:QUANT]`` of the Hugging Face Hub, downloaded if it is not here. None loads SmolLM2 where
            it is installed, else the built-in model, with a notice.
        draft: ``auto`` (calibrated, as much as pays), ``paper`` (ADED as published) or ``off`` (plain
            decoding).
        same: what is asked of the words. ``cheap``, the default, keeps to those of plain decoding wherever that costs
            at most 5% of the speed expected at the present length of the text: it verifies nothing but chains whose
            sizes equal one-token decoding to the last bit. Elsewhere it takes the fastest way, and two tokens that are
            nearly as likely may change places. ``exact`` keeps the words whatever that costs, ``off`` never asks.
            ``description()["words"]`` says what holds now, ``Stats.same_words`` what held for an answer.
        exact: another word for ``same="exact"``.
        n_ctx: tokens of context; None or 0 takes what model and memory allow, at most 8,192.
        n_threads: CPU threads at most; None or -1 takes the physical cores. Fewer are used while other programs run
            and that is faster.
        n_gpu_layers: layers on the GPU; None or -1 for all, where the build has one.
        seed: of the random draws where a call gives none; None or -1 draws one per answer.
        flash_attention: None measures which suits: fastest, or fastest with the same words; between the turns of a
            conversation that grows long another one may take over.
        cache_type: ``f16``, ``bf16``, ``f32`` or ``q8_0``; None likewise.
        memory: learn from earlier conversations with this model when opening, and keep each exchange, as token
            ids, in a private file in the user's data folder (see ``aded_local.memory``).
        store: a static store for this model's tokenizer, made by ``aded-store build``, to draft from as well.
        top_k_learning: learn from what the target found likely and did not say too, where that is cheap enough.
        search: how the draft tree of ``auto`` grows: ``best-first``, the optimum for the estimated probabilities, or
            ``puct``, the Monte Carlo tree search of the ADED paper. ``paper`` always searches by PUCT.
        chat_template: a Jinja template to use instead of the GGUF's: its text, or a ``Path`` of its file.
        draft_model: a second GGUF with the same vocabulary, or a model's name: what it says joins the drafts of
            ``auto``. Words and distribution stay the target's.
        draft_mode: when it is asked: ``serial``, before each pass as far as that pays; ``parallel``, beside passes too;
            ``branch``, as SpecBranch does; ``ngram``, never; ``auto`` finds out what is fastest.
        draft_threads: CPU threads of its decodes; None takes as many as the target's.
        draft_gpu_layers: its layers on the GPU; None or -1 for all, where the build has one.
        draft_max: tokens of a draft at most, whatever they come from; None leaves it to what pays.
        verbose: llama.cpp's log on standard error.
        on_progress: told before measurements that somebody waits for (``same="exact"``, ``prepare``).
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
        same: Same | None = None,
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
        search: Search = "best-first",
        chat_template: str | Path | None = None,
        draft_model: str | Path | None = None,
        draft_mode: DraftMode = "auto",
        draft_threads: int | None = None,
        draft_gpu_layers: int | None = None,
        draft_max: int | None = None,
        verbose: bool = False,
        on_progress: Callable[[str], None] | None = None,
        on_notice: Callable[[str], None] | None = None,
    ) -> None:
        require_not_forked()
        request.require_flags(exact=exact)
        if exact and same not in (None, "exact"):
            raise OptionError(f"exact=True is same='exact', and same={same!r} was given too: leave one out")
        if model_path is not None:
            given_path("model_path", model_path, A_MODEL)  # a name that ``find`` knows is a sound path too
        self._seed = request.seed_of(seed)
        how = EngineOptions(
            draft=draft,
            same="exact" if exact else "cheap" if same is None else same,
            n_ctx=request.context_size(n_ctx),
            n_threads=request.threads(n_threads),
            n_gpu_layers=request.layers(n_gpu_layers),
            flash_attention=flash_attention,
            cache_type=cache_type,
            verbose=verbose,
            memory=memory,
            store=None if store is None else given_path("store", store, "a static store"),
            top_k=top_k_learning,
            search=search,
            chat_template=None if chat_template is None else read_template(chat_template),
            draft_model=None if draft_model is None else given_path("draft_model", draft_model, A_MODEL),
            draft_mode=draft_mode,
            draft_threads=request.threads(draft_threads, "draft_threads"),
            draft_gpu_layers=request.layers(draft_gpu_layers, "draft_gpu_layers"),
            draft_max=request.whole(
                "draft_max", draft_max, 1, LARGEST_PASS - 1, you_choose=request.YOU_CHOOSE
            ),
        )
        from aded_models import find

        progress, notice = on_progress or _quiet, on_notice or warn
        if draft_model is not None:
            how = replace(how, draft_model=find(draft_model, progress).path)
        found = find(model_path, progress)
        if found.note is not None:
            notice(found.note)
        self._engine = open_engine(found.path, how, progress, notice)
        self._model = self._engine.model
        self._access = self._engine.access
        self._numbers = itertools.count()
        self._first = Session(self._engine, next(self._numbers), self._seed)
        self._on_progress = progress
        self._dropped = weakref.finalize(self, _let_go, self._engine.scheduler, str(found.path))
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
        (some 60 s for SmolLM2, minutes for a large model, more beside other programs).

        Args:
            timeout: seconds to wait at most; None waits as long as it takes.

        Returns:
            Whether all is ready.

        Raises:
            BusyError: it is closed; or this thread, or a task of its event loop, may have an answer half read, before
                whose end nothing is measured.
        """
        self._access.require_open()
        timeout = request.seconds("timeout", timeout)
        preparation, tuner = self._engine.preparation, self._engine.tuner
        if preparation.running:
            self._access.require_measurable()
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
                self._engine.close()

    def cancel(self) -> None:
        """Stop the answers asked for so far by this object's own calls; see ``Session.cancel``."""
        self._first.cancel()

    def reset(self) -> None:
        """Forget this object's own conversation; see ``Session.reset``.

        Raises:
            BusyError: a generation is running.
        """
        self._first.reset()

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
            self._engine.plain = preset != opened

    # --- generating --------------------------------------------------------------------------------

    def session(self, like: Session | None = None) -> Session:
        """Another conversation on the same model, which takes turns with the others and keeps its own cache.

        Args:
            like: another session of this object, which the new one shares its answers' tokens with, so that both make
                the same tokens of a conversation. The new one begins with a copy of its cells too, where there is one:
                a prompt that begins like the other's is not decoded again as far as they agree.
        """
        self._access.require_open()
        return Session(self._engine, next(self._numbers), self._seed, like)

    def embedder(self, *, longest: int = LONGEST_TEXT, pooling: str | None = None) -> TextEmbedder:
        """Embeds texts with this model, in a context of its own; see ``TextEmbedder``. Close it before this object."""
        self._access.require_open()
        return TextEmbedder(self._engine, longest=longest, pooling=pooling)

    def stream(self, prompt: str | Sequence[int], **options: Unpack[Options]) -> Stream:
        """Continue ``prompt``, piece by piece; see ``Asking.stream``."""
        return self._first.stream(prompt, **options)

    def stream_chat(
        self,
        messages: Sequence[Message] | ChatPrompt,
        *,
        tools: Tools = None,
        tool_choice: ToolChoice | None = None,
        **options: Unpack[Options],
    ) -> Stream:
        """Answer a conversation, piece by piece; see ``Asking.stream_chat``."""
        return self._first.stream_chat(messages, tools=tools, tool_choice=tool_choice, **options)

    def chat_prompt(
        self, messages: Sequence[Message], *, tools: Tools = None, tool_choice: ToolChoice | None = None
    ) -> ChatPrompt:
        """The prompt a conversation becomes; see ``Asking.chat_prompt``."""
        return self._first.chat_prompt(messages, tools=tools, tool_choice=tool_choice)

    def require_short(self, given: object) -> None:
        """Refuse texts that are too long; see ``Session.require_short``."""
        self._first.require_short(given)

    # --- kept on disk --------------------------------------------------------------------------------

    @classmethod
    def load(cls, path: str | Path, model_path: str | Path | None = None, **options: Any) -> LocalADED:
        """A model, opened to go on with a conversation that was kept; its ``messages`` are the conversation's.

        Args:
            path: what ``save`` was given. Whatever keeps its state from being used is told to ``on_notice``, and the
                text is read again by the next call.
            model_path: as for ``LocalADED``; None takes the file that the conversation was held with.
            options: as for ``LocalADED``.

        Raises:
            StoreError: there is no conversation, or it cannot be read.
            ModelError, OptionError, DeviceError, ForkedError: as of ``LocalADED``.
        """
        if model_path is None:
            model = conversations.read(given_path("path", path, A_CONVERSATION)).model
            model_path = None if model is None else Path(model.file)
        llm = cls(model_path, **options)
        try:
            llm.resume(path)
        except BaseException:
            llm.close()
            raise
        return llm

    def resume(self, path: str | Path) -> Resumed:
        """Go on with a kept conversation in this object's own session; see ``Session.load``.

        Why its state is not used, where it is not, is told to ``on_notice`` too.
        """
        found = self._first.load(path)
        if found.refusal is not None:
            self._engine.notice(f"the conversation is read again from its text: {found.refusal}")
        return found

    @property
    def messages(self) -> list[Message]:
        """This object's own conversation so far; see ``Session.messages``."""
        return self._first.messages

    def kept(
        self, messages: Sequence[Message] | None = None, *, settings: Mapping[str, Any] | None = None
    ) -> KeptConversation:
        """This object's own conversation as it would be kept; see ``Session.kept``."""
        return self._first.kept(messages, settings=settings)

    def save(
        self,
        path: str | Path,
        messages: Sequence[Message] | None = None,
        *,
        settings: Mapping[str, Any] | None = None,
    ) -> str | None:
        """Keep this object's own conversation, so that it goes on later without being read again; see
        ``Session.save``."""
        return self._first.save(path, messages, settings=settings)


def _let_go(scheduler: Scheduler, path: str) -> None:
    """Nobody closed an object before it was dropped: whoever measures for it stops, and then nobody holds the model."""
    if not is_forked():
        scheduler.close()
        warnings.warn(f"a LocalADED of {path} was dropped and not closed", ResourceWarning, stacklevel=2)
