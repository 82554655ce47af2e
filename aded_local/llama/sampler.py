"""The target's own sampler: llama.cpp's chain, in llama.cpp's order."""

from __future__ import annotations

import ctypes
import secrets
from typing import Any, Final

from aded_local.llama.context import Context
from aded_local.llama.loading import lib
from aded_local.llama.owned import Owned
from aded_local.llama.sampling import LARGEST_SEED, Sampling

MIROSTAT_LOOKED_AT: Final = 100
"""Likeliest tokens by which mirostat 1 estimates the distribution: ``m`` of its paper, as in llama.cpp's programs."""


class Sampler:
    """Chooses one token per batch row; remembers what it chose (penalties, random state).

    Args:
        context: whose logits it reads.
        sampling: the settings.
        prompt: the tokens before the answer, oldest first.
    """

    def __init__(self, context: Context, sampling: Sampling, prompt: list[int]) -> None:
        self._context = context
        self._owned: Owned | None = None
        self.seed = secrets.randbelow(LARGEST_SEED) if sampling.seed is None else int(sampling.seed)
        if not sampling.is_plain_greedy:
            chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
            self._owned = Owned(chain, lib.llama_sampler_free)
            add = lib.llama_sampler_chain_add
            if sampling.logit_bias:
                add(chain, self._logit_bias(sampling.logit_bias))
            for sampler in self._remembering(sampling):
                add(chain, sampler)  # from here on it is the chain's
                if sampling.penalize_prompt:
                    for token in prompt[-self._window(sampling) :]:
                        lib.llama_sampler_accept(sampler, token)
            for sampler in self._drawing(sampling):
                add(chain, sampler)

    # --- the chain ---------------------------------------------------------------------------------

    def _window(self, sampling: Sampling) -> int:
        """Tokens of the prompt that a penalty may count."""
        return max(self._looks_back(sampling.repeat_last_n), self._looks_back(sampling.dry_penalty_last_n))

    def _looks_back(self, n: int) -> int:
        return self._context.n_ctx if n < 0 else int(n)

    def _logit_bias(self, pairs: tuple[tuple[int, float], ...]) -> Any:
        listed = (lib.llama_logit_bias * len(pairs))(*pairs)
        return lib.llama_sampler_init_logit_bias(self._context.model.n_vocab, len(pairs), listed)

    def _remembering(self, sampling: Sampling) -> list[Any]:
        """The samplers to which it matters what was said before."""
        found = []
        if sampling.penalizes:
            found.append(
                lib.llama_sampler_init_penalties(
                    self._context.model.n_vocab,
                    self._looks_back(sampling.repeat_last_n),
                    sampling.repeat_penalty,
                    sampling.frequency_penalty,
                    sampling.presence_penalty,
                )
            )
        if sampling.dries:
            breakers = [text.encode() for text in sampling.dry_sequence_breakers]
            found.append(
                lib.llama_sampler_init_dry(
                    lib.llama_model_get_vocab(self._context.model.handle),
                    sampling.dry_multiplier,
                    sampling.dry_base,
                    int(sampling.dry_allowed_length),
                    self._looks_back(sampling.dry_penalty_last_n),
                    (ctypes.c_char_p * len(breakers))(*breakers),
                    len(breakers),
                )
            )
        return found

    def _drawing(self, sampling: Sampling) -> list[Any]:
        """The samplers that choose among the logits."""
        if sampling.temperature == 0.0:
            return [lib.llama_sampler_init_greedy()]
        seed, tau, eta = self.seed, sampling.mirostat_tau, sampling.mirostat_eta
        warm = lib.llama_sampler_init_temp(sampling.temperature)
        if sampling.mirostat_mode == 1:
            n_vocab = self._context.model.n_vocab
            return [warm, lib.llama_sampler_init_mirostat(n_vocab, seed, tau, eta, MIROSTAT_LOOKED_AT)]
        if sampling.mirostat_mode == 2:
            return [warm, lib.llama_sampler_init_mirostat_v2(seed, tau, eta)]
        found = []
        if sampling.top_k > 0:
            found.append(lib.llama_sampler_init_top_k(int(sampling.top_k)))
        if sampling.typical_p < 1.0:
            found.append(lib.llama_sampler_init_typical(sampling.typical_p, 1))
        if sampling.top_p < 1.0:
            found.append(lib.llama_sampler_init_top_p(sampling.top_p, 1))
        if sampling.min_p > 0.0:
            found.append(lib.llama_sampler_init_min_p(sampling.min_p, 1))
        if sampling.xtc_probability > 0.0:
            found.append(
                lib.llama_sampler_init_xtc(sampling.xtc_probability, sampling.xtc_threshold, 1, seed)
            )
        return [*found, warm, lib.llama_sampler_init_dist(seed)]

    # --- choosing ----------------------------------------------------------------------------------

    def sample(self, row: int) -> int:
        """The target's token after batch row ``row`` of the last decode."""
        if self._owned is None:
            # What llama.cpp's greedy sampler does (the first maximum), without building a candidate list.
            return int(self._context.logits(row).argmax())
        return int(lib.llama_sampler_sample(self._owned.handle, self._context.handle, row))

    def close(self) -> None:
        """Free the chain."""
        self._owned = None
