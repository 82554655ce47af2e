"""Texts from files and from standard input, read once and checked."""

from __future__ import annotations

import click

LARGEST_PROMPT = 2**26
"""Bytes of a file or of standard input: 64 for each token of the largest context. More is a mistake (/dev/zero)."""


def read_text(path: str, name: str, *, raw: bool = False) -> str:
    """The text of a file.

    Args:
        path: of the file.
        name: what it is called where something is wrong with it.
        raw: to the last byte; else without a mark of its encoding and without the line end that closes it.

    Raises:
        click.UsageError: it cannot be read, is not valid UTF-8, or is larger than any prompt.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_PROMPT + 1)
    except (OSError, ValueError) as failure:  # ValueError: a null byte in the path
        raise click.UsageError(
            f"{name} cannot be read: {getattr(failure, 'strerror', None) or failure}"
        ) from None
    return decoded(path, data, raw=raw)


def decoded(name: str, data: bytes, *, raw: bool = False) -> str:
    """Bytes as text; arguments and errors as of ``read_text``."""
    if len(data) > LARGEST_PROMPT:
        raise click.UsageError(f"{name} is larger than any prompt ({LARGEST_PROMPT >> 20} MiB): give less")
    try:
        text = data.decode("utf-8" if raw else "utf-8-sig")
    except UnicodeDecodeError as failure:
        raise click.UsageError(f"{name} is not valid UTF-8 text (byte {failure.start:,})") from None
    return text if raw else text.removesuffix("\n").removesuffix("\r")
