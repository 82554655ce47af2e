"""A peer is spoken to over a pipe, and whatever goes wrong with it has a reason in one line."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from steps import beginning

from aded_bench.replay.drafts import Foreign
from aded_bench.replay.peers import SCRIPTS, PeerLost, PeerProcess, tree_of
from aded_local.step import said

PYTHON = Path(sys.executable)

ECHO = '''
"""Proposes the last token three times over, as a chain; remembers how much it was fed."""
import sys, time

class Peer:
    def open(self, n_vocab, settings):
        self.fed = 0
        self.how = settings.get("how")
        return "1.2"
    def feed(self, prompt, answer):
        self.fed += len(prompt) + len(answer)
    def begin(self, prompt):
        print("chatter on standard output")
        self.context = list(prompt)
    def observe(self, accepted):
        self.context += accepted
    def end(self):
        pass
    def search(self):
        if self.how == "hang":
            time.sleep(600)
        if self.how == "crash":
            sys.stderr.write("something burst\\n")
            import os
            os._exit(3)
        if self.how == "raise":
            raise RuntimeError("no idea")
        return self.context[-1]
    def tree(self, found):
        return [found, found, self.fed], [-1, 0, 1], [0.5, 0.25, 0.125]
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "serve.py").write_text((SCRIPTS / "serve.py").read_text())
    (tmp_path / "echo.py").write_text(ECHO)
    (tmp_path / "absent.py").write_text("import package_nobody_has\n")
    return tmp_path


@pytest.fixture
def opened(folder: Path) -> Iterator[list[PeerProcess]]:
    made: list[PeerProcess] = []
    yield made
    for process in made:
        process.close()


def start(folder: Path, opened: list[PeerProcess], how: str = "", patience: float = 20.0) -> PeerProcess:
    process = PeerProcess(
        PYTHON, "echo", n_vocab=100, settings={"how": how}, patience=patience, folder=folder
    )
    opened.append(process)
    return process


def test_a_peer_is_fed_begun_asked_and_told_what_was_accepted(
    folder: Path, opened: list[PeerProcess]
) -> None:
    process = start(folder, opened)
    peer = Foreign(process)
    assert process.version == "1.2"
    tokens = np.array([4, 5], np.int32)
    peer.recall([(tokens, tokens, False)])
    peer.begin(beginning(4, 5))
    tree = peer.plan(1, 64)
    assert tree.tokens.tolist() == [5, 5, 4]
    assert tree.depths.tolist() == [1, 2, 3]
    assert tree.probabilities.tolist() == [0.5, 0.25, 0.125]
    peer.observe(said([5, 9]))
    assert peer.plan(3, 2).tokens.tolist() == [9, 9]
    assert len(peer.times.draft) == len(peer.times.learn) == 2
    peer.begin(beginning(4, 5))
    assert peer.plan(1, 64).tokens[0] == 5


@pytest.mark.parametrize(
    ("how", "reason"), [("raise", "RuntimeError: no idea"), ("crash", "code 3: something burst")]
)
def test_a_peer_that_fails_says_why(folder: Path, opened: list[PeerProcess], how: str, reason: str) -> None:
    process = start(folder, opened, how)
    process.ask(do="begin", prompt=[1])
    with pytest.raises(PeerLost, match=reason):
        process.ask(do="draft", accepted=[])


def test_a_peer_that_hangs_is_ended(folder: Path, opened: list[PeerProcess]) -> None:
    process = start(folder, opened, "hang")
    process.ask(do="begin", prompt=[1])
    process._patience = 0.3
    process._farewell = 0.2
    with pytest.raises(PeerLost, match=r"nothing for 0\.3 seconds"):
        process.ask(do="draft", accepted=[])
    started = time.monotonic()
    process.close()
    assert time.monotonic() - started < 10
    assert process._process.poll() is not None


def test_a_missing_interpreter_or_package_has_a_reason(folder: Path) -> None:
    with pytest.raises(PeerLost, match="does not start"):
        PeerProcess(folder / "no-python", "echo", n_vocab=9, settings={}, folder=folder)
    with pytest.raises(PeerLost, match="package_nobody_has"):
        PeerProcess(PYTHON, "absent", n_vocab=9, settings={}, folder=folder)


@pytest.mark.parametrize(
    "answer",
    [
        {"tokens": [1, 2], "parents": [-1, 1], "probabilities": None},
        {"tokens": [1, 2], "parents": [-1], "probabilities": None},
        {"tokens": [1], "parents": [-1], "probabilities": [0.5, 0.5]},
        {"tokens": [1]},
    ],
)
def test_what_is_no_tree_is_refused(answer: dict[str, object]) -> None:
    with pytest.raises(PeerLost, match="no tree"):
        tree_of(answer)
