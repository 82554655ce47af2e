"""Result files: every number with where it came from, saved while the run goes on."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from aded_bench.schema import KINDS, check
from aded_local.errors import ADEDError, OptionError, StoreError
from aded_local.shown import one_line

SAVE_SECONDS = 5.0  # between saves of a running measurement: what a crash may cost
PACKAGES = ("aded-local", "llama-cpp-python", "numpy", "numba", "gguf")
SOURCE = "aded-local source"  # beside the version of aded-local, which changes less often than its code

MACHINE_KEYS = ("platform", "cpu", "gpus")
RUN_KEYS = ("settings", "model", "inputs", "versions", *MACHINE_KEYS)
"""What a continued run must share of its provenance."""

ENGINE_KEYS = ("flash_attention", "cache_type", "threads", "gpu_layers")
"""And of the engine. Its curve may have been refined since; its context, where none was asked for, goes by the
memory that happened to be free (one that was asked for is in the settings)."""


def provenance(
    settings: Mapping[str, Any],
    *,
    model: Path | None = None,
    description: Mapping[str, Any] | None = None,
    inputs: Sequence[Path] = (),
) -> dict[str, Any]:
    """What one must know to repeat a run.

    Args:
        settings: the run's own options, seeds among them.
        model: the GGUF measured, where there is one.
        description: ``LocalADED.description()`` of the loaded model.
        inputs: other files that decide the result: traces, suites, curves.
    """
    from aded_local.llama.devices import gpu_names
    from aded_local.speed.device import device_name

    versions = {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}
    found: dict[str, Any] = {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command_line": sys.argv,
        "versions": versions | {SOURCE: source_hash()},
        "platform": platform.platform(),
        "cpu": device_name(),
        "cpu_count": os.cpu_count(),
        "gpus": gpu_names(),
        "threads": description.get("threads") if description else None,
        "gpu_layers": description.get("gpu_layers") if description else None,
        "model": None,
        "engine": dict(description) if description else None,
        "inputs": [_file(path) for path in inputs],
        "settings": dict(settings),
    }
    if model is not None:
        found["model"] = _file(model) | {
            "quantization": description.get("quantization") if description else None
        }
    return found


def _file(path: Path) -> dict[str, Any]:
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}


def resume(
    file: ResultFile, kind: str, here: Mapping[str, Any], *, may_differ: Collection[str] = ()
) -> dict[str, Any] | None:
    """What an interrupted run with the same provenance left, or None where there is no file.

    Args:
        kind: of the result, as under its key ``kind``.
        here: ``provenance`` of the run about to start.
        may_differ: of ``ENGINE_KEYS``, what is a result itself.

    Raises:
        StoreError: the file is no result file, or damaged.
        OptionError: it holds another run, which is not overwritten.
    """
    found = file.load()
    if found is None:
        return None
    there = found["provenance"]
    different = [key for key in RUN_KEYS if _known_at_start(there, key) != _known_at_start(here, key)]
    engine = there.get("engine")
    if here["engine"] is not None:
        earlier = engine if isinstance(engine, dict) else {}
        shared = (key for key in ENGINE_KEYS if key not in may_differ)
        different += [key for key in shared if earlier.get(key) != here["engine"].get(key)]
    if found.get("kind") != kind:
        different = [f"kind of result ({found.get('kind')})"]
    if different:
        raise OptionError(
            f"{file.path} holds a run with other {', '.join(different)}; name another file or remove it"
        )
    with taking_over(file):
        check(found, KINDS[kind])
    return found


def _known_at_start(provenance: Mapping[str, Any], key: str) -> Any:
    """The value under ``key``; of the model without its quantization, which only a loaded one tells."""
    value = provenance.get(key)
    if key == "model" and isinstance(value, dict):
        return {name: part for name, part in value.items() if name != "quantization"}
    return value


@contextmanager
def taking_over(file: ResultFile) -> Iterator[None]:
    """Inside, what an earlier run left is read; whatever does not fit there is the file's fault.

    Raises:
        StoreError: something does not fit.
    """
    try:
        yield
    except ADEDError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        why = f"{error.args[0]} is missing" if isinstance(error, KeyError) else error
        raise StoreError(f"{file.path} is damaged: {why}; name another file, or mend or remove it") from None


def sha256(path: Path) -> str:
    """Hash of a file's contents, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@cache
def source_hash() -> str:
    """Hash over the Python sources of ``aded_local`` and ``aded_bench``, hexadecimal.

    Code that changed under one version number shows by it, and such results are not mixed.
    """
    import aded_bench
    import aded_local

    digest = hashlib.sha256()
    for package in (aded_local, aded_bench):
        folder = Path(package.__file__ or "").parent
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{package.__name__}/{path.relative_to(folder).as_posix()}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def check_output(path: Path) -> None:
    """Refuse a file that could not be written, before the work is done.

    Raises:
        OptionError: it is a folder, a device or a pipe, or its folder is not there or not writable.
    """
    try:
        if path.is_dir():
            raise OptionError(f"{path} is a folder; name the file to write")
        if path.exists() and not path.is_file():
            raise OptionError(f"{path} is a device or a pipe; name a file to write")
        if not path.parent.is_dir():
            raise OptionError(f"no such folder: {path.parent}")
    except OSError as error:  # a folder above may not be entered, or the name is too long
        raise OptionError(f"{path} cannot be written: {error.strerror or error}") from None
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OptionError(f"the folder {path.parent} may not be written to; name a file elsewhere")


def read_result(path: Path) -> dict[str, Any]:
    """A result file's content, as far as every kind has the same.

    Raises:
        StoreError: it cannot be read, or is none.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path} is no result file of aded-bench: {error}") from None
    if not isinstance(found, dict) or not isinstance(found.get("provenance"), dict):
        raise StoreError(f"{path} is no result file of aded-bench: it does not say where numbers came from")
    return found


class ResultFile:
    """A JSON file that grows; without a path, nothing is written.

    A save that fails costs no measurement: it is told once, and the next one may succeed.

    Attributes:
        failure: why the last save failed; None when it did not.

    Raises:
        OptionError: the file could not be written; see ``check_output``.
    """

    def __init__(self, path: Path | None) -> None:
        if path is not None:
            check_output(path)
        self.path = path
        self.failure: str | None = None
        self._saved_at = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """What an earlier run left, or None.

        Raises:
            StoreError: the file is no result file.
        """
        return None if self.path is None or not self.path.exists() else read_result(self.path)

    def save(self, result: Mapping[str, Any], *, now: bool = False) -> None:
        """Write ``result`` if it is time, or ``now``; readers never see half a file."""
        if self.path is None or (not now and time.monotonic() - self._saved_at < SAVE_SECONDS):
            return
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        try:
            # ASCII, since names of files and arguments may hold what UTF-8 cannot write.
            partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            partial.replace(self.path)
            self.failure = None
        except OSError as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            first = self.failure is None
            self.failure = f"{self.path} was not written: {error.strerror or error}"
            if first and not now:
                print(one_line(f"{self.failure}; going on"), file=sys.stderr)
        self._saved_at = time.monotonic()
