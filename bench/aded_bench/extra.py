"""Packages of the extra `bench` that every command needs; commands import this before they measure anything."""

from __future__ import annotations

from aded_local.errors import OptionError

try:
    import msgspec
    import pandas
except ImportError as error:
    if error.name in ("msgspec", "pandas"):
        raise OptionError(f"{error.name} is missing: pip install 'aded-local[bench]'") from None
    what = " ".join(str(error).split())
    raise OptionError(
        f"a package of the extra 'bench' cannot be imported: {what}; install it again"
    ) from None

__all__ = ["msgspec", "pandas"]
