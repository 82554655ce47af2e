"""Packages of the extra `bench` that every command needs; commands import this before they measure anything."""

from __future__ import annotations

from aded_local.errors import OptionError

try:
    import msgspec
    import pandas
except ImportError as error:
    raise OptionError(f"{error.name} is missing: pip install 'aded-local[bench]'") from None

__all__ = ["msgspec", "pandas"]
