"""Opens a model with defaults that fit, and makes ready beside and between answers what a first start lacks."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from aded_local.access import Access
from aded_local.config import memory_is_off
from aded_local.drafters import NOBODY, Drafter, make_drafter
from aded_local.engine import Engine
from aded_local.engine_options import EngineOptions, Say
from aded_local.errors import DeviceError
from aded_local.files import data_problem
from aded_local.kernels import kept
from aded_local.known import Exchanges, earlier_exchanges, open_memory, phrases, static_table
from aded_local.llama import ContextSettings, Model
from aded_local.llama.context import SMALLEST_CONTEXT
from aded_local.llama.devices import layers_on_gpus
from aded_local.llama.interrupts import held_back, not_dropped
from aded_local.llama.teams import give_team_back
from aded_local.memory import ConversationMemory
from aded_local.scheduler import Scheduler
from aded_local.speed import device
from aded_local.speed.joining import JoiningPlanner
from aded_local.speed.planner import PlainPlanner, Planner, WholePlanner, make_planner
from aded_local.speed.preparation import KERNELS, MEASURING, Preparation, compile_beside, giving_way
from aded_local.speed.threads import Threads
from aded_local.speed.tuning import Tuner, setting_of
from aded_local.unkept import complaint

if TYPE_CHECKING:
    from aded_local.drafters.model.branching import KeptHrad
    from aded_local.drafters.model.loading import DraftModel

EXCHANGE_SECONDS = 1.0
"""A better setting is taken at once if what is cached is decoded anew within this time, else at the next start."""

ROLLBACK_SNAPSHOTS = 8
"""State snapshots asked for where memory is a running state: each multiplies the state's size, and on such
models a longer chain than this hardly ever pays."""

SEQUENCES = {"auto": 8, "paper": 32, "off": 2}
"""Branches a tree may have, by preset. The paper's search keeps 24 prefixes, so no more than that; a budget
rarely affords more than a few; 2 is what the cost probe needs."""


def open_engine(path: Path, options: EngineOptions, progress: Say, notice: Say) -> Engine:
    """Load a GGUF and make it ready.

    Args:
        path: the GGUF.
        options: what was asked for.
        progress: told before measurements and checks that take seconds.
        notice: told what went wrong without stopping anything.

    Raises:
        ModelError, OptionError, DeviceError: see ``LocalADED``.
    """
    if options.draft_model is not None:
        from aded_local.drafters.model.loading import require_fitting

        require_fitting(options.draft_model)  # before the large file is read
    model = Model(path, n_gpu_layers=options.n_gpu_layers, verbose=options.verbose, progress=progress)
    try:
        for line in model.ignored_suggestions:
            notice(line)
        n_ctx = options.n_ctx or device.default_context(model)
        if "position_embd.weight" in model.header.tensors:
            # Learnt positions end where training did, and llama.cpp ends the process beyond.
            n_ctx = min(n_ctx, model.n_ctx_train)
        forbidden = memory_is_off() if options.memory else None
        wanted = options.memory and forbidden is None
        if forbidden is not None:
            notice(f"nothing is remembered: {forbidden} says so, and stands above memory=True")
        lacking = complaint(kernels=kept.FOLDER, memory=wanted)
        if lacking is not None:
            notice(lacking)
        memory = open_memory(model, notice) if wanted else None
        while True:
            try:
                return _open_context(model, n_ctx, options, memory, progress, notice)
            except DeviceError:
                # Free memory is an estimate, the GPU's is not known at all: a default gives way, a wish does not.
                if options.n_ctx is not None or n_ctx // 2 < SMALLEST_CONTEXT:
                    raise
                n_ctx //= 2
                notice(f"not enough memory for the default context; trying {n_ctx} tokens")
    except BaseException:
        model.close()
        raise


def _open_context(
    model: Model,
    n_ctx: int,
    options: EngineOptions,
    memory: ConversationMemory | None,
    progress: Say,
    notice: Say,
) -> Engine:
    wanted = ContextSettings(
        n_ctx=n_ctx,
        n_threads=options.n_threads or device.physical_threads(),
        flash_attention=False,
        cache_type="f16",
        n_sequences=SEQUENCES[options.draft],
        n_rollback=0 if options.draft == "off" else ROLLBACK_SNAPSHOTS,
    )
    tuner = Tuner(
        model,
        wanted,
        same=options.same,
        flash_attention=options.flash_attention,
        cache_type=options.cache_type,
        n_gpu_layers=options.n_gpu_layers,
        progress=progress,
        notice=notice,
        most_threads=None if options.n_threads else device.logical_threads(),
    )
    if options.same == "exact" and tuner.choice() is None:
        tuner.settle()  # which words are said depends on it
    target = tuner.open()
    draft = None
    try:
        if options.draft_model is not None:
            draft = _open_draft(options.draft_model, model, options, progress)
    except BaseException:
        target.context.close()
        raise
    scheduler = Scheduler(rest=give_team_back)
    tuner.on_busy = scheduler.hold_nobody_up
    engine = Engine(
        model,
        target,
        PlainPlanner(),
        None,
        tuner,
        options,
        notice,
        scheduler,
        Access(scheduler),
        Preparation(scheduler, notice),
        Threads(target.settings.n_threads),
        memory,
        forgetful=data_problem() is not None,
        draft=draft,
    )
    try:
        if options.draft == "off" or target.drafting_shape == "none":
            tuner.progress = lambda line: None
            if not tuner.settled:
                engine.preparation.start(lambda preparation: _settle(engine), MEASURING)
            return engine
        engine.curve = tuner.kept_curve(target.settings)
        if options.same == "exact":
            engine.curve = engine.curve or tuner.measure_curve(target.settings)
        if engine.curve is not None:
            engine.know_words()
            if options.same == "exact":
                _say_where_nothing_is_exact(engine)
        if options.store is not None:
            static_table(options.store, model)  # what is wrong with it is said now
        earlier = earlier_exchanges(memory, model.n_vocab, notice)
        tuner.progress = lambda line: None  # from here on nobody waits
        engine.again = _measure_again
        joining = JoiningPlanner()
        if draft is not None and options.draft_mode not in ("auto", "ngram") and engine.curve is None:
            notice(f"{options.draft_mode} begins once this machine is measured, while no answer is written")
        if not kept.kernels_are_kept(options.search):
            engine.planner = joining
            engine.preparation.start(lambda preparation: _prepare(engine, joining, earlier), KERNELS)
            return engine
        with not_dropped():
            drafter = _make_drafter(engine, earlier)
        drafter = _with_model(engine, drafter)
        engine.planner = joining if engine.curve is None else _make_planner(engine, drafter)
        if (
            engine.curve is None
            or not tuner.settled
            or tuner.curve_is_due(target.settings)
            or tuner.lacks_curves
        ):
            engine.preparation.start(lambda preparation: _measure(engine, joining, drafter), MEASURING)
        return engine
    except BaseException:
        engine.preparation.close()
        if engine.asking is not None:
            engine.asking.close()
        elif draft is not None:
            draft.close()
        target.context.close()
        raise
    finally:
        give_team_back()


def _open_draft(path: Path, target: Model, options: EngineOptions, progress: Say) -> DraftModel:
    """The draft model of ``options``, if it can draft for ``target``."""
    from aded_local.drafters.model.loading import DraftModel

    return DraftModel(
        path,
        target,
        n_gpu_layers=options.draft_gpu_layers,
        n_threads=options.draft_threads or options.n_threads or device.physical_threads(),
        verbose=options.verbose,
        progress=progress,
    )


def _prepare(engine: Engine, joining: JoiningPlanner, earlier: Exchanges | None) -> None:
    """Make the drafter, compiling it first, then measure; runs in a thread of its own."""
    preparation = engine.preparation
    started = time.perf_counter()
    compile_beside(engine.scheduler, engine.options.search)
    if kept.FOLDER is None:
        engine.scheduler.wait()  # a program that ends with its first answer need not begin with them
    with giving_way(), preparation.interruptible():
        drafter = _make_drafter(engine, earlier)
    drafter = _with_model(engine, drafter)
    preparation.compiled = time.perf_counter() - started
    if engine.curve is not None:
        _join(engine, joining, drafter)
    preparation.stage = MEASURING
    _measure(engine, joining, drafter)


def _measure(engine: Engine, joining: JoiningPlanner, drafter: Drafter) -> None:
    """Find setting and curve between answers, and let drafting join; runs in a thread of its own."""
    tuner, scheduler = engine.tuner, engine.scheduler
    opened = engine.target.settings
    _settle(engine)
    while True:
        settings = engine.target.settings
        # A curve belongs to its setting, and that may be another one now: the trials', or that of a turn meanwhile.
        curve = (engine.curve if settings == opened else None) or tuner.kept_curve(settings)
        if curve is None or tuner.curve_is_due(settings):
            with scheduler.measuring():
                curve = tuner.measure_curve(settings, scheduler, curve)
        if engine.target.settings == settings:
            break
    engine.take(curve)
    with scheduler.measuring():
        engine.know_words(scheduler)
    _join(engine, joining, drafter)
    _measure_others(engine)


def _measure_others(engine: Engine) -> None:
    """Measure what passes cost in the settings that longer texts may want."""
    tuner, scheduler = engine.tuner, engine.scheduler
    for choice in tuner.worth_knowing():
        settings = tuner.settings(choice.setting)
        if tuner.kept_curve(settings) is None:
            with scheduler.measuring():
                tuner.measure_curve(settings, scheduler)


def _measure_again(engine: Engine) -> None:
    """Measure again between answers what the first passes of this start are at odds with."""

    def steps(_preparation: Preparation) -> None:
        measured = engine.target.settings
        with engine.scheduler.measuring():
            curve = engine.tuner.measure_again(measured, engine.scheduler)
        with engine.scheduler.exchanging():
            # A turn may have changed the setting meanwhile.
            if curve is not None and engine.curve is not None and engine.target.settings == measured:
                engine.take(curve)
        if curve is not None and engine.curve is not None:
            _measure_others(engine)

    engine.preparation.start(steps, MEASURING)


def _join(engine: Engine, joining: JoiningPlanner, drafter: Drafter) -> None:
    if engine.planner is joining and not joining.joined:
        joining.join(_make_planner(engine, drafter))
        engine.preparation.has_joined()


def _settle(engine: Engine) -> None:
    """Find the best setting between answers, and change to it where that is quick."""
    tuner, scheduler, target = engine.tuner, engine.scheduler, engine.target
    if tuner.settled:
        return
    with scheduler.measuring():
        best = tuner.settle(scheduler).setting
        if best == setting_of(target.settings) or engine.options.same == "exact":
            return
        scheduler.wait()
    with scheduler.exchanging():
        cached = list(target.cached)
        if len(cached) * target.seconds_per_prompt_token > EXCHANGE_SECONDS:
            return
        before = target.settings
        try:
            target.change(tuner.settings(best))
        except DeviceError:
            target.reopen(before)
        if cached:
            target.prefill(cached, lambda: scheduler.wanted)


def _make_drafter(engine: Engine, earlier: Exchanges | None) -> Drafter:
    """The preset's drafter, which knows the static store, the shipped phrases and earlier conversations."""
    options, model = engine.options, engine.model
    drafter = make_drafter(
        options.draft,
        n_vocab=model.n_vocab,
        search=options.search,
        static=None if options.store is None else static_table(options.store, model),
        phrases=phrases(model, engine.notice) if options.draft == "auto" else None,
    )
    if earlier is not None:
        drafter.recall(earlier)
    return drafter


def _with_model(engine: Engine, ngrams: Drafter) -> Drafter:
    """The drafter with what the draft model says, where there is one and memory for its context."""
    draft = engine.draft
    if draft is None:
        return ngrams
    from aded_local.drafters.model.drafter import ModelDrafter
    from aded_local.drafters.ngram.drafter import NgramDrafter

    assert isinstance(ngrams, NgramDrafter)  # of auto, the only preset that asks a model
    try:
        speaker = draft.speaker(engine.n_ctx)
    except DeviceError as error:
        engine.notice(f"drafting goes on without a draft model: {error}")
        return ngrams
    hrad = _hrad(engine, draft) if engine.options.draft_mode == "branch" else None
    pair = _pair(engine, draft)
    scheduler = engine.scheduler  # the thread that looks at it must not keep the engine
    with held_back():  # once its thread runs, somebody has to know whom to close
        engine.asking = ModelDrafter(
            ngrams,
            speaker,
            close=draft.close,
            mode=engine.options.draft_mode,
            threads=draft.n_threads,
            target_threads=engine.target.settings.n_threads,
            shares=_share_a_device(engine.options),
            hrad=hrad,
            pair=pair,
            yields=lambda: scheduler.measures,
            notice=engine.notice,
        )
    return engine.asking


def _share_a_device(options: EngineOptions) -> bool:
    return bool(layers_on_gpus(options.n_gpu_layers)) == bool(layers_on_gpus(options.draft_gpu_layers))


def _pair(engine: Engine, draft: DraftModel) -> Path:
    """Where what is learnt of both models is kept."""
    from aded_local.drafters.model import numbers, pair

    options = engine.options
    threads = f"{engine.target.settings.n_threads} {draft.n_threads}"
    how = f"{options.draft_mode} {threads} {options.n_gpu_layers} {options.draft_gpu_layers}"
    return numbers.path_of(pair.FOLDER, engine.model.header.digest, draft.digest, how)


def _hrad(engine: Engine, draft: DraftModel) -> KeptHrad:
    """What decides where to branch, and the target's states that it looks at."""
    from aded_local.drafters.model import hrad, numbers
    from aded_local.drafters.model.branching import KeptHrad

    engine.target.read_hidden(True)
    path = numbers.path_of(hrad.FOLDER, engine.model.header.digest, draft.digest)
    return KeptHrad(path, engine.model.n_hidden)


def _make_planner(engine: Engine, drafter: Drafter) -> Planner:
    assert engine.curve is not None
    engine.threads.use(engine.curve)
    options = engine.options
    if options.draft_mode == "branch" and engine.asking is not None:
        return WholePlanner(drafter, engine.limits())  # as published, whatever it promises
    return make_planner(
        options.draft,
        drafter,
        engine.threads.costs,
        engine.limits(),
        top_k=options.top_k,
        beside=NOBODY if engine.asking is None else engine.asking,
    )


def _say_where_nothing_is_exact(engine: Engine) -> None:
    if engine.target.largest_draft and engine.largest_draft == 0:
        engine.notice(
            "with these settings no larger batch equals one-token decoding here: exact, so decoding plainly"
        )
