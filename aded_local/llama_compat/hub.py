"""Llama.from_pretrained's model: a repository of the Hugging Face Hub and patterns of file names."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable, Sequence

from aded_local.errors import OptionError
from aded_local.files import given_path
from aded_models.hub import download, listed
from aded_models.references import GGUF_SUFFIX

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
        ModelNotFoundError: there is no such repository or no access to it, or the hub cannot be reached.
        StoreError: the folder cannot be written, or its disk is full.
    """
    local = None if local_dir is None else given_path("local_dir", local_dir, "a folder")
    cache = None if cache_dir is None else given_path("cache_dir", cache_dir, "a folder")
    files = listed(repository)
    wanted = [files[_one(files, each, repository)] for each in (pattern or f"*{GGUF_SUFFIX}", *others)]
    return str(download(repository, wanted, local_dir=local, cache_dir=cache)[0])


def _one(files: Iterable[str], pattern: str, repository: str) -> str:
    found = [name for name in files if fnmatch.fnmatch(name, pattern)]
    if len(found) == 1:
        return found[0]
    known = (
        ", ".join(sorted(name for name in files if name.endswith(GGUF_SUFFIX) and name.isprintable()))
        or "no GGUF"
    )
    what = f"{len(found)} files fit" if found else "no file fits"
    raise OptionError(f"{what} {pattern!r} in {repository}; there is {known}")
