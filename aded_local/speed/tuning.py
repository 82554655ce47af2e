"""Which attention and cache type suit a model on this machine, at which length of the text: from trials, kept.

Each candidate is tried in a context of its own, round by round, and ``pricing`` compares them. Where the words of
plain decoding are asked for, the sizes that keep them are found first. Nothing here belongs to one conversation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from aded_local.errors import DeviceError, OptionError
from aded_local.llama import ContextSettings, Model, Target, rows
from aded_local.speed.choosing import OPENING_FILL, TRIAL_ROUNDS, Choosing
from aded_local.speed.cost_curve import SIGHTINGS, CostCurve
from aded_local.speed.exactness import Exactness, ExactnessProbe
from aded_local.speed.first_passes import FirstPasses
from aded_local.speed.measurements import Measurements, Say, measurements_path
from aded_local.speed.pricing import TRIAL_FILLS, WIDEST, Choice, Same, Setting, Trial
from aded_local.speed.probe import FAR_FILL, Gate, OpenGate, Probe, room_for

CANDIDATES: Final = (Setting(False, "f16"), Setting(True, "bf16"), Setting(True, "f16"))
"""The settings that are tried; answers use the first of them until one is chosen. On two Zen 4 cores the first was
fastest (1B Q4_0, 1,536 tokens: 31 ms; BF16 40 ms, Q8_0 47 ms); with AMX it depends on the length of the text. A BF16
cache avoids the split-KV kernels, with which one-token decoding differs. Off with BF16 took what off with F16 takes,
and an F32 cache twice that (SmolLM2 Q4_1, AMX, 256 cells)."""

ROW_BY_ROW: Final = (Setting(False, "f16", True), Setting(True, "bf16", True))
"""The settings that are tried besides where words are to be kept, and the build of llama.cpp has them. One token takes
as long as without, four a tenth and sixteen a third longer (SmolLM2 Q4_1, AMX, 256 cells), and all sizes equal
one-token decoding."""

TRIAL_SIZES: Final = (1, 4, 2, 8, WIDEST)
"""Batch sizes timed in a trial, most useful first."""
LEAST_TRIAL_SIZES: Final = 2
"""So many of them are timed however long that takes; the others are inferred where time ends before them."""

TRIAL_SECONDS: Final = 0.2
"""Seconds for each setting, number of cells and round of a trial."""

MORE_THREADS_WORTH: Final = 0.95
"""Passes over several tokens get a thread count of their own where that takes at most this share of the time: less is
within what repeated timings differ by."""

MOST_USUAL: Final = 1.5
"""A pass in an answer takes at most so many times as long as one in a trial, or as short; beyond, something else
disturbed it. Chosen."""

# What whoever waits is told; how far it is stands behind a colon.
TRYING: Final = "finding the attention that suits this machine (once per model)"
PROBING: Final = "probing which batch sizes are exact (once per model)"

STEPS_WORTH_SAVING = 50
"""Real passes after which a refined curve is written back."""


def _nothing() -> None:
    return


class Tuner(Choosing):
    """Chooses the setting that suits a model on this machine, and keeps what was measured.

    Args:
        model: loaded weights.
        wanted: the context's shape. Its attention and cache type are not used.
        same: what is asked of the words.
        flash_attention, cache_type: fixed by the caller where not None.
        n_gpu_layers: as the model was loaded.
        most_threads: that passes over several tokens may use; None for as many as others.
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
        same: Same,
        flash_attention: bool | None,
        cache_type: str | None,
        n_gpu_layers: int,
        progress: Say,
        notice: Say,
        most_threads: int | None = None,
    ) -> None:
        self._most_threads = max(most_threads or 0, wanted.n_threads)
        self._model = model
        self._wanted = wanted
        self.progress = progress
        self._notice = notice
        added = ROW_BY_ROW if rows.AVAILABLE else ()
        candidates = tuple(
            dict.fromkeys(
                Setting(
                    fa if flash_attention is None else flash_attention,
                    kind if cache_type is None else cache_type,
                    by_row,
                )
                for fa, kind, by_row in (CANDIDATES if same == "off" else CANDIDATES + added)
            )
        )
        kept = Measurements(measurements_path(model, wanted, n_gpu_layers))
        super().__init__(candidates, same, wanted.n_ctx, kept)
        self.busy = False
        self.on_busy: Callable[[], None] = _nothing
        self._first = FirstPasses()
        several = self.kept.batch_threads or 0
        self._batch_threads = several if several <= self._most_threads else 0

    def open(self) -> Target:
        """Make the target's context with the setting that suits, or with the first candidate while none is known.

        Raises:
            DeviceError: no setting works on this device.
            OptionError: the fixed attention and cache type do not work together.
        """
        best = self.choice()
        if best is not None:
            return self._opened(best.setting)
        failure: DeviceError | None = None
        for candidate in self._candidates:
            try:
                return self._opened(candidate)
            except DeviceError as error:
                failure = error
        raise failure or DeviceError("no attention setting works here; run with --verbose")

    # --- trials ------------------------------------------------------------------------------

    def settle(self, gate: Gate | None = None) -> Choice:
        """Find out what lacks for a choice, in contexts of its own.

        Args:
            gate: asked before each pass.

        Raises:
            DeviceError: no setting works here.
        """
        gate = OpenGate() if gate is None else gate
        if not self._is_tried:
            self._try_all(gate)
        while unknown := self._unknown_sizes(self._fills()):
            self.find_exactness(unknown[0], gate)
        best = self.choice()
        assert best is not None
        if self._same == "exact":
            are_kept = all(each.name in self.kept.trials for each in self._trials)
            chosen = "" if are_kept else self.kept.chosen or best.setting.name
            if chosen != self.kept.chosen:
                self.kept.chosen = chosen
                self.save()
        return best

    def _compare_thread_counts(self, gate: Gate) -> None:
        """Whether passes over several tokens are faster with more threads than cores: where each core runs two."""
        one, most = self._wanted.n_threads, self._most_threads
        if self.kept.batch_threads is not None or one == most:
            return
        target = self._trial(self._candidates[0])
        try:
            probe = Probe(target.context, gate=gate)
            found = probe.time_thread_counts(
                (one, most), min(TRIAL_FILLS[0], probe.largest_fill), seconds=TRIAL_SECONDS
            )
        finally:
            target.context.close()
        self._note(probe.contended)
        self._batch_threads = most if found[most] < MORE_THREADS_WORTH * found[one] else 0
        if not probe.contended:
            self.kept.batch_threads = self._batch_threads
            self.save()

    def _try_all(self, gate: Gate) -> None:
        failure: DeviceError | None = None
        done = 0
        self._compare_thread_counts(gate)
        for turn in range(TRIAL_ROUNDS):
            for candidate in self._candidates:
                # Trials of earlier starts count: a program that answers once may end before all of them are done.
                known = self._trials.get(candidate)
                done += 1
                if candidate in self._failed or (known is not None and known.rounds > turn):
                    continue
                self.progress(f"{TRYING}: {done} of {TRIAL_ROUNDS * len(self._candidates)}")
                try:
                    found, disturbed = self._try(candidate, gate)
                except DeviceError as error:
                    failure = error
                    self._failed.add(candidate)
                    continue
                self._trials[candidate] = found if known is None else known.and_again(found)
                if not disturbed:
                    kept = self.kept.trials.get(candidate.name)
                    self.kept.trials[candidate.name] = found if kept is None else kept.and_again(found)
                    self.save()
        if not self._trials:
            raise failure or DeviceError("no attention setting works here; run with --verbose")
        if self._failed:
            self.kept.failed = {each.name for each in self._failed}
            self.save()

    def _try(self, candidate: Setting, gate: Gate) -> tuple[Trial, bool]:
        """Time a candidate, and tell whether other programs ran beside."""
        try:
            target = self._trial(candidate, TRIAL_FILLS[-1])
        except DeviceError:  # of memory, perhaps: then shorter texts are tried
            target = self._trial(candidate)
        try:
            probe = Probe(target.context, gate=gate)
            fills = sorted({min(fill, probe.largest_fill) for fill in TRIAL_FILLS})
            seconds = {}
            for fill in fills:
                seconds[fill] = probe.time_sizes(
                    TRIAL_SIZES, fill, seconds=TRIAL_SECONDS, least=LEAST_TRIAL_SIZES
                )
                self._note(probe.contended)
            return Trial(seconds, probe.time_prompt()), probe.contended
        finally:
            target.context.close()

    def find_exactness(self, setting: Setting, gate: Gate | None = None) -> Exactness:
        """What equals one-token decoding in a setting, probed in a context of its own if it is not known.

        Raises:
            DeviceError: there is no memory for the context.
        """
        found = self.kept.exact.get(setting.name)
        if found is None:
            self.progress(PROBING)
            target = self._trial(setting)
            try:
                found = ExactnessProbe(target.context, gate=gate).exactness(
                    lambda done, sizes: self.progress(f"{PROBING}: {done} of {sizes}")
                )
            finally:
                target.context.close()
            # Other programs do not change bits: this is kept however busy the machine is.
            self.kept.exact[setting.name] = found
            self.save()
        return found

    def _note(self, contended: bool) -> None:
        if contended and not self.busy:
            self.busy = True
            self.on_busy()

    def _opened(self, candidate: Setting) -> Target:
        try:
            return Target(self._model, self.settings(candidate))
        except DeviceError as error:
            if len(self._candidates) == 1 and not candidate.flash_attention and candidate.cache_type != "f16":
                raise OptionError(
                    f"cache type {candidate.cache_type} needs flash attention ({error})"
                ) from error
            raise

    def settings(self, setting: Setting) -> ContextSettings:
        """The context's shape in a setting, and its threads."""
        return replace(
            self._wanted,
            flash_attention=setting.flash_attention,
            cache_type=setting.cache_type,
            row_by_row=setting.row_by_row,
            n_threads_batch=self._batch_threads,
        )

    def _trial(self, setting: Setting, fill: int = FAR_FILL) -> Target:
        """A small context for measurements after at most ``fill`` cells."""
        room = min(self._wanted.n_ctx, room_for(fill))
        return Target(self._model, replace(self.settings(setting), n_ctx=room))

    # --- curves ------------------------------------------------------------------------------

    def kept_curve(self, settings: ContextSettings) -> CostCurve | None:
        """The cost curve of a setting, where it was measured before."""
        return self.kept.curves.get(setting_of(settings).name)

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
        setting = setting_of(settings)
        curve = self._curve(setting, gate)
        self._note(curve.contended)
        if earlier is not None:
            if not curve.contended:
                earlier.see_again(curve)
            curve = earlier
        if not curve.contended:
            self.kept.curves[setting.name] = curve
            self.save()
        return curve

    def _curve(self, setting: Setting, gate: Gate | None) -> CostCurve:
        target = self._trial(setting)
        try:
            return Probe(target.context, gate=gate).curve()
        finally:
            target.context.close()

    def keep(self, settings: ContextSettings, curve: CostCurve, exactness: Exactness | None = None) -> None:
        """Keep a curve measured elsewhere, for the engine to use, and exact sizes where they were found too."""
        name = setting_of(settings).name
        curve.sightings = SIGHTINGS  # it was measured on purpose, and is not measured again
        if exactness is not None:
            self.kept.exact[name] = exactness
        self.kept.curves[name] = curve
        self.save()

    def save(self) -> None:
        """Write what was measured."""
        self.kept.save(self._model, self._notice)

    def save_refined(self, curve: CostCurve) -> None:
        """Write a curve again after enough real passes have refined it."""
        if curve.steps_seen >= STEPS_WORTH_SAVING:
            self.save()

    # --- does it still hold? -----------------------------------------------------------------

    def see_passes(self, settings: ContextSettings, passes: Iterable[tuple[int, float]]) -> None:
        """Take note of real plain passes; the first of a start say whether what was kept still holds.

        Args:
            settings: of the context.
            passes: cells before each, and its seconds.
        """
        kept = self.kept.trials.get(setting_of(settings).name)
        if kept is not None:
            for n_cells, seconds in passes:
                if self._first.done:
                    return
                self._first.see(seconds, float(kept.at(n_cells)[1]))

    @property
    def doubtful(self) -> bool:
        """Whether the first passes of this start are at odds with what was kept."""
        return self._first.doubt(self.kept.usual)

    def measure_again(self, settings: ContextSettings, gate: Gate) -> CostCurve | None:
        """Try all settings again, and measure the curve of the present one; what comes replaces what was kept.

        Beside other programs nothing is replaced. Once for each start.

        Returns:
            The new curve; None where nothing was replaced.

        Raises:
            DeviceError: there is no memory for the contexts.
        """
        ratio, self._first = self._first.ratio or 1.0, FirstPasses(done=True)
        self.progress("measuring again: this machine is not as fast as it was measured")
        fresh: dict[Setting, Trial] = {}
        for _ in range(TRIAL_ROUNDS):
            for candidate in self._trials:
                found, disturbed = self._try(candidate, gate)
                if disturbed:
                    return None
                fresh[candidate] = fresh[candidate].and_again(found) if candidate in fresh else found
        setting = setting_of(settings)
        curve = self._curve(setting, gate)
        if curve.contended:
            return None
        before, now = (float(trials[setting].at(OPENING_FILL)[1]) for trials in (self._trials, fresh))
        # A pass between drafts finds colder caches than one in a trial, on some machines by more than on others.
        self.kept.usual = min(max(ratio * before / now, 1.0 / MOST_USUAL), MOST_USUAL)
        self._trials.update(fresh)
        # What other programs tried, which fixed another attention or cache, stays theirs to doubt.
        for each, trial in fresh.items():
            self.kept.trials[each.name] = trial
            self.kept.curves.pop(each.name, None)
        self.kept.curves[setting.name] = curve
        self.save()
        return curve


def setting_of(settings: ContextSettings) -> Setting:
    """Attention and cache type of a context."""
    return Setting(settings.flash_attention, settings.cache_type, settings.row_by_row)
