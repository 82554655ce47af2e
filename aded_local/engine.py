"""What belongs to one loaded model: weights, context, cost curve and planner; ``opening`` makes it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import psutil

from aded_local.access import Access
from aded_local.chat.looking import analysed
from aded_local.chat.rendering import Renderer
from aded_local.chat.template import ChatTemplate
from aded_local.drafters import NOBODY, Beside
from aded_local.drafters.model.tally import ModelDrafting
from aded_local.engine_options import EngineOptions, Say
from aded_local.errors import DeviceError, StoreError
from aded_local.llama import Model, SavedCells, Target
from aded_local.llama.interrupts import held_back
from aded_local.llama.loading import is_forked
from aded_local.memory import ConversationMemory
from aded_local.scheduler import Scheduler
from aded_local.speed.cost_curve import CostCurve
from aded_local.speed.planner import Limits, PlainPlanner, Planner
from aded_local.speed.preparation import Preparation
from aded_local.speed.pricing import EXPECTED_ANSWER, Setting
from aded_local.speed.probe import Gate
from aded_local.speed.threads import Threads
from aded_local.speed.tuning import Tuner, setting_of
from aded_local.tree import IntArray

if TYPE_CHECKING:
    from aded_local.drafters.model.drafter import ModelDrafter
    from aded_local.drafters.model.loading import DraftModel


SAVED_SHARE = 0.25
"""Of the free memory, what the copy of one session's cells may take; else its tokens are decoded again. Chosen."""


class Occupant(Protocol):
    """Somebody whose tokens the cells can hold: a session."""

    def leave(self) -> None:
        """The cells go to another one now."""
        ...

    def come_back(self) -> None:
        """Take the cells, which hold another one's tokens."""
        ...


@dataclass(slots=True)
class Engine:
    """What belongs to one loaded model, whoever's turn it is.

    Attributes:
        model: weights and vocabulary.
        target: the context's cells, which hold one session at a time.
        planner: decides what to verify.
        curve: cost of a pass; None where nothing is drafted, and until it was measured.
        tuner: keeps the measurements.
        options: as opened.
        notice: told what went wrong without stopping anything.
        scheduler: whose turn it is, an answer's or a measurement's.
        access: who may use the model at all.
        preparation: what is still made ready beside and between answers.
        threads: how many threads passes use, and what they cost now.
        memory: earlier conversations on disk; None where none are kept.
        forgetful: the memory refused an exchange, and that was told.
        plain: decode plainly whatever the planner would do.
        keeps_words: drafts have exact sizes only, so that the words are those of plain decoding.
        loss: share of the speed that keeping the words costs here, or would cost.
        again: makes measurements again that do not hold any longer.
        occupant: the session whose tokens the cells hold, while somebody has it.
        draft: a second model that drafts; None without one.
        asking: what asks it; None as long as nothing is drafted.
    """

    model: Model
    target: Target
    planner: Planner
    curve: CostCurve | None
    tuner: Tuner
    options: EngineOptions
    notice: Say
    scheduler: Scheduler
    access: Access
    preparation: Preparation
    threads: Threads
    memory: ConversationMemory | None = None
    forgetful: bool = False
    plain: bool = False
    keeps_words: bool = True
    loss: float = 0.0
    again: Callable[[Engine], None] = lambda engine: None
    occupant: weakref.ref[Occupant] | None = None
    draft: DraftModel | None = None
    asking: ModelDrafter | None = None
    _template: ChatTemplate | None = None

    @property
    def n_ctx(self) -> int:
        """Tokens of context."""
        return self.target.context.n_ctx

    @property
    def planner_in_use(self) -> Planner:
        """What plans the next answer."""
        return PlainPlanner() if self.plain else self.planner

    @property
    def beside_in_use(self) -> Beside:
        """What works beside the next answer's passes."""
        return NOBODY if self.plain or self.asking is None else self.asking

    def model_did(self) -> ModelDrafting | None:
        """What the draft model did so far; None without one."""
        if self.draft is None:
            return None
        return ModelDrafting() if self.asking is None else self.asking.did()

    def threads_in_use(self) -> Threads:
        """What says how many threads the next answer's passes use."""
        exactness = self.tuner.exactness(setting_of(self.target.settings))
        # Where thread counts change bits, they stay while words are kept; most settings are steady.
        self.threads.allow(exactness is None or exactness.steady or not self.is_exact)
        return self.threads

    def template(self) -> ChatTemplate:
        """The chat template, analysed when it is first needed.

        Raises:
            TemplateError: the model has none, or one that does not compile.
        """
        if self._template is None:
            self._template = self._make_template()
        return self._template

    def _make_template(self) -> ChatTemplate:
        model, given = self.model, self.options.chat_template
        source = model.chat_template if given is None else given
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

    def limits(self) -> Limits:
        """What the target can verify in one pass, with the options as opened."""
        target, exact = self.target, self.is_exact
        is_chain = exact or target.drafting_shape == "chain"
        exactness = self.tuner.exactness(setting_of(target.settings))
        sizes = [1] if exactness is None else exactness.sizes
        return Limits(
            nodes=min(target.largest_draft, self.options.draft_max or target.largest_draft),
            leaves=1 if is_chain else target.settings.n_sequences,
            sizes=tuple(sizes) if exact else None,
        )

    @property
    def is_exact(self) -> bool:
        """Whether drafts are cut to exact sizes now; ``paper`` is as published unless ``exact`` is asked for."""
        return self._is_exact(self.keeps_words)

    def _is_exact(self, keeps_words: bool) -> bool:
        same = self.options.same
        return same == "exact" or (same == "cheap" and keeps_words and self.options.draft != "paper")

    # --- what a turn is answered in ------------------------------------------------------------------

    def suit(self, n_prompt: int, n_cached: int, most: int) -> None:
        """Take the setting of attention and cache that suits a turn; the cells are empty after a change.

        Args:
            n_prompt: tokens of the prompt.
            n_cached: of those, in the cells already.
            most: tokens of the answer at most.
        """
        now = setting_of(self.target.settings)
        choice = self.tuner.turn(now, n_prompt, n_cached, most)
        if choice is None:
            return
        if choice.setting != now and not self._change(choice.setting, choice.exact):
            choice = self.tuner.as_it_is(now, n_prompt) or choice
        self.keeps_words, self.loss = choice.exact, choice.loss
        if self.curve is not None:
            self.planner.fit(self.limits())

    def foreseen(self, n_prompt: int, most: int) -> tuple[Setting, tuple[int, ...] | None]:
        """What the next turn would be answered in if it began with empty cells; arguments as of ``suit``.

        Returns:
            The setting, and the only numbers of tokens that a pass may have then; None for any.
        """
        now = setting_of(self.target.settings)
        choice = self.tuner.turn(now, n_prompt, 0, most)
        if (
            choice is not None
            and choice.setting != now
            and not self._may_change(choice.setting, choice.exact)
        ):
            choice = self.tuner.as_it_is(now, n_prompt) or replace(choice, setting=now)
        setting, keeps = (now, self.keeps_words) if choice is None else (choice.setting, choice.exact)
        if not self._is_exact(keeps):
            return setting, None
        exactness = self.tuner.exactness(setting)
        return setting, (1,) if exactness is None else tuple(exactness.sizes)

    def _may_change(self, setting: Setting, exact: bool) -> bool:
        """Whether all that drafting in a setting needs was measured before."""
        if self.curve is None:
            return True
        is_priced = self.tuner.kept_curve(self.tuner.settings(setting)) is not None
        return is_priced and (not exact or self.tuner.exactness(setting) is not None)

    def _change(self, setting: Setting, exact: bool) -> bool:
        """Make the context anew in another setting; tells whether it was, which takes its curve where it drafts."""
        if not self._may_change(setting, exact):
            return False
        before, settings = self.target.settings, self.tuner.settings(setting)
        curve = None if self.curve is None else self.tuner.kept_curve(settings)
        try:
            self.target.change(settings)
        except DeviceError:
            self.target.reopen(before)
            return False
        if curve is not None:
            self.take(curve)
        return True

    def take(self, curve: CostCurve) -> None:
        """Price passes by another curve from now on."""
        self.curve = curve
        self.threads.use(curve)

    def know_words(self, gate: Gate | None = None) -> None:
        """Whether the words of plain decoding are kept in the present setting, and which sizes keep them.

        Args:
            gate: asked before each pass that is needed to find that out.

        Raises:
            DeviceError: there is no memory for a second context.
        """
        target = self.target
        now = setting_of(target.settings)
        choice = self.tuner.as_it_is(now, target.n_cells + EXPECTED_ANSWER / 2)
        if choice is not None:
            self.keeps_words, self.loss = choice.exact, choice.loss
        if self.is_exact and self.curve is not None:
            self.tuner.find_exactness(now, gate)

    def answered(self, passes: Sequence[tuple[int, float]]) -> None:
        """An answer has ended; its plain passes say whether what was measured still holds."""
        self.tuner.see_passes(self.target.settings, passes)
        if self.tuner.doubtful and not self.preparation.running:
            self.again(self)

    # --- whose tokens the cells hold -----------------------------------------------------------------

    def seat(self, session: Occupant) -> None:
        """Give the cells to ``session``; those of the one before are copied aside.

        Raises:
            DeviceError: an earlier turn could not have its context, and there is still no memory for one.
        """
        if self.target.context.is_closed:
            self.target.reopen(self.target.settings)
        before = None if self.occupant is None else self.occupant()
        if before is session:
            return
        if before is not None:
            before.leave()
        if self.occupant is not None:
            session.come_back()
        self.occupant = weakref.ref(session)

    def put_back(self, saved: SavedCells | None) -> None:
        """Hold again what a session's cells held, with the attention and cache that they come from; else nothing."""
        now = setting_of(self.target.settings)
        then = now if saved is None else setting_of(saved.settings)
        if saved is None or (then[:2] != now[:2] and not self.take_setting(then)):
            self.target.forget()
        else:
            self.target.restore(saved)

    def take_setting(self, setting: Setting) -> bool:
        """Answer in another setting from now on, where it was measured; tells whether it is so."""
        return setting == setting_of(self.target.settings) or self._change(setting, exact=False)

    def has_seat(self, session: Occupant) -> bool:
        """Whether the cells hold tokens of ``session``."""
        return self.occupant is not None and self.occupant() is session

    def copy_of_cells(self) -> SavedCells | None:
        """A copy of what the cells hold; None where it would take too much of the free memory, or nothing is there."""
        free = psutil.virtual_memory().available
        if not self.target.is_sure or not self.target.cached or self.target.saved_size() > SAVED_SHARE * free:
            return None
        return self.target.save()

    # --- ending --------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop what is made ready, write refined measurements back and free everything. A Ctrl-C comes after it."""
        with held_back():
            if self._template is not None:
                self._template.close()
            self._free(stopped=self.preparation.close())

    def _free(self, *, stopped: bool) -> None:
        try:
            if self.curve is not None:
                self.tuner.save_refined(self.curve)
        finally:
            self.planner.close()
            if self.asking is not None:
                self.asking.close()
            elif self.draft is not None:
                self.draft.close()
            if stopped:  # else a pass still reads the weights, and they stay until the program ends
                self.target.close()
                self.model.close()
            if self.memory is not None:
                self.memory.close()

    def remember(
        self, prompt: IntArray, answer: Sequence[int], *, known: int, conversation: int, turn: int
    ) -> None:
        """Keep an exchange where a memory is. What goes wrong is told once and stops nothing.

        Args:
            prompt: all its token ids, int32 ``(n,)``.
            answer: token ids that the model emitted.
            known: so many tokens of the prompt were said before, in this conversation or at the beginning of another.
            conversation: its number.
            turn: how many exchanges of it came before.
        """
        if self.memory is None or is_forked():  # a child that inherits an answer is not the one to keep it
            return
        try:
            self.memory.remember(prompt.tolist(), answer, known=known, conversation=conversation, turn=turn)
        except StoreError as error:
            if not self.forgetful:
                self.forgetful = True
                self.notice(f"this exchange is not remembered: {error}")

    @property
    def largest_draft(self) -> int:
        """Nodes that a pass may verify with these options."""
        if self.options.draft == "off":
            return 0
        limits = self.limits()
        return limits.fitting(limits.nodes)
