"""Which attention, cache type and cost curve a model gets on this machine: measured once, then kept.

A JSON file in the user's cache folder, one per model, devices, thread count and build of llama.cpp, holds the curves by
setting, and which setting won. Where the file cannot be read or written, the next start measures again.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from aded_local.errors import DeviceError, OptionError
from aded_local.files import cache, cache_folder, read_private, write_privately
from aded_local.llama import ContextSettings, Model, Target
from aded_local.llama.devices import gpu_names
from aded_local.speed.cost_curve import LARGEST_BATCH, MOST_SECONDS, SIGHTINGS, CostCurve
from aded_local.speed.device import device_name
from aded_local.speed.probe import Gate, OpenGate, Probe
from aded_local.trials import library

MEASUREMENTS_FORMAT = 7
"""Version of the file's layout; a file of another version is not used."""

Setting = tuple[bool, str]
"""Flash attention on or off, and a cache type."""

CANDIDATES: Final[tuple[Setting, ...]] = ((False, "f16"), (True, "bf16"), (True, "f16"))
"""The settings that are tried; answers use the first of them until one is chosen. On two Zen 4 cores the first was
fastest (1B Q4_0, 1,536 tokens: 31 ms; BF16 40 ms, Q8_0 47 ms); with AMX it depends on the length of the text. A BF16
cache avoids the split-KV kernels, with which one-token decoding differs."""

EXACT_SIZES_THAT_MATTER: Final = 8
"""When settings are compared, exact sizes up to this one are counted: larger ones hardly ever pay on a CPU."""

EXACT_WORTH: Final = 1.05
"""A setting with more exact sizes may take this many times as long as the fastest: drafts that change no word are worth
a twentieth of the speed."""

TRIAL_FILLS: Final = (256, 1024, 2048)
"""Cells at which settings are timed: a chat's first turn, a long chat, a file to work on. Two cores with AMX show why:
with flash attention and BF16, SmolLM2 takes 5.2, 9.9 and 34 ms a token there; without, and F16, 6.5, 10.8 and 13.9."""

TRIAL_WEIGHTS: Final = {1: 6.0, 4: 1.0}
"""Batch sizes timed in a trial, and how much each counts: in SmolLM2's chats a pass brings 1.1 to 1.3 tokens, so about
six passes of seven are plain."""

TRIAL_SECONDS: Final = 0.3
"""Seconds for each setting, number of cells and round of a trial."""

TRIAL_ROUNDS: Final = 2
"""Rounds of a trial. Each round times every setting, so that a machine that slows down slows all of them."""

STEPS_WORTH_SAVING = 50
"""Real passes after which a refined curve is written back."""

Say = Callable[[str], None]


def setting_name(flash_attention: bool, cache_type: str) -> str:
    """How a setting is called in files and tables, e.g. ``fa-on/bf16``."""
    return f"fa-{'on' if flash_attention else 'off'}/{cache_type}"


def measurements_path(model: Model, settings: ContextSettings, n_gpu_layers: int) -> Path:
    """The file for this model on this device, named by a hash of everything a measurement depends on."""
    stat = model.path.stat()
    with model.path.open("rb") as file:
        head = hashlib.sha256(file.read(1 << 20)).hexdigest()
    parts = (
        MEASUREMENTS_FORMAT,
        head,
        stat.st_size,
        device_name(),
        *gpu_names(),
        _build(),
        settings.n_threads,
        n_gpu_layers,
        # A small context is measured at fewer cells, and its exact sizes hold for those only.
        min(settings.n_ctx, Probe.LARGEST_ROOM),
    )
    name = hashlib.sha256(repr(parts).encode()).hexdigest()[:24]
    return cache_folder() / "measurements" / f"{name}.json"


def _build() -> str:
    """Which llama.cpp computes: two builds of one version may have different kernels."""
    with contextlib.suppress(OSError):
        paths = library.files()
        if paths:
            return library.fingerprint(paths)
    return importlib.metadata.version(library.DISTRIBUTION)


Exactness = tuple[list[int], list[int]]
"""Batch sizes equal to one-token decoding, and the cells at which that was seen."""


def _exactness(found: object) -> Exactness:
    """What a file says of exact sizes, checked; raises ValueError or TypeError."""
    if not isinstance(found, list) or len(found) != 2:
        raise ValueError("not exact sizes")
    sizes, fills = ([int(n) for n in numbers] for numbers in found)
    if 1 not in sizes or not all(1 <= n <= LARGEST_BATCH for n in sizes):
        raise ValueError("not exact sizes")
    return sizes, fills


def _trial(found: object) -> tuple[float, list[int]]:
    """What a file says of a candidate's trial, checked; raises ValueError or TypeError."""
    if not isinstance(found, list) or len(found) != 2 or not 0.0 < float(found[0]) < MOST_SECONDS:
        raise ValueError("not a trial")
    return float(found[0]), [int(n) for n in found[1]]


class Measurements:
    """The file's content: curves and exact sizes by setting, the winners, and trials while there is no winner.

    Exact sizes are kept apart from curves: other programs can spoil a curve, and never the exact sizes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.curves: dict[str, CostCurve] = {}
        self.exact: dict[str, Exactness] = {}
        self.winners: dict[str, str] = {}
        self.trial: dict[str, tuple[float, list[int]]] = {}
        self._told = False
        with contextlib.suppress(
            OSError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError
        ):
            data = json.loads(read_private(path))
            if data["format"] == MEASUREMENTS_FORMAT:
                self.curves = {name: CostCurve.from_dict(curve) for name, curve in data["curves"].items()}
                self.exact = {str(name): _exactness(found) for name, found in data["exact"].items()}
                self.trial = {str(name): _trial(found) for name, found in data["trial"].items()}
                self.winners = {str(k): str(v) for k, v in data["winners"].items()}

    def save(self, model: Model, notice: Say) -> None:
        """Write the file in one step. Where that fails, ``notice`` is told once, unless the user knows already that the
        cache folder cannot be written."""
        data = {
            "format": MEASUREMENTS_FORMAT,
            "model": model.path.name,
            "device": device_name(),
            "winners": self.winners,
            "exact": self.exact,
            "trial": self.trial,
            "curves": {name: curve.to_dict() for name, curve in self.curves.items()},
        }
        try:
            write_privately(self.path, json.dumps(data))
        except OSError as error:
            if not self._told and cache().problem is None:  # else ``opening`` has told of the cache folder
                reason = f"{error.strerror or error} in {self.path.parent}"
                notice(f"measurements not kept ({reason}); they are made again at the next start")
            self._told = True


@dataclass
class _Score:
    """What a trial found about a setting: seconds of its passes in the best round, and its exact sizes."""

    seconds: float
    exact: frozenset[int]

    @property
    def kept(self) -> int:
        """How many exact sizes count."""
        return sum(1 for n in self.exact if n <= EXACT_SIZES_THAT_MATTER)


def _nothing() -> None:
    return


class Tuner:
    """Chooses the settings that suit a model on this machine, and keeps what was measured.

    Args:
        model: loaded weights.
        wanted: the context's shape. Its attention and cache type are not used.
        exact: choose by exactness instead of speed.
        flash_attention, cache_type: fixed by the caller where not None.
        n_gpu_layers: as the model was loaded.
        progress: told before each measurement.
        notice: told when the file cannot be written.

    Attributes:
        progress: as given; replaced when nobody waits any more.
        busy: other programs ran beside a measurement since this start.
        on_busy: called when ``busy`` becomes true.
    """

    def __init__(
        self,
        model: Model,
        wanted: ContextSettings,
        *,
        exact: bool,
        flash_attention: bool | None,
        cache_type: str | None,
        n_gpu_layers: int,
        progress: Say,
        notice: Say,
    ) -> None:
        self._model = model
        self._wanted = wanted
        self._exact = exact
        self.progress = progress
        self._notice = notice
        self._candidates = tuple(
            dict.fromkeys(
                (
                    fa if flash_attention is None else flash_attention,
                    kind if cache_type is None else cache_type,
                )
                for fa, kind in CANDIDATES
            )
        )
        self._goal = "exact" if exact else "fast"
        self.busy = False
        self.on_busy: Callable[[], None] = _nothing
        self.kept: Final = Measurements(measurements_path(model, wanted, n_gpu_layers))
        names = {setting_name(*candidate): candidate for candidate in self._candidates}
        free = len(self._candidates) > 1
        self._winner = names.get(self.kept.winners.get(self._goal, "")) if free else self._candidates[0]

    @property
    def settled(self) -> bool:
        """Whether the best setting is known."""
        return self._winner is not None

    def open(self) -> Target:
        """Make the target's context with the winning setting, or with the first candidate while none is known.

        Raises:
            DeviceError: no setting works on this device.
            OptionError: the fixed attention and cache type do not work together.
        """
        if self._winner is not None:
            return self._opened(self._winner)
        failure: DeviceError | None = None
        for candidate in self._candidates:
            try:
                return self._opened(candidate)
            except DeviceError as error:
                failure = error
        raise failure or DeviceError("no attention setting works here; run with --verbose")

    def settle(self, gate: Gate | None = None) -> ContextSettings:
        """Find the best setting, if it is not known yet, in contexts of its own.

        Args:
            gate: asked before each pass.

        Raises:
            DeviceError: no setting works here.
        """
        if self._winner is None:
            goal = "with the most exact batch sizes" if self._exact else "that is fastest"
            self.progress(f"finding the attention {goal} on this machine (once per model)")
            self._winner, contended = self._try_all(OpenGate() if gate is None else gate)
            if not contended:
                self.kept.winners[self._goal] = setting_name(*self._winner)
                self.kept.trial = {}
                self.save()
        return self._settings(self._winner)

    def _try_all(self, gate: Gate) -> tuple[Setting, bool]:
        """The best candidate, and whether other programs ran beside the trial."""
        # Trials of earlier starts count: a program that answers once may end before all of them are done.
        scores = {
            each: _Score(self.kept.trial[name][0], frozenset(self.kept.trial[name][1]))
            for each in self._candidates
            if not self._exact and (name := setting_name(*each)) in self.kept.trial
        }
        failure: DeviceError | None = None
        contended = False
        for turn in range(TRIAL_ROUNDS):
            for candidate in [each for each in self._candidates if turn or each not in scores]:
                try:
                    score, disturbed = self._score(candidate, gate, scores.get(candidate))
                except DeviceError as error:
                    failure = error
                    scores.pop(candidate, None)
                    continue
                scores[candidate] = score
                contended |= disturbed
                if not disturbed and not self._exact:
                    self.kept.trial[setting_name(*candidate)] = score.seconds, sorted(score.exact)
                    self.save()
        if not scores:
            raise failure or DeviceError("no attention setting works here; run with --verbose")
        if self._exact:
            best = max(scores, key=lambda each: (scores[each].kept, -scores[each].seconds))
            # Times matter only between settings with equally many exact sizes.
            contended &= sum(score.kept == scores[best].kept for score in scores.values()) > 1
        else:
            limit = EXACT_WORTH * min(score.seconds for score in scores.values())
            near = [each for each in scores if scores[each].seconds <= limit]
            best = max(near, key=lambda each: (scores[each].kept, -scores[each].seconds))
        return best, contended

    def _score(self, candidate: Setting, gate: Gate, earlier: _Score | None) -> tuple[_Score, bool]:
        """Time a candidate once more; the first time, find its exact sizes too."""
        trial = self._trial(candidate)
        try:
            probe = Probe(trial.context, gate=gate)
            fills = sorted({min(fill, probe.largest_fill) for fill in TRIAL_FILLS})
            seconds = 0.0
            for fill in fills:
                times = probe.time_sizes(TRIAL_WEIGHTS, fill, seconds=TRIAL_SECONDS)
                seconds += sum(TRIAL_WEIGHTS[n] * taken for n, taken in times.items())
                self._note(probe.contended)
            if earlier is not None:
                return _Score(min(seconds, earlier.seconds), earlier.exact), probe.contended
            if self._exact:
                # Other programs do not change bits, so exact sizes of an earlier start hold.
                name = setting_name(*candidate)
                found = self.kept.exact.get(name) or probe.exactness()
                self.kept.exact[name] = found
                self.save()
                return _Score(seconds, frozenset(found[0])), probe.contended
            exact = set(range(1, EXACT_SIZES_THAT_MATTER + 1))
            for fill in fills:
                exact &= probe.exact_sizes(sorted(exact), fill, longest=EXACT_SIZES_THAT_MATTER)
            return _Score(seconds, frozenset(exact)), probe.contended
        finally:
            trial.context.close()

    def _note(self, contended: bool) -> None:
        if contended and not self.busy:
            self.busy = True
            self.on_busy()

    def _opened(self, candidate: Setting) -> Target:
        try:
            return Target(self._model, self._settings(candidate))
        except DeviceError as error:
            if len(self._candidates) == 1 and not candidate[0] and candidate[1] != "f16":
                raise OptionError(f"cache type {candidate[1]} needs flash attention ({error})") from error
            raise

    def _settings(self, candidate: Setting) -> ContextSettings:
        return replace(self._wanted, flash_attention=candidate[0], cache_type=candidate[1])

    def _trial(self, candidate: Setting) -> Target:
        """A small context for measurements."""
        room = min(self._wanted.n_ctx, Probe.LARGEST_ROOM)
        return Target(self._model, replace(self._settings(candidate), n_ctx=room))

    def kept_curve(self, settings: ContextSettings) -> CostCurve | None:
        """The cost curve of a setting, where it was measured before."""
        return self.kept.curves.get(setting_name(settings.flash_attention, settings.cache_type))

    def curve_is_due(self, settings: ContextSettings) -> bool:
        """Whether the curve of a setting is to be measured, for the first time or once more."""
        curve = self.kept_curve(settings)
        return curve is None or curve.sightings < SIGHTINGS

    def measure_curve(
        self, settings: ContextSettings, gate: Gate | None = None, known: CostCurve | None = None
    ) -> CostCurve:
        """Measure the cost curve of a setting, in a context of its own, and keep it unless it is contended.

        Args:
            settings: with the attention and cache type to measure.
            gate: asked before each pass.
            known: the curve in use, into which the new one is merged; None for the kept one.

        Raises:
            DeviceError: there is no memory for the context.
        """
        earlier = known or self.kept_curve(settings)
        self.progress(
            "measuring what a pass costs here (once per model)"
            if earlier is None
            else "measuring once more what a pass costs here (for the last time)"
        )
        trial = self._trial((settings.flash_attention, settings.cache_type))
        try:
            curve = Probe(trial.context, gate=gate).curve()
        finally:
            trial.context.close()
        self._note(curve.contended)
        if earlier is not None:
            if not curve.contended:
                earlier.see_again(curve)
            curve = earlier
        if not curve.contended:
            self.kept.curves[setting_name(settings.flash_attention, settings.cache_type)] = curve
            self.save()
        return curve

    def measure_exactness(
        self, settings: ContextSettings, curve: CostCurve, gate: Gate | None = None
    ) -> None:
        """Find which batch sizes are exact, if the curve does not know; in a context of its own.

        Raises:
            DeviceError: there is no memory for the context.
        """
        if curve.exact is not None:
            return
        name = setting_name(settings.flash_attention, settings.cache_type)
        found = self.kept.exact.get(name)
        if found is None:
            self.progress("probing which batch sizes are exact (once per model)")
            trial = self._trial((settings.flash_attention, settings.cache_type))
            try:
                found = Probe(trial.context, gate=gate).exactness()
            finally:
                trial.context.close()
        curve.exact, curve.exact_fills = found
        self.kept.exact[name] = found
        self.save()

    def keep(self, settings: ContextSettings, curve: CostCurve) -> None:
        """Keep a curve measured elsewhere, for the engine to use. Known exact sizes stay where it has none."""
        name = setting_name(settings.flash_attention, settings.cache_type)
        earlier = self.kept.curves.get(name)
        curve.sightings = SIGHTINGS  # it was measured on purpose, and is not measured again
        if curve.exact is not None:
            self.kept.exact[name] = curve.exact, curve.exact_fills
        elif earlier is not None:
            curve.exact, curve.exact_fills = earlier.exact, earlier.exact_fills
        self.kept.curves[name] = curve
        self.save()

    def save(self) -> None:
        """Write what was measured."""
        self.kept.save(self._model, self._notice)

    def save_refined(self, curve: CostCurve) -> None:
        """Write a curve again after enough real passes have refined it."""
        if curve.steps_seen >= STEPS_WORTH_SAVING:
            self.save()
