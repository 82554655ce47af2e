"""Loads a draft model for a target: weights that fit, a vocabulary that agrees, a context for its branches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import psutil

from aded_local.drafters.model.pairing import require_pair
from aded_local.drafters.model.speaker import Speaker
from aded_local.errors import DeviceError
from aded_local.llama import Model
from aded_local.llama.branches import LEAD, MOST_ROWS, Branches
from aded_local.llama.soundness import check

ROOM_FOR_BRANCHES: Final = 2 * MOST_ROWS + LEAD
"""Cells beyond those of the text."""


class DraftModel:
    """A draft model's weights.

    Args:
        path: the GGUF.
        target: what it drafts for.
        n_gpu_layers: layers on the GPU; -1 for all.
        n_threads: CPU threads.
        verbose: llama.cpp's log on standard error.
        progress: told what takes seconds.

    Attributes:
        path, n_threads: as given.

    Raises:
        ModelError: the file cannot be used, or (PairingError) its vocabulary is another one.
        DeviceError: it is larger than the memory that is free.
    """

    def __init__(
        self,
        path: Path,
        target: Model,
        *,
        n_gpu_layers: int,
        n_threads: int,
        verbose: bool,
        progress: Callable[[str], None],
    ) -> None:
        self.path = path
        self.n_threads = n_threads
        self._n_vocab = target.n_vocab
        require_fitting(path)
        self._model = Model(path, n_gpu_layers=n_gpu_layers, verbose=verbose, progress=progress)
        try:
            require_pair(target, self._model)
        except BaseException:
            self._model.close()
            raise

    @property
    def digest(self) -> str:
        """Of the file's header."""
        return self._model.header.digest

    def speaker(self, n_ctx: int) -> Speaker:
        """What is asked: a context for texts of ``n_ctx`` tokens and branches below them.

        Raises:
            DeviceError: there is no memory for it.
        """
        cells = n_ctx + ROOM_FOR_BRANCHES
        if "position_embd.weight" in self._model.header.tensors:
            cells = min(cells, self._model.n_ctx_train)
        try:
            branches = Branches(self._model, n_ctx=cells, n_threads=self.n_threads)
        except DeviceError as error:
            raise DeviceError(f"the draft model: {error}") from error
        return Speaker(branches, min(self._n_vocab, self._model.n_vocab))

    def close(self) -> None:
        """Free the weights, as soon as no context made from them is left."""
        self._model.close()


def require_fitting(path: Path) -> None:
    """Refuse a draft model that cannot be one, whatever the target is.

    Raises:
        ModelError: the file cannot be used.
        DeviceError: it is larger than the memory that is free.
    """
    size = sum(each.file_size for each in check(path).files)
    free = psutil.virtual_memory().available
    if size > free:
        raise DeviceError(
            f"the draft model {path} takes {size / 1e9:.1f} GB and {free / 1e9:.1f} GB of memory are free; "
            "give a smaller one, or leave it out"
        )
