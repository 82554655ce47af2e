"""Which models of the Hugging Face Hub lie on this machine, in the cache that all programs of the hub share.

Its layout is the hub's own: ``models--OWNER--NAME`` holds ``snapshots/COMMIT/FILE``, links to ``blobs/SHA256``, and
``refs/main``, which says which commit is the latest that was asked for. It is read here without the hub's client, which
need not be installed for a model that is here already.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from aded_local.errors import ModelNotFoundError

from .references import GGUF_SUFFIX, Reference, choose

CACHE_VARIABLES: Final = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")
"""Environment variables that name the cache itself."""
_FOLDER: Final = "models--"


HOME_VARIABLE: Final = "HF_HOME"
"""The one that names the folder above it."""


def cache_variable() -> str:
    """The environment variable that names the shared cache, or would."""
    return next((variable for variable in CACHE_VARIABLES if os.environ.get(variable)), HOME_VARIABLE)


def hub_cache() -> Path:
    """The shared cache, as the hub's client finds it: named by ``HF_HUB_CACHE``, or below ``HF_HOME``."""
    variable = cache_variable()
    if variable != HOME_VARIABLE:
        return Path(os.path.expanduser(os.environ[variable]))
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    home = os.environ.get(HOME_VARIABLE) or os.path.join(base, "huggingface")
    return Path(os.path.expanduser(home)) / "hub"


def repository_folder(repository: str, cache: Path | None = None) -> Path:
    """Where a repository's files lie, if they do."""
    return (hub_cache() if cache is None else cache) / (_FOLDER + repository.replace("/", "--"))


def installed(wanted: Reference, cache: Path | None = None) -> Path | None:
    """The file to open of a model that is here, whole; None where it is not.

    Args:
        wanted: the model. Without a quantization, what is here of the repository is chosen from.
        cache: the hub's cache, if it is not the usual one.
    """
    for snapshot in _snapshots(repository_folder(wanted.repository, cache)):
        try:
            files = {path.relative_to(snapshot).as_posix(): path for path in _ggufs(snapshot)}
            return files[choose(files, wanted)[0]]
        except (OSError, ModelNotFoundError):
            continue
    return None


def repositories(cache: Path | None = None) -> list[str]:
    """Repositories with a GGUF on this machine."""
    found = []
    cache = hub_cache() if cache is None else cache
    try:
        folders = sorted(path for path in cache.iterdir() if path.name.startswith(_FOLDER))
    except OSError:
        return []
    for folder in folders:
        repository = folder.name.removeprefix(_FOLDER).replace("--", "/", 1)
        if installed(Reference(repository), cache) is not None:
            found.append(repository)
    return found


def _snapshots(folder: Path) -> Iterator[Path]:
    """Folders of a repository's commits, the latest that was asked for first."""
    snapshots = folder / "snapshots"
    try:
        latest = (folder / "refs" / "main").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        latest = ""
    try:
        names = [path for path in snapshots.iterdir() if path.is_dir()]
        yield from sorted(names, key=lambda path: (path.name != latest, -path.stat().st_mtime))
    except OSError:
        return


def _ggufs(snapshot: Path) -> Iterator[Path]:
    """GGUFs below a folder; links whose file is gone, or was not downloaded whole, are left out."""
    for path in snapshot.rglob("*"):
        if path.suffix.lower() == GGUF_SUFFIX and path.is_file():
            yield path
