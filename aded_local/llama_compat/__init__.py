"""``llama_cpp.Llama``'s calls on this engine: its argument names, its defaults, its results key by key.

``from aded_local import Llama`` in place of ``from llama_cpp import Llama`` is all that a program changes.
docs/llama-cpp-python.md says what differs.
"""

from __future__ import annotations

from aded_local.llama_compat.llama import Llama, LlamaState

__all__ = ["Llama", "LlamaState"]
