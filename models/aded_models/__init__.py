"""The built-in chat model of ADED Local: two small GGUF files, where they lie, and how they were made."""

from .builtin import BuiltinModelMissing, builtin_path, draft_path

__all__ = ["BuiltinModelMissing", "builtin_path", "draft_path"]
