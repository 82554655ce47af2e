"""What was measured of a model on this machine, kept in a private file, so that the next start need not measure it."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from aded_local.files import cache, cache_folder, read_private, write_privately
from aded_local.llama import ContextSettings, Model
from aded_local.llama.devices import gpu_names
from aded_local.speed.cost_curve import LARGEST_BATCH, MOST_SECONDS, CostCurve
from aded_local.speed.device import device_name
from aded_local.speed.exactness import Exactness
from aded_local.speed.pricing import TRIAL_FILLS, Trial
from aded_local.speed.probe import room_for
from aded_local.trials import library

MEASUREMENTS_FORMAT = 9
"""Version of the file's layout; a file of another version is not used."""

MOST_USUAL = 10.0
"""A file in which passes take so many times as long as measured is damaged."""

Say = Callable[[str], None]


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
        library.build(),
        settings.n_threads,
        n_gpu_layers,
        # A small context is measured at fewer cells, and its exact sizes hold for those only.
        min(settings.n_ctx, room_for(TRIAL_FILLS[-1])),
    )
    name = hashlib.sha256(repr(parts).encode()).hexdigest()[:24]
    return cache_folder() / "measurements" / f"{name}.json"


class Measurements:
    """The file's content, by the name of a setting.

    Exact sizes are kept apart from times: other programs can spoil a time, and never the exact sizes.

    Attributes:
        curves: what passes cost.
        exact: sizes that equal one-token decoding.
        trials: what settings are compared by.
        chosen: the setting in which ``exact`` answers while the trials were all made beside other programs: it keeps to
            it, since the words depend on the setting. Empty where trials are kept.
        batch_threads: threads of passes over several tokens, 0 for as many as of others; None while not compared.
        failed: settings that do not work here.
        usual: how many times as long as in the trial a pass takes in answers, as far as that was found to be so again
            after a second trial.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.curves: dict[str, CostCurve] = {}
        self.exact: dict[str, Exactness] = {}
        self.trials: dict[str, Trial] = {}
        self.chosen = ""
        self.batch_threads: int | None = None
        self.failed: set[str] = set()
        self.usual = 1.0
        self._told = False
        with contextlib.suppress(
            OSError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError
        ):
            data = json.loads(read_private(path))
            if data["format"] == MEASUREMENTS_FORMAT:
                curves = {str(name): CostCurve.from_dict(curve) for name, curve in data["curves"].items()}
                exact = {str(name): _exactness(found) for name, found in data["exact"].items()}
                trials = {str(name): _trial(found) for name, found in data["trials"].items()}
                failed = {str(name) for name in data["failed"]}
                several = None if data["batch_threads"] is None else int(data["batch_threads"])
                usual, chosen = float(data["usual"]), str(data["chosen"])
                if not 1.0 / MOST_USUAL < usual < MOST_USUAL:
                    raise ValueError("not a ratio of times")
                self.curves, self.exact, self.trials = curves, exact, trials
                self.failed, self.usual, self.chosen, self.batch_threads = failed, usual, chosen, several

    def save(self, model: Model, notice: Say) -> None:
        """Write the file in one step. Where that fails, ``notice`` is told once, unless the user knows already that the
        cache folder cannot be written."""
        data = {
            "format": MEASUREMENTS_FORMAT,
            "model": model.path.name,
            "device": device_name(),
            "exact": self.exact,
            "trials": {
                name: {"seconds": trial.seconds, "prompt_token": trial.prompt_token, "rounds": trial.rounds}
                for name, trial in self.trials.items()
            },
            "failed": sorted(self.failed),
            "chosen": self.chosen,
            "batch_threads": self.batch_threads,
            "usual": self.usual,
            "curves": {name: curve.to_dict() for name, curve in self.curves.items()},
        }
        try:
            write_privately(self.path, json.dumps(data))
        except OSError as error:
            if not self._told and cache().problem is None:  # else ``opening`` has told of the cache folder
                reason = f"{error.strerror or error} in {self.path.parent}"
                notice(f"measurements not kept ({reason}); they are made again at the next start")
            self._told = True


def _exactness(found: object) -> Exactness:
    """What a file says of exact sizes, checked; raises ValueError or TypeError."""
    if not isinstance(found, list) or len(found) != 3:
        raise ValueError("not exact sizes")
    sizes, fills = ([int(n) for n in numbers] for numbers in found[:2])
    if 1 not in sizes or not all(1 <= n <= LARGEST_BATCH for n in sizes):
        raise ValueError("not exact sizes")
    return Exactness(sizes, fills, found[2] is True)


def _trial(found: dict[str, object]) -> Trial:
    """What a file says of a trial, checked; raises ValueError, TypeError, KeyError or AttributeError."""
    seconds = found["seconds"]
    if not isinstance(seconds, dict):
        raise TypeError("not a trial")
    times = {int(fill): {int(n): float(taken) for n, taken in row.items()} for fill, row in seconds.items()}
    prompt_token = float(str(found["prompt_token"]))
    every = [prompt_token, *(taken for row in times.values() for taken in row.values())]
    if not times or not all(1 in row for row in times.values()):
        raise ValueError("not a trial")
    if not all(0.0 < taken < MOST_SECONDS for taken in every):
        raise ValueError("not a trial")
    return Trial(times, prompt_token, max(1, int(str(found["rounds"]))))
