"""Models of the Hugging Face Hub by repository and quantization, and which of a repository's files that means.

Nothing here reads a disk or a network.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from aded_local.errors import ModelNotFoundError, OptionError

PREFIX: Final = "hf:"
"""What a model's name begins with where it means a repository: ``hf:OWNER/NAME`` or ``hf:OWNER/NAME:QUANT``."""

FIRST_CHOICES: Final = ("Q4_K_M", "Q8_0")
"""What is taken where no quantization is named, as llama.cpp's -hf takes it; after these the first there is."""

GGUF_SUFFIX: Final = ".gguf"

BRANCH: Final = "main"
"""Of a repository, the only one that models are taken from."""

_SITE: Final = re.compile(r"(https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/", re.IGNORECASE)
"""How people who copy an address, or come from Ollama, begin a repository's name."""
_PAGE: Final = re.compile(r"([^/]+/[^/]+)/(?:blob|resolve|tree)/([^/]+)(?:/(.+))?")
"""An address below a repository's: of a file, or of the list of them, as of a commit or branch."""
_REPOSITORY: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]*[A-Za-z0-9_]", re.ASCII)
_PART: Final = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)
_QUANTIZATION: Final = re.compile(
    r"(?<![A-Za-z0-9])((?:UD-)?(?:I?Q\d(?:_[A-Za-z0-9]+)*|TQ\d_\d|MXFP4(?:_MOE)?|BF16|F16|FP16|F32))(?![A-Za-z0-9_])",
    re.IGNORECASE,
)
_NO_MODELS: Final = ("mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-")
"""In the names of GGUFs that are no model by themselves: projectors, drafting heads, statistics for quantizers."""


@dataclass(frozen=True)
class Reference:
    """A repository, and which of its models.

    Attributes:
        repository: owner and name.
        quantization: such as ``Q4_K_M``, in any case, or a file's name; None leaves the choice open.
    """

    repository: str
    quantization: str | None = None

    def __str__(self) -> str:
        return self.repository if self.quantization is None else f"{self.repository}:{self.quantization}"


def names_hub(text: str) -> bool:
    """Whether a model's name means one of the hub: it begins with ``hf:``, or is an address of the hub."""
    site = _SITE.match(text)
    return text.startswith(PREFIX) or (site is not None and site[1] is not None)


def reference(text: str) -> Reference:
    """Read ``OWNER/NAME[:QUANT]``, with or without ``hf:`` or the hub's address before it, or a file's address there.

    Raises:
        OptionError: it is none.
    """
    name = text.strip().removeprefix(PREFIX)
    site = _SITE.match(name)
    if site is not None:
        name = name[site.end() :]
        if site[1] is not None:  # copied from a browser
            name = unquote(re.split("[?#]", name, maxsplit=1)[0])
    page = None if site is None else _PAGE.fullmatch(name.rstrip("/"))
    if page is None:
        repository, colon, quantization = name.partition(":")
        repository = repository.rstrip("/")
    else:
        repository, branch, quantization = page[1], page[2], page[3] or ""
        colon = quantization
        if branch != BRANCH:
            raise OptionError(f"{text!r} means files of {branch!r}; only those of {BRANCH} are fetched")
    if not is_repository(repository) or (colon and not quantization) or not quantization.isprintable():
        raise OptionError(
            f"{text!r} names no repository of the Hugging Face Hub: write OWNER/NAME or OWNER/NAME:QUANT,"
            " such as Qwen/Qwen3-4B-GGUF:Q4_K_M"
        )
    return Reference(repository, quantization or None)


def is_repository(text: str) -> bool:
    """Whether a text has the form of a repository's name."""
    return _REPOSITORY.fullmatch(text) is not None


def choose(files: Iterable[str], wanted: Reference) -> tuple[str, ...]:
    """The files of one model, its parts in order; the first is the one to open.

    Args:
        files: names of all files in the repository, with their folders.
        wanted: the model.

    Raises:
        ModelNotFoundError: there is no such model; the message says which there are.
    """
    files = list(files)
    models = _models(files)
    if not models:
        hidden = any(name.lower().endswith(GGUF_SUFFIX) and not name.isprintable() for name in files)
        why = " (a name with control characters is not taken)" if hidden else ""
        raise ModelNotFoundError(f"{wanted.repository} has no GGUF to open{why}; take a repository of GGUFs")
    parts = _chosen(models, wanted)
    whole = _parts_of(parts[0])
    if len(parts) != whole:
        raise ModelNotFoundError(
            f"{wanted.repository} has {len(parts)} of the {whole} parts of {parts[0]}: the repository is incomplete"
        )
    return parts


def quantizations(files: Iterable[str]) -> tuple[str, ...]:
    """What a repository has, one text for each model: its quantization, or its file's name where that says none."""
    return tuple(dict.fromkeys(_label(parts[0]) for parts in _models(files)))


def _models(files: Iterable[str]) -> list[tuple[str, ...]]:
    """Files that are models, the parts of a split one together; a whole file comes before parts of the same name.

    A name with control characters is nobody's honest choice, and a path with a line end would mislead who reads it.
    """
    together: dict[tuple[str, int], list[str]] = {}
    for name in sorted(files):
        last = name.rpartition("/")[2].lower()
        if last.endswith(GGUF_SUFFIX) and name.isprintable() and not any(sign in last for sign in _NO_MODELS):
            together.setdefault((_PART.sub(GGUF_SUFFIX, name), _parts_of(name)), []).append(name)
    return [tuple(parts) for _, parts in sorted(together.items())]


def _chosen(models: Sequence[tuple[str, ...]], wanted: Reference) -> tuple[str, ...]:
    asked = wanted.quantization
    for choice in FIRST_CHOICES if asked is None else (asked,):
        for parts in models:
            if _fits(parts, choice):
                return parts
    if asked is None:
        return models[0]
    there = ", ".join(dict.fromkeys(_label(parts[0]) for parts in models))
    raise ModelNotFoundError(f"{wanted.repository} has no {asked}; there is {there}")


def _fits(parts: Sequence[str], choice: str) -> bool:
    name = parts[0].lower()
    choice = choice.lower()
    if choice.endswith(GGUF_SUFFIX):
        whole = _PART.sub(GGUF_SUFFIX, name)  # what the parts are parts of
        return choice in {each for full in (name, whole) for each in (full, full.rpartition("/")[2])}
    return re.search(rf"(?<![a-z0-9]){re.escape(choice)}(?![a-z0-9_])", name) is not None


def _label(name: str) -> str:
    found = _QUANTIZATION.findall(name.rpartition("/")[2]) or _QUANTIZATION.findall(name)
    return str(found[-1]).upper() if found else name


def _parts_of(name: str) -> int:
    found = _PART.search(name)
    return 1 if found is None else int(found[2])
