"""Finds the packaged model files. Imports nothing heavy, since it is called before llama.cpp is loaded."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from aded_local.errors import ModelNotFoundError

TARGET_FILE = "tldr-chat-q8_0.gguf"
DRAFT_FILE = "tldr-draft-q8_0.gguf"


class BuiltinModelMissing(ModelNotFoundError):
    """A packaged model file is not where it should be; the message says how to get it."""


def _packaged(name: str) -> Path:
    path = Path(str(files("aded_models") / "data" / name))
    if not path.is_file():
        raise BuiltinModelMissing(
            f"the built-in model {path} is missing. Reinstall the package, or train it again (about "
            f"75 minutes): `pip install aded-local[train]`, then `python -m aded_models.train "
            f"--corpus tldr-en.jsonl.gz --out build/models`, and copy build/models/{name} there."
        )
    return path


def builtin_path() -> Path:
    """The built-in chat model (GGUF, Q8_0). Raises BuiltinModelMissing."""
    return _packaged(TARGET_FILE)


def draft_path() -> Path:
    """Its small sibling with the same tokenizer, for drafting (GGUF, Q8_0). Raises BuiltinModelMissing."""
    return _packaged(DRAFT_FILE)
