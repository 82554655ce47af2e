"""One GGUF's weights and vocabulary in llama.cpp."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from aded_local.errors import ModelKindError
from aded_local.llama.backend import load, start_backend
from aded_local.llama.identity import Identity, identity_of, weights_digest
from aded_local.llama.loading import lib
from aded_local.llama.sampling import suggestions
from aded_local.llama.soundness import check
from aded_local.llama.vocabulary import Vocabulary
from aded_local.tree import IntArray

ALL_LAYERS = -1
"""``n_gpu_layers``: every layer on the GPU where the build has one (llama.h)."""

_SAMPLING_KEYS = {
    "temperature": "general.sampling.temp",
    "top_k": "general.sampling.top_k",
    "top_p": "general.sampling.top_p",
    "min_p": "general.sampling.min_p",
    "repeat_penalty": "general.sampling.penalty_repeat",
    "repeat_last_n": "general.sampling.penalty_last_n",
    "xtc_probability": "general.sampling.xtc_probability",
    "xtc_threshold": "general.sampling.xtc_threshold",
    "mirostat_mode": "general.sampling.mirostat",
    "mirostat_tau": "general.sampling.mirostat_tau",
    "mirostat_eta": "general.sampling.mirostat_eta",
}


class Model(Vocabulary):
    """Weights and vocabulary of one GGUF.

    The header is checked before llama.cpp sees the file. A new file is first loaded in a child process, because
    llama.cpp ends the whole process on some malformed files.

    Args:
        path: the GGUF.
        n_gpu_layers: layers to put on the GPU; ``ALL_LAYERS`` for all.
        verbose: pass llama.cpp's log on to standard error.
        progress: told what takes seconds.

    Raises:
        ModelNotFoundError, ModelFormatError, ModelKindError: see ``soundness.check``.
        BrokenBuildError: llama.cpp does not work on this processor.
        ForkedError: llama.cpp ran before this process was forked.
    """

    def __init__(
        self,
        path: Path,
        *,
        n_gpu_layers: int = ALL_LAYERS,
        verbose: bool = False,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        header = check(path)
        start_backend(verbose, progress=progress)
        self._take(header, load(header, n_gpu_layers=n_gpu_layers, progress=progress))
        self._refuse_what_cannot_write()

    def _refuse_what_cannot_write(self) -> None:
        # The header check knows architectures by name; llama.cpp knows them by code.
        kind = None
        if lib.llama_model_has_encoder(self.handle):
            kind = "an encoder"
        elif not lib.llama_model_has_decoder(self.handle):
            kind = "a model without a decoder"
        elif lib.llama_model_is_diffusion(self.handle):
            kind = "a diffusion model"
        if kind is not None:
            self.close()
            raise ModelKindError(
                f"{self.path} is {kind}; give a GGUF of a model that writes text left to right"
            )

    # --- what the model is -------------------------------------------------------------------

    @cached_property
    def identity(self) -> Identity:
        """What a conversation belongs to; see ``identity_of``, also for errors."""
        return identity_of(self.header)

    @cached_property
    def weights(self) -> str:
        """What tells its weights from others; see ``weights_digest``, also for errors."""
        return weights_digest(self.header)

    @cached_property
    def n_ctx_train(self) -> int:
        return int(lib.llama_model_n_ctx_train(self.handle))

    @cached_property
    def size_bytes(self) -> int:
        return int(lib.llama_model_size(self.handle))

    @cached_property
    def n_embd(self) -> int:
        return int(lib.llama_model_n_embd(self.handle))

    @cached_property
    def n_hidden(self) -> int:
        """Numbers of the last layer's state behind a token."""
        return int(lib.llama_model_n_embd_out(self.handle))

    @cached_property
    def n_layer(self) -> int:
        return int(lib.llama_model_n_layer(self.handle))

    @cached_property
    def kv_bytes_per_cell(self) -> int:
        """Bytes of one token in an F16 KV cache; never 0, also for a model without a cache."""
        heads = max(1, int(lib.llama_model_n_head(self.handle)))
        kv_heads = max(1, int(lib.llama_model_n_head_kv(self.handle)))
        head_size = max(1, int(lib.llama_model_n_embd(self.handle)) // heads)
        keys = self.header.metadata.get(f"{self.header.architecture}.attention.key_length", head_size)
        values = self.header.metadata.get(f"{self.header.architecture}.attention.value_length", head_size)
        width = (keys if isinstance(keys, int) else head_size) + (
            values if isinstance(values, int) else head_size
        )
        return self.n_layer * kv_heads * width * 2

    @cached_property
    def is_recurrent(self) -> bool:
        """Whether all of its memory is a running state (Mamba, RWKV)."""
        return bool(lib.llama_model_is_recurrent(self.handle))

    @cached_property
    def is_hybrid(self) -> bool:
        """Whether part of its memory is a running state (Jamba, LFM2, Granite 4 H)."""
        return bool(lib.llama_model_is_hybrid(self.handle))

    @cached_property
    def sliding_window(self) -> int:
        """Tokens a sliding-window layer sees; 0 without such layers."""
        return int(lib.llama_model_n_swa(self.handle))

    @cached_property
    def quantization(self) -> str:
        """The file type as llama.cpp names it, e.g. ``Q4_0``."""
        name = lib.llama_ftype_name(lib.llama_model_ftype(self.handle))
        return name.decode(errors="replace") if name else "unknown"

    @cached_property
    def chat_template(self) -> str | None:
        """The Jinja source in the GGUF, None when there is none."""
        raw = lib.llama_model_chat_template(self.handle, None)
        return raw.decode("utf-8", errors="replace") if raw else None

    def suggested_sampling(self) -> dict[str, float]:
        """The model maker's own sampling settings (``general.sampling.*`` in the GGUF), by our names."""
        return dict(self._suggestions[0])

    @property
    def ignored_suggestions(self) -> list[str]:
        """A line on each of those settings that is out of range, such as a ``top_k`` of NaN."""
        return self._suggestions[1]

    @cached_property
    def _suggestions(self) -> tuple[dict[str, float], list[str]]:
        found: dict[str, float] = {}
        for name, key in _SAMPLING_KEYS.items():
            value = self.header.metadata.get(key)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                found[name] = value
        return suggestions(found)

    def metadata_texts(self) -> dict[str, str]:
        """What the file says of itself, arrays left out, as llama.cpp writes it."""
        found: dict[str, str] = {}
        for index in range(int(lib.llama_model_meta_count(self.handle))):
            name = _text_of(lib.llama_model_meta_key_by_index, self.handle, index)
            found[name] = _text_of(lib.llama_model_meta_val_str_by_index, self.handle, index)
        return found

    def random_tokens(self, n: int, seed: int) -> IntArray:
        """``n`` varied ordinary tokens, int32 ``(n,)``: what the cost probe feeds.

        Varied, because a mixture of experts costs more the fewer experts the tokens share.
        """
        return np.random.default_rng(seed).integers(0, self.n_vocab, n, dtype=np.int32)


def _text_of(read: Callable[..., int], handle: Any, index: int) -> str:
    """A text that llama.cpp copies into a buffer and tells the length of, like ``snprintf``."""
    length = read(handle, index, None, 0)
    buffer = ctypes.create_string_buffer(length + 1)
    read(handle, index, buffer, length + 1)
    return buffer.value.decode("utf-8", errors="replace")
