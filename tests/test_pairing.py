"""Which models may draft for which: vocabularies are compared token by token."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from aded_local.drafters.model import pairing
from aded_local.drafters.model.pairing import require_pair
from aded_local.errors import PairingError

NORMAL, CONTROL, UNUSED = 4, 8, 2


class Words:
    """As much of a model as a comparison sees."""

    is_recurrent = is_hybrid = False
    header = SimpleNamespace(architecture="llama")

    def __init__(
        self, *tokens: tuple[str, int], name: str = "target.gguf", bos: int = 0, eos: int = 1
    ) -> None:
        self._tokens = tokens
        self.path = Path(name)
        self.n_vocab = len(tokens)
        self.bos, self.eos = bos, eos

    def token_text(self, token: int) -> str:
        return self._tokens[token][0] if 0 <= token < self.n_vocab else ""

    def kind(self, token: int) -> int:
        return self._tokens[token][1]

    def is_unused(self, token: int) -> bool:
        return self._tokens[token][1] == UNUSED


ENDS = (("<s>", CONTROL), ("</s>", CONTROL))
WORDS = (*ENDS, ("one", NORMAL), ("two", NORMAL), ("three", NORMAL))


@pytest.fixture(autouse=True)
def no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairing, "_same_by_hash", lambda target, draft: False)


def draft(*tokens: tuple[str, int], **ends: int) -> Words:
    return Words(*tokens, name="draft.gguf", **ends)


def test_the_same_vocabulary_is_a_pair() -> None:
    require_pair(Words(*WORDS), draft(*WORDS))


@pytest.mark.parametrize("longer", ["target", "draft", "both"])
def test_what_fills_a_vocabulary_up_may_differ(longer: str) -> None:
    filled = (*WORDS, ("[PAD5]", UNUSED), ("[PAD6]", UNUSED))
    ours = filled if longer != "draft" else WORDS
    theirs = WORDS if longer == "target" else filled
    if longer == "both":
        theirs = (*WORDS, ("<extra_5>", UNUSED))
    require_pair(Words(*ours), draft(*theirs))


@pytest.mark.parametrize(
    ("other", "token", "there"),
    [
        ((*WORDS[:3], ("TWO", NORMAL), ("THREE", NORMAL)), 3, "'TWO'"),
        ((*WORDS[:4], ("three", CONTROL)), 4, "'three'"),
        (WORDS[:4], 4, "missing"),
        ((*WORDS, ("four", NORMAL)), 5, "'four'"),
    ],
)
def test_the_first_token_that_differs_is_named(
    other: tuple[tuple[str, int], ...], token: int, there: str
) -> None:
    with pytest.raises(
        PairingError, match=rf"draft.gguf cannot draft for target.gguf: token {token} is {there} in the first"
    ):
        require_pair(Words(*WORDS), draft(*other))


def test_texts_must_end_alike() -> None:
    with pytest.raises(
        PairingError, match=r"the token that ends a text is 'one' in the first and '</s>' in the second"
    ):
        require_pair(Words(*WORDS), draft(*WORDS, eos=2))


def test_a_running_state_cannot_branch() -> None:
    other = draft(*WORDS)
    other.is_recurrent = True
    with pytest.raises(PairingError, match="running state"):
        require_pair(Words(*WORDS), other)
