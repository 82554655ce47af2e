"""One GGUF's weights and vocabulary in llama.cpp."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from aded_local.errors import ModelFormatError, ModelKindError
from aded_local.llama import logs
from aded_local.llama.controls import is_bracketed_twice
from aded_local.llama.gguf import GGUFHeader, unchanged
from aded_local.llama.identity import Identity, identity_of, weights_digest
from aded_local.llama.interrupts import held_back
from aded_local.llama.loading import lib, require_not_forked, threads_begin
from aded_local.llama.owned import Owned
from aded_local.llama.sampling import suggestions
from aded_local.llama.soundness import check
from aded_local.llama.tokenizing import piece_of, tokenized
from aded_local.shown import one_line
from aded_local.tree import IntArray
from aded_local.trials.preflight import require_sound_build
from aded_local.trials.vetting import require_harmless

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

_KINDS: int = (
    lib.LLAMA_TOKEN_ATTR_UNKNOWN
    | lib.LLAMA_TOKEN_ATTR_UNUSED
    | lib.LLAMA_TOKEN_ATTR_NORMAL
    | lib.LLAMA_TOKEN_ATTR_CONTROL
    | lib.LLAMA_TOKEN_ATTR_USER_DEFINED
    | lib.LLAMA_TOKEN_ATTR_BYTE
)
"""Further bits say how texts around a token are stripped."""

_backend_started = False


def start_backend(
    verbose: bool, *, computes: bool = True, progress: Callable[[str], None] | None = None
) -> None:
    """Take llama.cpp's log, and start llama.cpp if it is not running.

    Args:
        verbose: write its log to standard error.
        computes: it will compute, so its build must work on this processor.
        progress: told before the build is tried, once per build.

    Raises:
        BrokenBuildError: the build does not work on this processor.
        ForkedError: this process was forked from one in which llama.cpp had threads.
    """
    global _backend_started
    require_not_forked()
    if computes:
        require_sound_build(progress)
    logs.capture(verbose)
    if not _backend_started:
        lib.llama_backend_init()
        _backend_started = True
    if computes or lib.llama_supports_gpu_offload():
        threads_begin()


def load(
    header: GGUFHeader,
    *,
    n_gpu_layers: int = 0,
    vocabulary_only: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Any:
    """Load a file with llama.cpp, after a child process has loaded it without a crash.

    Args:
        header: as read and checked.
        n_gpu_layers: layers to put on the GPU; ``ALL_LAYERS`` for all.
        vocabulary_only: without weights.
        progress: told of a trial in a child process that may take seconds.

    Raises:
        ModelFormatError: llama.cpp refused it, a child crashed on it, or it changed meanwhile.
    """
    path = header.path
    what = "the vocabulary of " if vocabulary_only else ""
    params = lib.llama_model_default_params()
    # A build without a GPU ignores the number.
    params.n_gpu_layers = n_gpu_layers
    params.vocab_only = vocabulary_only
    handle = None
    try:
        with unchanged(header):
            require_harmless(
                path,
                " ".join(each.digest for each in header.files),
                sum(each.file_size for each in header.files),
                vocabulary_only=vocabulary_only,
                progress=progress,
            )
            logs.clear_errors()
            with held_back():
                handle = lib.llama_model_load_from_file(os.fsencode(path), params)
            if not handle:
                reason = one_line(logs.last_error() or "it gave no reason")
                raise ModelFormatError(
                    f"llama.cpp could not load {what}{path}: {reason}; "
                    "download the file again or update llama-cpp-python"
                )
    except BaseException:
        if handle:
            lib.llama_model_free(handle)
        raise
    return handle


class Model:
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
        self.path = path
        self.header: GGUFHeader = check(path)
        start_backend(verbose, progress=progress)
        self.handle = load(self.header, n_gpu_layers=n_gpu_layers, progress=progress)
        self.owned: Owned | None = Owned(self.handle, lib.llama_model_free)
        self._vocab = lib.llama_model_get_vocab(self.handle)
        self._pieces: dict[int, bytes] = {}
        self._ends: dict[int, bool] = {}
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

    def close(self) -> None:
        """Free the weights, as soon as no context made from them is left."""
        self.owned = self.handle = None

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
    def n_vocab(self) -> int:
        return int(lib.llama_vocab_n_tokens(self._vocab))

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

    # --- vocabulary --------------------------------------------------------------------------

    @cached_property
    def bos(self) -> int:
        """Id of the beginning-of-text token, -1 without one."""
        return int(lib.llama_vocab_bos(self._vocab))

    @cached_property
    def eos(self) -> int:
        """Id of the end-of-text token, -1 without one."""
        return int(lib.llama_vocab_eos(self._vocab))

    @cached_property
    def newline(self) -> int:
        """Id of the line break's token, -1 without one."""
        return int(lib.llama_vocab_nl(self._vocab))

    @cached_property
    def infill(self) -> tuple[int, int, int] | None:
        """Ids of the tokens before a prefix, before a suffix and before what fills them in; None without them."""
        found = (
            int(lib.llama_vocab_fim_pre(self._vocab)),
            int(lib.llama_vocab_fim_suf(self._vocab)),
            int(lib.llama_vocab_fim_mid(self._vocab)),
        )
        return None if min(found) < 0 else found

    @cached_property
    def adds_bos(self) -> bool:
        return bool(lib.llama_vocab_get_add_bos(self._vocab))

    @cached_property
    def control_texts(self) -> tuple[str, ...]:
        """Texts of all tokens that steer, e.g. ``<|im_end|>``. Typed text must not become one."""
        return tuple(self.token_text(token) for token in sorted(self.control_tokens))

    @cached_property
    def control_tokens(self) -> frozenset[int]:
        """Ids of all tokens that steer."""
        return frozenset(token for token in range(self.n_vocab) if self._steers(token))

    @cached_property
    def defined_texts(self) -> tuple[str, ...]:
        """Texts of the other USER_DEFINED tokens, e.g. ``<think>``, an HTML tag or spaces: tokens in any text."""
        return tuple(
            self.token_text(token)
            for token in range(self.n_vocab)
            if self._attributes(token) & lib.LLAMA_TOKEN_ATTR_USER_DEFINED
            and token not in self.control_tokens
        )

    def _steers(self, token: int) -> bool:
        attributes = self._attributes(token)
        return bool(
            attributes & (lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_UNKNOWN)
            or (attributes & lib.LLAMA_TOKEN_ATTR_USER_DEFINED and is_bracketed_twice(self.token_text(token)))
            or lib.llama_vocab_is_eog(self._vocab, token)
        )

    def _attributes(self, token: int) -> int:
        return int(lib.llama_vocab_get_attr(self._vocab, token))

    def kind(self, token: int) -> int:
        """Which kinds a token is of, as bits of ``enum llama_token_attr``: unknown, unused, normal, control, user
        defined, byte."""
        return self._attributes(token) & _KINDS

    def is_unused(self, token: int) -> bool:
        """Whether a token only fills the vocabulary up, so that no text contains it."""
        return bool(self._attributes(token) & lib.LLAMA_TOKEN_ATTR_UNUSED)

    def is_end(self, token: int) -> bool:
        """Whether a token ends an answer (end of turn, end of text)."""
        known = self._ends.get(token)
        if known is None:
            known = self._ends[token] = bool(lib.llama_vocab_is_eog(self._vocab, token))
        return known

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        """Ids of all tokens that end an answer."""
        return frozenset(t for t in range(self.n_vocab) if lib.llama_vocab_is_eog(self._vocab, t))

    def token_text(self, token: int) -> str:
        """The vocabulary's own spelling of a token; empty for an id outside it."""
        if not 0 <= token < self.n_vocab:
            return ""
        return bytes(lib.llama_vocab_get_text(self._vocab, token)).decode("utf-8", errors="replace")

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of a text.

        Args:
            text: any text; lone surrogates are replaced.
            add_special: begin (and end) with the tokens the model wants around a text.
            parse_special: read control-token texts as control tokens. Never for what a person typed.

        Raises:
            DeviceError: no memory for the stack that a very long run without white space takes.
        """
        parts = tokenized(self._vocab, text, add_special=add_special, parse_special=parse_special)
        return [token for part in parts for token in part.tolist()]

    def piece(self, token: int) -> bytes:
        """The bytes a token stands for in running text; empty for control tokens."""
        known = self._pieces.get(token)
        if known is None:
            known = self._pieces[token] = piece_of(self._vocab, token, False)
        return known

    def spelling(self, token: int) -> bytes:
        """The bytes a token stands for; the text of a control token too."""
        return piece_of(self._vocab, token, True)

    @cached_property
    def longest_token(self) -> int:
        """The most bytes that one token spells; to look at them all takes a tenth of a second or more."""
        return max(len(self.spelling(token)) for token in range(self.n_vocab))

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
