"""The models that ADED Local knows by name: where they lie, which the hub has, how the built-in ones were made."""

from .builtin import BuiltinModelMissing, builtin_path, draft_path
from .catalogue import CATALOGUE, Listed
from .installed import installed
from .names import BUILTIN, NAMES, SMOLLM2, Found, find, is_name
from .references import PREFIX, Reference, names_hub, reference

__all__ = [
    "BUILTIN",
    "CATALOGUE",
    "NAMES",
    "PREFIX",
    "SMOLLM2",
    "BuiltinModelMissing",
    "Found",
    "Listed",
    "Reference",
    "builtin_path",
    "draft_path",
    "find",
    "installed",
    "is_name",
    "names_hub",
    "reference",
]
