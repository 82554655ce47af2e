"""SuffixDecoding as ``arctic-inference`` has it (PyPI, C++): a suffix tree of this conversation, one of all answers.

Only ``arctic_inference.suffix_decoding`` is imported, which needs neither vLLM nor a GPU. The settings ``most``
(tokens drafted at most), ``tree``, ``factor`` and ``least`` are its ``max_spec_tokens``, ``use_tree_spec``,
``max_spec_factor`` and ``min_token_prob``; everything else is as the package has it.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import Any

import numpy as np


class Peer:
    """One cache; each conversation is a request."""

    def __init__(self) -> None:
        module = importlib.import_module("arctic_inference.suffix_decoding")
        self.cache: Any = module.SuffixDecodingCache()
        self.request = 0
        self.running = False
        self.context = np.zeros(0, np.int32)

    def open(self, n_vocab: int, settings: dict[str, Any]) -> str:
        """Take the settings; returns the package's version."""
        self.most = int(settings["most"])
        self.as_tree = bool(settings["tree"])
        self.factor = float(settings["factor"])
        self.least = float(settings["least"])
        return version("arctic-inference")

    def feed(self, prompt: list[int], answer: list[int]) -> None:
        """A conversation that was answered before."""
        self.begin(prompt)
        self.observe(answer)
        self.end()

    def begin(self, prompt: list[int]) -> None:
        """A request with its prompt."""
        self.end()
        self.request += 1
        self.running = True
        self.context = np.array(prompt, np.int32)
        self.cache.start_request(self.request, self.context)

    def observe(self, accepted: list[int]) -> None:
        """Tokens of the answer."""
        if accepted:
            tokens = np.array(accepted, np.int32)
            self.cache.add_active_response(self.request, tokens)
            self.context = np.concatenate([self.context, tokens])[-self.cache.max_tree_depth :]

    def end(self) -> None:
        """The request is over; its answer stays in the cache."""
        if self.running:
            self.cache.stop_request(self.request)
            self.running = False

    def search(self) -> Any:
        """The package's own draft."""
        context = self.context[-self.cache.max_tree_depth :]
        return self.cache.speculate(
            self.request,
            context,
            max_spec_tokens=self.most,
            use_tree_spec=self.as_tree,
            max_spec_factor=self.factor,
            min_token_prob=self.least,
        )

    def tree(self, found: Any) -> tuple[list[int], list[int], list[float]]:
        """Its arrays are a draft tree's already."""
        return list(found.token_ids), list(found.parents), list(found.probs)
