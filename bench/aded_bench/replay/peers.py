"""Other people's drafters, each in its own interpreter, over a pipe; ``peer_scripts/serve.py`` has the protocol."""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from aded_local.tree import EMPTY_TREE, DraftTree

SCRIPTS = Path(__file__).parent / "peer_scripts"

PATIENCE = 120.0
"""Seconds until a silent peer is ended. Reading a large store back takes seconds, a draft microseconds."""
FAREWELL = 5.0
"""Seconds a peer may take to end by itself."""


class PeerLost(Exception):
    """The peer cannot be used, or not any more; the text says why."""


class PeerProcess:
    """A peer that answers requests."""

    def __init__(
        self,
        python: Path,
        script: str,
        *,
        n_vocab: int,
        settings: dict[str, Any],
        patience: float = PATIENCE,
        folder: Path = SCRIPTS,
    ) -> None:
        """Start it.

        Args:
            python: the interpreter with the peer's package.
            script: module in ``folder``.
            n_vocab: size of the vocabulary.
            settings: for the script.
            patience: seconds an answer may take.

        Raises:
            PeerLost: there is no such interpreter, or the package is not installed there.
        """
        self._patience = patience
        self._farewell = FAREWELL
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in ``close``
        try:
            self._process = subprocess.Popen(
                # -E: our own PYTHONPATH is not the peer's.
                [str(python), "-E", str(folder / "serve.py"), script],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
            )
        except OSError as error:
            self._errors.close()
            raise PeerLost(f"{python} does not start: {error.strerror or error}") from None
        assert self._process.stdin is not None and self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        try:
            self.version = str(self.ask(do="open", n_vocab=n_vocab, settings=settings)["version"])
        except BaseException:
            self.close()
            raise

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request, wait for its answer.

        Raises:
            PeerLost: the peer failed, ended or said nothing for too long.
        """
        # Where it has ended, its last answer or its standard error say why.
        with contextlib.suppress(OSError, ValueError):
            self._requests.write(json.dumps(request).encode() + b"\n")
            self._requests.flush()
        if not select.select([self._answers], [], [], self._patience)[0]:
            raise PeerLost(f"it said nothing for {self._patience:g} seconds and was ended")
        line = self._answers.readline()  # one answer, one line: nothing waits behind it
        if not line:
            raise PeerLost(self._last_words())
        try:
            answer = json.loads(line)
        except ValueError:
            raise PeerLost(f"it answered {line[:80]!r}") from None
        if not isinstance(answer, dict) or "error" in answer:
            raise PeerLost(_one_line(answer["error"] if isinstance(answer, dict) else repr(line)))
        return answer

    def _last_words(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = [line for line in self._errors.read().decode("utf-8", "replace").splitlines() if line.strip()]
        return _one_line(f"it ended with code {code}" + (f": {lines[-1]}" if lines else ""))

    def close(self) -> None:
        """End the process: one that waits for requests ends by itself, one that hangs does not."""
        with contextlib.suppress(OSError, ValueError):
            self._requests.close()
        try:
            self._process.wait(self._farewell)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()
        self._errors.close()


def _one_line(text: str) -> str:
    return " ".join(str(text).split())[:300]


def tree_of(answer: dict[str, Any]) -> DraftTree:
    """A peer's draft as a tree; path probabilities are NaN where it gives none.

    Raises:
        PeerLost: it is not a tree.
    """
    try:
        tokens: Sequence[int] = answer["tokens"]
        parents: Sequence[int] = answer["parents"]
        chances = answer["probabilities"]
        if not tokens:
            return EMPTY_TREE
        depths: list[int] = []
        for i, parent in enumerate(parents):
            if not -1 <= parent < i:
                raise ValueError(f"node {i} has parent {parent}")
            depths.append(depths[parent] + 1 if parent >= 0 else 1)
        if len(depths) != len(tokens) or (chances is not None and len(chances) != len(tokens)):
            raise ValueError("arrays of different lengths")
        return DraftTree(
            np.array(tokens, np.int32),
            np.array(parents, np.int32),
            np.array(depths, np.int32),
            np.full(len(tokens), np.nan, np.float32) if chances is None else np.array(chances, np.float32),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise PeerLost(f"its draft is no tree: {error}") from None
