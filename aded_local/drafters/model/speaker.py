"""A draft model that reads the text and says what may follow: behind its end, and behind paths below it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from aded_local.drafters.statement import Statement
from aded_local.kernels.top_k import new_rows, top_k_rows, warm_up
from aded_local.llama.branches import LEAD, Branches, Path
from aded_local.tree import FloatArray, IntArray

FIRST_ROW: Final = np.zeros(1, np.int32)


class Speaker:
    """See this module's first line. One thread at a time uses it.

    Args:
        branches: of the draft model.
        n_vocab: token ids that both models have are below it.

    Attributes:
        said: what the model said of places at the end of the text and below, by path.
        decodes: batches that it decoded, those that read the text left out.
        asked: places that it was asked for.
        dropped: of those, places that the text did not go through.
    """

    def __init__(self, branches: Branches, n_vocab: int) -> None:
        self._branches = branches
        self._n_vocab = n_vocab
        self.said: dict[Path, Statement] = {}
        self.decodes = self.asked = self.dropped = 0
        warm_up()

    @property
    def text(self) -> list[int]:
        """What it has read, or is about to."""
        return self._branches.text

    @property
    def unread(self) -> int:
        """Tokens that it has to read before it can be asked; a few are read with the next question."""
        return max(0, self._branches.unread - LEAD)

    @property
    def can_go_on(self) -> bool:
        """Whether there is a text of known tokens, and room behind it."""
        text = self._branches.text
        return bool(text) and self._branches.context.n_ctx - len(text) > 1

    def set_threads(self, n: int) -> None:
        """Let later decodes use ``n`` threads."""
        self._branches.context.set_threads(n)

    def follow(self, text: IntArray) -> None:
        """Another text, int32 ``(n,)``: what both begin with is not read again."""
        self.dropped += len(self.said)
        self.said = {}
        if len(text) == 0 or text.max() >= self._n_vocab:
            self._branches.clear()
        else:
            self._branches.follow(text)

    def read(self) -> int:
        """Read a chunk of what is unread; returns its tokens."""
        return self._branches.read()

    def advance(self, tokens: Sequence[int]) -> list[bool]:
        """The text goes on with ``tokens``; what was said below them still holds.

        Returns:
            For each place on the way that was asked for, whether its likeliest token came.
        """
        if not self.text:
            return []
        if max(tokens) >= self._n_vocab:
            self.follow(np.zeros(0, np.int32))
            return []
        gone, n = tuple(tokens), len(tokens)
        self._branches.advance(tokens)
        # What was said behind the beginning of the tokens was of use, and is not needed any more.
        hits = [
            int(said.tokens[0]) == gone[len(path)]
            for path, said in self.said.items()
            if len(path) < n and path == gone[: len(path)]
        ]
        kept = {path[n:]: said for path, said in self.said.items() if path[:n] == gone}
        if self._branches.top is None:
            kept = {}
        self.dropped += len(self.said) - len(hits) - len(kept)
        self.said = kept
        return hits

    def ask(self, paths: Sequence[Path]) -> tuple[list[Statement], int, float]:
        """What follows each of ``paths``, and each place on the way that was not asked for; likeliest paths first.

        Returns:
            The statements, the tokens that were decoded for them, those of the text among them, and the seconds in
            llama.cpp. Where there is no room, fewer or none.

        Raises:
            DeviceError: llama.cpp refused.
        """
        lead = max(0, self._branches.unread - 1)  # the text's last token has a row of its own
        rows, seconds = self._branches.ask(paths)
        statements = [self._statement(path, self._branches.logits(row)) for path, row in rows]
        for each in statements:
            self.said[each.path] = each
        self.decodes += bool(rows)
        self.asked += len(rows)
        return statements, lead + len(rows), seconds

    def _statement(self, path: Path, logits: npt.NDArray[np.float32]) -> Statement:
        logits = logits[: self._n_vocab]
        tokens, shares = new_rows(1)
        top_k_rows(logits.reshape(1, -1), FIRST_ROW, tokens, shares)
        return Statement(path, tokens[0], _probabilities(logits, tokens[0]))

    def close(self) -> None:
        """Free the context."""
        self._branches.close()


def _probabilities(logits: FloatArray, tokens: IntArray) -> FloatArray:
    """Of ``tokens``, among all; 0 for -1, and throughout where the logits are no numbers."""
    found = np.zeros(len(tokens), np.float32)
    n = int(np.count_nonzero(tokens >= 0))
    if n:
        largest = logits[tokens[0]]
        with np.errstate(all="ignore"):
            total = np.exp(logits - largest).sum()
        if np.isfinite(total):
            found[:n] = np.exp(logits[tokens[:n]] - largest) / total
    return found


def seconds_now() -> float:
    """The clock of all that is measured here."""
    return time.perf_counter()
