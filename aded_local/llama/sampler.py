"""The target's own sampler: llama.cpp's chain, in llama.cpp's order."""

from __future__ import annotations

import secrets

from aded_local.llama.context import Context
from aded_local.llama.loading import lib
from aded_local.llama.owned import Owned
from aded_local.llama.sampling import LARGEST_SEED, Sampling

PENALTY_WINDOW = 64
"""Tokens a repetition penalty looks back over: llama.cpp's default ``--repeat-last-n``."""


class Sampler:
    """Chooses one token per batch row; remembers what it chose (penalties, random state).

    Args:
        context: whose logits it reads.
        sampling: the settings.
        prompt: the tokens before the answer, oldest first; the penalty counts them, as llama.cpp's own
            programs do.
    """

    def __init__(self, context: Context, sampling: Sampling, prompt: list[int]) -> None:
        self._context = context
        self._owned: Owned | None = None
        self.seed = secrets.randbelow(LARGEST_SEED) if sampling.seed is None else int(sampling.seed)
        if not sampling.is_plain_greedy:
            chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
            self._owned = Owned(chain, lib.llama_sampler_free)
            self._fill(chain, sampling)
            for token in prompt[-PENALTY_WINDOW:]:
                lib.llama_sampler_accept(chain, token)

    def _fill(self, chain: object, sampling: Sampling) -> None:
        add = lib.llama_sampler_chain_add
        if sampling.repeat_penalty != 1.0:
            n_vocab = self._context.model.n_vocab
            add(
                chain,
                lib.llama_sampler_init_penalties(n_vocab, PENALTY_WINDOW, sampling.repeat_penalty, 0.0, 0.0),
            )
        if sampling.temperature == 0.0:
            add(chain, lib.llama_sampler_init_greedy())
            return
        if sampling.top_k > 0:
            add(chain, lib.llama_sampler_init_top_k(int(sampling.top_k)))
        if sampling.top_p < 1.0:
            add(chain, lib.llama_sampler_init_top_p(sampling.top_p, 1))
        if sampling.min_p > 0.0:
            add(chain, lib.llama_sampler_init_min_p(sampling.min_p, 1))
        add(chain, lib.llama_sampler_init_temp(sampling.temperature))
        add(chain, lib.llama_sampler_init_dist(int(self.seed)))

    def sample(self, row: int) -> int:
        """The target's token after batch row ``row`` of the last decode."""
        if self._owned is None:
            # What llama.cpp's greedy sampler does (the first maximum), without building a candidate list.
            return int(self._context.logits(row).argmax())
        return int(lib.llama_sampler_sample(self._owned.handle, self._context.handle, row))

    def close(self) -> None:
        """Free the chain."""
        self._owned = None
