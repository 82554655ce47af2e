"""Identifies a model and its tokenizer, to which a memory belongs: token ids mean nothing with another tokenizer.

Both are read from the GGUF's metadata only, so that all quantizations of a model share a memory. What a model computed
belongs to its very weights, which ``weights_digest`` tells apart.
"""

from __future__ import annotations

import hashlib
import mmap
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aded_local.errors import StoreError

if TYPE_CHECKING:
    from aded_local.llama.gguf import GGUFHeader

SUFFIX = ".sqlite"

KEY_DIGITS = 12
"""Hexadecimal digits in a file's name: 48 bits, for the few models a person has."""

LONGEST_SLUG = 48
"""Characters of the readable part of a file's name."""

SAMPLES, SAMPLE = 64, 1 << 16
"""Spans of a file that ``weights_digest`` reads, and bytes of each: 4 MiB, which a disk gives in a moment. Chosen."""

_NAMES = ("general.name", "general.basename", "general.finetune", "general.size_label", "general.version")
_SHAPE = ("block_count", "embedding_length", "feed_forward_length")
"""These distinguish models to which a converter gave no name, or the same name for every size."""

_VOCABULARY = ("tokens", "token_type", "merges")
_QUANTIZATION = re.compile(
    r"[-._ ](?:(?:ud|i1)[-._])?(?:i?q\d\w*|[bt]q\d\w*|mxfp4\w*|b?f16|fp16|f32)(?=$|[-._ ])", re.IGNORECASE
)
_SPLIT = re.compile(r"-\d{5}-of-\d{5}$")
_FILE_NAME = re.compile(rf"(?P<name>.+)-(?P<key>[0-9a-f]{{{KEY_DIGITS}}})")
_U64 = struct.Struct("<Q").unpack_from


@dataclass(frozen=True, slots=True)
class Identity:
    """A tokenizer and a model.

    Attributes:
        name: readable, of letters, digits, dots and dashes: ``tinyllama-1.1b-chat``.
        tokenizer: SHA-256 of the vocabulary, 64 hexadecimal digits; empty where unknown.
        model: what the metadata says about the model, readable.
        key: of tokenizer and model together, ``KEY_DIGITS`` hexadecimal digits.
    """

    name: str
    tokenizer: str
    model: str
    key: str

    @property
    def file_name(self) -> str:
        """Readable and unique: ``tinyllama-1.1b-chat-0123456789ab.sqlite``."""
        return f"{self.name}-{self.key}{SUFFIX}"

    def labels(self) -> dict[str, str]:
        """As a file keeps them; ``from_labels`` reads it back."""
        return {"name": self.name, "tokenizer": self.tokenizer, "model": self.model, "key": self.key}

    @classmethod
    def from_labels(cls, labels: dict[str, str]) -> Identity:
        """What a file says.

        Raises:
            KeyError: something is missing.
        """
        return cls(labels["name"], labels["tokenizer"], labels["model"], labels["key"])

    @classmethod
    def from_file_name(cls, path: Path) -> Identity | None:
        """As much as the name says: for a file that does not say it any more. None where it is no memory's name."""
        found = _FILE_NAME.fullmatch(path.name.removesuffix(SUFFIX)) if path.suffix == SUFFIX else None
        return cls(found["name"], "", "", found["key"]) if found else None


def identity_of(header: GGUFHeader) -> Identity:
    """What a conversation with the model of ``header`` belongs to.

    Takes 0.04 s on a vocabulary of 150,000.

    Raises:
        StoreError: the GGUF cannot be read any more.
    """
    tokenizer = _tokenizer_hash(header)
    labels = {key: header.metadata.get(key) for key in _NAMES}
    named = {key: text for key, text in labels.items() if isinstance(text, str) and text.strip()}
    if not {"general.name", "general.basename"} & named.keys():
        named["general.name"] = _plain_stem(header.path)
    shape = {key: header.metadata.get(f"{header.architecture}.{key}") for key in _SHAPE}
    parts = [header.architecture, *sorted(named.items()), *sorted(shape.items())]
    model = f"{header.architecture} {_first_name(named)}"
    key = hashlib.sha256(repr((tokenizer, parts)).encode()).hexdigest()[:KEY_DIGITS]
    return Identity(_slug(_first_name(named)), tokenizer, " ".join(model.split()), key)


def _first_name(named: dict[str, str]) -> str:
    return named.get("general.name") or named["general.basename"]


def _plain_stem(path: Path) -> str:
    """A file's name without the parts for quantization and number of the file."""
    stem = _SPLIT.sub("", path.name.removesuffix(".gguf"))
    return _QUANTIZATION.sub("", stem) or stem


def _slug(name: str) -> str:
    # Some converters write the path of a folder.
    last = re.split(r"[/\\]", name.strip().rstrip("/\\"))[-1]
    return re.sub(r"[^a-z0-9.]+", "-", last.lower()).strip("-.")[:LONGEST_SLUG].strip("-.") or "model"


def _tokenizer_hash(header: GGUFHeader) -> str:
    digest = hashlib.sha256()
    for key in ("model", "pre"):
        digest.update(repr((key, header.metadata.get(f"tokenizer.ggml.{key}"))).encode())
    try:
        with open(header.path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for key in _VOCABULARY:
                _hash_array(digest.update, key, header.metadata.get(f"tokenizer.ggml.{key}"), data)
    except (OSError, ValueError, struct.error) as error:
        raise StoreError(f"cannot read the vocabulary of {header.path} again: {error}") from error
    return digest.hexdigest()


def _hash_array(update: Callable[[bytes], None], key: str, value: object, data: mmap.mmap) -> None:
    # Imported here: memories are looked after without llama.cpp, which comes with the package of the target.
    from aded_local.llama.gguf import STRING, Array

    update(key.encode())
    if not isinstance(value, Array):
        update(repr(value).encode())  # short, or absent
        return
    end = value.position
    if value.kind == STRING:
        for _ in range(value.length):
            end += 8 + _U64(data, end)[0]
    else:
        end += 4 * value.length  # token types; int32, as the header's check made sure
    update(data[value.position : end])


def weights_digest(header: GGUFHeader) -> str:
    """What tells a model's weights from those of any other file: SHA-256, 64 hexadecimal digits.

    It covers the headers and sizes of all its files, and ``SAMPLES`` spans of each, spread evenly; reading all of a
    large model would take seconds. Two files that differ in other places only are taken for one.

    Raises:
        StoreError: a file cannot be read any more.
    """
    digest = hashlib.sha256()
    for each in header.files:
        digest.update(each.digest.encode())
        last = max(0, each.file_size - SAMPLE)
        try:
            with open(each.path, "rb") as file:
                for start in sorted({last * number // (SAMPLES - 1) for number in range(SAMPLES)}):
                    file.seek(start)
                    digest.update(file.read(SAMPLE))
        except OSError as error:
            raise StoreError(f"cannot read {each.path} again: {error.strerror or error}") from error
    return digest.hexdigest()
