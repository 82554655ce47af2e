"""A model's files from the Hugging Face Hub, by way of its own client (the extra ``hub``)."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from aded_local.errors import ModelNotFoundError, OptionError
from aded_local.shown import one_line

Folder = str | os.PathLike[str]


def downloaded(
    repository: str,
    pattern: str | None,
    others: Sequence[str] = (),
    *,
    local_dir: Folder | None = None,
    cache_dir: Folder | None = None,
) -> str:
    """The path of a GGUF, which is downloaded if it is not there yet.

    Args:
        repository: owner and name.
        pattern: of the file's name, which one file fits; None for the only GGUF.
        others: patterns of files that belong to it, such as the other parts of a split model.
        local_dir: where to put them, in place of the client's cache.
        cache_dir: the client's cache.

    Raises:
        OptionError: the client is not installed, or no file fits a pattern, or several do.
        ModelNotFoundError: the hub has no such repository, or it cannot be reached.
    """
    try:
        import huggingface_hub as hub
    except ImportError:
        raise OptionError(
            "from_pretrained needs the Hugging Face Hub's client; install it with pip install 'aded-local[hub]'"
        ) from None
    files: list[str] = _asked(repository, lambda: hub.HfApi().list_repo_files(repository))
    wanted = [_one(files, each, repository) for each in (pattern or "*.gguf", *others)]
    where: dict[str, Any] = {"local_dir": local_dir, "cache_dir": cache_dir}
    paths = [
        _asked(repository, lambda name=name: hub.hf_hub_download(repository, name, **where))
        for name in wanted
    ]
    return str(paths[0])


def _one(files: Sequence[str], pattern: str, repository: str) -> str:
    found = [name for name in files if fnmatch.fnmatch(name, pattern)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(sorted(name for name in files if PurePosixPath(name).suffix == ".gguf")) or "no GGUF"
    what = f"{len(found)} files fit" if found else "no file fits"
    raise OptionError(f"{what} {pattern!r} in {repository}; there is {known}")


def _asked(repository: str, question: Any) -> Any:
    try:
        return question()
    except Exception as error:  # the client's own, and those of the HTTP library beneath it
        why = one_line(str(error)) or type(error).__name__
        raise ModelNotFoundError(f"{repository} cannot be had from the Hugging Face Hub: {why}") from error
