"""``draftretriever``, the drafter of ADED's authors (PyPI, Rust), used as their code uses it.

Their inference code hands the whole context to ``Reader.search(…, choices=64)`` at every step; the search adapts
the matrix by the context's last tokens itself. Their script that makes a data store adds every
message of a conversation as an entry of its own.
"""

from __future__ import annotations

import importlib
import os
import tempfile
from importlib.metadata import version
from typing import Any

CHOICES = 64
"""Of the authors' inference code."""
PADDING = -2
"""What shorter paths are filled up with."""


class Peer:
    """One reader, its data store in a temporary file."""

    def __init__(self) -> None:
        self.package: Any = importlib.import_module("draftretriever")
        self.folder = tempfile.TemporaryDirectory(prefix="aded-bench-")
        self.store = os.path.join(self.folder.name, "store.idx")
        self.reader: Any = None
        self.context: list[int] = []

    def open(self, n_vocab: int, settings: dict[str, Any]) -> str:
        """Begin a data store; returns the package's version."""
        self.writer = self.package.Writer(self.store, vocab_size=n_vocab)
        return version("draftretriever")

    def feed(self, prompt: list[int], answer: list[int]) -> None:
        """Add both messages to the data store."""
        self.writer.add_entry(prompt)
        self.writer.add_entry(answer)

    def begin(self, prompt: list[int]) -> None:
        """The first conversation opens the store for reading."""
        if self.reader is None:
            self.writer.finalize()
            self.reader = self.package.Reader(self.store)
        self.context = list(prompt)

    def observe(self, accepted: list[int]) -> None:
        """Put the tokens behind the context; the search learns from them."""
        self.context += accepted

    def end(self) -> None:
        """Nothing is kept per conversation."""

    def search(self) -> Any:
        """The padded paths, and buffers for the authors' attention kernels."""
        return self.reader.search(self.context, choices=CHOICES)

    def tree(self, found: Any) -> tuple[list[int], list[int], None]:
        """The distinct nodes of the paths; what two paths share is one node, as in the authors' buffers."""
        tokens: list[int] = []
        parents: list[int] = []
        places: dict[tuple[int, int], int] = {}
        for path in found[0]:
            node = -1
            for token in path:
                if token == PADDING:
                    break
                key = (node, token)
                if key not in places:
                    places[key] = len(tokens)
                    tokens.append(token)
                    parents.append(node)
                node = places[key]
        return tokens, parents, None
