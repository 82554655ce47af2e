"""What does verifying n tokens cost here, by attention, cache type and cells, and which sizes are exact?

The measuring is the engine's own (`aded_local.speed.exactness.ExactnessProbe`): sizes interleaved round by round in one
context, the prefix filled by copies. Curves are written to the file the engine reads, so that its budget
goes by what was measured here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from aded_bench.results import ResultFile, provenance, resume
from aded_local.errors import DeviceError, OptionError
from aded_local.llama import ALL_LAYERS, CACHE_TYPES, ContextSettings, Model, Target
from aded_local.opening import ROLLBACK_SNAPSHOTS, SEQUENCES
from aded_local.speed import device
from aded_local.speed.cost_curve import BASE_FILL, LARGEST_BATCH, from_measurements
from aded_local.speed.exactness import ExactnessProbe
from aded_local.speed.pricing import Setting
from aded_local.speed.probe import PROBE_SEED, ROUNDS, SIZES
from aded_local.speed.tuning import CANDIDATES, Tuner

Say = Callable[[str], None]
Entry = dict[str, Any]
"""One curve of a result file: see ``entry_of``."""
Key = tuple[bool, str, int]
"""Flash attention, cache type, cells before the batch."""

PREFIXES = (BASE_FILL, 1536)
"""Cells measured at unless told otherwise: where the engine's curve starts, and a long chat
(field measurements compare attention settings there)."""

ASK_FOR_LESS = "; ask for less with -c"
"""End of the engine's message about a context it cannot make; beside other combinations it is no advice."""


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        sizes: batch sizes, most useful first; 1 is always measured.
        prefixes: cells before the batch.
        attention: flash attention settings; None for those of the engine's candidates.
        cache_types: likewise.
        exact: find the sizes equal to one-token decoding.
        rounds: repetitions of each size.
        keep: write the curves where the engine finds them.

    Raises:
        OptionError: something cannot be measured.
    """

    model: Path
    sizes: tuple[int, ...] = SIZES
    prefixes: tuple[int, ...] = PREFIXES
    attention: tuple[bool, ...] | None = None
    cache_types: tuple[str, ...] | None = None
    exact: bool = True
    rounds: int = ROUNDS
    n_threads: int | None = None
    n_ctx: int | None = None
    keep: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        if not all(1 <= n <= LARGEST_BATCH for n in self.sizes):
            raise OptionError(f"sizes lie between 1 and {LARGEST_BATCH}")
        if not self.prefixes or min(self.prefixes) < 1:
            raise OptionError("prefixes are numbers of tokens from 1 up")
        for kind in self.cache_types or ():
            if kind not in CACHE_TYPES:
                raise OptionError(f"no cache type is called {kind!r}: choose among {', '.join(CACHE_TYPES)}")

    def settings(self) -> dict[str, Any]:
        """The part of the plan a resumed run must share."""
        return {
            "sizes": sorted({1, *self.sizes}),
            "prefixes": list(self.prefixes),
            "combinations": [list(setting) for setting in self.combinations()],
            "exact": self.exact,
            "rounds": self.rounds,
            "n_threads": self.n_threads,
            "n_ctx": self.n_ctx,
            "seed": PROBE_SEED,
        }

    def combinations(self) -> list[Setting]:
        """The (attention, cache type) pairs to measure."""
        if self.cache_types is None:
            return [pair for pair in CANDIDATES if self.attention is None or pair[0] in self.attention]
        return [Setting(on, kind) for on in self.attention or (False, True) for kind in self.cache_types]

    @property
    def steps_per_curve(self) -> int:
        """Rounds, and a look at which sizes are exact."""
        return self.rounds + int(self.exact)


def total_steps(plan: Plan) -> int:
    """How often ``run`` calls ``step``."""
    return len(plan.combinations()) * len(plan.prefixes) * plan.steps_per_curve


def name_of(setting: Setting) -> str:
    """A setting in words."""
    return f"flash attention {'on' if setting[0] else 'off'}, {setting[1]} cache"


def entry_of(
    setting: Setting, prefix: int, samples: dict[int, list[float]], note: str | None = None
) -> Entry:
    """One curve as plain data: medians and quartiles in milliseconds by batch size, ratios to one token.

    Args:
        samples: seconds by batch size; none where the combination does not work, which ``note`` explains.
    """
    quartiles = {n: 1e3 * np.percentile(taken, (25, 50, 75)) for n, taken in sorted(samples.items())}
    one = quartiles[1][1] if quartiles else 1.0
    found = {
        "milliseconds": {n: q[1] for n, q in quartiles.items()},
        "ratio": {n: q[1] / one for n, q in quartiles.items()},
        "low": {n: q[0] for n, q in quartiles.items()},
        "high": {n: q[2] for n, q in quartiles.items()},
    }
    return {
        "flash_attention": setting[0],
        "cache_type": setting[1],
        "prefix": prefix,
        **{key: {str(n): round(float(v), 4) for n, v in by_size.items()} for key, by_size in found.items()},
        "rounds": min((len(taken) for taken in samples.values()), default=0),
        "exact": None,
        "note": note,
    }


def _key(entry: Entry) -> Key:
    return entry["flash_attention"], entry["cache_type"], entry["prefix"]


def run(
    plan: Plan, file: ResultFile, step: Say = lambda note: None, notice: Say = lambda note: None
) -> dict[str, Any]:
    """Measure every combination; the result as plain data, with ``complete`` False after Ctrl-C.

    A combination that does not work here has its reason under ``note`` instead of numbers.

    Args:
        file: grows by each curve; an interrupted run's curves are taken from it.
        step: told after each round.
        notice: told what is not done as asked.

    Raises:
        ADEDError: the model cannot be used, or ``file`` holds another run.
    """
    model = Model(plan.model)
    try:
        engine = _Engine(plan, model, notice)
        chosen = engine.settings
        result: dict[str, Any] = {
            "kind": "curve",
            "complete": False,
            "curves": [],
            "chosen": {"flash_attention": chosen.flash_attention, "cache_type": chosen.cache_type},
            "provenance": provenance(plan.settings(), model=plan.model, description=engine.description),
        }
        # Which setting the engine takes follows from timings, and may be another one each time.
        chosen_anew = ("flash_attention", "cache_type")
        earlier = resume(file, "curve", result["provenance"], may_differ=chosen_anew) or result
        curves = {_key(entry): entry for entry in earlier["curves"]}
        work = _Work(plan, engine, curves, result, file, step)
        try:
            for setting in plan.combinations():
                work.measure(setting)
            result["complete"] = True
        except KeyboardInterrupt:
            pass
        work.save(now=True)
        return result
    finally:
        model.close()


class _Engine:
    """The engine's own choice for a model, and contexts as `auto` gets them.

    Attributes:
        settings: what it chose.
        description: what holds for all curves; keys as in ``LocalADED.description()``.
        prefixes: those of the plan, in cells that the context can really have.
        keeps: whether curves are written where the engine finds them.
    """

    def __init__(self, plan: Plan, model: Model, notice: Say) -> None:
        self.model = model
        wanted = ContextSettings(
            n_ctx=plan.n_ctx or device.default_context(model),
            n_threads=plan.n_threads or device.physical_threads(),
            flash_attention=False,
            cache_type="f16",
            n_sequences=SEQUENCES["auto"],
            n_rollback=ROLLBACK_SNAPSHOTS,
        )
        self._tuner = Tuner(
            model, wanted, same="off", flash_attention=None, cache_type=None, n_gpu_layers=ALL_LAYERS,
            progress=lambda note: None, notice=notice,
        )  # fmt: skip
        self._tuner.settle()
        target = self._tuner.open()
        try:
            self.settings = target.settings
            self.description = {
                "architecture": model.header.architecture,
                "quantization": model.quantization,
                "size_bytes": model.size_bytes,
                "context": target.context.n_ctx,
                "threads": self.settings.n_threads,
                "device": device.device_name(),
                "gpu_layers": "all",
                "flash_attention": self.settings.flash_attention,
                "cache_type": self.settings.cache_type,
            }
            self._fit(plan, ExactnessProbe(target.context), notice)
        finally:
            target.context.close()

    def _fit(self, plan: Plan, probe: ExactnessProbe, notice: Say) -> None:
        self.prefixes = [probe.cells_for(min(asked, max(probe.largest_fill, 0))) for asked in plan.prefixes]
        for asked, cells in zip(plan.prefixes, self.prefixes, strict=True):
            if cells != asked:
                notice(f"a prefix of {asked} tokens is measured at {cells} cells: that is what fits here")
        if max(plan.sizes, default=1) > probe.largest_size:
            notice(f"sizes beyond {probe.largest_size} do not fit this model's memory and are left out")
        # What the engine keeps must say no less than what it would measure itself.
        needed = {n for n in SIZES if n <= probe.largest_size}
        has_far = max(self.prefixes) > 2 * BASE_FILL or probe.largest_fill <= 2 * BASE_FILL
        covers = probe.cells_for(BASE_FILL) in self.prefixes and has_far and needed <= set(plan.sizes)
        if plan.keep and not covers:
            notice(
                f"the curves are not kept for the engine: that takes a prefix of {BASE_FILL}, one beyond "
                f"{2 * BASE_FILL}, and all the sizes measured by default"
            )
        self.keeps = plan.keep and covers

    def open(self, setting: Setting) -> Target:
        """A context with another attention and cache type. Raises DeviceError where they do not work."""
        return Target(
            self.model,
            replace(
                self.settings,
                flash_attention=setting.flash_attention,
                cache_type=setting.cache_type,
                row_by_row=setting.row_by_row,
            ),
        )

    def keep(self, target: Target, probe: ExactnessProbe, curves: Sequence[Entry], exact: bool) -> None:
        """Write the curve of one combination where the engine finds it."""
        seconds = {
            curve["prefix"]: {int(n): 1e-3 * value for n, value in curve["milliseconds"].items()}
            for curve in curves
        }
        far_fill = max(seconds)
        far = seconds[far_fill] if far_fill > 2 * BASE_FILL else {}
        curve = from_measurements(seconds[probe.cells_for(BASE_FILL)], far, far_fill)
        # At the engine's own fills, which need not be those measured here.
        self._tuner.keep(target.settings, curve, probe.exactness() if exact else None)


@dataclass
class _Work:
    """A run under way."""

    plan: Plan
    engine: _Engine
    curves: dict[Key, Entry]
    result: dict[str, Any]
    file: ResultFile
    step: Say
    steps: int = 0

    def save(self, *, now: bool = False) -> None:
        self.result["curves"] = list(self.curves.values())
        self.file.save(self.result, now=now)

    def tell(self, note: str) -> None:
        self.steps += 1
        self.step(note)

    def measure(self, setting: Setting) -> None:
        """All prefixes of one combination, but those that an earlier run has; then what the engine reads."""
        keys = [(*setting[:2], prefix) for prefix in self.engine.prefixes]
        target: Target | None = None
        try:
            for key in keys:
                end = (self.steps // self.plan.steps_per_curve + 1) * self.plan.steps_per_curve
                if not self._is_done(self.curves.get(key)):
                    try:
                        target = target or self.engine.open(setting)
                        self._curve(key, ExactnessProbe(target.context))
                    except DeviceError as error:
                        note = str(error).removesuffix(ASK_FOR_LESS)
                        self.curves[key] = entry_of(setting, key[2], {}, note)
                while self.steps < end:
                    self.tell("")
            found = [self.curves[key] for key in keys]
            if target is not None and self.engine.keeps and all(curve["note"] is None for curve in found):
                self.engine.keep(target, ExactnessProbe(target.context), found, self.plan.exact)
        finally:
            if target is not None:
                target.context.close()

    def _is_done(self, entry: Entry | None) -> bool:
        if entry is None or entry["note"] is not None:
            return entry is not None
        return entry["rounds"] >= self.plan.rounds and (entry["exact"] is not None or not self.plan.exact)

    def _curve(self, key: Key, probe: ExactnessProbe) -> None:
        """Measure one curve; its times are there even when Ctrl-C ends the measuring half-way."""
        samples: dict[int, list[float]] = {}
        setting, prefix = Setting(*key[:2]), key[2]
        note = f"{name_of(setting)}, {prefix} cells"
        try:
            for n, seconds in probe.passes(self.plan.sizes, prefix, rounds=self.plan.rounds):
                samples.setdefault(n, []).append(seconds)
                if n == 1 and len(samples[1]) > 1:
                    self.tell(note)
            self.tell(note)
        finally:
            if samples:
                self.curves[key] = entry_of(setting, prefix, samples)
        if self.plan.exact:
            found = probe.exact_sizes(self.plan.sizes, prefix, longest=LARGEST_BATCH)
            self.curves[key]["exact"] = sorted(found)
            self.tell(note)
        self.save()
