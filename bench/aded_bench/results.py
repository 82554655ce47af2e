"""Result files: every number with where it came from, saved while the run goes on."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from aded_local.errors import OptionError, StoreError

SAVE_SECONDS = 5.0  # between saves of a running measurement: what a crash may cost
PACKAGES = ("aded-local", "llama-cpp-python", "numpy", "numba", "gguf")


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
    from aded_local.device import device_name
    from aded_local.target.devices import gpu_names

    found: dict[str, Any] = {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command_line": sys.argv,
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
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


ENGINE_KEYS = ("flash_attention", "cache_type", "threads", "context", "gpu_layers")
"""What a continued run must share of the engine; its curve may have been refined since."""


def resume(file: ResultFile, kind: str, here: Mapping[str, Any]) -> dict[str, Any] | None:
    """What an interrupted run with the same provenance left, or None where there is no file.

    Args:
        kind: of the result, as under its key ``kind``.
        here: ``provenance`` of the run about to start.

    Raises:
        StoreError: the file is no result file.
        OptionError: it holds another run, which is not overwritten.
    """
    found = file.load()
    if found is None:
        return None
    there = found["provenance"]
    different = [key for key in ("settings", "model", "inputs", "versions") if there.get(key) != here[key]]
    engines = (there.get("engine") or {}, here["engine"] or {})
    different += [key for key in ENGINE_KEYS if engines[0].get(key) != engines[1].get(key)]
    if found.get("kind") != kind:
        different = [f"kind of result ({found.get('kind')})"]
    if different:
        raise OptionError(
            f"{file.path} holds a run with other {', '.join(different)}; name another file or remove it"
        )
    return found


def sha256(path: Path) -> str:
    """Hash of a file's contents, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


class ResultFile:
    """A JSON file that grows; without a path, nothing is written."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._saved_at = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """What an earlier run left, or None.

        Raises:
            StoreError: the file is no result file.
        """
        if self.path is None or not self.path.exists():
            return None
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StoreError(f"{self.path} is no result file of aded-bench: {error}") from None
        if not isinstance(found, dict) or "provenance" not in found:
            raise StoreError(f"{self.path} is no result file of aded-bench; name another")
        return found

    def save(self, result: Mapping[str, Any], *, now: bool = False) -> None:
        """Write ``result`` if it is time, or ``now``; readers never see half a file.

        Raises:
            StoreError: the disk refuses.
        """
        if self.path is None or (not now and time.monotonic() - self._saved_at < SAVE_SECONDS):
            return
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        try:
            partial.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            partial.replace(self.path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise StoreError(f"{self.path} was not written: {error.strerror or error}") from None
        self._saved_at = time.monotonic()
