"""Which attention, cache type and cost curve a model gets on this machine: measured once, then kept.

One JSON file per model, device, thread count and llama.cpp version in the user's cache folder holds the
curves by setting, and which setting won. A file that cannot be read is measured again; one that cannot
be written costs a measurement at the next start and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from aded_local.cost import SIGHTINGS, CostCurve, Probe
from aded_local.device import device_name
from aded_local.errors import DeviceError, OptionError
from aded_local.folders import cache_folder, write_privately
from aded_local.target import ContextSettings, Model, Target

FORMAT = 4
"""Version of the file's layout; another one is measured anew."""

FAST_CANDIDATES = ((False, "f16"), (True, "f16"))
"""(flash attention, cache type) tried for speed. Other cache types were slower on every device measured
(1B Q4_0, two cores, 1,536 tokens: F16 31 ms, BF16 40 ms, Q8_0 47 ms)."""

EXACT_CANDIDATES = ((True, "bf16"), (True, "f16"), (False, "f16"))
"""Tried for exactness. A BF16 cache avoids the split-KV kernels that make one-token decoding differ."""

EXACT_SIZES_THAT_MATTER = 8
"""Exact sizes are counted up to here when candidates are compared: larger ones hardly ever pay on a CPU."""

TRIAL_FILL = 1024
"""Cells at which the candidates are timed: between a chat's first turn and a full default context."""

TRIAL_SIZES = (1, 4)
"""Batch sizes timed in a trial: plain decoding and a typical small draft."""

TRIAL_SECONDS = 0.6
"""Time per candidate in a trial."""

MEANINGFUL_GAIN = 0.97
"""A candidate replaces the one before it only when its time is below this share: noise must not decide."""

STEPS_WORTH_SAVING = 50
"""Real passes after which a refined curve is written back."""

Say = Callable[[str], None]


def setting_name(flash_attention: bool, cache_type: str) -> str:
    """How a setting is called in files and tables, e.g. ``fa-on/bf16``."""
    return f"fa-{'on' if flash_attention else 'off'}/{cache_type}"


def measurements_path(model: Model, settings: ContextSettings, n_gpu_layers: int) -> Path:
    """The file for this model on this device: named by a hash of all that a measurement depends on."""
    stat = model.path.stat()
    with model.path.open("rb") as file:
        head = hashlib.sha256(file.read(1 << 20)).hexdigest()
    parts = (
        FORMAT,
        head,
        stat.st_size,
        device_name(),
        importlib.metadata.version("llama-cpp-python"),
        settings.n_threads,
        n_gpu_layers,
        # A small context is measured at fewer cells, and exact at those alone.
        min(settings.n_ctx, Probe.LARGEST_ROOM),
    )
    name = hashlib.sha256(repr(parts).encode()).hexdigest()[:24]
    return cache_folder() / "measurements" / f"{name}.json"


class Measurements:
    """The file's content: curves by setting, and the winners."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.curves: dict[str, CostCurve] = {}
        self.winners: dict[str, str] = {}
        self._told = False
        with contextlib.suppress(
            OSError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError
        ):
            data = json.loads(path.read_text())
            if data["format"] == FORMAT:
                self.curves = {name: CostCurve.from_dict(curve) for name, curve in data["curves"].items()}
                self.winners = {str(k): str(v) for k, v in data["winners"].items()}

    def save(self, model: Model, notice: Say) -> None:
        """Write the file in one step; says so through ``notice`` when it cannot."""
        data = {
            "format": FORMAT,
            "model": model.path.name,
            "device": device_name(),
            "winners": self.winners,
            "curves": {name: curve.to_dict() for name, curve in self.curves.items()},
        }
        try:
            write_privately(self.path, json.dumps(data))
        except OSError as error:
            if not self._told:
                reason = f"{error.strerror or error} in {self.path.parent}"
                notice(f"measurements not kept ({reason}); they are made again at the next start")
            self._told = True


class Tuner:
    """Opens a target with the settings that suit it.

    Args:
        model: loaded weights.
        wanted: the context's shape; its attention and cache type are placeholders unless given below.
        exact: choose by exactness instead of speed.
        flash_attention, cache_type: fixed by the caller where not None.
        n_gpu_layers: as the model was loaded.
        progress: told before each measurement.
        notice: told when the file cannot be written.
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
        self._progress = progress
        self._notice = notice
        candidates = EXACT_CANDIDATES if exact else FAST_CANDIDATES
        self._candidates = tuple(
            dict.fromkeys(
                (
                    fa if flash_attention is None else flash_attention,
                    kind if cache_type is None else cache_type,
                )
                for fa, kind in candidates
            )
        )
        self._goal = "exact" if exact else "fast"
        self._free = len(self._candidates) > 1
        self._exactness: dict[str, tuple[list[int], list[int]]] = {}
        self.kept = Measurements(measurements_path(model, wanted, n_gpu_layers))

    def open(self) -> Target:
        """Make the target's context with the winning setting, measuring where nothing is kept yet.

        Raises:
            DeviceError: no setting works on this device.
            OptionError: the fixed attention and cache type do not work together.
        """
        names = {setting_name(*candidate): candidate for candidate in self._candidates}
        winner = names.get(self.kept.winners.get(self._goal, "")) if self._free else self._candidates[0]
        if winner is not None:
            return self._opened(winner)
        goal = "with the most exact batch sizes" if self._exact else "that is fastest"
        self._progress(f"finding the attention {goal} on this machine (once per model)")
        best: tuple[float, tuple[bool, str]] | None = None
        failure: DeviceError | None = None
        for candidate in self._candidates:
            try:
                score = self._score(candidate)
            except DeviceError as error:
                failure = error
                continue
            if best is None or score < best[0] * MEANINGFUL_GAIN:
                best = (score, candidate)
        if best is None:
            raise failure or DeviceError("no attention setting works here; run with --verbose")
        self.kept.winners[self._goal] = setting_name(*best[1])
        self.kept.save(self._model, self._notice)
        return self._opened(best[1])

    def _opened(self, candidate: tuple[bool, str]) -> Target:
        try:
            return Target(self._model, self._settings(candidate))
        except DeviceError as error:
            if not self._free and not candidate[0] and candidate[1] != "f16":
                raise OptionError(f"cache type {candidate[1]} needs flash attention ({error})") from error
            raise

    def _settings(self, candidate: tuple[bool, str]) -> ContextSettings:
        return replace(self._wanted, flash_attention=candidate[0], cache_type=candidate[1])

    def _score(self, candidate: tuple[bool, str]) -> float:
        """Smaller is better: seconds of a trial; in exact mode first the sizes that are lost."""
        room = min(self._wanted.n_ctx, Probe.LARGEST_ROOM)
        trial = Target(self._model, replace(self._settings(candidate), n_ctx=room))
        try:
            probe = Probe(trial.context)
            times = probe.time_sizes(TRIAL_SIZES, min(TRIAL_FILL, probe.largest_fill), seconds=TRIAL_SECONDS)
            seconds = sum(times.values())
            if not self._exact:
                return seconds
            sizes, fills = probe.exactness()
            self._exactness[setting_name(*candidate)] = sizes, fills
            kept = sum(1 for n in sizes if n <= EXACT_SIZES_THAT_MATTER)
            return (EXACT_SIZES_THAT_MATTER - kept) * 1e6 + seconds
        finally:
            trial.context.close()

    def curve(self, target: Target) -> CostCurve:
        """The cost curve of an opened target; measured in its own context, which must be empty, if not kept."""
        name = setting_name(target.settings.flash_attention, target.settings.cache_type)
        curve = self.kept.curves.get(name)
        fresh = curve is None
        probe = Probe(target.context)
        if curve is None:
            self._progress("measuring what a pass costs here (once per model)")
            curve = probe.curve()
        elif curve.sightings < SIGHTINGS:
            self._progress("measuring once more what a pass costs here (for the last time)")
            curve = curve.seen_again(probe.curve())
            fresh = True
        if self._exact and curve.exact is None:
            found = self._exactness.get(name)
            if found is None:
                self._progress("probing which batch sizes are exact (once per model)")
                found = probe.exactness()
            curve.exact, curve.exact_fills = found
            fresh = True
        self.kept.curves[name] = curve
        if fresh:
            self.kept.save(self._model, self._notice)
        return curve

    def keep(self, settings: ContextSettings, curve: CostCurve) -> None:
        """Write a curve measured elsewhere for the engine to use; what is known of exactness stays if it has none."""
        name = setting_name(settings.flash_attention, settings.cache_type)
        earlier = self.kept.curves.get(name)
        curve.sightings = SIGHTINGS  # whoever measures on purpose is believed
        if curve.exact is None and earlier is not None:
            curve.exact, curve.exact_fills = earlier.exact, earlier.exact_fills
        self.kept.curves[name] = curve
        self.save()

    def save(self) -> None:
        """Write what was measured."""
        self.kept.save(self._model, self._notice)

    def save_refined(self, curve: CostCurve) -> None:
        """Write a curve back that real steps have refined enough."""
        if curve.steps_seen >= STEPS_WORTH_SAVING:
            self.kept.save(self._model, self._notice)
