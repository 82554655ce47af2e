"""Result files: every number with where it came from, saved while the run goes on."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from aded_local.errors import StoreError

SAVE_SECONDS = 5.0  # between saves of a running measurement: what a crash may cost
PACKAGES = ("aded-local", "llama-cpp-python", "numpy", "numba", "gguf")


def provenance(model: Path, settings: Mapping[str, Any], description: Mapping[str, Any]) -> dict[str, Any]:
    """What one must know to repeat a run.

    Args:
        settings: the run's own options, seeds among them.
        description: ``LocalADED.description()`` of the loaded model.
    """
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command_line": sys.argv,
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "cpu": description.get("device", platform.processor()),
        "cpu_count": os.cpu_count(),
        "model": {"file": model.name, "bytes": model.stat().st_size, "sha256": sha256(model)},
        "engine": dict(description),
        "settings": dict(settings),
    }


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
