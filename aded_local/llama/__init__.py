"""The target: one GGUF in llama.cpp that verifies draft trees. The only package that touches llama_cpp."""

from __future__ import annotations

from aded_local.llama.context import Context
from aded_local.llama.context_settings import CACHE_TYPES, ContextSettings
from aded_local.llama.model import ALL_LAYERS, Model
from aded_local.llama.sampler import Sampler
from aded_local.llama.sampling import Sampling
from aded_local.llama.steering import Steering
from aded_local.llama.target import SavedCells, Target

__all__ = [
    "ALL_LAYERS",
    "CACHE_TYPES",
    "Context",
    "ContextSettings",
    "Model",
    "Sampler",
    "Sampling",
    "SavedCells",
    "Steering",
    "Target",
]
