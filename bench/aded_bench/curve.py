"""What does verifying n tokens cost here, by attention, cache type and cells, and which sizes are exact?

The measuring is the engine's own (`aded_local.speed.cost_curve.Probe`): sizes interleaved round by round in one
context, the prefix filled by copies. Curves are written to the file the engine reads, so that its budget
goes by what was measured here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aded_bench.curve_entries import Entry, Setting, curves_of, entry_of, name_of
from aded_bench.results import ResultFile, provenance, resume
from aded_local.errors import DeviceError, OptionError
from aded_local.llama import ALL_LAYERS, CACHE_TYPES, ContextSettings, Model, Target
from aded_local.opening import ROLLBACK_SNAPSHOTS, SEQUENCES
from aded_local.speed import device
from aded_local.speed.cost_curve import BASE_FILL, LARGEST_BATCH, from_measurements
from aded_local.speed.probe import PROBE_SEED, ROUNDS, SIZES, Probe
from aded_local.speed.tuning import CANDIDATES, Tuner

Say = Callable[[str], None]

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
        """Refuse what cannot be measured.

        Raises:
            OptionError
        """
        if not all(1 <= n <= LARGEST_BATCH for n in self.sizes):
            raise OptionError(f"sizes lie between 1 and {LARGEST_BATCH}")
        if not self.prefixes or min(self.prefixes) < 1:
            raise OptionError("prefixes are numbers of tokens from 1 up")
        unknown = [kind for kind in self.cache_types or () if kind not in CACHE_TYPES]
        if unknown:
            raise OptionError(
                f"no cache type is called {unknown[0]!r}: choose among {', '.join(CACHE_TYPES)}"
            )

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
        return [(on, kind) for on in self.attention or (False, True) for kind in self.cache_types]


def total_steps(plan: Plan) -> int:
    """How often ``run`` calls ``step``."""
    return len(plan.combinations()) * len(plan.prefixes) * _steps_per_curve(plan)


def _steps_per_curve(plan: Plan) -> int:
    return plan.rounds + int(plan.exact)


def run(
    plan: Plan, file: ResultFile, step: Say = lambda note: None, notice: Say = lambda note: None
) -> Entry:
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
        tuner = _tuner(plan, model, notice)
        tuner.settle()
        with_chosen = tuner.open()
        try:
            chosen = with_chosen.settings
            probe = Probe(with_chosen.context)
            prefixes = _fitting(plan, probe, notice)
            bench = _Bench(model, chosen, tuner, plan.keep and _covers(plan, probe, prefixes, notice))
            engine = _description(model, with_chosen)
        finally:
            with_chosen.context.close()
        result: dict[str, Any] = {
            "kind": "curve",
            "complete": False,
            "curves": [],
            "chosen": {"flash_attention": chosen.flash_attention, "cache_type": chosen.cache_type},
            "provenance": provenance(plan.settings(), model=plan.model, description=engine),
        }
        earlier = resume(file, "curve", result["provenance"])
        result["curves"] = curves_of(earlier, file)
        try:
            for setting in plan.combinations():
                _measure(plan, bench, setting, prefixes, result, file, step)
            result["complete"] = True
        except KeyboardInterrupt:
            pass
        file.save(result, now=True)
        return result
    finally:
        model.close()


@dataclass(frozen=True)
class _Bench:
    """What combinations share: weights, the context's shape, the engine's measurements, whether to add to them."""

    model: Model
    wanted: ContextSettings
    tuner: Tuner
    keep: bool

    def open(self, setting: Setting) -> Target:
        return Target(self.model, replace(self.wanted, flash_attention=setting[0], cache_type=setting[1]))


def _tuner(plan: Plan, model: Model, notice: Say) -> Tuner:
    """The engine's own choice of attention and cache type, in the context `auto` would get."""
    return Tuner(
        model,
        ContextSettings(
            n_ctx=plan.n_ctx or device.default_context(model),
            n_threads=plan.n_threads or device.physical_threads(),
            flash_attention=False,
            cache_type="f16",
            n_sequences=SEQUENCES["auto"],
            n_rollback=ROLLBACK_SNAPSHOTS,
        ),
        exact=False,
        flash_attention=None,
        cache_type=None,
        n_gpu_layers=ALL_LAYERS,
        progress=lambda note: None,
        notice=notice,
    )


def _description(model: Model, target: Target) -> dict[str, Any]:
    """What holds for all curves of the run; keys as in ``LocalADED.description()``."""
    settings = target.settings
    return {
        "architecture": model.header.architecture,
        "quantization": model.quantization,
        "size_bytes": model.size_bytes,
        "context": target.context.n_ctx,
        "threads": settings.n_threads,
        "device": device.device_name(),
        "gpu_layers": "all",
        "flash_attention": settings.flash_attention,
        "cache_type": settings.cache_type,
    }


def _fitting(plan: Plan, probe: Probe, notice: Say) -> list[int]:
    """The prefixes as the context can really have them, in cells; without repetition."""
    found = []
    for asked in plan.prefixes:
        cells = probe.cells_for(min(asked, max(probe.largest_fill, 0)))
        if cells != asked:
            notice(f"a prefix of {asked} tokens is measured at {cells} cells: that is what fits here")
        found.append(cells)
    if max(plan.sizes, default=1) > probe.largest_size:
        notice(f"sizes beyond {probe.largest_size} do not fit this model's memory and are left out")
    return list(dict.fromkeys(found))


def _measure(
    plan: Plan,
    bench: _Bench,
    setting: Setting,
    prefixes: Sequence[int],
    result: dict[str, Any],
    file: ResultFile,
    step: Say,
) -> None:
    """All prefixes of one combination; appends to ``result["curves"]`` and writes what the engine reads."""
    per_curve = _steps_per_curve(plan)
    unfitting = (len(plan.prefixes) - len(prefixes)) * per_curve
    missing = [prefix for prefix in prefixes if not _is_done(plan, _find(result, setting, prefix))]
    for _ in range(unfitting + (len(prefixes) - len(missing)) * per_curve):
        step("")
    if not missing:
        return
    try:
        target = bench.open(setting)
    except DeviceError as error:
        note = str(error).removesuffix(ASK_FOR_LESS)
        for prefix in missing:
            _put(result, entry_of(setting, prefix, {}, note=note))
            for _ in range(per_curve):
                step("")
        return
    try:
        probe = Probe(target.context)
        for prefix in missing:
            entry = _time(plan, probe, setting, prefix, step, result)
            if plan.exact:
                found = probe.exact_sizes(plan.sizes, prefix, longest=LARGEST_BATCH)
                entry["exact"] = sorted(found)
                step(name_of(setting))
            file.save(result)
        if bench.keep:
            done = [_find(result, setting, prefix) for prefix in prefixes]
            _keep(plan, bench, target, probe, [entry for entry in done if entry is not None])
    except DeviceError as error:
        for prefix in missing:
            if not _is_done(plan, _find(result, setting, prefix)):
                _put(result, entry_of(setting, prefix, {}, note=str(error)))
    finally:
        target.context.close()


def _time(
    plan: Plan,
    probe: Probe,
    setting: Setting,
    prefix: int,
    step: Say,
    result: dict[str, Any],
) -> Entry:
    """Time one curve; it is in ``result`` even when Ctrl-C ends the measuring half-way."""
    samples: dict[int, list[float]] = {}
    note = f"{name_of(setting)}, {prefix} cells"
    try:
        for n, seconds in probe.passes(plan.sizes, prefix, rounds=plan.rounds):
            samples.setdefault(n, []).append(seconds)
            if n == 1 and len(samples[1]) > 1:
                step(note)
        step(note)
    finally:
        if samples:
            entry = entry_of(setting, prefix, samples)
            _put(result, entry)
    return entry


def _is_done(plan: Plan, entry: Entry | None) -> bool:
    if entry is None:
        return False
    if entry["note"] is not None:
        return True
    return bool(entry["rounds"] >= plan.rounds and (entry["exact"] is not None or not plan.exact))


def _find(result: dict[str, Any], setting: Setting, prefix: int) -> Entry | None:
    found: list[Entry] = [entry for entry in result["curves"] if _key(entry) == (*setting, prefix)]
    return found[0] if found else None


def _put(result: dict[str, Any], entry: Entry) -> None:
    result["curves"] = [*(other for other in result["curves"] if _key(other) != _key(entry)), entry]


def _key(entry: Entry) -> tuple[bool, str, int]:
    return entry["flash_attention"], entry["cache_type"], entry["prefix"]


def _covers(plan: Plan, probe: Probe, prefixes: Sequence[int], notice: Say) -> bool:
    """Whether the curves will say no less than what the engine would measure itself; says so where not."""
    needed = {n for n in SIZES if n <= probe.largest_size}
    has_far = max(prefixes) > 2 * BASE_FILL or probe.largest_fill <= 2 * BASE_FILL
    covers = probe.cells_for(BASE_FILL) in prefixes and has_far and needed <= set(plan.sizes)
    if plan.keep and not covers:
        notice(
            f"the curves are not kept for the engine: that takes a prefix of {BASE_FILL}, one beyond "
            f"{2 * BASE_FILL}, and all the sizes measured by default"
        )
    return covers


def _keep(plan: Plan, bench: _Bench, target: Target, probe: Probe, curves: Sequence[Entry]) -> None:
    """Write the curve of one combination where the engine finds it."""
    seconds = {
        entry["prefix"]: {int(n): 1e-3 * value for n, value in entry["milliseconds"].items()}
        for entry in curves
    }
    near_fill, far_fill = probe.cells_for(BASE_FILL), max(seconds)
    far = seconds[far_fill] if far_fill > 2 * BASE_FILL else {}
    curve = from_measurements(seconds[near_fill], far, far_fill)
    if plan.exact:
        # At the engine's own fills, which need not be those measured here.
        curve.exact, curve.exact_fills = probe.exactness()
    bench.tuner.keep(target.settings, curve)
