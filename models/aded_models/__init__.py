"""The models that ADED Local knows by name: where they lie, and how the built-in ones were made."""

from .builtin import BuiltinModelMissing, builtin_path, draft_path
from .names import BUILTIN, NAMES, SMOLLM2, Found, find

__all__ = [
    "BUILTIN",
    "NAMES",
    "SMOLLM2",
    "BuiltinModelMissing",
    "Found",
    "builtin_path",
    "draft_path",
    "find",
]
